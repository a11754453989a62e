//! The recipes: one file per stage, and this list, which is the table of contents of the project.
//!
//! A stage is a declaration (what it reads, what it writes, what makes its rows stale) and a
//! function over record batches. It never sees a store: rows and source bytes are handed to it.
//!
//! To add a stage: write a file with a `stage()` and put it in [`map_stages`]. Edges follow from
//! inputs and outputs.

pub mod adapt;
mod ahead;
mod caption_scores;
mod captioners;
pub mod captions;
mod clip_scorer;
pub mod cost;
pub mod device;
pub mod encoder;
pub mod evaluate;
pub mod examine;
pub mod fit;
pub mod geotags;
#[cfg(test)]
mod identities;
pub mod image_embeddings;
pub mod images;
pub mod io_fault;
pub mod network;
pub mod networks;
pub mod pair_quality;
pub mod pretrain;
mod query_embeddings;
mod query_texts;
pub mod reviews;
pub mod search;
pub mod segment_features;
mod segment_names;
mod segment_scores;
mod segments;
mod sentence_embeddings;
pub mod sentences;
pub mod splits;
pub mod stage;
mod stage_error;
mod structured_captions;
mod structured_embeddings;
pub mod table;
pub mod tag_refreshes;
pub mod text_embeddings;
pub mod text_retrieval;
#[cfg(test)]
#[path = "../models/tests/support/torch_writer.rs"]
mod torch_writer;
pub mod train_rows;
pub mod zero_shot;

use manifests::BuildSpec;

pub use stage::{
    Input, InputRows, MapOutput, ModelUse, Outcome, SourceBytes, Stage, StageContext, StageError, Transform,
};

/// The stages that map shards to shards, in an order in which every stage follows its inputs.
pub fn map_stages(spec: &BuildSpec) -> Vec<Stage> {
    let is_scored = spec.uses_segments() && spec.score.clip != "none";
    let mut stages = vec![geotags::stage(), images::stage(), splits::stage()];
    if spec.caption.second_pass.enabled {
        stages.extend([captions::draft_stage(spec), segments::stage(spec), segment_features::stage()]);
        stages.extend([segment_scores::draft_stage(), segment_names::stage(), captions::stage(spec)]);
    } else {
        stages.push(captions::stage(spec));
    }
    stages.extend(spec.caption.structured_by().map(|writer| structured_captions::stage(writer, spec)));
    if !spec.caption.second_pass.enabled {
        stages.push(segments::stage(spec));
        stages.extend(is_scored.then(segment_features::stage));
    }
    if spec.uses_segments() {
        stages.push(segment_scores::stage(spec));
    }
    if !spec.caption.score.clip.is_empty() {
        stages.push(caption_scores::stage());
    }
    if spec.pretrain.pairs.is_on() {
        stages.push(pair_quality::stage());
    }
    if spec.text_retrieval.is_on()
        && let Some(writer) = spec.caption.structured_by()
    {
        stages.push(structured_embeddings::stage());
        stages.push(query_texts::stage(writer, spec));
        stages.push(query_embeddings::stage());
        stages.push(sentence_embeddings::stage());
    }
    stages.push(image_embeddings::stage());
    stages.push(text_embeddings::stage());
    stages
}

/// A trainer's name in paths and messages: `bootstrap` scores the segments, `pretrain` is the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Training {
    /// On images and captions, before there are segments.
    Bootstrap,
    /// On all that there is.
    Pretrain,
}

impl Training {
    /// As the spec's section, paths and messages have it.
    pub fn name(self) -> &'static str {
        match self {
            Training::Bootstrap => "bootstrap",
            Training::Pretrain => "pretrain",
        }
    }
}

/// One step of a build, in order: what `plan`, `run` and `status` walk through.
pub enum Step {
    /// Makes the rows of a table.
    Map(Stage),
    /// Trains a model on tables.
    Train(Training),
    /// Measures the model on the test split.
    Evaluate,
}

impl Step {
    /// As `plan`, `status` and `explain` have it.
    pub fn name(&self) -> &'static str {
        match self {
            Step::Map(stage) => stage.name,
            Step::Train(training) => training.name(),
            Step::Evaluate => "evaluate",
        }
    }
}

/// All steps of a build. A training comes before the first stage that needs its model.
pub fn steps(spec: &BuildSpec) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut trained = Vec::new();
    for stage in map_stages(spec) {
        let needs = match stage.model {
            ModelUse::None | ModelUse::Named(_) | ModelUse::Served => None,
            ModelUse::Scoring => (spec.score.clip == "bootstrap").then_some(Training::Bootstrap),
            ModelUse::Retrieval => Some(Training::Pretrain),
        };
        if let Some(training) = needs
            && !trained.contains(&training)
        {
            trained.push(training);
            steps.push(Step::Train(training));
        }
        steps.push(Step::Map(stage));
    }
    steps.push(Step::Evaluate);
    steps
}

#[cfg(test)]
mod tests {
    use super::*;
    use manifests::Artifact;

    fn spec(extra: &str) -> BuildSpec {
        let text = format!("country = \"finland\"\n[source]\nkind = \"skyscript\"\nurl = \"x\"\n{extra}");
        BuildSpec::parse(&text, "test", &[]).unwrap()
    }

    #[test]
    fn every_stage_follows_its_inputs() {
        let scored = "[caption]\nstructured = true\nscore.clip = \"a/b\"\n";
        let by_text = "[caption]\nstructured = true\n[text_retrieval]\nencoder = \"a/b\"\n";
        let twice = "[caption]\nsecond_pass.enabled = true\n[score]\nclip = \"a/b\"\n";
        for extra in ["[score]\nclip = \"none\"\n", "[score]\nclip = \"bootstrap\"\n", scored, by_text, twice] {
            let mut written = vec![Artifact::Listing, Artifact::CaptionReviews, Artifact::TagRefreshes];
            for stage in map_stages(&spec(extra)) {
                for table in stage.tables() {
                    assert!(written.contains(&table), "{} reads {table:?} too early", stage.name);
                }
                for input in stage.inputs {
                    let fields = input.artifact.fields();
                    for column in input.columns.iter().chain(input.digests) {
                        assert!(fields.iter().any(|f| f.name == *column), "{}: no column {column}", stage.name);
                    }
                }
                written.push(stage.output);
            }
        }
    }

    #[test]
    fn trainings_stand_before_their_users() {
        let names: Vec<_> = steps(&spec("[score]\nclip = \"bootstrap\"\n")).iter().map(Step::name).collect();
        let at = |name: &str| names.iter().position(|n| *n == name).unwrap();
        assert!(at("segments") < at("bootstrap") && at("bootstrap") < at("segment_features"));
        assert!(at("segment_scores") < at("pretrain") && at("pretrain") < at("image_embeddings"));
        assert_eq!(names.last(), Some(&"evaluate"));
        let names: Vec<_> = steps(&spec("[segment]\nsegmenter = \"none\"\n")).iter().map(Step::name).collect();
        assert!(!names.contains(&"segment_scores") && !names.contains(&"bootstrap"));
    }
}
