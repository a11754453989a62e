//! The ablation of the adaptation: each of its parts left out, over several seeds (the paper's Table 2), beside two
//! controls: fine-tuning without source pairs, and source pairs learnt from without any part of the method.

mod figures;

use std::ffi::OsString;
use std::path::Path;

pub use figures::{Ablation, Difference, Line, MeanAndDeviation, Together, together, verdict_together};
use manifests::PairSpec;
use serde::{Deserialize, Serialize};
use training::communicator::Solo;
use workers::WorkerError;

use crate::launch::Job;
use crate::pair::{Pair, Tested};
use crate::progress::Progress;

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Variant {
    /// The source's model as it is.
    NoAdaptation,
    /// The target's labelled pairs alone, by the same loss.
    FineTuning,
    /// Source pairs drawn at random, all of one weight, beside the target's: no part of the method.
    JointTraining,
    /// Source pairs drawn at random instead of by similarity, all of one weight: the weights of Eq. 10 are taken from
    /// W2, the similarity of what the sampler chose, and an arm that kept them would keep half of the sampler.
    WithoutSampler,
    /// The most similar source pairs in every epoch instead of from easy to hard.
    WithoutCurriculum,
    /// No discriminator.
    WithoutAdversary,
    /// Everything.
    Full,
}

impl Variant {
    /// All variants, in the order of the table.
    pub const ALL: [Variant; 7] = [
        Variant::NoAdaptation,
        Variant::FineTuning,
        Variant::JointTraining,
        Variant::WithoutSampler,
        Variant::WithoutCurriculum,
        Variant::WithoutAdversary,
        Variant::Full,
    ];

    /// The variant for people.
    pub fn words(self) -> &'static str {
        match self {
            Variant::NoAdaptation => "no adaptation",
            Variant::FineTuning => "fine-tuning",
            Variant::JointTraining => "joint training",
            Variant::WithoutSampler => "w/o SS",
            Variant::WithoutCurriculum => "w/o CL",
            Variant::WithoutAdversary => "w/o AT",
            Variant::Full => "full",
        }
    }

    /// What is set in `[adapt.method]` to leave this part out; `None`: nothing is learnt.
    fn changes(self) -> Option<Vec<(&'static str, toml::Value)>> {
        match self {
            Variant::NoAdaptation => None,
            Variant::FineTuning => Some(vec![("source_pairs", false.into()), ("adversary", "off".into())]),
            Variant::JointTraining => {
                Some(vec![("sampler", "random".into()), ("weights", "uniform".into()), ("adversary", "off".into())])
            }
            Variant::WithoutSampler => Some(vec![("sampler", "random".into()), ("weights", "uniform".into())]),
            Variant::WithoutCurriculum => Some(vec![("curriculum", "easiest".into())]),
            Variant::WithoutAdversary => Some(vec![("adversary", "off".into())]),
            Variant::Full => Some(Vec::new()),
        }
    }

    /// The pair's settings with this part left out; `None`: nothing is learnt.
    pub(crate) fn spec(self, base: &PairSpec, seed: u64) -> Option<PairSpec> {
        let mut spec = base.clone();
        spec.adapt.seed = seed;
        spec.adapt.method.extend(self.changes()?.into_iter().map(|(field, value)| (field.to_owned(), value)));
        Some(spec)
    }

    /// The same as overrides of the pair's spec.
    fn overrides(self, seed: u64) -> Option<Vec<String>> {
        let changes = self.changes()?.into_iter().map(|(field, value)| format!("adapt.method.{field}={value}"));
        Some(std::iter::once(format!("adapt.seed={seed}")).chain(changes).collect())
    }
}

/// Looks at the settings of every variant, before the first of them is learnt.
///
/// # Errors
/// A part that cannot be left out under these settings.
pub fn check(pair: &PairSpec) -> Result<(), WorkerError> {
    for variant in Variant::ALL {
        let Some(spec) = variant.spec(pair, pair.adapt.seed) else { continue };
        let in_variant = |error: WorkerError| WorkerError::Configuration(format!("{}: {error}", variant.words()));
        stages::adapt::settings(&spec).map_err(|error| in_variant(error.into()))?;
    }
    Ok(())
}

/// The adaptations of a pair's ablation as commands: those that [`ablate`] then finds done.
pub(crate) fn jobs(pair: &Pair, path: &Path, set: &[String]) -> Vec<Job> {
    let mut jobs = Vec::new();
    for variant in Variant::ALL {
        for &seed in &pair.spec.ablation.seeds {
            let Some(overrides) = variant.overrides(seed) else { continue };
            let mut arguments: Vec<OsString> = vec!["adapt".into(), path.into(), "--json".into()];
            for value in set.iter().chain(&overrides) {
                arguments.extend(["--set".into(), value.into()]);
            }
            jobs.push(Job { name: format!("{}: {}, seed {seed}", pair.name, variant.words()), arguments });
        }
    }
    jobs
}

/// Runs every variant with every seed, or uses the finished run.
///
/// # Errors
/// Whatever ends an adaptation or a test, with the variant and its seed.
pub async fn ablate(pair: &Pair, progress: &Progress) -> Result<Ablation, WorkerError> {
    let mut tested = Vec::new();
    for variant in Variant::ALL {
        let mut runs = Vec::new();
        for &seed in &pair.spec.ablation.seeds {
            let Some(spec) = variant.spec(&pair.spec, seed) else {
                runs = vec![pair.test(&pair.model(None).await?).await?];
                break;
            };
            progress.note(&format!("{}: {}, seed {seed}", pair.name, variant.words()));
            let record = pair.adapt(&spec, &mut Solo, progress).await?;
            runs.push(pair.test(&pair.model(record.as_ref()).await?).await?);
        }
        let recalls: Vec<f64> = runs.iter().map(Tested::mean_recall).collect();
        let MeanAndDeviation { mean, standard_deviation } = MeanAndDeviation::of(&recalls);
        progress.note(&format!("{}: {} has mR {mean:.2} ± {standard_deviation:.2}", pair.name, variant.words()));
        tested.push((variant, runs));
    }
    Ok(Ablation::new(pair.name.clone(), tested))
}

#[cfg(test)]
mod tests {
    use training::adapt::{Adversary, Curriculum, Sampler, Settings, WeightsOf};

    use super::*;

    fn pair() -> PairSpec {
        PairSpec::parse("source = \"a\"\ntarget = \"b\"\n", "t", &[]).unwrap()
    }

    fn settings(variant: Variant) -> Settings {
        stages::adapt::settings(&variant.spec(&pair(), 3).unwrap()).unwrap()
    }

    #[test]
    fn each_variant_is_another_adaptation() {
        assert_eq!(Variant::NoAdaptation.spec(&pair(), 0), None);
        let mut seen = Vec::new();
        for variant in &Variant::ALL[1..] {
            let settings = settings(*variant);
            assert!(settings.seed == 3 && !seen.contains(&settings), "{variant:?} changes nothing");
            // the same on a command line
            let text = "source = \"a\"\ntarget = \"b\"\n";
            let told = PairSpec::parse(text, "t", &variant.overrides(3).unwrap()).unwrap();
            assert_eq!(stages::adapt::settings(&told).unwrap(), settings);
            seen.push(settings);
        }
    }

    #[test]
    fn each_part_is_left_out_whole_and_alone() {
        let full = settings(Variant::Full);
        let sampler = Settings { sampler: Sampler::Random, weights: WeightsOf::Uniform, ..full };
        assert_eq!(settings(Variant::WithoutSampler), sampler, "no similarity, neither in choice nor in weights");
        let curriculum = Settings { curriculum: Curriculum::Easiest, ..full };
        assert_eq!(settings(Variant::WithoutCurriculum), curriculum, "similarity still chooses");
        assert_eq!(settings(Variant::WithoutAdversary), Settings { adversary: Adversary::Off, ..full });
        assert_eq!(settings(Variant::JointTraining), Settings { adversary: Adversary::Off, ..sampler });
    }

    /// Fine-tuning would find nothing to learn from, after the variants before it were learnt.
    #[test]
    fn a_part_that_cannot_be_left_out_is_found_before_any_run() {
        check(&pair()).unwrap();
        let mut spec = pair();
        spec.adapt.method.insert("target_triplet".into(), false.into());
        stages::adapt::settings(&spec).unwrap();
        let error = check(&spec).unwrap_err();
        assert!(error.to_string().contains("fine-tuning") && error.to_string().contains("source_pairs"), "{error}");
        assert_eq!(error.exit_code(), 65);
    }

    /// Identities of version 1 of the stage: a change here throws finished runs away.
    #[test]
    fn runs_whose_settings_stand_keep_their_identity() {
        let text = "country = \"x\"\n[source]\nkind = \"skyscript\"\nurl = \"x\"\n";
        let source = manifests::BuildSpec::parse(text, "t", &[]).unwrap();
        for (variant, identity) in [
            (Variant::FineTuning, "2dcd976e4bb96d9e7fdc490f3db63287"),
            (Variant::WithoutAdversary, "9747e169ec6755c0ab8f9934bd4e95e7"),
            (Variant::Full, "f2087a2c25ff1cf614fc05d641bb3c7f"),
        ] {
            let spec = variant.spec(&pair(), 3).unwrap();
            let parameters = stages::adapt::parameters(&spec, &source).unwrap();
            assert_eq!(manifests::digest::of_value(&parameters), identity, "{variant:?}");
        }
    }
}
