//! Captioners, their prompts and segmenters side by side on a sample of a build (the paper's Figure 7 and Table 3).

use manifests::spec::{Captioner, Segmenter};
use manifests::{Artifact, BuildSpec};
use serde::Serialize;
use stages::segment_features::RowSegments;
use stages::stage::Outcome;
use stages::table::Columns;
use wording::{Tags, grounding};
use workers::WorkerError;

use super::asked::{Asked, Made, Score, Scores, scores};
use super::figures::{Figures, Mean};
use super::sample::{Chunk, Draw, Sample, broken};
use crate::build::Build;
use crate::progress::Progress;

/// A way to put images into words, or to cut them.
#[derive(Debug, Clone)]
pub struct Way {
    /// For people.
    pub name: String,
    /// What it is asked, if it is asked in words.
    pub prompt: Option<String>,
    /// The build with this way in it.
    pub spec: BuildSpec,
}

/// What one captioner wrote, with the segments of one segmenter.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CaptionerLine {
    /// The captioner, or its prompt.
    pub captioner: String,
    /// What it was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// Whose segments PerceptionScore was measured with; `None`: it was not.
    pub segmenter: Option<String>,
    /// Images with captions.
    pub images: usize,
    /// Images without.
    pub failed: usize,
    /// Why the first of them has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Means over the images that have a figure.
    pub figures: Figures,
    /// Time to load networks, once.
    pub opened_in_seconds: f64,
    /// Time of an image.
    pub seconds_a_caption: f64,
    /// What a thousand images cost at the rate that was named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub price_of_a_thousand: Option<f64>,
}

/// What one segmenter cut.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SegmenterLine {
    /// The segmenter.
    pub segmenter: String,
    /// Images that were cut.
    pub images: usize,
    /// Images that were not.
    pub failed: usize,
    /// Segments of an image on average.
    pub segments_an_image: f64,
    /// Those of them that are large enough for a score.
    pub candidates_an_image: f64,
    /// Time to load networks, once.
    pub opened_in_seconds: f64,
    /// Time of an image.
    pub seconds_an_image: f64,
    /// What a thousand images cost at the rate that was named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub price_of_a_thousand: Option<f64>,
}

/// What one captioner wrote of one image.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Written {
    /// The captioner, or its prompt.
    pub captioner: String,
    /// Its words; empty: there are none.
    pub captions: Vec<String>,
    /// Means over its captions.
    pub figures: Figures,
    /// Things that it names and no tag does.
    pub untagged: Vec<String>,
}

/// One image with all that was written of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// Stem of the image's name.
    pub image_id: String,
    /// Its tags in plain words; empty: they name nothing that can be seen.
    pub tags: String,
    /// One for each captioner.
    pub written: Vec<Written>,
}

/// Ways side by side.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// Images of the sample.
    pub images: usize,
    /// What they were drawn by.
    pub seed: u64,
    /// CLIP that gave the scores; empty: there are none.
    pub judge: String,
    /// Rate of the prices, per hour.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub price_per_hour: Option<f64>,
    /// One for each captioner and segmenter.
    pub captioners: Vec<CaptionerLine>,
    /// One for each segmenter.
    pub segmenters: Vec<SegmenterLine>,
    /// All images of the sample.
    pub rows: Vec<Row>,
}

/// A prompt that names what is to be seen, and no tag.
const FEATURES: &str = "Please give a comprehensive and detailed description of the satellite image and its visual features: \
                        colours, textures, shapes, and how buildings, roads, vegetation and water are arranged.";

/// The prompts of the paper's Figure 7: without tags, with visual features, with tags.
///
/// # Errors
/// [`WorkerError::Configuration`] for a captioner that has no prompt.
pub fn prompts(spec: &BuildSpec) -> Result<Vec<Way>, WorkerError> {
    let Some(asked) = spec.caption.in_process(spec.caption.captioner) else {
        return Err(WorkerError::Configuration(format!(
            "--prompts compares what a captioner answers to several prompts, and {} has none: --set \
             caption.captioner=instructblip --set caption.instructblip.weights=…",
            spec.caption.captioner.name()
        )));
    };
    let way = |name: &str, prompt: &str, without_tags: &str| {
        let mut spec = spec.clone();
        let (with, without) = match spec.caption.captioner {
            Captioner::Llava => (&mut spec.caption.llava.prompt, &mut spec.caption.llava.prompt_without_tags),
            _ => (&mut spec.caption.instructblip.prompt, &mut spec.caption.instructblip.prompt_without_tags),
        };
        (*with, *without) = (prompt.to_owned(), without_tags.to_owned());
        Way { name: name.to_owned(), prompt: Some(prompt.to_owned()), spec }
    };
    Ok(vec![
        way("without tags", &asked.prompt_without_tags, &asked.prompt_without_tags),
        way("with visual features", FEATURES, FEATURES),
        way("with tags", &asked.prompt, &asked.prompt_without_tags),
    ])
}

/// A setting's name as specs have it.
pub(crate) fn name_of(setting: &impl Serialize) -> String {
    serde_json::json!(setting).as_str().unwrap_or_default().to_owned()
}

/// Asks each captioner and each segmenter about the same images. Nothing is written into the build's tables; a captioner's
/// second tries count as in a build. The judge is the CLIP of `caption.score.clip` of the build.
///
/// # Errors
/// [`WorkerError::Configuration`] for weights or devices that are not there, or a build without images; parts that cannot
/// be read.
pub async fn compare(
    build: &Build,
    (captioners, segmenters): (&[Way], &[Way]),
    (draw, price_per_hour): (Draw, Option<f64>),
    progress: &Progress,
) -> Result<Comparison, WorkerError> {
    let sample = Sample::draw(build, draw).await?;
    let price = |seconds: f64| price_per_hour.map(|price| price * seconds * 1000.0 / 3600.0);
    let mut cut = Vec::new();
    for way in segmenters {
        progress.note(&format!("{}: {} cuts {} images", build.spec.country, way.name, sample.len()));
        cut.extend(Made::of(build, &way.spec, Artifact::Segments, &sample).await?.map(|made| (way, made)));
    }
    let mut written = Vec::new();
    for way in captioners {
        progress.note(&format!("{}: captions {} of {} images", build.spec.country, way.name, sample.len()));
        written.extend(Made::of(build, &way.spec, Artifact::Captions, &sample).await?.map(|made| (way, made)));
    }
    // without a segmenter there are captions to score all the same
    let mut uncut = build.spec.clone();
    uncut.segment.segmenter = Segmenter::None;
    let uncut = match cut.is_empty() {
        true => Made::of(build, &uncut, Artifact::Segments, &sample).await?,
        false => None,
    };
    let all_cut: Vec<(Option<&Way>, &Made)> =
        cut.iter().map(|(way, made)| (Some(*way), made)).chain(uncut.iter().map(|made| (None, made))).collect();

    let mut judge = Asked::open(build, &build.spec, Artifact::CaptionScores).await?;
    let mut means = vec![vec![Mean::default(); all_cut.len()]; written.len()];
    let mut rows = Vec::with_capacity(sample.len());
    for (number, (shard, ids)) in sample.chunks().into_iter().enumerate() {
        let chunk = Chunk::read(build, (shard, &ids)).await?;
        let first = rows.len();
        rows.extend(ids.iter().zip(&chunk.tags).map(|(id, (center, around))| Row::new(id, center, around)));
        for (means, (way, made)) in means.iter_mut().zip(&written) {
            let content = &made.chunks[number].content;
            let texts = Columns::new(Artifact::Captions, content).texts("captions").map_err(broken)?;
            for (at, (mean, (_, cut))) in means.iter_mut().zip(&all_cut).enumerate() {
                let scores: Scores = match &mut judge {
                    Some(judge) => scores(judge, &chunk, content, &cut.chunks[number].content)?,
                    None => vec![Vec::new(); ids.len()],
                };
                for (row, captions) in texts.iter().enumerate() {
                    let one = Written::new(&way.name, captions, &chunk.tags[row], &scores[row]);
                    mean.add(&one.figures);
                    if at == 0 {
                        rows[first + row].written.push(one);
                    }
                }
            }
        }
    }

    let mut lines = Vec::new();
    for (means, (way, made)) in means.iter().zip(&written) {
        let (failed, why) = made.failed();
        lines.extend(means.iter().zip(&all_cut).map(|(mean, (segmenter, _))| CaptionerLine {
            captioner: way.name.clone(),
            prompt: way.prompt.clone(),
            segmenter: segmenter.filter(|_| judge.is_some()).map(|way| way.name.clone()),
            images: made.images - failed,
            failed,
            why: why.clone(),
            figures: mean.figures(),
            opened_in_seconds: made.opened_in_seconds,
            seconds_a_caption: made.seconds_an_image,
            price_of_a_thousand: price(made.seconds_an_image),
        }));
    }
    let segmenters = cut.iter().map(|(way, made)| {
        let (segments, candidates) = counts(&build.spec, made)?;
        let (failed, _) = made.failed();
        let images = made.images - failed;
        Ok(SegmenterLine {
            segmenter: way.name.clone(),
            images,
            failed,
            segments_an_image: segments as f64 / images.max(1) as f64,
            candidates_an_image: candidates as f64 / images.max(1) as f64,
            opened_in_seconds: made.opened_in_seconds,
            seconds_an_image: made.seconds_an_image,
            price_of_a_thousand: price(made.seconds_an_image),
        })
    });
    Ok(Comparison {
        images: sample.len(),
        seed: draw.seed,
        judge: build.spec.caption.score.clip.clone(),
        price_per_hour,
        captioners: lines,
        segmenters: segmenters.collect::<Result<_, WorkerError>>()?,
        rows,
    })
}

/// Segments of all images, and those of them that are large enough for a score.
fn counts(spec: &BuildSpec, made: &Made) -> Result<(usize, usize), WorkerError> {
    let (mut segments, mut candidates) = (0, 0);
    for chunk in &made.chunks {
        let columns = Columns::new(Artifact::Segments, &chunk.content);
        for row in (0..chunk.outcomes.len()).filter(|row| chunk.outcomes[*row] == Outcome::Good) {
            let of_row = RowSegments::read(&columns, row).map_err(broken)?;
            segments += of_row.rles.len();
            candidates += of_row.candidates(&spec.score).len();
        }
    }
    Ok((segments, candidates))
}

impl Row {
    fn new(image_id: &str, center: &Tags, around: &[Tags]) -> Row {
        let words = wording::caption(center, around).unwrap_or_default();
        let tags = words.trim_start_matches("a satellite image of ").to_owned();
        Row { image_id: image_id.to_owned(), tags, written: Vec::new() }
    }
}

impl Written {
    /// Captions of one image with their scores, held against its tags.
    fn new(captioner: &str, captions: &[String], (center, around): &(Tags, Vec<Tags>), scores: &[Score]) -> Written {
        let (mut mean, mut untagged) = (Mean::default(), Vec::new());
        for (number, caption) in captions.iter().enumerate() {
            let grounding = grounding(caption, center, around);
            mean.add(&Figures {
                words: Some(caption.split_whitespace().count() as f64),
                clip_score: scores.get(number).map(|score| score.clip),
                perception_score: scores.get(number).and_then(|score| score.perception),
                coverage: grounding.coverage(),
                hallucination: grounding.hallucination(),
            });
            for thing in grounding.untagged {
                if !untagged.contains(&thing) {
                    untagged.push(thing);
                }
            }
        }
        let (captioner, captions) = (captioner.to_owned(), captions.to_vec());
        Written { captioner, captions, figures: mean.figures(), untagged }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(more: &[&str]) -> BuildSpec {
        let text = "country = \"x\"\n[source]\nkind = \"skyscript\"\nurl = \"x\"\n";
        let set: Vec<String> = more.iter().map(|s| (*s).to_owned()).collect();
        BuildSpec::parse(text, "t", &set).unwrap()
    }

    #[test]
    fn only_the_prompt_differs_between_prompts() {
        let error = prompts(&spec(&[])).unwrap_err().to_string();
        assert!(error.contains("geotags has none") && error.contains("caption.captioner=instructblip"), "{error}");
        let base = spec(&["caption.captioner=instructblip", "caption.instructblip.weights=x"]);
        let ways = prompts(&base).unwrap();
        assert_eq!(ways.len(), 3);
        for way in &ways {
            let mut back = way.spec.clone();
            back.caption.instructblip.prompt = base.caption.instructblip.prompt.clone();
            back.caption.instructblip.prompt_without_tags = base.caption.instructblip.prompt_without_tags.clone();
            assert_eq!(back, base);
        }
        let told = |way: &Way| way.prompt.as_deref().unwrap().contains("{tags}");
        assert_eq!(ways.iter().map(told).collect::<Vec<_>>(), [false, false, true]);
        assert_eq!(ways[2].spec, base, "with tags it is asked as the build asks it");
        let llava = spec(&["caption.captioner=llava"]);
        let ways = prompts(&llava).unwrap();
        assert_eq!((ways[1].spec.caption.llava.prompt.as_str(), &ways[2].spec), (FEATURES, &llava));
    }

    #[test]
    fn figures_of_an_image_are_means_over_its_captions() {
        let school = Tags::from([("amenity".to_owned(), "school".to_owned())]);
        let captions = ["a school".to_owned(), "a lake and a school".to_owned()];
        let scores = [Score { clip: 0.5, perception: None }, Score { clip: 1.0, perception: Some(0.25) }];
        let written = Written::new("x", &captions, &(school, Vec::new()), &scores);
        let wanted = Figures {
            words: Some(3.5),
            clip_score: Some(0.75),
            perception_score: Some(0.25),
            coverage: Some(1.0),
            hallucination: Some(0.25),
        };
        assert_eq!((written.figures, written.untagged), (wanted, vec!["lake".to_owned()]));
    }
}
