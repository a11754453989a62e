//! Who writes the captions, and what they must be.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::SourceKind;
use super::caption_llava::LlavaSpec;
use super::caption_server::CaptionServerSpec;
use super::check::{Problems, positive};
use super::second_pass::SecondPassSpec;

/// Who writes captions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Captioner {
    /// Plain English from the geo-tags (no weights).
    Geotags,
    /// The captions that came with the images.
    Given,
    /// InstructBLIP, prompted with the geo-tags.
    Instructblip,
    /// LLaVA, prompted with the geo-tags.
    Llava,
    /// A server of chat completions, prompted with the geo-tags.
    Server,
}

impl Captioner {
    /// As specs and tables have it.
    pub fn name(self) -> &'static str {
        match self {
            Captioner::Geotags => "geotags",
            Captioner::Given => "given",
            Captioner::Instructblip => "instructblip",
            Captioner::Llava => "llava",
            Captioner::Server => "server",
        }
    }
}

/// `[caption]`: where captions come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CaptionSpec {
    /// Who writes the captions.
    pub captioner: Captioner,
    /// How InstructBLIP writes them; only where it does.
    pub instructblip: InstructBlipSpec,
    /// How LLaVA writes them; only where it does.
    pub llava: LlavaSpec,
    /// The server that writes them; only where one does.
    pub server: CaptionServerSpec,
    /// Also writes five texts of three fields per image, for retrieval of text by text.
    pub structured: bool,
    /// Who writes those; nothing said: who writes the captions, and beside given ones InstructBLIP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub structured_captioner: Option<Captioner>,
    /// File with structured captions that came with the images, as RSRT has them: a file here, or the address of one; empty:
    /// the captioner writes them. Only with `structured`.
    pub structured_file: String,
    /// Whether captions are written again by one who knows the segments.
    pub second_pass: SecondPassSpec,
    /// How well captions fit, measured afterwards.
    pub score: CaptionScoreSpec,
}

impl Default for CaptionSpec {
    fn default() -> Self {
        Self {
            captioner: Captioner::Geotags,
            instructblip: InstructBlipSpec::default(),
            llava: LlavaSpec::default(),
            server: CaptionServerSpec::default(),
            structured: false,
            structured_captioner: None,
            structured_file: String::new(),
            second_pass: SecondPassSpec::default(),
            score: CaptionScoreSpec::default(),
        }
    }
}

impl CaptionSpec {
    /// Who writes the structured captions; `None`: nobody. A file may bring them. Given captions are what is searched with,
    /// so they are never what is searched.
    pub fn structured_by(&self) -> Option<Captioner> {
        self.structured.then_some(match (self.structured_captioner, self.captioner) {
            _ if !self.structured_file.is_empty() => Captioner::Given,
            (Some(named), _) => named,
            (None, Captioner::Given) => Captioner::Instructblip,
            (None, captioner) => captioner,
        })
    }

    /// Does `captioner` write anything?
    fn asks(&self, captioner: Captioner) -> bool {
        self.captioner == captioner || self.structured_by() == Some(captioner)
    }

    /// Does anything ask InstructBLIP?
    pub fn uses_instructblip(&self) -> bool {
        self.asks(Captioner::Instructblip)
    }

    /// Does anything ask LLaVA?
    pub fn uses_llava(&self) -> bool {
        self.asks(Captioner::Llava)
    }

    /// How a network on this machine is asked, in InstructBLIP's words; `None`: the captioner is none.
    pub fn in_process(&self, captioner: Captioner) -> Option<InstructBlipSpec> {
        match captioner {
            Captioner::Instructblip => Some(self.instructblip.clone()),
            Captioner::Llava => Some(self.llava.as_instructblip()),
            Captioner::Geotags | Captioner::Given | Captioner::Server => None,
        }
    }

    /// Does anything ask a server?
    pub fn uses_server(&self) -> bool {
        self.asks(Captioner::Server)
    }

    /// Does the captioner itself measure by CLIPScore, and write once more what is below the threshold?
    pub fn writes_by_clip_score(&self) -> bool {
        let can = self.in_process(self.captioner).is_some();
        can && !self.score.clip.is_empty() && self.score.min_clip_score > 0.0
    }

    pub(super) fn check(&self, source: SourceKind, problems: &mut Problems) {
        match (source, self.captioner) {
            (SourceKind::Captioned, Captioner::Geotags) => problems.add(
                "caption.captioner = \"geotags\" needs geo-tags, and a captioned folder has none: set captioner = \
                 \"given\"",
            ),
            (SourceKind::Captioned, _) if self.structured_by() == Some(Captioner::Geotags) => problems.add(
                "caption.structured_captioner = \"geotags\" needs geo-tags, and a captioned folder has none: set it to \
                 \"instructblip\", \"llava\" or \"server\"",
            ),
            (_, _) if self.structured_by() == Some(Captioner::Given) && self.structured_file.is_empty() => problems.add(
                "caption.structured_captioner = \"given\": given captions are what is searched with, so they cannot be \
                 what is searched: set it to \"instructblip\", \"llava\" or \"server\"",
            ),
            (SourceKind::Skyscript, Captioner::Given) => problems.add(
                "caption.captioner = \"given\" needs source.kind = \"captioned\"; SkyScript images have geo-tags: set \
                 captioner = \"geotags\"",
            ),
            _ => {}
        }
        if !self.structured && !self.structured_file.is_empty() {
            problems.add(format!(
                "caption.structured_file = {:?} is read for structured captions: set caption.structured = true",
                self.structured_file
            ));
        }
        let blip = &self.instructblip;
        if self.uses_instructblip() && blip.weights.is_empty() {
            let who = match self.captioner {
                Captioner::Instructblip => "",
                _ => ", and it is InstructBLIP that writes structured captions beside given ones",
            };
            problems.add(format!(
                "caption.instructblip.weights is empty{who}: name a folder, or a model on the hub such as \
                 Salesforce/instructblip-vicuna-7b"
            ));
        }
        if self.uses_llava() && self.llava.weights.is_empty() {
            problems.add(
                "caption.llava.weights is empty: name a folder, or a model on the hub such as llava-hf/llava-1.5-7b-hf",
            );
        }
        blip.check(problems);
        self.llava.check(problems);
        self.server.check(self.uses_server(), problems);
        self.score.check(problems);
    }
}

/// What tells, after the captions are written, how well they fit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CaptionScoreSpec {
    /// CLIP that compares captions with images (CLIPScore is defined with ViT-B/32, such as
    /// `openai/clip-vit-base-patch32`): a folder here, in a store or on the hub; empty: captions get no scores.
    pub clip: String,
    /// Captions with a lower CLIPScore are flagged; InstructBLIP and LLaVA write them once more before.
    pub min_clip_score: f64,
    /// Captions with a lower PerceptionScore are flagged.
    pub min_perception_score: f64,
}

impl Default for CaptionScoreSpec {
    fn default() -> Self {
        Self { clip: String::new(), min_clip_score: 0.0, min_perception_score: 0.0 }
    }
}

impl CaptionScoreSpec {
    fn check(&self, problems: &mut Problems) {
        let mut of = problems.section("caption.score");
        for (name, value, most) in
            [("min_clip_score", self.min_clip_score, 2.5), ("min_perception_score", self.min_perception_score, 1.0)]
        {
            of.within(name, value, 0.0..=most, "0 flags nothing");
            if value > 0.0 && self.clip.is_empty() {
                let why = "it needs a CLIP: set caption.score.clip, such as openai/clip-vit-base-patch32";
                of.refuse(name, value, why);
            }
        }
    }
}

/// InstructBLIP prompted by the geo-tags; decoding with transformers' names and the model card's values.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
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
    /// Where the settings of decoding come from.
    pub decoding: Decoding,
    /// Beams of the search; 1 decodes greedily.
    pub num_beams: usize,
    /// Tokens of a caption at most.
    pub max_new_tokens: usize,
    /// Tokens of a caption at least.
    pub min_length: usize,
    /// Above 1: tokens that stand in the caption already become less likely.
    pub repetition_penalty: f64,
    /// Exponent of the length by which a beam's score is divided; above 0 longer captions gain.
    pub length_penalty: f64,
    /// Below 1: nucleus sampling in place of beams.
    pub top_p: f64,
    /// Temperature of sampling; 1 is the model's own.
    pub temperature: f64,
    /// Seed of sampling.
    pub seed: u64,
    /// Images captioned at a time: memory, not words.
    pub images_per_batch: usize,
    /// Memory for keys and values; fewer images are captioned at a time where they need more. 0: what is free on a
    /// GPU, no bound on a CPU. Memory, not words.
    pub cache_mib: u64,
    /// What a caption must be.
    pub quality: CaptionQualitySpec,
    /// How structured captions are asked for.
    pub structured: StructuredSpec,
}

/// Bounds that keep a batch's memory within reason.
const MOST_BEAMS: usize = 256;
pub(super) const MOST_TOKENS: usize = 1 << 16;
const WARMEST: f64 = 100.0;

impl InstructBlipSpec {
    fn check(&self, problems: &mut Problems) {
        self.check_as("caption.instructblip", 5, problems);
    }

    /// Checks a section whose images want so many answers at least.
    pub(super) fn check_as(&self, section: &str, answers: usize, problems: &mut Problems) {
        let mut of = problems.section(section);
        of.prompts(&self.prompt, &self.prompt_without_tags);
        of.within("num_beams", self.num_beams, 1..=MOST_BEAMS, "1 decodes greedily");
        of.count("max_new_tokens", self.max_new_tokens, MOST_TOKENS);
        of.within("min_length", self.min_length, 0..=self.max_new_tokens, "that is max_new_tokens");
        of.within("repetition_penalty", self.repetition_penalty, positive(100.0), "1 penalises nothing");
        of.within("length_penalty", self.length_penalty, -100.0..=100.0, "1 is the mean over the length");
        of.within("top_p", self.top_p, positive(1.0), "1 searches by beams");
        of.within("temperature", self.temperature, positive(WARMEST), "1 is the model's own");
        of.count("images_per_batch", self.images_per_batch, 4096);
        of.within("cache_mib", self.cache_mib, 0..=1 << 24, "0 takes what is free");
        self.quality.check(&format!("{section}.quality"), problems);
        self.structured.check(&format!("{section}.structured"), answers, problems);
    }
}

/// Whose settings captions are decoded with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Decoding {
    /// Those of the build spec.
    Spec,
    /// Those of the checkpoint's `generation_config.json`, as far as it has them; the spec's for the rest.
    Checkpoint,
}

/// How InstructBLIP is asked for structured captions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct StructuredSpec {
    /// `{tags}` stands for the image's geo-tags in plain words.
    pub prompt: String,
    /// For images without a tag that can be seen from above.
    pub prompt_without_tags: String,
    /// Temperature of sampling; 1 is the model's own.
    pub temperature: f64,
    /// Sampling takes the most likely tokens that make up this share; 1: all.
    pub top_p: f64,
    /// Tokens of an answer at most.
    pub max_new_tokens: usize,
    /// Answers asked for at most, of which five have to be valid and distinct.
    pub attempts: usize,
}

impl StructuredSpec {
    /// More answers for one image are not waited for.
    pub const MAX_ATTEMPTS: usize = 100;

    fn check(&self, section: &str, answers: usize, problems: &mut Problems) {
        let mut of = problems.section(section);
        of.prompts(&self.prompt, &self.prompt_without_tags);
        of.within("temperature", self.temperature, positive(WARMEST), "1 is the model's own");
        of.within("top_p", self.top_p, positive(1.0), "1 draws from all tokens");
        of.count("max_new_tokens", self.max_new_tokens, MOST_TOKENS);
        let why = if answers == 1 { "an answer may hold all five" } else { "every image wants five answers" };
        of.within("attempts", self.attempts, answers..=Self::MAX_ATTEMPTS, why);
    }
}

impl Default for StructuredSpec {
    fn default() -> Self {
        const RULES: &str = "North is at the top. Name only what is visible, and say sizes in words such as small, \
                             large, long or narrow. Answer with one JSON object with three texts: \"one_sentence\", \
                             \"feature\" and \"caption\".";
        Self {
            prompt: format!("Describe this satellite image, which the map knows as: {{tags}}. {RULES}"),
            prompt_without_tags: format!("Describe this satellite image. {RULES}"),
            temperature: 0.2,
            top_p: 0.95,
            max_new_tokens: 192,
            attempts: 10,
        }
    }
}

/// What a generated caption must be. One that is not is written once more by sampling, then kept and flagged.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CaptionQualitySpec {
    /// Least number of words.
    pub min_words: usize,
    /// Greatest share of word triples that stood in the caption before.
    pub max_repetition: f64,
    /// Least share of the tags' words that the caption mentions.
    pub min_tag_coverage: f64,
}

impl CaptionQualitySpec {
    pub(super) fn check(&self, path: &str, problems: &mut Problems) {
        let mut of = problems.section(path);
        of.within("min_words", self.min_words, 0..=10_000, "0 takes any caption");
        of.share("max_repetition", self.max_repetition);
        of.share("min_tag_coverage", self.min_tag_coverage);
    }
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
            decoding: Decoding::Spec,
            num_beams: 5,
            max_new_tokens: 256,
            min_length: 1,
            repetition_penalty: 1.5,
            length_penalty: 1.0,
            top_p: 1.0,
            temperature: 1.0,
            seed: 0,
            images_per_batch: 8,
            cache_mib: 0,
            quality: CaptionQualitySpec::default(),
            structured: StructuredSpec::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn given_captions_are_searched_with_so_another_writes_what_is_searched() {
        let spec = |captioner, weights: &str| CaptionSpec {
            captioner,
            structured: true,
            instructblip: InstructBlipSpec { weights: weights.into(), ..InstructBlipSpec::default() },
            ..CaptionSpec::default()
        };
        assert_eq!(CaptionSpec::default().structured_by(), None);
        assert_eq!(spec(Captioner::Geotags, "").structured_by(), Some(Captioner::Geotags));
        let given = spec(Captioner::Given, "a/b");
        assert_eq!(given.structured_by(), Some(Captioner::Instructblip));
        let checked = |spec: &CaptionSpec| {
            let mut problems = Problems::default();
            spec.check(SourceKind::Captioned, &mut problems);
            problems.into_result()
        };
        assert!(given.uses_instructblip() && checked(&given).is_ok());
        let why = checked(&spec(Captioner::Given, "")).unwrap_err();
        assert!(why.contains("structured captions beside given ones"), "{why}");
    }

    #[test]
    fn llava_is_named_by_its_hub_name_and_checked_as_its_section() {
        let mut spec = CaptionSpec { captioner: Captioner::Llava, ..CaptionSpec::default() };
        let checked = |spec: &CaptionSpec| {
            let mut problems = Problems::default();
            spec.check(SourceKind::Skyscript, &mut problems);
            problems.into_result()
        };
        checked(&spec).unwrap();
        assert!(spec.uses_llava() && !spec.uses_instructblip());
        spec.llava.structured.attempts = 0;
        spec.llava.num_beams = 0;
        spec.llava.weights.clear();
        let why = checked(&spec).unwrap_err();
        for part in ["caption.llava.structured.attempts", "all five", "caption.llava.num_beams", "llava-1.5-7b-hf"] {
            assert!(why.contains(part), "{why}");
        }
    }

    #[test]
    fn captioners_are_called_as_specs_call_them() {
        use Captioner::{Geotags, Given, Instructblip, Llava, Server};
        for captioner in [Geotags, Given, Instructblip, Llava, Server] {
            assert_eq!(serde_json::json!(captioner), captioner.name());
        }
    }

    #[test]
    fn the_captioner_needs_a_judge_only_for_a_threshold() {
        let mut spec = CaptionSpec { captioner: Captioner::Instructblip, ..CaptionSpec::default() };
        spec.score.clip = "a/b".into();
        assert!(!spec.writes_by_clip_score());
        spec.score.min_clip_score = 0.5;
        assert!(spec.writes_by_clip_score());
        spec.captioner = Captioner::Geotags;
        assert!(!spec.writes_by_clip_score());
    }
}
