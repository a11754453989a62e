//! What an adaptation is made of.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::MAX_HIDDEN;
use crate::error::{Error, Result};

/// The choices that belong to the adaptation itself. Defaults are the paper's where it speaks; the released code's
/// stay selectable.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// How sources are chosen out of a batch.
    pub sampler: Sampler,
    /// What of a pair is compared to choose sources and to weigh them.
    pub similarity: SimilarityOf,
    /// How many sources are chosen as epochs pass, and with `sampler = "acss"` which.
    pub curriculum: Curriculum,
    /// Epochs that the curriculum stays in a band; after the last band it stays there.
    pub epochs_per_band: usize,
    /// Sources drawn for each target: the number of bands.
    pub sources_per_target: usize,
    /// What the weights of Eq. 10 are taken from.
    pub weights: WeightsOf,
    /// Whether the weights of Eq. 10 count in the triplet loss of sources.
    pub triplet_weighted: bool,
    /// Margin of the triplet loss, alpha of Eq. 11.
    pub margin: f64,
    /// Distance of the triplet loss.
    pub distance: Distance,
    /// Directions of the triplet loss.
    pub directions: Directions,
    /// Share of the run from which on only a row's hardest negative counts, as in Eq. 11: 0 is the paper's, 1 never.
    /// Until then the cost is the mean over all negatives. A network whose pairs are still far apart learns from the
    /// hardest ones alone to give all inputs one embedding, where every triplet costs its margin (Faghri et al. 2018,
    /// VSE++, start so too).
    pub hardest_from: f64,
    /// Factor of the sources' triplet loss beside the targets'.
    pub source_weight: f64,
    /// Whether source pairs are learnt from at all; without them it is plain fine-tuning on the target's pairs.
    pub source_pairs: bool,
    /// Whether the pairs of the target's training split are supervised too (unweighted).
    pub target_triplet: bool,
    /// Factor of the adversarial gradient in the encoders.
    pub beta: f64,
    /// How `beta` rises over the run.
    pub ramp: Ramp,
    /// How discriminator and encoders play.
    pub adversary: Adversary,
    /// Which terms of Eq. 12 are weighted in the encoders; the discriminator itself learns unweighted.
    pub adversary_weights: AdversaryWeights,
    /// Width of the discriminator's two hidden layers.
    pub discriminator_hidden: usize,
    /// Learning rate of the discriminator, whose weights start from nothing.
    pub discriminator_learning_rate: f64,
    /// Seed of the discriminator's first weights and of the random sampler. A spec has no field for it: the adaptation's
    /// seed comes here.
    #[schemars(skip)]
    pub seed: u64,
}

impl Default for Settings {
    /// The paper's adaptation. Width of the discriminator: the released code's. Its learning rate, on which both are
    /// silent: that of ADDA (Tzeng et al. 2017) halved.
    fn default() -> Self {
        Self {
            sampler: Sampler::Acss,
            similarity: SimilarityOf::Pair,
            curriculum: Curriculum::Bands,
            epochs_per_band: 1,
            sources_per_target: 5,
            weights: WeightsOf::Source,
            triplet_weighted: true,
            margin: 0.2,
            distance: Distance::Cosine,
            directions: Directions::Both,
            hardest_from: 0.0,
            source_weight: 1.0,
            source_pairs: true,
            target_triplet: true,
            beta: 1.0,
            ramp: Ramp::Dann,
            adversary: Adversary::Reversal,
            adversary_weights: AdversaryWeights::Source,
            discriminator_hidden: 768,
            discriminator_learning_rate: 1e-4,
            seed: 0,
        }
    }
}

/// How sources are chosen out of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Sampler {
    /// The adaptive curriculum source sampler: by similarity to the targets of the batch.
    #[default]
    Acss,
    /// As many as the curriculum takes, drawn at random. The paper's ablation "w/o SS" also has
    /// `weights = "uniform"`: the weights of Eq. 10 are of W2, which the sampler makes.
    Random,
}

/// What of a pair W1 of Eq. 9 compares; by the model that adaptation starts from in either case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SimilarityOf {
    /// Image and caption together: the paper's.
    #[default]
    Pair,
    /// The caption alone: the released code's.
    Text,
}

/// Which sources are learnt from as epochs pass. Ranks are by mean similarity to the targets, highest first; T is the
/// number of targets and k the number of bands passed, at most `sources_per_target` - 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Curriculum {
    /// Ranks [k T, (k + 1) T): the paper's, from easy to hard.
    #[default]
    Bands,
    /// Ranks [0, (k + 1) T): the released code's.
    Cumulative,
    /// Ranks [0, T) in every epoch: the released code's other form, and the paper's ablation "w/o CL", which still
    /// samples by similarity.
    Easiest,
    /// The first T of the batch in data order, which the data's shuffle has made a random choice: similarity plays no
    /// part but in the weights.
    None,
}

/// What the weights of Eq. 10 are taken from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WeightsOf {
    /// Sums over targets, one weight per source; they sum to the number of sources (the paper's).
    #[default]
    Source,
    /// Sums over sources, one weight per target; they sum to 1 and count by position (the released code's).
    Target,
    /// 1 for every source.
    Uniform,
}

/// Distance of the triplet loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Distance {
    /// 1 - cos: the paper's.
    #[default]
    Cosine,
    /// |a - b|: the released code's.
    Euclidean,
}

/// Directions of the triplet loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Directions {
    /// Images among captions and captions among images: the paper's.
    #[default]
    Both,
    /// Images among captions only: the released code's.
    ImageToText,
}

/// How discriminator and encoders play.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Adversary {
    /// One backward pass: the gradient is reversed between discriminator and encoders (DANN).
    #[default]
    Reversal,
    /// A step of the discriminator on fixed features, then one of the encoders against fixed weights.
    Alternating,
    /// Both minimise the same: the encoders help the discriminator to tell the domains apart. No game; the released
    /// code's, which hands everything to one optimiser.
    Joint,
    /// None: the paper's ablation "w/o AT".
    Off,
}

/// Which terms of Eq. 12 are weighted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AdversaryWeights {
    /// Those of sources; targets count 1.
    #[default]
    Source,
    /// Both by the same weights, target j by the weight of source j: the paper's formula to the letter.
    Both,
    /// Neither.
    None,
}

/// How the adversarial factor rises over the run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Ramp {
    /// 2 / (1 + exp(-10 p)) - 1, so that an untrained discriminator moves nothing (Ganin et al. 2016, section 5.2.2).
    #[default]
    Dann,
    /// 1 throughout.
    None,
}

impl Ramp {
    /// Factor at `progress`, the share of the run that is over, in [0, 1].
    pub fn factor(self, progress: f64) -> f64 {
        match self {
            Self::Dann => 2.0 / (1.0 + (-10.0 * progress.clamp(0.0, 1.0)).exp()) - 1.0,
            Self::None => 1.0,
        }
    }
}

impl Settings {
    /// Factor of the reversed gradient in the encoders at `progress`, the share of the run that is over. Negative where
    /// it is not reversed ([`Adversary::Joint`]).
    pub fn adversarial_factor(&self, progress: f64) -> f64 {
        let factor = self.beta * self.ramp.factor(progress);
        if self.adversary == Adversary::Joint { -factor } else { factor }
    }

    /// Refuses values that no run can mean.
    ///
    /// # Errors
    /// The first such value.
    pub fn check(&self) -> Result<()> {
        let refuse = |what, problem: String| Err(Error::argument(what, problem));
        if !(self.source_pairs || self.target_triplet) {
            return refuse(
                "source_pairs",
                "is off, and so is target_triplet: nothing is left to learn from".to_owned(),
            );
        }
        if self.sources_per_target == 0 {
            return refuse("sources_per_target", "is 0, needs at least 1 (the paper: 5)".to_owned());
        }
        if self.epochs_per_band == 0 {
            return refuse("epochs_per_band", "is 0, needs at least 1 (the paper: 1)".to_owned());
        }
        if !(0.0..=2.0).contains(&self.margin) {
            let problem =
                format!("is {}, needs 0 <= margin <= 2, the most that cosine distances differ by", self.margin);
            return refuse("margin", problem);
        }
        if !(0.0..=1.0).contains(&self.hardest_from) {
            return refuse("hardest_from", format!("is {}, needs a share of the run, 0 to 1", self.hardest_from));
        }
        if !(self.source_weight.is_finite() && self.source_weight >= 0.0) {
            return refuse("source_weight", format!("is {}, needs a number not below 0", self.source_weight));
        }
        if !(self.beta.is_finite() && self.beta >= 0.0) {
            let problem = format!(
                "is {}, needs a number not below 0: the sign of the game is fixed; `adversary = \"off\"` leaves it out",
                self.beta
            );
            return refuse("beta", problem);
        }
        if !(1..=MAX_HIDDEN).contains(&self.discriminator_hidden) {
            let problem = format!("is {}, needs 1 to {MAX_HIDDEN}", self.discriminator_hidden);
            return refuse("discriminator_hidden", problem);
        }
        let rate = self.discriminator_learning_rate;
        if !(rate > 0.0 && rate <= 1.0) {
            return refuse("discriminator_learning_rate", format!("is {rate}, needs a number above 0 and at most 1"));
        }
        // Both pair a source with a target by position, and later epochs have more sources than targets.
        let by_position = [
            ("weights", "target", self.weights == WeightsOf::Target),
            (
                "adversary_weights",
                "both",
                self.adversary_weights == AdversaryWeights::Both && self.adversary != Adversary::Off,
            ),
        ];
        for (what, value, asked) in by_position {
            if asked && self.curriculum == Curriculum::Cumulative {
                let problem = format!(
                    "\"{value}\" needs as many sources as targets, but curriculum \"cumulative\" takes more in every \
                     epoch; use \"bands\", or \"source\" here"
                );
                return refuse(what, problem);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_the_papers_and_survive_a_round_trip() {
        let settings = Settings::default();
        settings.check().unwrap();
        assert_eq!((settings.sources_per_target, settings.margin, settings.beta), (5, 0.2, 1.0));
        let text = serde_json::to_string(&settings).unwrap();
        assert_eq!(serde_json::from_str::<Settings>(&text).unwrap(), settings);
        assert_eq!(serde_json::from_str::<Settings>("{}").unwrap(), settings);
        let released = r#"{"curriculum": "cumulative", "distance": "euclidean", "directions": "image_to_text",
            "triplet_weighted": false, "adversary": "joint", "adversary_weights": "none", "ramp": "none", "similarity": "text"}"#;
        serde_json::from_str::<Settings>(released).unwrap().check().unwrap();
        assert!(serde_json::from_str::<Settings>(r#"{"curiculum": "bands"}"#).is_err());
    }

    #[test]
    fn impossible_values_are_refused_by_name() {
        let refused = |change: &dyn Fn(&mut Settings), words: &str| {
            let mut settings = Settings::default();
            change(&mut settings);
            let message = settings.check().unwrap_err().to_string();
            assert!(message.contains(words), "{message}");
        };
        refused(&|s| s.sources_per_target = 0, "sources_per_target: is 0");
        refused(&|s| s.epochs_per_band = 0, "epochs_per_band: is 0");
        refused(&|s| s.margin = f64::NAN, "margin: is NaN");
        refused(&|s| s.margin = 2.5, "margin: is 2.5, needs 0 <= margin <= 2");
        refused(&|s| s.hardest_from = 1.5, "hardest_from: is 1.5, needs a share");
        refused(&|s| s.beta = -1.0, "beta: is -1");
        refused(&|s| s.discriminator_hidden = 0, "discriminator_hidden: is 0");
        refused(&|s| s.discriminator_hidden = MAX_HIDDEN + 1, "discriminator_hidden");
        refused(&|s| s.discriminator_learning_rate = 0.0, "discriminator_learning_rate: is 0");
        let both = |s: &mut Settings| {
            (s.curriculum, s.adversary_weights) = (Curriculum::Cumulative, AdversaryWeights::Both);
        };
        refused(&both, "adversary_weights: \"both\" needs as many sources as targets");
        refused(&|s| (s.curriculum, s.weights) = (Curriculum::Cumulative, WeightsOf::Target), "weights: \"target\"");
    }

    #[test]
    fn the_ramp_rises_from_nothing_to_one() {
        assert_eq!(Ramp::Dann.factor(0.0), 0.0);
        assert!((Ramp::Dann.factor(0.5) - 0.986_614_298_151_43).abs() < 1e-12);
        assert!(Ramp::Dann.factor(1.0) > 0.9999 && Ramp::Dann.factor(1.0) < 1.0);
        assert_eq!(Ramp::Dann.factor(7.0), Ramp::Dann.factor(1.0));
        assert_eq!(Ramp::None.factor(0.0), 1.0);
        let settings = Settings { beta: 0.5, ..Settings::default() };
        assert_eq!(settings.adversarial_factor(0.3), 0.5 * Ramp::Dann.factor(0.3));
        let joint = Settings { adversary: Adversary::Joint, ..settings };
        assert_eq!(joint.adversarial_factor(0.3), -settings.adversarial_factor(0.3));
    }
}
