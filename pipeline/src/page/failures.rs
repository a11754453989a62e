//! Queries that fail worst, both ways, with what was found instead (the paper's Figure 8).

use std::collections::BTreeMap;

use manifests::words::count;
use report::{Block, Hit, Mark, Picture, Retrieval, RetrievalPanel, Subject};
use stages::evaluate::{Evaluation, Found, Item, PANELS, Panel};
use workers::WorkerError;

use super::pictures::{asks_by_text, images_of, panel, thumbnails};
use super::queries::brief;
use crate::build::Build;

/// How often a wrong answer comes first.
pub(super) fn lead(evaluation: &Evaluation) -> String {
    let (recall, figures) = (&evaluation.recall, &evaluation.recall.exact.pessimistic);
    let missed = |queries: usize, at_1: f64| (queries as f64 * (1.0 - at_1 / 100.0)).round() as u64;
    let texts = missed(recall.caption_queries, figures.t2i.at_1);
    let images = missed(recall.image_queries, figures.i2t.at_1);
    format!(
        "{texts} of {} and {images} of {} put a wrong answer first; ties count as lost. The worst of each: what was found \
         instead, and where the right answer stands.",
        count(recall.caption_queries, "text query"),
        count(recall.image_queries, "image query"),
    )
}

/// Nothing where nothing fails.
pub(super) async fn blocks(build: &Build, evaluation: &Evaluation) -> Result<Vec<Block>, WorkerError> {
    let worst = |text_queries: bool| -> Vec<&Panel> {
        let of_kind = evaluation.panels.iter().filter(|p| asks_by_text(p) == text_queries);
        of_kind.skip(PANELS).filter(|panel| panel.rank > 0).collect()
    };
    let (texts, images) = (worst(true), worst(false));
    let pictures = thumbnails(build, &images_of(texts.iter().chain(&images).copied())).await?;
    let mut blocks = Vec::new();
    for (caption, panels) in [
        ("Text queries with the images that they find instead.", texts),
        (
            "Image queries with the captions that they find instead, each below the image that it was written for.",
            images,
        ),
    ] {
        if !panels.is_empty() {
            let panels = panels.into_iter().map(|panel| failed(panel, &pictures)).collect();
            blocks.push(Block::Retrieval(Retrieval { caption: caption.into(), panels }));
        }
    }
    Ok(blocks)
}

fn failed(of: &Panel, pictures: &BTreeMap<String, Vec<u8>>) -> RetrievalPanel {
    let shown = panel(&label(of), of, pictures);
    let ranked = shown.hits.into_iter().zip(of.found.iter().chain(&of.missed));
    // a caption alone does not tell why it was taken for another
    let hits = ranked.map(|(hit, found)| match (&found.item, &found.of) {
        (Item::Caption(text), Some(Item::Image(id))) => Hit { subject: beside(text, id, pictures), ..hit },
        (Item::Image(id), Some(Item::Caption(text))) => Hit { subject: beside(text, id, pictures), ..hit },
        _ => hit,
    });
    RetrievalPanel { hits: hits.collect(), ..shown }
}

fn beside(text: &str, image: &str, pictures: &BTreeMap<String, Vec<u8>>) -> Subject {
    let bytes = pictures.get(image).cloned().unwrap_or_default();
    Subject::Picture(Picture { bytes, caption: brief(text), mark: Mark::None, ..Picture::default() })
}

/// By how much the wrong answer was preferred.
fn label(of: &Panel) -> String {
    let right: Option<&Found> = of.found.iter().find(|found| found.correct).or(of.missed.as_ref());
    match (of.found.first(), right) {
        (Some(first), Some(right)) if !first.correct => format!("wrong {:.3}, right {:.3}", first.score, right.score),
        _ => "worst".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_how_far_the_right_answer_is_behind_and_shows_whose_caption_was_found() {
        let found = |text: &str, score, correct| Found {
            item: Item::Caption(text.into()),
            score,
            correct,
            of: Some(Item::Image(format!("image of {text}"))),
        };
        let panel = Panel {
            rank: 8,
            query: Item::Image("q".into()),
            found: vec![found("a lake", 0.75, false), found("a pond", 0.5, false)],
            missed: Some(found("a road", 0.25, true)),
        };
        let pictures = BTreeMap::from([("image of a lake".to_owned(), vec![1, 2])]);
        let shown = failed(&panel, &pictures);
        assert_eq!((shown.label.as_str(), shown.true_rank), ("wrong 0.750, right 0.250", Some(9)));
        assert_eq!(shown.hits.iter().map(|hit| hit.rank).collect::<Vec<_>>(), [1, 2, 9]);
        let Subject::Picture(first) = &shown.hits[0].subject else { panic!("a picture") };
        assert_eq!((first.caption.as_str(), first.bytes.as_slice()), ("a lake", &[1, 2][..]));
        assert_eq!(shown.hits[2].mark, Mark::Correct);
    }
}
