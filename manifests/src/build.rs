//! Build specs: one TOML file says what a build reads, which methods it uses and how it trains.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// What is wrong with a build spec. Nothing has run yet: mend the file and start again.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    #[error("cannot read build spec {path}: {why}")]
    Unreadable { path: String, why: String },
    #[error("build spec {path}: {why}")]
    Invalid { path: String, why: String },
    #[error("--set {assignment}: {why}; write --set section.field=value")]
    Override { assignment: String, why: String },
}

/// A build of one country.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BuildSpec {
    /// Name of the country, and the partition of every table: lower-case letters, digits, `_`.
    pub country: String,
    pub source: SourceSpec,
    #[serde(default)]
    pub work: WorkSpec,
    #[serde(default)]
    pub split: SplitSpec,
    #[serde(default)]
    pub caption: CaptionSpec,
    #[serde(default)]
    pub segment: SegmentSpec,
    #[serde(default)]
    pub score: ScoreSpec,
    #[serde(default)]
    pub model: ModelSpec,
    /// How weights that lie elsewhere are fetched.
    #[serde(default)]
    pub weights: WeightsSpec,
    #[serde(default)]
    pub pretrain: PretrainSpec,
    #[serde(default)]
    pub evaluate: EvaluateSpec,
}

/// Where the input lies. The source store is only ever read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceSpec {
    pub kind: SourceKind,
    /// Folder of the archives: `file://`, `s3://`, `gs://`, `az://`, `http(s)://` or a plain path.
    pub url: String,
    #[serde(default)]
    pub options: StoreOptions,
    /// SkyScript: CSV files below `url`. Captioned folder: the caption file (found when empty).
    #[serde(default)]
    pub tables: Vec<String>,
    /// Source tokens of image names that belong to the country (`["FI"]`); global sources are
    /// decided by the box. Empty: every source.
    #[serde(default)]
    pub tokens: Vec<String>,
    /// ISO 3166 code whose polygon must hold the box centre (`"FI"`); empty: no check.
    #[serde(default)]
    pub country_code: String,
    #[serde(default = "default_max_gsd_meters")]
    pub max_gsd_meters: f64,
    /// SkyScript: read the meta archives (boxes and tags). Without them captions come from titles.
    #[serde(default = "yes")]
    pub meta: bool,
    /// Captioned folder: folder of the images below `url`.
    #[serde(default = "default_image_folder")]
    pub image_folder: String,
    /// Take only the first images in order of their id; 0: all.
    #[serde(default)]
    pub max_images: usize,
    /// Pixel limit of one image, checked before it is decoded.
    #[serde(default = "default_max_image_pixels")]
    pub max_image_pixels: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SourceKind {
    /// SkyScript's zips, CSVs and meta pickles.
    Skyscript,
    /// A folder of images with a caption file.
    Captioned,
}

/// How a store is reached. Credentials never stand here: they come from the environment or a role.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreOptions {
    pub endpoint: String,
    pub region: String,
    pub path_style: bool,
    pub allow_http: bool,
    /// Unsigned requests. Default: true for the source store, false for the work store.
    pub anonymous: Option<bool>,
    pub timeout_seconds: u64,
    pub retries: usize,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            endpoint: String::new(),
            region: String::new(),
            path_style: false,
            allow_http: false,
            anonymous: None,
            timeout_seconds: 30,
            retries: 5,
        }
    }
}

/// Where tables, checkpoints and reports go.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WorkSpec {
    pub url: String,
    pub options: StoreOptions,
    /// Number of shards; fixed for the life of a work store.
    pub shards: u32,
    /// Requests to the stores in flight at once.
    pub concurrency: usize,
    /// Largest coalesced request.
    pub request_mib: u64,
}

impl Default for WorkSpec {
    fn default() -> Self {
        Self { url: "work".into(), options: StoreOptions::default(), shards: 16, concurrency: 16, request_mib: 8 }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SplitSpec {
    /// train : val : test. `[7, 1, 2]` for pre-training, `[2, 1, 7]` for the target of an adaptation.
    pub ratio: [u32; 3],
    /// Captioned folders without a validation split: this share of train, by hash.
    pub val_share: f64,
}

impl Default for SplitSpec {
    fn default() -> Self {
        Self { ratio: [7, 1, 2], val_share: 0.1 }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Captioner {
    /// Plain English from the geo-tags (no weights).
    Geotags,
    /// The captions that came with the images.
    Given,
    Instructblip,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CaptionSpec {
    pub captioner: Captioner,
    pub instructblip: InstructBlipSpec,
}

impl Default for CaptionSpec {
    fn default() -> Self {
        Self { captioner: Captioner::Geotags, instructblip: InstructBlipSpec::default() }
    }
}

/// InstructBLIP prompted by the geo-tags; decoding with transformers' names and the model card's values.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct InstructBlipSpec {
    /// Folder with config, weights and tokenizers: here, in a store or on the hub, such as
    /// `Salesforce/instructblip-vicuna-7b`.
    pub weights: String,
    /// GGUF file with a quantised LLaMA, named like `weights`; empty: the language model of `weights`.
    pub language_gguf: String,
    /// `{tags}` stands for the image's geo-tags in plain words.
    pub prompt: String,
    /// For images without a tag that can be seen from above.
    pub prompt_without_tags: String,
    pub num_beams: usize,
    pub max_new_tokens: usize,
    pub min_length: usize,
    pub repetition_penalty: f64,
    pub length_penalty: f64,
    /// Below 1: nucleus sampling in place of beams.
    pub top_p: f64,
    pub temperature: f64,
    pub seed: u64,
    /// Images captioned at a time: memory, not words.
    pub images_per_batch: usize,
    pub quality: CaptionQualitySpec,
}

/// What a generated caption must be. One that is not is written once more by sampling, then kept and flagged.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CaptionQualitySpec {
    pub min_words: usize,
    /// Greatest share of word triples that stood in the caption before.
    pub max_repetition: f64,
    /// Least share of the tags' words that the caption mentions.
    pub min_tag_coverage: f64,
}

impl Default for CaptionQualitySpec {
    fn default() -> Self {
        Self { min_words: 4, max_repetition: 0.3, min_tag_coverage: 0.0 }
    }
}

impl Default for InstructBlipSpec {
    fn default() -> Self {
        Self {
            weights: String::new(),
            language_gguf: String::new(),
            prompt: "Please give a comprehensive and detailed description of the satellite image and its geographical \
                     tags: {tags}."
                .into(),
            prompt_without_tags: "Please give a comprehensive and detailed description of the satellite image.".into(),
            num_beams: 5,
            max_new_tokens: 256,
            min_length: 1,
            repetition_penalty: 1.5,
            length_penalty: 1.0,
            top_p: 1.0,
            temperature: 1.0,
            seed: 0,
            images_per_batch: 8,
            quality: CaptionQualitySpec::default(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Segmenter {
    /// Graph-based segmentation (Felzenszwalb and Huttenlocher 2004; no weights).
    Felzenszwalb,
    None,
    Sam,
}

/// How images are cut into segments; only the settings of the chosen segmenter count.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SegmentSpec {
    pub segmenter: Segmenter,
    pub felzenszwalb: FelzenszwalbSpec,
    pub sam: SamSpec,
}

impl Default for SegmentSpec {
    fn default() -> Self {
        Self { segmenter: Segmenter::Felzenszwalb, felzenszwalb: FelzenszwalbSpec::default(), sam: SamSpec::default() }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FelzenszwalbSpec {
    /// Felzenszwalb's k: larger values give larger segments.
    pub scale: f32,
    /// Gaussian smoothing before, in pixels.
    pub sigma_px: f32,
    /// Smaller segments are merged into a neighbour.
    pub min_size_px: u32,
}

impl Default for FelzenszwalbSpec {
    fn default() -> Self {
        Self { scale: 300.0, sigma_px: 0.8, min_size_px: 60 }
    }
}

/// Segment Anything's automatic mask generator, with the reference's names and defaults.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SamSpec {
    /// `sam_vit_{b,l,h}_*.pth`, `mobile_sam.pt`, or a folder in Hugging Face's layout: here, in a store or on the hub.
    pub weights: String,
    pub points_per_side: usize,
    pub pred_iou_thresh: f64,
    pub stability_score_thresh: f64,
    pub stability_score_offset: f64,
    pub box_nms_thresh: f64,
    pub crop_n_layers: usize,
    pub crop_nms_thresh: f64,
    pub crop_overlap_ratio: f64,
    pub crop_n_points_downscale_factor: usize,
    pub min_mask_region_area: usize,
    /// Points that the decoder answers at a time: memory, not masks.
    pub points_per_batch: usize,
    /// Images embedded at a time: memory, not masks.
    pub images_per_batch: usize,
    /// An image that takes longer becomes a failed row.
    pub timeout_seconds: u64,
}

impl Default for SamSpec {
    fn default() -> Self {
        Self {
            weights: String::new(),
            points_per_side: 32,
            pred_iou_thresh: 0.88,
            stability_score_thresh: 0.95,
            stability_score_offset: 1.0,
            box_nms_thresh: 0.7,
            crop_n_layers: 0,
            crop_nms_thresh: 0.7,
            crop_overlap_ratio: 512.0 / 1500.0,
            crop_n_points_downscale_factor: 1,
            min_mask_region_area: 0,
            points_per_batch: 64,
            images_per_batch: 4,
            timeout_seconds: 600,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SegmentCanvas {
    /// The whole image, everything outside of the mask in the background colour.
    Full,
    /// The mask's box with a margin.
    Cropped,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SegmentBackground {
    White,
    Mean,
}

/// Which segments train the model, and how they are weighed (paper Eq. 1–4).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScoreSpec {
    /// `none` (weights 1, no similarity threshold), `bootstrap` (a short image–text training
    /// first) or the folder of a checkpoint.
    pub clip: String,
    /// T_a: least share of the image's area.
    pub min_area_share: f64,
    /// Candidates kept by area before scoring.
    pub max_candidates: usize,
    /// T_s: least similarity to the caption.
    pub min_similarity: f32,
    pub max_segments: usize,
    pub canvas: SegmentCanvas,
    /// Margin around a cropped segment, as a share of its box.
    pub crop_margin: f32,
    pub background: SegmentBackground,
    /// Epochs of the bootstrap training.
    pub bootstrap_epochs: usize,
}

impl Default for ScoreSpec {
    fn default() -> Self {
        Self {
            clip: "none".into(),
            min_area_share: 0.005,
            max_candidates: 50,
            min_similarity: 0.2,
            max_segments: 6,
            canvas: SegmentCanvas::Full,
            crop_margin: 0.1,
            background: SegmentBackground::White,
            bootstrap_epochs: 4,
        }
    }
}

/// Fetching of weights and vocabularies that lie in a store or on the hub.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WeightsSpec {
    pub options: StoreOptions,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelSpec {
    /// `vit-b-32`, `vit-b-16`, `vit-l-14`, or one of the small ones: `tiny`, `small`.
    pub preset: String,
    /// Weights to start from: a folder or file here, the address of one (`s3://`, `https://` …), or `owner/name` on
    /// the hub; empty: random, from the seed.
    pub init: String,
    /// `train` (a small vocabulary from the train captions), or a tokenizer file, named like `init`.
    pub tokenizer: String,
    pub vocabulary: usize,
    /// Tokens per caption; 0: the preset's.
    pub context_length: usize,
    /// Input side in pixels; 0: the preset's.
    pub image_size_px: usize,
    /// `cpu` or `cuda:N`.
    pub device: String,
    /// Type of weights and activations. Losses, optimiser and moving average are f32 or wider in any case.
    pub precision: Precision,
}

/// Floating-point type of a network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    #[default]
    F32,
    Bf16,
    F16,
}

impl Default for ModelSpec {
    fn default() -> Self {
        Self {
            preset: "small".into(),
            init: String::new(),
            tokenizer: "train".into(),
            vocabulary: 2000,
            context_length: 0,
            image_size_px: 0,
            device: "cpu".into(),
            precision: Precision::F32,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossKind {
    InfoNce,
    Hinge,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleKind {
    Cosine,
    /// ×0.3 every ten epochs.
    Step,
    Constant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SegmentTower {
    Shared,
    Frozen,
    Separate,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PretrainSpec {
    pub seed: u64,
    pub epochs: usize,
    pub batch: usize,
    pub learning_rate: f64,
    pub weight_decay: f64,
    pub warmup_share: f64,
    pub schedule: ScheduleKind,
    pub max_grad_norm: f64,
    pub loss: LossKind,
    pub margin: f64,
    pub segment_tower: SegmentTower,
    /// Segments per image that enter the loss, drawn anew each epoch; 0: no segment loss.
    pub segments_per_image: usize,
    /// Decay of the weights' moving average that is validated and kept as best; 0: off.
    pub ema_decay: f64,
    pub label_smoothing: f64,
    /// Captions of an image that enter a batch, where it has several; its pixels are encoded once.
    pub captions_per_image: usize,
    /// Share of the towers' activations that each step drops; for small data.
    pub dropout: f64,
    /// Share of caption words left out during training.
    pub word_dropout: f64,
    pub augment: AugmentSpec,
    /// Row groups shuffled together: bounds the loader's memory.
    pub shuffle_window_row_groups: usize,
    /// Batches prepared ahead of the step.
    pub prefetch_batches: usize,
    pub checkpoint_every_steps: usize,
    /// Epochs without a better validation recall before training stops; 0: never.
    pub patience_epochs: usize,
    /// Share of changed rows above which a finished training is run again.
    pub retrain_above: f64,
}

impl Default for PretrainSpec {
    fn default() -> Self {
        Self {
            seed: 0,
            epochs: 15,
            batch: 64,
            learning_rate: 1e-3,
            weight_decay: 0.1,
            warmup_share: 0.1,
            schedule: ScheduleKind::Cosine,
            max_grad_norm: 1.0,
            loss: LossKind::InfoNce,
            margin: 0.2,
            segment_tower: SegmentTower::Shared,
            segments_per_image: 1,
            ema_decay: 0.0,
            label_smoothing: 0.0,
            captions_per_image: 1,
            dropout: 0.0,
            word_dropout: 0.0,
            augment: AugmentSpec::default(),
            shuffle_window_row_groups: 32,
            prefetch_batches: 2,
            checkpoint_every_steps: 200,
            patience_epochs: 0,
            retrain_above: 0.05,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AugmentSpec {
    /// Least and greatest share of the area that a random crop keeps.
    pub crop_scale: [f32; 2],
    pub flips: bool,
    /// Overhead images have no upright: quarter turns are free data.
    pub quarter_turns: bool,
    pub colour_jitter: f32,
}

impl Default for AugmentSpec {
    fn default() -> Self {
        Self { crop_scale: [0.5, 1.0], flips: true, quarter_turns: true, colour_jitter: 0.2 }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    Standard,
    /// SkyScript's: equal texts and images are one item, any positive counts.
    Dedup,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EvaluateSpec {
    pub protocol: Protocol,
    /// Image embeddings are the mean over flips and quarter turns: better, and named in the report.
    pub average_over_turns: bool,
}

impl Default for EvaluateSpec {
    fn default() -> Self {
        Self { protocol: Protocol::Standard, average_over_turns: false }
    }
}

fn default_max_gsd_meters() -> f64 {
    0.5
}
fn default_image_folder() -> String {
    "images".into()
}
fn default_max_image_pixels() -> u64 {
    64 << 20
}
fn yes() -> bool {
    true
}

impl BuildSpec {
    /// Reads a spec file and applies `section.field=value` overrides.
    pub fn read(path: &Path, overrides: &[String]) -> Result<BuildSpec, SpecError> {
        let shown = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|e| SpecError::Unreadable { path: shown.clone(), why: e.to_string() })?;
        BuildSpec::parse(&text, &shown, overrides)
    }

    /// Parses the text of a spec; `shown` names it in messages.
    pub fn parse(text: &str, shown: &str, overrides: &[String]) -> Result<BuildSpec, SpecError> {
        let invalid = |why: String| SpecError::Invalid { path: shown.to_owned(), why };
        let spec: BuildSpec = if overrides.is_empty() {
            // straight from the text, so that the message points at the line
            toml::from_str(text).map_err(|e| invalid(with_nearest_name(&e.to_string())))?
        } else {
            let mut table: toml::Table = toml::from_str(text).map_err(|e| invalid(e.to_string()))?;
            for assignment in overrides {
                apply_override(&mut table, assignment)?;
            }
            table.try_into().map_err(|e: toml::de::Error| invalid(with_nearest_name(&e.to_string())))?
        };
        spec.check().map_err(invalid)?;
        Ok(spec)
    }

    fn check(&self) -> Result<(), String> {
        let named = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        if self.country.is_empty() || !self.country.chars().all(named) {
            return Err(format!(
                "country = {:?}: it names a partition; use lower-case letters, digits and _",
                self.country
            ));
        }
        let positive = [
            ("work.shards", self.work.shards as usize),
            ("work.concurrency", self.work.concurrency),
            ("work.request_mib", self.work.request_mib as usize),
            ("pretrain.batch", self.pretrain.batch),
            ("pretrain.captions_per_image", self.pretrain.captions_per_image),
            ("pretrain.shuffle_window_row_groups", self.pretrain.shuffle_window_row_groups),
            ("pretrain.prefetch_batches", self.pretrain.prefetch_batches),
            ("source.max_image_pixels", self.source.max_image_pixels as usize),
            ("caption.instructblip.images_per_batch", self.caption.instructblip.images_per_batch),
            ("segment.sam.points_per_batch", self.segment.sam.points_per_batch),
            ("segment.sam.images_per_batch", self.segment.sam.images_per_batch),
        ];
        if let Some((name, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(format!("{name} = 0: it must be at least 1"));
        }
        if self.work.shards > 100_000 {
            return Err(format!("work.shards = {}: at most 100000", self.work.shards));
        }
        if self.split.ratio.iter().sum::<u32>() == 0 {
            return Err("split.ratio: at least one part must be above 0".into());
        }
        let shares = [
            ("split.val_share", self.split.val_share),
            ("score.min_area_share", self.score.min_area_share),
            ("pretrain.warmup_share", self.pretrain.warmup_share),
            ("pretrain.retrain_above", self.pretrain.retrain_above),
            ("pretrain.ema_decay", self.pretrain.ema_decay),
            ("pretrain.word_dropout", self.pretrain.word_dropout),
            ("pretrain.dropout", self.pretrain.dropout),
        ];
        if let Some((name, value)) = shares.iter().find(|(_, value)| !(0.0..=1.0).contains(value)) {
            return Err(format!("{name} = {value}: it must lie between 0 and 1"));
        }
        if !(self.pretrain.learning_rate.is_finite() && self.pretrain.learning_rate > 0.0) {
            return Err(format!("pretrain.learning_rate = {}: it must be above 0", self.pretrain.learning_rate));
        }
        match (self.source.kind, self.caption.captioner) {
            (SourceKind::Captioned, Captioner::Geotags) => Err(String::from(
                "caption.captioner = \"geotags\" needs geo-tags, and a captioned folder has none: set captioner = \"given\"",
            )),
            (SourceKind::Skyscript, Captioner::Given) => Err(
                "caption.captioner = \"given\" needs source.kind = \"captioned\"; SkyScript images have geo-tags: set captioner = \"geotags\"".into(),
            ),
            (_, Captioner::Instructblip) if self.caption.instructblip.weights.is_empty() => Err(String::from(
                "caption.instructblip.weights is empty: name a folder, or a model on the hub such as Salesforce/instructblip-vicuna-7b",
            )),
            _ => Ok(()),
        }?;
        if self.segment.segmenter == Segmenter::Sam && self.segment.sam.weights.is_empty() {
            return Err(
                "segment.sam.weights is empty: name sam_vit_h_4b8939.pth, mobile_sam.pt, a folder, or a model on \
                        the hub such as facebook/sam-vit-base"
                    .into(),
            );
        }
        Ok(())
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

/// Sets `section.field` in a TOML table; the value is TOML, or else a string.
fn apply_override(table: &mut toml::Table, assignment: &str) -> Result<(), SpecError> {
    let fail = |why: &str| SpecError::Override { assignment: assignment.to_owned(), why: why.to_owned() };
    let (path, value) = assignment.split_once('=').ok_or_else(|| fail("there is no `=`"))?;
    let value = toml::from_str::<BTreeMap<String, toml::Value>>(&format!("v = {value}"))
        .ok()
        .and_then(|mut map| map.remove("v"))
        .unwrap_or_else(|| toml::Value::String(value.to_owned()));
    let mut keys: Vec<&str> = path.trim().split('.').collect();
    let last = keys.pop().filter(|k| !k.is_empty()).ok_or_else(|| fail("the field has no name"))?;
    let mut section = table;
    for key in keys {
        section = section
            .entry(key.to_owned())
            .or_insert_with(|| toml::Value::Table(toml::Table::new()))
            .as_table_mut()
            .ok_or_else(|| fail("a part of the path is no section"))?;
    }
    section.insert(last.to_owned(), value);
    Ok(())
}

/// Adds the nearest known name to serde's "unknown field" and "unknown variant" messages.
fn with_nearest_name(message: &str) -> String {
    let message = message.trim_end();
    let Some(at) = message.find("unknown field").or_else(|| message.find("unknown variant")) else {
        return message.to_owned();
    };
    let mut names = message[at..].split('`').skip(1).step_by(2);
    let Some(unknown) = names.next() else { return message.to_owned() };
    let nearest = names.max_by(|a, b| strsim::jaro_winkler(a, unknown).total_cmp(&strsim::jaro_winkler(b, unknown)));
    match nearest {
        Some(name) => format!("{message}\ndid you mean `{name}`?"),
        None => message.to_owned(),
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
    }
}
