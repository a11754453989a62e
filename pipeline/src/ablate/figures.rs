//! Figures of an ablation: what each variant reaches over seeds, and by how much it differs from the two controls.

use std::fmt;

use serde::{Deserialize, Serialize};
use training::recall::exceeds_chance;

use super::Variant;
use crate::pair::Tested;

/// Figures of one variant: one test for each seed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// What was left out.
    pub variant: Variant,
    /// One test for each seed.
    pub runs: Vec<Tested>,
    /// The effect of source pairs, however they are trained on.
    pub over_fine_tuning: Option<Difference>,
    /// The effect of the parts of the method beyond that.
    pub over_joint_training: Option<Difference>,
}

/// An ablation of one pair.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ablation {
    /// `SOURCE_to_TARGET`.
    pub pair: String,
    /// One for each variant, in the order of [`Variant::ALL`].
    pub lines: Vec<Line>,
}

/// Mean and standard deviation of a figure over seeds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct MeanAndDeviation {
    /// Over the seeds.
    pub mean: f64,
    /// Of the sample; 0 with a single run.
    pub standard_deviation: f64,
}

/// Mean recall of one variant minus that of another, seed by seed, in points.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// Mean over the seeds.
    pub mean: f64,
    /// Standard error of that mean.
    pub standard_error: f64,
    /// Number of seeds.
    pub seeds: usize,
}

/// One variant over all pairs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Together {
    /// What was left out.
    pub variant: Variant,
    /// Mean over pairs and seeds, in percent.
    pub mean_recall: f64,
    /// Against fine-tuning without source pairs.
    pub over_fine_tuning: Option<Difference>,
    /// Against training on both countries' pairs together.
    pub over_joint_training: Option<Difference>,
}

impl MeanAndDeviation {
    pub(super) fn of(values: &[f64]) -> MeanAndDeviation {
        let count = values.len().max(1) as f64;
        let mean = values.iter().sum::<f64>() / count;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        MeanAndDeviation {
            mean,
            standard_deviation: if values.len() > 1 { (squares / (count - 1.0)).sqrt() } else { 0.0 },
        }
    }
}

/// Two-sided 95 % quantiles of Student's t by degrees of freedom, from 1; further ones lie below the last.
const STUDENT: [f64; 10] = [12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23];

impl Difference {
    /// Of runs in the order of their seeds; a single run against many needs no seed. `None`: one seed has no error.
    fn of(runs: &[Tested], others: &[Tested]) -> Option<Difference> {
        let seeds = runs.len().max(others.len());
        let broad = |runs: &[Tested]| -> Option<Vec<f64>> {
            let recalls: Vec<f64> = runs.iter().map(Tested::mean_recall).collect();
            match recalls[..] {
                [one] => Some(vec![one; seeds]),
                _ => (recalls.len() == seeds).then_some(recalls),
            }
        };
        let (runs, others) = (broad(runs)?, broad(others)?);
        let differences: Vec<f64> = runs.iter().zip(others).map(|(run, other)| run - other).collect();
        let MeanAndDeviation { mean, standard_deviation } = MeanAndDeviation::of(&differences);
        (seeds > 1).then(|| Difference { mean, standard_error: standard_deviation / (seeds as f64).sqrt(), seeds })
    }

    /// The mean of the differences of several pairs, whose errors are independent.
    fn over_pairs(pairs: &[Difference]) -> Option<Difference> {
        let count = pairs.len() as f64;
        Some(Difference {
            mean: pairs.iter().map(|pair| pair.mean).sum::<f64>() / count,
            standard_error: pairs.iter().map(|pair| pair.standard_error.powi(2)).sum::<f64>().sqrt() / count,
            // the error is known no better than from the fewest
            seeds: pairs.iter().map(|pair| pair.seeds).min()?,
        })
    }

    /// Whether it is more than the choice of seeds explains, with 95 % confidence.
    pub fn is_clear(&self) -> bool {
        let quantile = STUDENT[(self.seeds.max(2) - 2).min(STUDENT.len() - 1)];
        self.mean.abs() > quantile * self.standard_error
    }

    /// What the full adaptation's difference to plain joint training says of its parts.
    fn verdict(&self) -> &'static str {
        match (self.is_clear(), self.mean > 0.0) {
            (true, true) => "together they help beyond plain joint training",
            (true, false) => "together they do worse than plain joint training",
            (false, _) => {
                "no more than the choice of seeds explains, so that these runs do not show that they help beyond plain \
                 joint training"
            }
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.mean < 0.0 { '−' } else { '+' };
        write!(f, "{sign}{:.2} ± {:.2}", self.mean.abs(), self.standard_error)
    }
}

impl Line {
    /// The seven figures over seeds.
    pub fn figures(&self) -> [MeanAndDeviation; 7] {
        std::array::from_fn(|at| {
            let values: Vec<f64> = self.runs.iter().map(|run| run.recall.exact.pessimistic.figures()[at]).collect();
            MeanAndDeviation::of(&values)
        })
    }

    /// Mean recall over seeds.
    pub fn mean_recall(&self) -> MeanAndDeviation {
        self.figures()[6]
    }
}

impl Ablation {
    /// From the tests of each variant, in the order of the seeds.
    pub(super) fn new(pair: String, tested: Vec<(Variant, Vec<Tested>)>) -> Ablation {
        let over = |variant: Variant, runs: &[Tested], control: Variant| {
            let (_, others) = tested.iter().find(|(variant, _)| *variant == control)?;
            (variant != control).then(|| Difference::of(runs, others)).flatten()
        };
        let lines = tested.iter().map(|(variant, runs)| Line {
            variant: *variant,
            runs: runs.clone(),
            over_fine_tuning: over(*variant, runs, Variant::FineTuning),
            over_joint_training: over(*variant, runs, Variant::JointTraining),
        });
        Ablation { lines: lines.collect(), pair }
    }

    /// The figures of one variant.
    pub fn line(&self, variant: Variant) -> Option<&Line> {
        self.lines.iter().find(|line| line.variant == variant)
    }

    /// The mR of guessing over the pair's test part; `None` without a run.
    pub fn chance(&self) -> Option<f64> {
        Some(self.lines.iter().find_map(|line| line.runs.first())?.recall.exact.pessimistic.chance_mean_recall)
    }

    /// Variants that do no better than guessing, on the mean of their seeds.
    pub fn no_better_than_chance(&self) -> Vec<Variant> {
        let Some(chance) = self.chance() else { return Vec::new() };
        let guesses = |line: &&Line| !exceeds_chance(line.mean_recall().mean, chance);
        self.lines.iter().filter(guesses).map(|line| line.variant).collect()
    }

    /// Whether the parts of the method help beyond plain joint training, in words.
    pub fn verdict(&self) -> String {
        verdict(self.line(Variant::Full).and_then(|line| line.over_joint_training))
    }
}

/// The variants over all pairs; `None` where there is but one pair, or a variant that some lack.
pub fn together(ablations: &[Ablation]) -> Option<Vec<Together>> {
    if ablations.len() < 2 {
        return None;
    }
    let together = Variant::ALL.into_iter().map(|variant| {
        let lines = ablations.iter().map(|ablation| ablation.line(variant)).collect::<Option<Vec<&Line>>>()?;
        let over = |of: fn(&Line) -> Option<Difference>| {
            Difference::over_pairs(&lines.iter().map(|line| of(line)).collect::<Option<Vec<_>>>()?)
        };
        Some(Together {
            variant,
            mean_recall: lines.iter().map(|line| line.mean_recall().mean).sum::<f64>() / lines.len() as f64,
            over_fine_tuning: over(|line| line.over_fine_tuning),
            over_joint_training: over(|line| line.over_joint_training),
        })
    });
    together.collect()
}

/// [`Ablation::verdict`] over all pairs.
pub fn verdict_together(together: &[Together]) -> String {
    verdict(together.iter().find(|line| line.variant == Variant::Full).and_then(|line| line.over_joint_training))
}

fn verdict(full_over_joint: Option<Difference>) -> String {
    match full_over_joint {
        None => {
            "One seed does not tell whether the parts of the method help beyond plain joint training: name more in \
                 ablation.seeds."
                .into()
        }
        Some(difference) => format!(
            "All parts of the method (full) against none of them (joint training): {difference} points, {} seeds; {}.",
            difference.seeds,
            difference.verdict()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tested(mean_recall: f64) -> Tested {
        let recall = serde_json::json!({ "at_1": 1.0, "at_5": 5.0, "at_10": 10.0, "median_rank": 3.0 });
        let both =
            serde_json::json!({ "i2t": recall, "t2i": recall, "mean_recall": mean_recall, "chance_mean_recall": 5.0 });
        let figures = serde_json::json!({ "optimistic": both, "pessimistic": both });
        let ties = serde_json::json!({ "twin_percent": 0.0, "twin_moves_points": 0.0, "other_percent": 0.0,
            "other_moves_points": 0.0 });
        let recall = serde_json::json!({ "protocol": "standard", "image_gallery": 9, "caption_gallery": 9,
            "image_queries": 9, "caption_queries": 9, "distinct_images": 9, "distinct_captions": 9,
            "exact": figures, "group": figures, "i2t_ties": ties, "t2i_ties": ties });
        serde_json::from_value(serde_json::json!({ "model_digest": "m", "recall": recall })).unwrap()
    }

    /// The full method has `full` in each seed, its controls 11.
    fn ablation(full: &[f64]) -> Ablation {
        let runs = |recalls: &[f64]| recalls.iter().map(|recall| tested(*recall)).collect::<Vec<_>>();
        let control = vec![11.0; full.len()];
        let tested = vec![
            (Variant::NoAdaptation, runs(&[4.0])),
            (Variant::FineTuning, runs(&control)),
            (Variant::JointTraining, runs(&control)),
            (Variant::Full, runs(full)),
        ];
        Ablation::new("a_to_b".into(), tested)
    }

    #[test]
    fn variants_differ_from_both_controls_seed_by_seed() {
        let ablation = ablation(&[12.0, 12.2, 11.8]);
        let full = ablation.line(Variant::Full).unwrap();
        let over = full.over_fine_tuning.unwrap();
        assert!((over.mean - 1.0).abs() < 1e-9 && (over.standard_error - 0.2 / 3f64.sqrt()).abs() < 1e-9, "{over}");
        assert_eq!((over.to_string().as_str(), full.over_joint_training), ("+1.00 ± 0.12", Some(over)));
        let none = ablation.line(Variant::NoAdaptation).unwrap();
        assert_eq!(none.over_joint_training.unwrap().to_string(), "−7.00 ± 0.00", "what nothing learns has no seed");
        let control = ablation.line(Variant::JointTraining).unwrap();
        assert_eq!(control.over_joint_training, None, "a control against itself says nothing");
        assert_eq!((ablation.chance(), ablation.no_better_than_chance()), (Some(5.0), vec![Variant::NoAdaptation]));
        let [one, other] = [vec![tested(1.0); 2], vec![tested(1.0); 3]];
        assert_eq!(Difference::of(&one, &other), None, "runs of other seeds");
    }

    #[test]
    fn the_parts_help_only_where_seeds_do_not_explain_it() {
        assert!(ablation(&[12.0, 12.2, 11.8]).verdict().contains("+1.00 ± 0.12 points, 3 seeds; together they help"));
        assert!(ablation(&[10.0, 10.2, 9.8]).verdict().contains("do worse than plain joint training"));
        // 1.0 ± 0.29: more than three standard errors, but two differences know little of their error
        let two = ablation(&[12.29, 11.71]);
        assert!(two.verdict().contains("do not show that they help"), "{}", two.verdict());
        assert!(ablation(&[11.0, 11.0]).verdict().contains("do not show"), "equal to the digit");
        assert!(ablation(&[13.0]).verdict().contains("One seed does not tell"));
    }

    #[test]
    fn pairs_are_taken_together() {
        assert_eq!(together(&[ablation(&[12.0, 12.2])]), None);
        let lines = together(&[ablation(&[12.0, 12.2, 11.8]), ablation(&[14.0, 14.4, 13.6])]);
        assert_eq!(lines, None, "a variant that was not run");
        let whole = |full: &[f64]| {
            let mut whole = ablation(full);
            for variant in [Variant::WithoutSampler, Variant::WithoutCurriculum, Variant::WithoutAdversary] {
                whole.lines.push(Line { variant, ..whole.lines[3].clone() });
            }
            whole
        };
        let lines = together(&[whole(&[12.0, 12.2, 11.8]), whole(&[14.0, 14.4, 13.6])]).unwrap();
        let full = lines.last().unwrap();
        let over = full.over_joint_training.unwrap();
        assert!((full.mean_recall - 13.0).abs() < 1e-9 && (over.mean - 2.0).abs() < 1e-9, "{full:?}");
        assert!((over.standard_error - (0.04f64 / 3.0 + 0.16 / 3.0).sqrt() / 2.0).abs() < 1e-9, "{over}");
        assert!(verdict_together(&lines).contains("together they help"));
    }

    #[test]
    fn seeds_have_a_mean_and_a_spread() {
        assert_eq!(MeanAndDeviation::of(&[2.0]), MeanAndDeviation { mean: 2.0, standard_deviation: 0.0 });
        assert_eq!(MeanAndDeviation::of(&[1.0, 2.0, 3.0]), MeanAndDeviation { mean: 2.0, standard_deviation: 1.0 });
    }
}
