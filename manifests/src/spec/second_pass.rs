//! Captions that are written again, by one who knows the segments.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check::Problems;
use super::{BuildSpec, Captioner};

/// A second pass (UrbanCross A.2.1): captions are drafted, segments are scored by the drafts, the best are named after the image's
/// tags, names and shares are told to the captioner, and what it then writes scores the segments again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SecondPassSpec {
    /// Whether there is one. It needs segments, and a checkpoint in `score.clip` that names them.
    pub enabled: bool,
    /// Names told of an image at most, those of the largest parts.
    pub most_regions: usize,
    /// What follows the prompt, or the draft of a captioner without prompts; `{regions}` stands for names and shares. Nothing
    /// follows where no segment has a name.
    pub sentence: String,
}

impl Default for SecondPassSpec {
    fn default() -> Self {
        Self { enabled: false, most_regions: 4, sentence: "Seen from above: {regions}.".into() }
    }
}

impl SecondPassSpec {
    pub(super) fn check(&self, spec: &BuildSpec, problems: &mut Problems) {
        let mut of = problems.section("caption.second_pass");
        of.count("most_regions", self.most_regions, 100);
        if !self.sentence.contains("{regions}") {
            of.refuse("sentence", &self.sentence, "{regions} has to stand in it: names and shares take its place");
        }
        if !self.enabled {
            return;
        }
        if spec.caption.captioner == Captioner::Given {
            of.refuse(
                "enabled",
                true,
                "given captions are never written again: set caption.captioner to who writes them",
            );
        }
        if !spec.uses_segments() {
            let why = "it tells of segments: set segment.segmenter = \"felzenszwalb\" or \"sam\", and \
                       pretrain.segments_per_image to at least 1";
            of.refuse("enabled", true, why);
        } else if matches!(spec.score.clip.as_str(), "none" | "bootstrap") {
            let why = "segments are named by a CLIP that was trained before: set score.clip to a checkpoint, such as a \
                       folder of `urbancross export SPEC --model`, or one on the hub";
            of.refuse("enabled", true, why);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_pass_needs_segments_with_names() {
        let parse = |set: &[&str]| {
            let set: Vec<String> = set.iter().map(|set| (*set).to_owned()).collect();
            BuildSpec::parse(
                "country = \"x\"\n[source]\nkind = \"skyscript\"\nurl = \"x\"\n[caption.second_pass]\nenabled = true\n",
                "x",
                &set,
            )
        };
        assert!(parse(&["score.clip=a/b"]).is_ok());
        for (set, why) in [
            (&["score.clip=none"][..], "trained before"),
            (&["score.clip=bootstrap"], "trained before"),
            (&["score.clip=a/b", "segment.segmenter=none"], "tells of segments"),
            (&["score.clip=a/b", "caption.second_pass.sentence=x"], "{regions}"),
            (&["score.clip=a/b", "caption.second_pass.most_regions=0"], "most_regions"),
            (&["score.clip=a/b", "source.kind=captioned", "caption.captioner=given"], "never written again"),
        ] {
            let said = parse(set).unwrap_err().to_string();
            assert!(said.contains(why), "{set:?}: {said}");
        }
    }
}
