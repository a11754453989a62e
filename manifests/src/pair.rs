//! Pair specs: which country's model is adapted to which country, and how.

use std::convert::Infallible;
use std::path::{Path, PathBuf};

use choices::Augmentation;
use schemars::JsonSchema;
use serde::de::{Error as _, IgnoredAny};
use serde::{Deserialize, Deserializer, Serialize};

use crate::spec::{
    Base, BuildSpec, MOST_EPOCHS, MOST_GRAD_NORM, MOST_WEIGHT_DECAY, Precision, Problems, ScheduleKind, Spec,
    SpecError, check_augmentation, check_ratio, parse_toml, read_text,
};

/// A pair of builds: the model of `source` is adapted to `target`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PairSpec {
    /// Build spec of the country whose model is adapted, relative to this file.
    pub source: PathBuf,
    /// Build spec of the country that it is adapted to.
    pub target: PathBuf,
    /// Parts of the target that are labelled training pairs, validation and test.
    #[serde(default = "default_ratio")]
    pub ratio: [u32; 3],
    /// How the model is adapted.
    #[serde(default)]
    pub adapt: AdaptSpec,
    /// What `ablate` runs.
    #[serde(default)]
    pub ablation: AblationSpec,
}

fn default_ratio() -> [u32; 3] {
    [2, 1, 7]
}

/// The default leaves no trace, so that adaptations from before the field stand.
fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// How a model is adapted. The defaults are the paper's; small models need rates of their own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AdaptSpec {
    /// Seed of data order, augmentation, the discriminator's first weights and the random sampler.
    pub seed: u64,
    /// Epochs of the adaptation.
    pub epochs: usize,
    /// Passes over the target's training pairs in an epoch.
    pub passes_per_epoch: usize,
    /// Target pairs of a step, and source pairs that are learnt from beside them.
    pub batch: usize,
    /// Highest learning rate.
    pub learning_rate: f64,
    /// AdamW's decay.
    pub weight_decay: f64,
    /// Share of the steps in which the learning rate rises from 0.
    pub warmup_share: f64,
    /// How the learning rate falls afterwards.
    pub schedule: ScheduleKind,
    /// Gradients with a larger norm are scaled down to it; 0: none are.
    pub max_grad_norm: f64,
    /// Share of the towers' activations that each step drops.
    pub dropout: f64,
    /// Share of caption words left out.
    pub word_dropout: f64,
    /// Decay of the weights' moving average that is validated and kept as best; 0: off.
    pub ema_decay: f64,
    /// Segments per image that the triplets of both countries learn from beside the image, drawn anew each epoch; 0: none,
    /// as in the paper.
    #[serde(skip_serializing_if = "is_zero")]
    pub segments_per_image: usize,
    /// Precision in which the network is adapted and measured; not set: that of the source's model. Half precision
    /// rounds most of what steps of the paper's learning rate do to a weight away.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Precision")]
    pub precision: Option<Precision>,
    /// Random changes of training images.
    pub augment: Augmentation,
    /// What is learnt: the fields of `training::adapt::Settings`, such as `beta`, `curriculum` or `adversary`.
    #[schemars(with = "serde_json::Map<String, serde_json::Value>")]
    pub method: toml::Table,
}

impl Default for AdaptSpec {
    fn default() -> Self {
        Self {
            seed: 0,
            epochs: 5,
            passes_per_epoch: 1,
            batch: 16,
            learning_rate: 1e-7,
            weight_decay: 0.1,
            warmup_share: 0.0,
            schedule: ScheduleKind::Constant,
            max_grad_norm: 1.0,
            dropout: 0.0,
            word_dropout: 0.0,
            ema_decay: 0.0,
            segments_per_image: 0,
            precision: None,
            augment: Augmentation::default(),
            method: toml::Table::new(),
        }
    }
}

impl AdaptSpec {
    fn check(&self, problems: &mut Problems) {
        let mut of = problems.section("adapt");
        of.count("epochs", self.epochs, MOST_EPOCHS);
        of.count("passes_per_epoch", self.passes_per_epoch, MOST_EPOCHS);
        of.batch("batch", self.batch);
        of.rate("learning_rate", self.learning_rate);
        of.within("weight_decay", self.weight_decay, 0.0..=MOST_WEIGHT_DECAY, "0 is none");
        of.part("warmup_share", self.warmup_share, "0 warms nothing up, 0.1 a tenth of the steps");
        of.within("max_grad_norm", self.max_grad_norm, 0.0..=MOST_GRAD_NORM, "0 clips nothing");
        of.part("dropout", self.dropout, "0 drops nothing");
        of.part("word_dropout", self.word_dropout, "0 drops nothing");
        of.part("ema_decay", self.ema_decay, "0 keeps no average");
        of.within("segments_per_image", self.segments_per_image, 0..=1000, "0 learns from no segment");
        check_augmentation(&self.augment, &mut of);
    }
}

/// What the ablation runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AblationSpec {
    /// Every variant runs once for each of these seeds.
    pub seeds: Vec<u64>,
    /// Was a gate; a spec that still has it is told what to do.
    #[serde(skip_serializing, deserialize_with = "least_gain_is_gone")]
    #[schemars(skip)]
    least_gain_percent: Option<Infallible>,
}

fn least_gain_is_gone<'de, D: Deserializer<'de>>(value: D) -> Result<Option<Infallible>, D::Error> {
    IgnoredAny::deserialize(value)?;
    Err(D::Error::custom(
        "ablation.least_gain_percent is gone: a model that was not adapted may do no better than guessing, and a \
         percentage of that means nothing; delete the line, and judge by the differences in points that `ablate` prints",
    ))
}

impl Default for AblationSpec {
    fn default() -> Self {
        Self { seeds: vec![0, 1, 2], least_gain_percent: None }
    }
}

impl Spec for PairSpec {
    const LEAST: &str = "source = \"a\"\ntarget = \"b\"\n";

    fn given_instead(table: &toml::Table) -> Option<&'static str> {
        (table.contains_key("country") && !table.contains_key("target")).then_some(
            "this is a build spec: use `urbancross run` for one country, or name a pair spec, which has a source and a \
             target",
        )
    }

    fn refusal(&self) -> Option<String> {
        self.check().err()
    }
}

impl PairSpec {
    /// Whether a file is a pair spec rather than a build spec, good or not. One that cannot be read is neither.
    pub fn is_at(path: &Path) -> bool {
        let table = read_text(path).ok().and_then(|text| text.parse::<toml::Table>().ok());
        table.is_some_and(|table| table.contains_key("target") && !table.contains_key("country"))
    }

    /// Reads a pair spec and the build specs that it names; `overrides` are `section.field=value` of the pair.
    ///
    /// # Errors
    /// A file that cannot be read or contradicts itself.
    pub fn read(path: &Path, overrides: &[String]) -> Result<(PairSpec, BuildSpec, BuildSpec), SpecError> {
        let shown = path.display().to_string();
        let unreadable = |cause: std::io::Error| SpecError::Unreadable { path: shown.clone(), cause };
        let mut spec = Self::parse(&read_text(path)?, &shown, overrides)?;
        for (field, value) in [("source", &mut spec.source), ("target", &mut spec.target)] {
            let base = Base::of(field, path, overrides).map_err(unreadable)?;
            let placed = base.path(&value.to_string_lossy());
            *value = placed.map(PathBuf::from).map_err(|why| SpecError::Invalid {
                path: shown.clone(),
                why: format!("{field} = {value:?}: {why}"),
            })?;
        }
        let (source, target) = (BuildSpec::read(&spec.source, &[])?, BuildSpec::read(&spec.target, &[])?);
        // what else there is to say of its model the source's spec has said
        if let Err(why) = spec.network_of(&source).check() {
            let why = why.replace("model.precision", "adapt.precision");
            return Err(SpecError::Invalid { path: shown, why: format!("source {}: {why}", spec.source.display()) });
        }
        Ok((spec, source, target))
    }

    /// How the network of the source's build is opened where it is adapted and measured.
    pub fn network_of(&self, source: &BuildSpec) -> BuildSpec {
        let mut network = source.clone();
        network.model.precision = self.adapt.precision.unwrap_or(network.model.precision);
        network
    }

    /// Parses the text of a pair spec; `shown` names it in messages.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn parse(text: &str, shown: &str, overrides: &[String]) -> Result<PairSpec, SpecError> {
        let invalid = |why: String| SpecError::Invalid { path: shown.to_owned(), why };
        let spec: PairSpec = parse_toml(text, shown, overrides)?;
        spec.check().map_err(invalid)?;
        Ok(spec)
    }

    /// The spec as TOML, with every default written out.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a spec is plain data")
    }

    /// # Errors
    /// Everything that no adaptation can mean. `adapt.method` is checked where it is understood.
    pub fn check(&self) -> Result<(), String> {
        let mut problems = Problems::default();
        let ratio = self.ratio;
        if let Err(why) = check_ratio(ratio) {
            problems.add(format!("ratio = {ratio:?}: {why}"));
        } else if ratio.contains(&0) {
            problems.add(format!("ratio = {ratio:?}: an adaptation needs labelled pairs, validation and test"));
        }
        self.adapt.check(&mut problems);
        let seeds = &self.ablation.seeds;
        if seeds.is_empty() {
            problems.add("ablation.seeds is empty: name at least one");
        }
        if seeds.iter().enumerate().any(|(at, seed)| seeds[..at].contains(seed)) {
            problems.add(format!("ablation.seeds = {seeds:?}: each counts once; name it once"));
        }
        problems.into_result()
    }
}

/// Whether the builds of a pair are two.
///
/// # Errors
/// They are one: nothing is there to adapt to.
pub fn are_two(source: &BuildSpec, target: &BuildSpec) -> Result<(), String> {
    let (country, url) = (&source.country, &source.work.url);
    match (country, url) == (&target.country, &target.work.url) {
        true => {
            Err(format!("source and target are one build, of {country} in {url}: a model is adapted to another one"))
        }
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINIMAL: &str = "source = \"a.toml\"\ntarget = \"b.toml\"\n";

    #[test]
    fn two_names_are_enough() {
        let spec = PairSpec::parse(MINIMAL, "t", &[]).unwrap();
        assert_eq!((spec.ratio, spec.adapt.epochs, spec.adapt.batch), ([2, 1, 7], 5, 16));
        assert_eq!(spec.ablation.seeds.len(), 3);
        assert_eq!(PairSpec::parse(&spec.to_toml(), "t", &[]).unwrap(), spec, "defaults survive a round trip");
        let set = ["adapt.method.beta=0.5".to_owned(), "adapt.learning_rate=1e-3".to_owned()];
        let spec = PairSpec::parse(MINIMAL, "t", &set).unwrap();
        assert_eq!((spec.adapt.method["beta"].as_float(), spec.adapt.learning_rate), (Some(0.5), 1e-3));
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (extra, words) in [
            ("[adapt]\nepoch = 3\n", "did you mean `epochs`?"),
            ("[adapt]\nbatch = 0\n", "adapt.batch = 0"),
            ("ratio = [0, 0, 0]\n", "ratio"),
            ("[ablation]\nseeds = []\n", "seeds is empty"),
            ("[ablation]\nleast_gain_percent = 15.0\n", "delete the line"),
        ] {
            let error = PairSpec::parse(&format!("{MINIMAL}{extra}"), "t", &[]).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
        let set = ["ablation.least_gain_percent=15.0".to_owned()];
        let error = PairSpec::parse(MINIMAL, "t", &set).unwrap_err().to_string();
        assert!(error.contains("least_gain_percent is gone"), "{error}");
    }

    #[test]
    fn a_pair_is_two_builds() {
        let build = |country: &str, work: &str| {
            let text = format!(
                "country = \"{country}\"\n[source]\nkind = \"skyscript\"\nurl = \"x\"\n[work]\nurl = \"{work}\"\n"
            );
            BuildSpec::parse(&text, "t", &[]).unwrap()
        };
        let one = build("x", "/one");
        let why = are_two(&one, &build("x", "/one")).unwrap_err();
        assert!(why.contains("one build, of x in /one"), "{why}");
        assert!(are_two(&one, &build("x", "/two")).is_ok() && are_two(&one, &build("y", "/one")).is_ok());
    }

    #[test]
    fn small_steps_have_a_precision_of_their_own() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let (mut pair, source, _) = PairSpec::read(&root.join("pairs/finland_to_spain.toml"), &[]).unwrap();
        assert_eq!(source.model.precision, Precision::Bf16);
        assert_eq!(pair.network_of(&source).model.precision, Precision::Tf32);
        pair.adapt.precision = None;
        assert_eq!(pair.network_of(&source), source);
        assert!(!pair.to_toml().contains("precision"), "an adaptation without it keeps its name");
        // what no CPU can
        let light = root.join("light/pairs/finland_to_spain.toml");
        let refused = PairSpec::read(&light, &["adapt.precision=tf32".into()]).unwrap_err().to_string();
        assert!(refused.contains("adapt.precision = \"tf32\" is for NVIDIA GPUs"), "{refused}");
        assert!(PairSpec::read(&light, &["adapt.precision=f32".into()]).is_ok());
    }

    #[test]
    fn shipped_pairs_parse() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let of_demo = root.join("../deploy/pair.toml");
        assert!(PairSpec::is_at(&of_demo) && !PairSpec::is_at(&root.join("sandbox.toml")));
        assert!(!PairSpec::is_at(&root.join("no-such.toml")));
        PairSpec::parse(&read_text(&of_demo).unwrap(), "pair.toml", &[]).unwrap();
        for pair in ["finland_to_spain", "germany_to_spain", "germany_to_finland"] {
            let (_, source, target) = PairSpec::read(&root.join(format!("pairs/{pair}.toml")), &[]).unwrap();
            assert_eq!(format!("{}_to_{}", source.country, target.country), pair);
        }
    }
}
