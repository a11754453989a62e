//! Build specs: one TOML file says what a build reads, which methods it uses and how it trains. One file per section.

mod base;
mod caption;
mod caption_instructblip;
mod caption_llava;
mod caption_server;
mod check;
mod evaluate;
mod external;
mod model;
mod overrides;
mod pairs;
mod pretrain;
mod ranks;
mod score;
mod second_pass;
mod segment;
mod source;
mod text_retrieval;
mod words;
mod work;

use choices::SegmentTower;
use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::address::{lacks, secret_in};

pub use base::real_path;
pub use caption::*;
pub use caption_instructblip::*;
pub use caption_llava::*;
pub use caption_server::*;
pub use evaluate::*;
pub use model::*;
pub use overrides::fields_of;
pub use pairs::*;
pub use pretrain::*;
pub use ranks::*;
pub use score::*;
pub use second_pass::*;
pub use segment::*;
pub use source::*;
pub use text_retrieval::*;
pub use words::section;
pub use work::*;

pub(crate) use base::Base;
pub(crate) use check::Problems;
pub(crate) use overrides::{parse_toml, read_text};
pub(crate) use words::{Spec, fields};

/// What is wrong with a build spec. Nothing has run yet: mend the file and start again.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// The file is not there, or not text.
    #[error("cannot read spec {path}: {cause}")]
    Unreadable {
        /// The path, as it was given.
        path: String,
        /// The operating system's error.
        #[source]
        cause: std::io::Error,
    },
    /// The text is no TOML of a spec, or its values do not fit together.
    #[error("spec {path}: {why}")]
    Invalid {
        /// What the spec is called: its path.
        path: String,
        /// What is wrong, and what would be right: all of it, not the first only.
        why: String,
    },
    /// An assignment of `--set` that names no field, or not its kind of value.
    #[error("--set {assignment}: {why}; write --set section.field=value")]
    Override {
        /// The assignment, as it was given.
        assignment: String,
        /// What is wrong with it.
        why: String,
    },
}

/// A build of one country.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BuildSpec {
    /// Name of the country, and the partition of every table: lower-case letters, digits, `_`.
    pub country: String,
    /// What is read.
    pub source: SourceSpec,
    /// Where tables, checkpoints and reports go.
    #[serde(default)]
    pub work: WorkSpec,
    /// How images are divided into training, validation and test.
    #[serde(default)]
    pub split: SplitSpec,
    /// Who writes the captions, and what they must be.
    #[serde(default)]
    pub caption: CaptionSpec,
    /// How images are cut into segments.
    #[serde(default)]
    pub segment: SegmentSpec,
    /// Which segments train the model, and how they are weighed.
    #[serde(default)]
    pub score: ScoreSpec,
    /// The retrieval model and its device.
    #[serde(default)]
    pub model: ModelSpec,
    /// How weights that lie elsewhere are fetched.
    #[serde(default)]
    pub weights: WeightsSpec,
    /// How the model is trained.
    #[serde(default)]
    pub pretrain: PretrainSpec,
    /// The processes that train together.
    #[serde(default)]
    pub ranks: RanksSpec,
    /// How the model is measured.
    #[serde(default)]
    pub evaluate: EvaluateSpec,
    /// Retrieval of text by text, without training.
    #[serde(default)]
    pub text_retrieval: TextRetrievalSpec,
}

impl Spec for BuildSpec {
    const LEAST: &str = "country = \"x\"\n[source]\nkind = \"skyscript\"\nurl = \"x\"\n";

    fn given_instead(table: &toml::Table) -> Option<&'static str> {
        (table.contains_key("target") && !table.contains_key("country")).then_some(
            "this is a pair spec: use `urbancross drive`, `adapt` or `ablate`, or name one of the build specs in it",
        )
    }

    fn refusal(&self) -> Option<String> {
        self.check().err()
    }
}

impl BuildSpec {
    /// Reads a spec file and applies `section.field=value` overrides. Paths in the file start at its folder, paths in
    /// overrides at the current one; in what is returned all are absolute.
    ///
    /// # Errors
    /// [`SpecError::Unreadable`] for a file that cannot be read; otherwise as [`parse`](Self::parse).
    pub fn read(path: &Path, overrides: &[String]) -> Result<BuildSpec, SpecError> {
        let shown = path.display().to_string();
        let unreadable = |cause: std::io::Error| SpecError::Unreadable { path: shown.clone(), cause };
        let mut spec = BuildSpec::parse(&read_text(path)?, &shown, overrides)?;
        for (field, value, words) in spec.places() {
            let base = Base::of(field, path, overrides).map_err(unreadable)?;
            let placed = match words {
                None => base.store(value),
                Some(words) if words.contains(&value.as_str()) => continue,
                Some(_) => base.weights(value, &Path::exists),
            };
            *value = placed.map_err(|why| SpecError::Invalid {
                path: shown.clone(),
                why: format!("{field} = {value:?}: {why}"),
            })?;
        }
        Ok(spec)
    }

    /// Fields that name a store, or weights: then with the words that stand for none.
    fn places(&mut self) -> [(&'static str, &mut String, Option<&'static [&'static str]>); 14] {
        const NONE: Option<&[&str]> = Some(&[""]);
        let (blip, llava) = (&mut self.caption.instructblip, &mut self.caption.llava);
        [
            ("source.url", &mut self.source.url, None),
            ("work.url", &mut self.work.url, None),
            ("caption.instructblip.weights", &mut blip.weights, NONE),
            ("caption.instructblip.language_gguf", &mut blip.language_gguf, NONE),
            ("caption.llava.weights", &mut llava.weights, NONE),
            ("caption.llava.language_gguf", &mut llava.language_gguf, NONE),
            ("caption.structured_file", &mut self.caption.structured_file, NONE),
            ("caption.score.clip", &mut self.caption.score.clip, NONE),
            ("segment.sam.weights", &mut self.segment.sam.weights, NONE),
            ("model.init", &mut self.model.init, NONE),
            ("model.tokenizer", &mut self.model.tokenizer, Some(&["train"])),
            ("score.clip", &mut self.score.clip, Some(&["none", "bootstrap"])),
            ("text_retrieval.encoder", &mut self.text_retrieval.encoder, NONE),
            ("text_retrieval.query_file", &mut self.text_retrieval.query_file, NONE),
        ]
    }

    /// Parses the text of a spec; `shown` names it in messages. Paths stay as they are.
    ///
    /// ```
    /// let text = r#"
    ///     country = "finland"
    ///     source = { kind = "captioned", url = "pictures" }
    ///     caption = { captioner = "given" }
    /// "#;
    /// let spec = manifests::BuildSpec::parse(text, "my spec", &["pretrain.epochs=3".to_owned()])?;
    /// assert_eq!((spec.country.as_str(), spec.pretrain.epochs), ("finland", 3));
    /// let typo = manifests::BuildSpec::parse(&text.replace("url", "ulr"), "my spec", &[]);
    /// assert!(typo.is_err_and(|error| error.to_string().contains("url")));
    /// # Ok::<(), manifests::SpecError>(())
    /// ```
    ///
    /// # Errors
    /// [`SpecError::Invalid`] with all that is wrong, [`SpecError::Override`] with the first assignment that is.
    pub fn parse(text: &str, shown: &str, overrides: &[String]) -> Result<BuildSpec, SpecError> {
        let invalid = |why: String| SpecError::Invalid { path: shown.to_owned(), why };
        let spec: BuildSpec = parse_toml(text, shown, overrides)?;
        spec.check().map_err(invalid)?;
        Ok(spec)
    }

    /// Looks at every section, and at what two of them say together.
    ///
    /// # Errors
    /// Everything that no build can mean.
    pub fn check(&self) -> Result<(), String> {
        let mut problems = Problems::default();
        let named = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        if self.country.is_empty() || !self.country.chars().all(named) {
            let why = "it names a partition; use lower-case letters, digits and _";
            problems.add(format!("country = {:?}: {why}", self.country));
        }
        self.check_addresses(&mut problems);
        self.source.check(&mut problems);
        self.work.check(&mut problems);
        self.split.check(&mut problems);
        self.caption.check(self.source.kind, &mut problems);
        self.caption.second_pass.check(self, &mut problems);
        self.segment.check(&mut problems);
        self.score.check(&mut problems);
        self.model.check(&mut problems);
        self.weights.options.check("weights.options", &mut problems);
        self.pretrain.check(&mut problems);
        self.pretrain.pairs.check(&self.score.clip, &mut problems);
        self.ranks.check(&mut problems);
        self.evaluate.check(&mut problems);
        self.text_retrieval.check(&self.caption, &mut problems);
        self.check_segment_tower(&mut problems);
        self.check_ranks(&mut problems);
        problems.into_result()
    }

    fn check_segment_tower(&self, problems: &mut Problems) {
        let tower = match self.pretrain.segment_tower {
            SegmentTower::Frozen if !self.uses_segments() => "frozen",
            SegmentTower::Separate if !self.uses_segments() => "separate",
            SegmentTower::Shared | SegmentTower::Frozen | SegmentTower::Separate => return,
        };
        let (off, on) = match self.segment.segmenter {
            Segmenter::None => ("segment.segmenter = \"none\"", "set segment.segmenter = \"felzenszwalb\" or \"sam\""),
            _ => ("pretrain.segments_per_image = 0", "set it to at least 1"),
        };
        problems.section("pretrain").refuse(
            "segment_tower",
            tower,
            &format!("nothing learns from segments, since {off}: {on}, or pretrain.segment_tower = \"shared\""),
        );
    }

    fn check_ranks(&self, problems: &mut Problems) {
        let (batch, ranks) = (self.pretrain.batch, self.ranks.processes);
        if let Some(multiple) = batch.checked_next_multiple_of(ranks).filter(|multiple| *multiple != batch) {
            let why = format!("ranks.processes = {ranks} cannot share it; use a multiple, such as {multiple}");
            problems.section("pretrain").refuse("batch", batch, &why);
        }
        let on_cpu = matches!(self.model.devices(), Ok(DeviceNames::Listed(names)) if names[0] == DeviceName::Cpu);
        if self.ranks.backend == Backend::Nccl && on_cpu {
            problems.add(format!(
                "ranks.backend = \"nccl\": it carries tensors between GPUs, and model.device = {:?}; use \"auto\" or \"tcp\"",
                self.model.device
            ));
        }
    }

    /// Addresses that lead nowhere, and those with secrets in them, of which none is repeated.
    fn check_addresses(&self, problems: &mut Problems) {
        let (source, work) = (&self.source, &self.work);
        let weights = self.weights();
        let named = [
            ("source.url", &source.url),
            ("source.options.endpoint", &source.options.endpoint),
            ("work.url", &work.url),
            ("work.options.endpoint", &work.options.endpoint),
            ("weights.options.endpoint", &self.weights.options.endpoint),
        ];
        let all = named
            .into_iter()
            .chain(source.tables.iter().map(|table| ("source.tables", table)))
            .chain(weights.iter().map(|weights| (weights.field, &weights.source)));
        for (field, address) in all {
            if let Some(secret) = secret_in(address) {
                problems.add(format!(
                    "{field} holds {secret}, which would appear in logs, tables and reports: take it out and set \
                     credentials in the environment, such as AWS_ACCESS_KEY_ID, GOOGLE_APPLICATION_CREDENTIALS or \
                     AZURE_STORAGE_SAS_KEY"
                ));
            } else if let Some(why) = lacks(address) {
                problems.add(format!("{field} = {address:?}: {why}"));
            }
        }
    }

    /// The spec as TOML, with every default written out.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a spec is plain data")
    }

    /// Does anything train on segments?
    pub fn uses_segments(&self) -> bool {
        self.segment.segmenter != Segmenter::None && self.pretrain.segments_per_image > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINIMAL: &str = "country = \"finland\"\n[source]\nkind = \"skyscript\"\nurl = \"s3://bucket/SkyScript\"\n";

    fn parse(extra: &str) -> Result<BuildSpec, SpecError> {
        BuildSpec::parse(&format!("{MINIMAL}{extra}"), "test.toml", &[])
    }

    #[test]
    fn a_few_lines_are_enough_and_defaults_survive_a_round_trip() {
        let spec = parse("").unwrap();
        assert_eq!(spec.score.max_segments, 6);
        assert_eq!(BuildSpec::parse(&spec.to_toml(), "again", &[]).unwrap(), spec);
    }

    #[test]
    fn unknown_fields_name_the_nearest() {
        let error = parse("[segment]\nsegmentor = \"none\"\n").unwrap_err().to_string();
        assert!(error.contains("did you mean `segmenter`?"), "{error}");
        let error = parse("[caption]\ncaptioner = \"geotag\"\n").unwrap_err().to_string();
        assert!(error.contains("did you mean `geotags`?"), "{error}");
        let error = BuildSpec::parse(MINIMAL, "test.toml", &["pretrain.epoch=3".into()]).unwrap_err().to_string();
        assert!(error.contains("did you mean `epochs`?"), "{error}");
    }

    #[test]
    fn overrides_take_toml_values_or_strings() {
        let set = |s: &str| BuildSpec::parse(MINIMAL, "test.toml", &[s.to_owned()]);
        assert_eq!(set("pretrain.epochs=3").unwrap().pretrain.epochs, 3);
        assert_eq!(set("split.ratio=[2,1,7]").unwrap().split.ratio, [2, 1, 7]);
        assert_eq!(set("work.url=/data/work").unwrap().work.url, "/data/work");
        assert!(set("pretrain").unwrap_err().to_string().contains("no `=`"));
    }

    #[test]
    fn methods_that_are_not_there_are_refused() {
        for (extra, word) in [
            ("[caption]\ncaptioner = \"instructblip\"\n", "caption.instructblip.weights is empty"),
            ("[segment]\nsegmenter = \"sam\"\n", "segment.sam.weights is empty"),
            ("[caption]\ncaptioner = \"given\"\n", "captioned"),
            ("[caption.instructblip]\nimages_per_batch = 0\n", "images_per_batch"),
            ("[caption.instructblip.structured]\nattempts = 4\n", "five answers"),
            ("[caption.score]\nmin_clip_score = 0.5\n", "caption.score.clip"),
            ("[caption.score]\nclip = \"x\"\nmin_clip_score = 3.0\n", "between 0.0 and 2.5"),
            ("[work]\nshards = 0\n", "work.shards"),
            ("[pretrain]\nema_decay = 1.5\n", "ema_decay"),
        ] {
            let error = parse(extra).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
        let error = BuildSpec::parse(&MINIMAL.replace("finland", "../x"), "t", &[]).unwrap_err().to_string();
        assert!(error.contains("partition"), "{error}");
    }

    #[test]
    fn addresses_with_secrets_are_refused_and_not_repeated() {
        for (field, address) in [
            ("source.url", "https://me:hunter2@host/x"),
            ("source.tables", "['a.csv', 'b.csv?sig=hunter2']"),
            ("source.options.endpoint", "https://me:hunter2@host"),
            ("work.url", "s3://me:hunter2@bucket/x"),
            ("weights.options.endpoint", "https://me:hunter2@host"),
            ("model.init", "https://host/x?X-Amz-Signature=hunter2"),
        ] {
            let error = BuildSpec::parse(MINIMAL, "t", &[format!("{field}={address}")]).unwrap_err().to_string();
            assert!(error.contains(field) && !error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn files_of_answers_and_queries_start_where_other_paths_do() {
        let spec = Path::new(env!("CARGO_MANIFEST_DIR")).join("captioned.toml");
        let set = ["caption.structured=true", "caption.structured_file=answers.jsonl", "text_retrieval.encoder=a/b"];
        let set = set.into_iter().chain(["text_retrieval.query_file=queries.jsonl"]).map(str::to_owned);
        let set: Vec<String> = set.collect();
        let spec = BuildSpec::read(&spec, &set).unwrap();
        let here = std::env::current_dir().unwrap();
        for (path, name) in
            [(&spec.caption.structured_file, "answers.jsonl"), (&spec.text_retrieval.query_file, "queries.jsonl")]
        {
            assert_eq!(Path::new(path), here.join(name));
        }
    }

    #[test]
    fn shipped_specs_parse() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        for file in [
            "countries/finland.toml",
            "countries/germany.toml",
            "countries/spain.toml",
            "sandbox.toml",
            "captioned.toml",
        ] {
            BuildSpec::read(&root.join(file), &[]).unwrap_or_else(|e| panic!("{e}"));
        }
        let data_sets = std::fs::read_dir(root.join("datasets")).unwrap().map(|entry| entry.unwrap().path());
        let specs: Vec<_> = data_sets.filter(|path| !path.ends_with("published.toml")).collect();
        assert!(specs.len() >= 5, "{specs:?}");
        for path in specs {
            let spec = BuildSpec::read(&path, &[]).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(path.file_stem().and_then(|stem| stem.to_str()), Some(spec.country.as_str()));
            assert!(spec.source.kind == SourceKind::Captioned && spec.split.val_share == 0.1, "{}", path.display());
        }
    }
}
