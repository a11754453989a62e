//! How the sections of a spec say what is wrong with their values: the field as it is written, its value, what is
//! permitted and what to do.

use std::fmt::Debug;
use std::ops::{Bound, RangeBounds};

/// Everything that is wrong with a spec.
#[derive(Debug, Default)]
pub(crate) struct Problems(Vec<String>);

impl Problems {
    pub(crate) fn add(&mut self, problem: impl Into<String>) {
        self.0.push(problem.into());
    }

    /// The fields below `path`, such as `pretrain`.
    pub(crate) fn section<'p>(&'p mut self, path: &'p str) -> Section<'p> {
        Section { path, problems: self }
    }

    /// # Errors
    /// All problems, one a line.
    pub(crate) fn into_result(self) -> Result<(), String> {
        match self.0.as_slice() {
            [] => Ok(()),
            [one] => Err(one.clone()),
            many => Err(format!("{} fields are wrong:\n  {}", many.len(), many.join("\n  "))),
        }
    }
}

/// A section whose fields are looked at.
pub(crate) struct Section<'p> {
    path: &'p str,
    problems: &'p mut Problems,
}

impl Section<'_> {
    /// A number outside of `range`, or none at all, is a problem; `advice` says what to write.
    pub(crate) fn within<T: PartialOrd + Debug>(
        &mut self,
        field: &str,
        value: T,
        range: impl RangeBounds<T>,
        advice: &str,
    ) {
        if !range.contains(&value) {
            let between = if advice.is_empty() { "" } else { "; " };
            self.refuse(field, value, &format!("it must be {}{between}{advice}", words(&range)));
        }
    }

    /// Two prompts, with `{tags}` and for images that have none; nothing else in braces stands for anything.
    pub(crate) fn prompts(&mut self, with_tags: &str, without_tags: &str) {
        for (field, prompt, known) in
            [("prompt", with_tags, &["tags"][..]), ("prompt_without_tags", without_tags, &[][..])]
        {
            if let Some(name) = placeholders(prompt).find(|name| !known.contains(name)) {
                let why = match known {
                    [] => format!(
                        "{{{name}}} would be read as it stands, since images without tags have nothing to fill in"
                    ),
                    _ => format!("{{{name}}} would be read as it stands; {{tags}} is what is filled in"),
                };
                self.refuse(field, prompt, &why);
            }
        }
    }

    /// A number of things of which there must be one.
    pub(crate) fn count<T: PartialOrd + Debug + From<u8>>(&mut self, field: &str, value: T, most: T) {
        self.within(field, value, T::from(1)..=most, "");
    }

    /// A share of a whole, which may be all of it.
    pub(crate) fn share<T: PartialOrd + Debug + From<u8>>(&mut self, field: &str, value: T) {
        self.within(field, value, T::from(0)..=T::from(1), "it is a share");
    }

    /// A share of a whole that leaves something of it; `none` says what 0 does.
    pub(crate) fn part(&mut self, field: &str, value: f64, none: &str) {
        self.within(field, value, 0.0..1.0, none);
    }

    /// A learning rate of AdamW, whose steps move each weight by about as much.
    pub(crate) fn rate(&mut self, field: &str, value: f64) {
        self.within(
            field,
            value,
            positive(1.0),
            "1e-3 trains a small model from scratch, 1e-5 goes on with a large one",
        );
    }

    /// Pairs of a step.
    pub(crate) fn batch(&mut self, field: &str, value: usize) {
        self.within(field, value, 2..=1 << 20, "a pair is compared with the others of its batch");
    }

    pub(crate) fn refuse(&mut self, field: &str, value: impl Debug, why: &str) {
        self.problems.add(format!("{}.{field} = {value:?}: {why}", self.path));
    }
}

/// A range in words.
fn words<T: Debug>(range: &impl RangeBounds<T>) -> String {
    let (start, end) = (range.start_bound(), range.end_bound());
    if let (Bound::Included(start), Bound::Included(end)) = (start, end) {
        return format!("between {start:?} and {end:?}");
    }
    let start = match start {
        Bound::Included(start) => Some(format!("at least {start:?}")),
        Bound::Excluded(start) => Some(format!("above {start:?}")),
        Bound::Unbounded => None,
    };
    let end = match end {
        Bound::Included(end) => Some(format!("at most {end:?}")),
        Bound::Excluded(end) => Some(format!("below {end:?}")),
        Bound::Unbounded => None,
    };
    start.into_iter().chain(end).collect::<Vec<_>>().join(" and ")
}

/// Above 0, up to `most`.
pub(crate) fn positive(most: f64) -> impl RangeBounds<f64> {
    (Bound::Excluded(0.0), Bound::Included(most))
}

/// Names in braces: `{tags}`, with blanks too, and not JSON's `{"a": 1}`.
fn placeholders(text: &str) -> impl Iterator<Item = &str> {
    let is_name =
        |name: &&str| !name.trim().is_empty() && name.trim().chars().all(|c| c == '_' || c.is_ascii_alphanumeric());
    text.split('{').skip(1).filter_map(|rest| Some(rest.split_once('}')?.0)).filter(is_name)
}
