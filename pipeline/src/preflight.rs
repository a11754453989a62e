//! What can be known before any work: a build that cannot end well is refused while that is still cheap.

use manifests::BuildSpec;
use manifests::spec::{Backend, DeviceName, SourceKind};
use manifests::weights::{LocalWeights, Weights};
use manifests::words::count;
use sources::country::CountryPolygons;
use stages::Step;
use stages::networks::Networks;
use stages::pretrain::check_batch;
use workers::WorkerError;
use workers::assignment::AssignedCounts;
use workers::listing::Listing;
use workers::planning::VirtualInputs;
use workers::weights::Examined;

fn refused(why: String) -> WorkerError {
    WorkerError::Configuration(why)
}

/// Whether a step asks a network: it needs a device, and weights where some are named.
pub fn uses_network(step: &Step) -> bool {
    match step {
        Step::Map(stage) => stage.asks_network(),
        Step::Train(_) => true,
        Step::Evaluate => false,
    }
}

/// The steps of a run that ends after `until`; all of them without it.
pub fn steps(spec: &BuildSpec, until: Option<&str>) -> Vec<Step> {
    let mut steps = stages::steps(spec);
    if let Some(last) = steps.iter().position(|step| Some(step.name()) == until) {
        steps.truncate(last + 1);
    }
    steps
}

/// What the spec itself says, with what it names on this machine. A `plan` may be made on another machine than the run:
/// it asks for the program's abilities, not for GPUs.
///
/// # Errors
/// The first thing that cannot work.
pub fn check_plan(spec: &BuildSpec) -> Result<(), WorkerError> {
    country_code(spec)?;
    program(spec)?;
    weights(spec).into_iter().try_for_each(|(_, found)| found.map(drop))
}

/// As [`check_plan`], for a run up to `until`, on the machine that it runs on. A node that only pulls images needs
/// neither GPU nor weights.
///
/// # Errors
/// The first thing that cannot work.
pub fn check_run(spec: &BuildSpec, until: Option<&str>) -> Result<(), WorkerError> {
    country_code(spec)?;
    let steps = steps(spec, until);
    if steps.iter().any(uses_network) {
        device(spec)?;
        weights(spec).into_iter().try_for_each(|(_, found)| found.map(drop))?;
    }
    if steps.iter().any(|step| matches!(step, Step::Train(_))) {
        ranks(spec)?;
    }
    Ok(())
}

/// As [`check_run`], for a run whose steps are done on other machines: this one and its program need no GPU, and not as many processors
/// as there are ranks. Where the others `see_files` of this machine, weights that it cannot read are a mistake.
///
/// # Errors
/// The first thing that cannot work.
pub fn check_elsewhere(spec: &BuildSpec, until: Option<&str>, see_files: bool) -> Result<(), WorkerError> {
    country_code(spec)?;
    if !steps(spec, until).iter().any(uses_network) {
        return Ok(());
    }
    for (_, found) in weights(spec) {
        match found {
            Err(why) if see_files => return Err(why),
            Err(why) => crate::aside!("warning: {why}; the run ends there, too, unless its machines have other files"),
            Ok(_) => {}
        }
    }
    Ok(())
}

/// What the program itself must be able to do.
fn program(spec: &BuildSpec) -> Result<(), WorkerError> {
    stages::device::check_program(spec).map_err(refused)?;
    workers::rank_env::check_program(spec)
}

/// Whether the ranks that `run` would start fit on this machine.
///
/// # Errors
/// More ranks than it has processors or GPUs.
pub fn ranks(spec: &BuildSpec) -> Result<(), WorkerError> {
    program(spec)?;
    let on_cpu = stages::device::devices("model", spec)?[0] == DeviceName::Cpu;
    let available = if on_cpu {
        std::thread::available_parallelism().map_or(1, usize::from)
    } else {
        stages::device::visible_gpus().map_err(refused)?
    };
    room_for_ranks(spec, on_cpu, available).map_err(refused)
}

fn room_for_ranks(spec: &BuildSpec, on_cpu: bool, available: usize) -> Result<(), String> {
    let ranks = spec.ranks.processes;
    let (most, what) = match (on_cpu, spec.ranks.backend) {
        // two can be tried anywhere
        (true, _) => (available.max(2), "processor"),
        // ranks may share a GPU, if tensors need not travel from it to itself
        (false, Backend::Tcp) => return Ok(()),
        (false, Backend::Auto | Backend::Nccl) => (available, "GPU"),
    };
    if ranks <= most {
        return Ok(());
    }
    Err(format!("ranks.processes = {ranks}: this machine has {}; use at most {most}", count(available, what)))
}

/// Whether a batch can be filled, as soon as it is known how many rows there are to train on at most.
///
/// # Errors
/// It cannot, and a step of a run up to `until` trains.
pub fn batch(spec: &BuildSpec, until: Option<&str>, (what, rows): (&str, u64)) -> Result<(), WorkerError> {
    let Some(training) = steps(spec, until).into_iter().find_map(|step| match step {
        Step::Train(training) => Some(training),
        Step::Map(_) | Step::Evaluate => None,
    }) else {
        return Ok(());
    };
    Ok(check_batch(training.name(), ("pretrain.batch", spec.pretrain.batch), (what, rows), spec.ranks.processes)?)
}

/// The most rows that there can be to train on, and of what they are: those of the train split, or all that
/// are listed until one is.
pub fn training_rows(known: &VirtualInputs) -> (&'static str, u64) {
    match known.assigned().of_split("train") {
        0 => ("the source", known.listing.rows()),
        rows => ("the train split", rows),
    }
}

/// Opens every device that the spec names, and lets go of it; their names.
///
/// # Errors
/// A device that this program or this machine does not have.
pub fn device(spec: &BuildSpec) -> Result<String, WorkerError> {
    stages::device::check_program(spec).map_err(refused)?;
    let names = stages::device::devices("model", spec)?;
    for name in &names {
        stages::device::open("model", spec, *name)?;
    }
    Ok(names.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
}

/// The networks of a spec, by what of their files is on this machine.
pub fn known_networks(spec: &BuildSpec) -> Networks {
    Networks::of(spec, &on_this_machine(&workers::weights::examine(spec)))
}

/// What is known of the weights of each field as far as they are on this machine, in words. Nothing is fetched.
pub fn weights(spec: &BuildSpec) -> Vec<(&'static str, Result<String, WorkerError>)> {
    let examined = workers::weights::examine(spec);
    let here = on_this_machine(&examined);
    let networks = |field: &str| stages::examine::examine(spec, field, &here).map_err(refused);
    examined
        .into_iter()
        .map(|(field, found)| (field, found.and_then(|found| networks(field).map(|_| found.found))))
        .collect()
}

fn on_this_machine(examined: &[(&'static str, Result<Examined, WorkerError>)]) -> Weights {
    let mut here = Weights::default();
    for (field, found) in examined {
        if let Ok(Examined { path: Some(path), .. }) = found {
            here.insert(field, LocalWeights { path: Some(path.clone()), digest: String::new() });
        }
    }
    here
}

/// Whether fetched weights are of the networks that the spec takes them for.
///
/// # Errors
/// The first that are not.
pub fn networks(spec: &BuildSpec, weights: &Weights) -> Result<(), WorkerError> {
    let examine = |field: &str| stages::examine::examine(spec, field, weights);
    spec.weights().iter().try_for_each(|used| examine(used.field).map(drop)).map_err(refused)
}

/// # Errors
/// A code that no box can lie in.
pub fn country_code(spec: &BuildSpec) -> Result<(), WorkerError> {
    let code = &spec.source.country_code;
    if !needs_box(spec) {
        return Ok(());
    }
    let polygons = CountryPolygons::new().map_err(|e| refused(e.to_string()))?;
    let upper = code.to_ascii_uppercase();
    match (polygons.codes().contains(code.as_str()), polygons.codes().contains(upper.as_str())) {
        (true, _) => Ok(()),
        (false, true) => Err(refused(format!("source.country_code = {code:?}: write it as {upper:?}"))),
        (false, false) => Err(refused(format!(
            "source.country_code = {code:?}: no country has it; write an ISO 3166-1 code of two letters, such as \"FI\""
        ))),
    }
}

/// Does the country of a box decide about rows?
fn needs_box(spec: &BuildSpec) -> bool {
    spec.source.kind == SourceKind::Skyscript && spec.source.meta && !spec.source.country_code.is_empty()
}

/// # Errors
/// A listing in which no row can lie in the country: their sources are of others.
pub fn rows(listing: &Listing, spec: &BuildSpec) -> Result<(), WorkerError> {
    if !needs_box(spec) {
        return Ok(());
    }
    let code = spec.source.country_code.as_str();
    let nations = &listing.rows_by_nation;
    if nations.keys().any(|nation| nation.is_none_or(|nation| nation == code)) {
        return Ok(());
    }
    let foreign = nations.iter().filter_map(|(nation, rows)| Some((nation.as_ref()?, rows)));
    let counts: Vec<String> = foreign.map(|(country, rows)| format!("{country} ({})", count(*rows, "row"))).collect();
    Err(refused(format!(
        "no listed image can lie in {code}: their source tokens say {}; look at source.country_code and source.tokens",
        counts.join(", ")
    )))
}

/// Looks at the splits that images were assigned to. A warning in words, where a run up to `until` still makes sense.
///
/// # Errors
/// A split that a later step of the run cannot do without.
pub fn splits(assigned: &AssignedCounts, spec: &BuildSpec, until: Option<&str>) -> Result<Option<String>, WorkerError> {
    let [train, val, test] = ["train", "val", "test"].map(|split| assigned.of_split(split));
    let what = if assigned.images() == 0 {
        "no image is left: all of them failed or lie outside of the country; `urbancross explain` SPEC IMAGE says why"
            .to_owned()
    } else {
        let empty = [("training", train), ("validation", val), ("test", test)].into_iter().find(|(_, rows)| *rows == 0);
        let Some((name, _)) = empty else { return Ok(None) };
        format!(
            "the {name} split is empty ({train} training, {val} validation and {test} test images); look at \
             split.ratio and the splits that the source gives, or use more images"
        )
    };
    // an evaluation needs the test part; a training the two others
    let needed = |step: &Step| match step {
        Step::Map(_) => false,
        Step::Train(_) => train == 0 || val == 0,
        Step::Evaluate => test == 0,
    };
    match steps(spec, until).iter().any(needed) {
        true => Err(refused(what)),
        false => Ok(Some(what)),
    }
}

#[cfg(test)]
mod tests {
    use workers::assignment::AssignedRow;

    use super::*;

    fn spec(extra: &str) -> BuildSpec {
        let text = format!("country = \"x\"\n[source]\nkind = \"skyscript\"\nurl = \"x\"\n{extra}");
        BuildSpec::parse(&text, "t", &[]).unwrap()
    }

    #[test]
    fn a_country_that_is_none_is_refused() {
        let said = |code: &str| country_code(&spec(&format!("country_code = \"{code}\"\n"))).map_err(|e| e.to_string());
        assert_eq!((said("FI"), said("")), (Ok(()), Ok(())));
        assert!(said("fi").unwrap_err().contains("write it as \"FI\""));
        assert!(said("XX").unwrap_err().contains("no country"));
        assert!(said("DE-BB").unwrap_err().contains("no country"), "boxes are matched with whole countries");
        country_code(&spec("meta = false\ncountry_code = \"XX\"\n")).unwrap();
    }

    #[test]
    fn ranks_want_processors_or_gpus() {
        let of = |ranks: usize, more: &str, on_cpu, available| {
            let spec = spec(&format!("[ranks]\nprocesses = {ranks}\n{more}[pretrain]\nbatch = 100\n"));
            room_for_ranks(&spec, on_cpu, available)
        };
        assert_eq!(of(2, "", true, 1), Ok(()));
        assert_eq!(of(4, "", true, 4), Ok(()));
        let error = of(50, "", true, 4).unwrap_err();
        assert_eq!(error, "ranks.processes = 50: this machine has 4 processors; use at most 4");
        assert!(of(2, "", false, 1).unwrap_err().contains("this machine has 1 GPU;"));
        assert_eq!(of(2, "backend = \"tcp\"\n", false, 1), Ok(()));
    }

    #[test]
    fn a_batch_that_cannot_be_filled_is_refused_where_something_trains() {
        let spec = spec("[pretrain]\nbatch = 8\n");
        assert!(batch(&spec, None, ("the source", 8)).is_ok());
        let error = batch(&spec, None, ("the source", 7)).unwrap_err();
        assert!(error.to_string().contains("pretrain.batch = 8 is more than the 7 rows of the source"), "{error}");
        assert_eq!(error.exit_code(), 65);
        assert!(batch(&spec, Some("images"), ("the source", 7)).is_ok());
    }

    #[test]
    fn a_part_that_a_later_step_needs_must_not_be_empty() {
        let assigned = |splits: &[&'static str]| -> AssignedCounts {
            let row = |split: &&'static str| AssignedRow { image_id: "a".into(), split, reason: None };
            AssignedCounts::of(&vec![splits.iter().map(row).collect()])
        };
        let said = |splits_of: &[&'static str], until: Option<&str>| {
            splits(&assigned(splits_of), &spec(""), until).map_err(|e| e.to_string())
        };
        assert_eq!(said(&["train", "val", "test"], None), Ok(None));
        assert!(said(&["train", "val"], None).unwrap_err().contains("the test split is empty (1 training, 1 val"));
        assert!(said(&["train", "val"], Some("pretrain")).unwrap().unwrap().contains("the test split is empty"));
        assert!(said(&["train", "test"], None).unwrap_err().contains("the validation split is empty"));
        assert!(said(&["val", "test"], Some("splits")).unwrap().is_some());
        assert!(said(&["dropped"], None).unwrap_err().contains("the training split is empty"));
        assert!(said(&[], None).unwrap_err().contains("no image is left"));
    }
}
