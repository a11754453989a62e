//! Who writes the captions, and what they must be.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::SourceKind;
use super::caption_instructblip::InstructBlipSpec;
use super::caption_llava::LlavaSpec;
use super::caption_server::CaptionServerSpec;
use super::check::Problems;
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
