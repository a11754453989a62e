//! Whether a profile's machines can do what is given: what they cannot would be known after the dearest stages.

use engines::{ADAPT, Profile, SWEPT, VARIANT};
use manifests::spec::{DeviceName, DeviceNames};
use manifests::{Artifact, BuildSpec};
use stages::{Step, Training};
use workers::WorkerError;

use super::arguments::EngineName;
use super::several::Whole;
use crate::preflight;
use crate::tasks::What;

/// What a cluster is: its engine, and what its profile says.
pub(super) type OfCluster<'p> = (EngineName, &'p Profile);

/// Refuses a profile whose machines cannot do all that is given, up to `until`.
///
/// # Errors
/// All that they cannot, by step, section and field.
pub(super) fn check<'w>(
    all: impl IntoIterator<Item = &'w Whole>,
    until: Option<&str>,
    cluster: OfCluster<'_>,
) -> Result<(), WorkerError> {
    let problems = all.into_iter().flat_map(|whole| match whole {
        Whole::Build(spec) => of_build(spec, until, cluster),
        Whole::Several(several) => several.tasks.iter().flat_map(|task| of_task(&task.what, until, cluster)).collect(),
    });
    // builds that are alike lack the same
    let mut told: Vec<String> = Vec::new();
    for problem in unknown(cluster.1).chain(problems) {
        if !told.contains(&problem) {
            told.push(problem);
        }
    }
    if told.is_empty() { Ok(()) } else { Err(WorkerError::Configuration(told.join("; "))) }
}

/// Sections for steps that no build has: what they say would be said to nobody.
pub(super) fn unknown(profile: &Profile) -> impl Iterator<Item = String> {
    let trainings = [Training::Bootstrap, Training::Pretrain].map(Training::name);
    let beside = ["default", "drive", "evaluate", ADAPT, VARIANT].into_iter().chain(SWEPT).chain(trainings);
    // what people write is no step
    let made = Artifact::TABLES.iter().filter(|artifact| !artifact.is_sparse());
    let known: Vec<&str> = made.map(|artifact| artifact.name()).chain(beside).collect();
    let sections = profile.stage.keys().filter(|name| !known.contains(&name.as_str()));
    let problems: Vec<String> =
        sections.map(|name| format!("stage.{name} of the profile is no step; they are {}", known.join(", "))).collect();
    problems.into_iter()
}

fn of_task(what: &What, until: Option<&str>, cluster: OfCluster<'_>) -> Vec<String> {
    match what {
        What::Build(spec) => of_build(spec, until, cluster),
        // such a run ends with its builds
        _ if until.is_some() => Vec::new(),
        What::Adapt(pair) => of_training(ADAPT, &pair.source, ("adapt.batch", pair.spec.adapt.batch), cluster),
        What::Variant(pair) => of_training(VARIANT, &pair.source, ("adapt.batch", pair.spec.adapt.batch), cluster),
        What::Train(spec, moves) => of_training(moves.step(), spec, ("pretrain.batch", spec.pretrain.batch), cluster),
        What::Ablation(_) | What::Curves(..) => Vec::new(),
    }
}

/// What the machines cannot do of a build.
pub(super) fn of_build(spec: &BuildSpec, until: Option<&str>, cluster: OfCluster<'_>) -> Vec<String> {
    let (engine, profile) = cluster;
    let mut problems = Vec::new();
    for step in preflight::steps(spec, until) {
        let name = step.name();
        match step {
            Step::Map(stage) if stage.asks_network() => {
                let has = (profile.section(name), profile.resources(name).gpus);
                problems.extend(without_gpus((name, name), has, (spec, gpus(spec, usize::MAX)), cluster));
            }
            Step::Map(_) => {}
            Step::Train(_) => {
                problems.extend(of_training(name, spec, ("pretrain.batch", spec.pretrain.batch), cluster));
            }
            // on Ray's head a driver that asks for nothing sees all that there is
            Step::Evaluate if engine == EngineName::Ray && !profile.stage.contains_key("drive") => {}
            Step::Evaluate => {
                let has = ("drive", profile.driver().gpus);
                problems.extend(without_gpus((name, "drive"), has, (spec, gpus(spec, 1)), cluster));
            }
        }
    }
    problems
}

/// What the machines of a training cannot: each of its ranks has a GPU, and an equal part of the batch.
fn of_training(step: &str, spec: &BuildSpec, (field, batch): (&str, usize), cluster: OfCluster<'_>) -> Vec<String> {
    let (engine, profile) = cluster;
    let (section, machines) = (profile.section(step), profile.training(step));
    let (ranks, whose) = match engine {
        EngineName::Ray => (spec.ranks.processes, "ranks.processes of the spec".to_owned()),
        _ => {
            let (workers, each) = (machines.workers.max(1), machines.gpus.max(1));
            let whose = format!("stage.{section} of the profile, workers = {workers} with {each} each");
            (workers as usize * each as usize, whose)
        }
    };
    // one of several has that of its number on its machine
    let wanted = if ranks > 1 { gpus(spec, 1).min(1) } else { gpus(spec, 1) };
    let mut problems: Vec<String> =
        without_gpus((step, step), (section, machines.gpus), (spec, wanted), cluster).into_iter().collect();
    if !batch.is_multiple_of(ranks) {
        problems.push(format!(
            "{step}: {field} = {batch} cannot be shared by {ranks} ranks ({whose}): take so many that they divide \
             the batch"
        ));
    }
    problems
}

/// A step that computes on more GPUs than the section of its machines has; `own` is the section that would have them.
fn without_gpus(
    (step, own): (&str, &str),
    (section, has): (&str, u32),
    (spec, wanted): (&BuildSpec, u32),
    (engine, profile): OfCluster<'_>,
) -> Option<String> {
    // lines of the site's own may ask for GPUs, or for whole machines
    let is_asked = |line: &String| ["gpu", "gres", "exclusive"].iter().any(|word| line.contains(word));
    if has >= wanted || (engine == EngineName::Slurm && profile.slurm.options.iter().any(is_asked)) {
        return None;
    }
    let unasked = match engine {
        EngineName::Slurm => {
            "; where nodes show their GPUs unasked, say so by a line in slurm.options, such as \"--exclusive\""
        }
        _ => "",
    };
    Some(format!(
        "{step}: it computes on model.device = {:?}, and stage.{section}.gpus = {has} in the profile: set \
         stage.{own}.gpus = {wanted}{unasked}",
        spec.model.device
    ))
}

/// GPUs that a machine must have for the first devices of a spec, of which a training or an evaluation takes one.
fn gpus(spec: &BuildSpec, devices: usize) -> u32 {
    let number = |name: &DeviceName| match name {
        DeviceName::Cpu => 0,
        DeviceName::Cuda(number) => u32::try_from(number + 1).unwrap_or(u32::MAX),
    };
    match spec.model.devices() {
        Ok(DeviceNames::EveryCuda) => 1,
        Ok(DeviceNames::Listed(names)) => names.iter().take(devices).map(number).max().unwrap_or(0),
        // such a spec is refused when it is read
        Err(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::several::ExperimentArgs;
    use super::*;

    const CLUSTERS: [EngineName; 3] = [EngineName::Slurm, EngineName::Kubernetes, EngineName::Ray];

    #[test]
    fn the_shipped_profile_fits_the_shipped_countries_and_their_pairs() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let profile = std::fs::read_to_string(root.join("deploy/profile.toml")).unwrap();
        let profile = Profile::parse(&profile).unwrap();
        for path in ["manifests/countries", "manifests/pairs/finland_to_spain.toml"] {
            let whole = Whole::read(&root.join(path), &[], &ExperimentArgs::default()).unwrap();
            for engine in CLUSTERS {
                let fits = check([&whole], None, (engine, &profile)).map_err(|error| error.to_string());
                assert_eq!(fits, Ok(()), "{path} by {}", engine.name());
            }
        }
    }

    #[test]
    fn what_a_profile_cannot_is_named_by_step_section_and_field() {
        let spec = |more: &str| {
            let text = format!("country = \"x\"\n[source]\nkind = \"skyscript\"\nurl = \"x\"\n{more}");
            BuildSpec::parse(&text, "t", &[]).unwrap()
        };
        let problems = |engine: EngineName, more: &str, profile: &str| {
            of_build(&spec(more), None, (engine, &Profile::parse(profile).unwrap()))
        };
        let gpu = "[model]\ndevice = \"cuda:0\"\n[pretrain]\nbatch = 64\n";
        for engine in CLUSTERS {
            assert_eq!(problems(engine, "[pretrain]\nbatch = 64\n", ""), [] as [String; 0], "processors are enough");
            let found = problems(engine, gpu, "[stage.pretrain]\nworkers = 2\n").join("\n");
            for wanted in [
                "image_embeddings: it computes on model.device = \"cuda:0\", and stage.default.gpus = 0 in the profile: set \
                 stage.image_embeddings.gpus = 1",
                "pretrain: it computes on model.device = \"cuda:0\", and stage.pretrain.gpus = 0 in",
            ] {
                assert!(found.contains(wanted), "{wanted}: {found}");
            }
            assert_eq!(found.contains("set stage.drive.gpus = 1"), engine != EngineName::Ray, "{found}");
            assert!(!found.contains("images: "), "nothing is computed there: {found}");
        }
        let slip = unknown(&Profile::parse("[stage.pretrainn]\nworkers = 7\n").unwrap()).collect::<Vec<_>>().join("\n");
        assert!(slip.starts_with("stage.pretrainn of the profile is no step"), "{slip}");
        let all = stages::steps(&spec("")).iter().map(|step| format!("[stage.{}]\n", step.name())).collect::<String>();
        assert_eq!(unknown(&Profile::parse(&all).unwrap()).count(), 0);
        let one = "[stage.default]\ngpus = 1\n[stage.drive]\ngpus = 1\n";
        assert_eq!(problems(EngineName::Slurm, gpu, one), [] as [String; 0]);
        let two = problems(EngineName::Slurm, &gpu.replace("cuda:0", "cuda:0,cuda:1"), one).join("\n");
        assert!(two.contains("set stage.image_embeddings.gpus = 2") && !two.contains("pretrain: "), "{two}");
        // a site's own lines say what its jobs have
        let whole = "[slurm]\noptions = [\"--exclusive\"]\n";
        assert_eq!(problems(EngineName::Slurm, gpu, whole), [] as [String; 0]);
        assert!(!problems(EngineName::Kubernetes, gpu, whole).is_empty());
        let three = format!("{one}[stage.pretrain]\nworkers = 3\ngpus = 1\n");
        assert_eq!(
            problems(EngineName::Kubernetes, gpu, &three),
            [
                "pretrain: pretrain.batch = 64 cannot be shared by 3 ranks (stage.pretrain of the profile, workers = 3 with \
              1 each): take so many that they divide the batch"
            ]
        );
        assert_eq!(problems(EngineName::Ray, gpu, &three), [] as [String; 0], "the spec says how many ranks there are");
        let (of_two, profile) = (spec(&format!("{gpu}[ranks]\nprocesses = 2\n")), Profile::parse(one).unwrap());
        let found = of_training(ADAPT, &of_two, ("adapt.batch", 15), (EngineName::Ray, &profile)).join("\n");
        assert!(
            found.contains("adapt.batch = 15 cannot be shared by 2 ranks (ranks.processes of the spec)"),
            "{found}"
        );
    }
}
