//! The ablation of the adaptation: each of its parts left out, over several seeds (the paper's Table 2).

use std::ffi::OsString;
use std::path::Path;

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
    /// Source pairs drawn at random instead of by similarity.
    WithoutSampler,
    /// Source pairs in data order instead of from easy to hard.
    WithoutCurriculum,
    /// No discriminator.
    WithoutAdversary,
    /// Everything.
    Full,
}

impl Variant {
    pub const ALL: [Variant; 6] = [
        Variant::NoAdaptation,
        Variant::FineTuning,
        Variant::WithoutSampler,
        Variant::WithoutCurriculum,
        Variant::WithoutAdversary,
        Variant::Full,
    ];

    pub fn words(self) -> &'static str {
        match self {
            Variant::NoAdaptation => "no adaptation",
            Variant::FineTuning => "fine-tuning",
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
            Variant::WithoutSampler => Some(vec![("sampler", "random".into())]),
            Variant::WithoutCurriculum => Some(vec![("curriculum", "none".into())]),
            Variant::WithoutAdversary => Some(vec![("adversary", "off".into())]),
            Variant::Full => Some(Vec::new()),
        }
    }

    /// The pair's settings with this part left out; `None`: nothing is learnt.
    fn spec(self, base: &PairSpec, seed: u64) -> Option<PairSpec> {
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

/// The adaptations of a pair's ablation as commands: those that [`ablate`] then finds done.
pub fn jobs(pair: &Pair, path: &Path, set: &[String]) -> Vec<Job> {
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

/// Figures of one variant: one test for each seed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Line {
    pub variant: Variant,
    pub runs: Vec<Tested>,
}

/// Mean and standard deviation of a figure over seeds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    pub mean: f64,
    /// Of the sample; 0 with a single run.
    pub standard_deviation: f64,
}

/// An ablation of one pair.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ablation {
    pub pair: String,
    pub lines: Vec<Line>,
    pub least_gain_percent: f64,
}

impl Line {
    /// The seven figures over seeds.
    pub fn figures(&self) -> [Spread; 7] {
        std::array::from_fn(|at| {
            let values: Vec<f64> = self.runs.iter().map(|run| run.recall.exact.pessimistic.figures()[at]).collect();
            Spread::of(&values)
        })
    }

    /// Mean recall over seeds.
    pub fn mean_recall(&self) -> Spread {
        self.figures()[6]
    }
}

impl Spread {
    fn of(values: &[f64]) -> Spread {
        let count = values.len().max(1) as f64;
        let mean = values.iter().sum::<f64>() / count;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        Spread { mean, standard_deviation: if values.len() > 1 { (squares / (count - 1.0)).sqrt() } else { 0.0 } }
    }
}

impl Ablation {
    /// Mean recall of a variant over seeds.
    pub fn mean_recall(&self, variant: Variant) -> f64 {
        self.lines.iter().find(|line| line.variant == variant).map_or(f64::NAN, |line| line.mean_recall().mean)
    }

    /// Mean recall of the full adaptation minus that of a variant, seed by seed: mean and standard error; `None` where
    /// there are no runs of the same seeds.
    pub fn full_over(&self, variant: Variant) -> Option<(f64, f64)> {
        let recalls = |variant| {
            let line = self.lines.iter().find(|line| line.variant == variant)?;
            Some(line.runs.iter().map(|run| run.recall.exact.pessimistic.mean_recall).collect::<Vec<f64>>())
        };
        let (full, other) = (recalls(Variant::Full)?, recalls(variant)?);
        if full.len() < 2 || full.len() != other.len() {
            return None;
        }
        let differences: Vec<f64> = full.iter().zip(other).map(|(full, other)| full - other).collect();
        let Spread { mean, standard_deviation } = Spread::of(&differences);
        Some((mean, standard_deviation / (differences.len() as f64).sqrt()))
    }

    /// [`Ablation::full_over`] in words, for fine-tuning and every part that was left out.
    pub fn compared(&self) -> Vec<String> {
        let variants = Variant::ALL.into_iter().filter(|variant| *variant != Variant::Full);
        variants
            .filter_map(|variant| {
                let (difference, error) = self.full_over(variant)?;
                Some(format!("{difference:+.2} ± {error:.2} against {}", variant.words()))
            })
            .collect()
    }

    /// Gain of the full adaptation over none, in percent of its mean recall.
    pub fn gain_percent(&self) -> f64 {
        100.0 * (self.mean_recall(Variant::Full) / self.mean_recall(Variant::NoAdaptation) - 1.0)
    }

    /// What the pair asks for and did not get; empty: nothing.
    pub fn shortfalls(&self) -> Vec<String> {
        let mut short = Vec::new();
        let gain = self.gain_percent();
        // a figure that is no number falls short of every bound
        if gain.is_nan() || gain < self.least_gain_percent {
            let least = self.least_gain_percent;
            short.push(format!("{}: full adaptation gains {gain:.1} %, wanted {least:.1} %", self.pair));
        }
        let (full, tuned) = (self.mean_recall(Variant::Full), self.mean_recall(Variant::FineTuning));
        if self.least_gain_percent > 0.0 && (full.is_nan() || full <= tuned) {
            short.push(format!("{}: full adaptation has mR {full:.2}, plain fine-tuning {tuned:.2}", self.pair));
        }
        short
    }
}

/// Runs every variant with every seed, or takes up what stands.
pub async fn ablate(pair: &Pair, progress: &Progress) -> Result<Ablation, WorkerError> {
    let mut lines = Vec::new();
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
        let line = Line { variant, runs };
        let spread = line.mean_recall();
        progress.note(&format!(
            "{}: {} has mR {:.2} ± {:.2}",
            pair.name,
            variant.words(),
            spread.mean,
            spread.standard_deviation
        ));
        lines.push(line);
    }
    Ok(Ablation { pair: pair.name.clone(), lines, least_gain_percent: pair.spec.ablation.least_gain_percent })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> PairSpec {
        PairSpec::parse("source = \"a\"\ntarget = \"b\"\n", "t", &[]).unwrap()
    }

    #[test]
    fn each_variant_leaves_out_one_thing() {
        assert_eq!(Variant::NoAdaptation.spec(&pair(), 0), None);
        let full = stages::adapt::settings(&Variant::Full.spec(&pair(), 3).unwrap()).unwrap();
        assert_eq!(full.seed, 3);
        let mut seen = vec![full];
        for variant in &Variant::ALL[1..5] {
            let settings = stages::adapt::settings(&variant.spec(&pair(), 3).unwrap()).unwrap();
            assert!(!seen.contains(&settings), "{variant:?} changes nothing");
            // the same on a command line
            let text = "source = \"a\"\ntarget = \"b\"\n";
            let told = PairSpec::parse(text, "t", &variant.overrides(3).unwrap()).unwrap();
            assert_eq!(stages::adapt::settings(&told).unwrap(), settings);
            seen.push(settings);
        }
    }

    #[test]
    fn an_ablation_says_where_it_falls_short() {
        let both = |mean_recall: f64| {
            let recall = serde_json::json!({ "at_1": 1.0, "at_5": 5.0, "at_10": 10.0, "median_rank": 3.0 });
            let both = serde_json::json!({ "i2t": recall, "t2i": recall, "mean_recall": mean_recall });
            let figures = serde_json::json!({ "optimistic": both, "pessimistic": both });
            let ties = serde_json::json!({ "twin_percent": 0.0, "twin_moves_points": 0.0, "other_percent": 0.0,
                "other_moves_points": 0.0 });
            let recall = serde_json::json!({ "protocol": "standard", "image_gallery": 9, "caption_gallery": 9,
                "image_queries": 9, "caption_queries": 9, "distinct_images": 9, "distinct_captions": 9,
                "exact": figures, "group": figures, "i2t_ties": ties, "t2i_ties": ties });
            serde_json::from_value(serde_json::json!({ "model_digest": "m", "recall": recall })).unwrap()
        };
        let ablation = |none: f64, tuned: f64, full: f64| Ablation {
            pair: "a_to_b".into(),
            lines: [(Variant::NoAdaptation, none), (Variant::FineTuning, tuned), (Variant::Full, full)]
                .map(|(variant, mean)| Line { variant, runs: vec![both(mean - 0.1), both(mean + 0.1)] })
                .into(),
            least_gain_percent: 15.0,
        };
        assert!((ablation(10.0, 11.0, 12.0).gain_percent() - 20.0).abs() < 1e-9);
        let mut spread = ablation(10.0, 11.0, 12.0);
        spread.lines[1].runs.swap(0, 1);
        let (difference, error) = spread.full_over(Variant::FineTuning).unwrap();
        assert!((difference - 1.0).abs() < 1e-9 && (error - 0.2).abs() < 1e-9, "{difference} {error}");
        spread.lines[1].runs.pop();
        assert_eq!(spread.full_over(Variant::FineTuning), None);
        assert!(ablation(10.0, 11.0, 12.0).shortfalls().is_empty());
        assert!(ablation(10.0, 11.0, 11.4).shortfalls()[0].contains("gains 14.0 %, wanted 15.0 %"));
        assert!(ablation(10.0, 12.5, 12.0).shortfalls()[0].contains("plain fine-tuning 12.50"));
        assert_eq!(ablation(0.0, 1.0, 0.0).shortfalls().len(), 2);
        assert!((ablation(10.0, 11.0, 12.0).lines[0].mean_recall().standard_deviation - 0.02f64.sqrt()).abs() < 1e-9);
    }

    #[test]
    fn seeds_have_a_mean_and_a_spread() {
        assert_eq!(Spread::of(&[2.0]), Spread { mean: 2.0, standard_deviation: 0.0 });
        assert_eq!(Spread::of(&[1.0, 2.0, 3.0]), Spread { mean: 2.0, standard_deviation: 1.0 });
    }
}
