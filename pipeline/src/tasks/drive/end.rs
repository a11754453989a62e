//! How far tasks have come, and what that means for those that need them.

use workers::WorkerError;

use super::{Task, What};
use crate::run_options::RunOptions;

/// How far a driver has come with a task.
#[derive(Debug)]
pub enum TaskEnd {
    /// Nothing is left to do.
    Done,
    /// An engine has begun a step of it, and another driver comes when that is done.
    Placed(&'static str),
    /// What it needs is not finished.
    Waits,
    /// It was not asked for: builds are to end before their last step.
    LeftOut,
    /// It cannot go on, or not now.
    Failed(WorkerError),
}

/// What is to be done about a task that has not begun.
#[derive(Debug)]
pub(super) enum Next {
    /// All that it needs is done.
    Ready,
    /// What it needs is under way.
    Later,
    /// This driver does not begin it.
    Never(TaskEnd),
}

/// `ends`: of all tasks so far, `None` of those that are under way or have not begun.
pub(super) fn next(task: &Task, ends: &[Option<TaskEnd>], options: &RunOptions) -> Next {
    if options.until.is_some() && !matches!(task.what, What::Build(_)) {
        return Next::Never(TaskEnd::LeftOut);
    }
    let mut next = Next::Ready;
    for before in &task.after {
        match ends.get(*before).and_then(Option::as_ref) {
            Some(TaskEnd::Done) => {}
            None => next = Next::Later,
            Some(_) => return Next::Never(TaskEnd::Waits),
        }
    }
    next
}

#[cfg(test)]
mod tests {
    use manifests::BuildSpec;

    use super::*;
    use crate::sweep::Moves;

    #[test]
    fn a_task_is_ready_when_all_that_it_needs_is_done() {
        let text = "country = \"x\"\n[source]\nkind = \"skyscript\"\nurl = \"x\"\n";
        let spec = Box::new(BuildSpec::parse(text, "x", &[]).unwrap());
        let task = Task { name: "x".into(), after: vec![0, 1], what: What::Train(spec.clone(), Moves::Training) };
        let all = RunOptions::default();
        let done = || Some(TaskEnd::Done);
        assert!(matches!(next(&task, &[done(), done(), None], &all), Next::Ready));
        assert!(matches!(next(&task, &[None, done(), None], &all), Next::Later));
        for other in [
            TaskEnd::Placed("images"),
            TaskEnd::Waits,
            TaskEnd::LeftOut,
            TaskEnd::Failed(WorkerError::Broken("x".into())),
        ] {
            // whether or not the other one is still under way
            assert!(matches!(next(&task, &[None, Some(other), None], &all), Next::Never(TaskEnd::Waits)));
        }
        let until = RunOptions { until: Some("images".into()), ..RunOptions::default() };
        assert!(matches!(next(&task, &[done(), done(), None], &until), Next::Never(TaskEnd::LeftOut)));
        let build = Task { name: "x".into(), after: Vec::new(), what: What::Build(spec) };
        assert!(matches!(next(&build, &[None], &until), Next::Ready));
    }
}
