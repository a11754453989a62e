//! What a few texts find, first on the page: what all of it is for.

use report::{Block, Hit, Mark, Picture, Retrieval, RetrievalPanel, Section, Subject};
use workers::WorkerError;
use workers::search::Filter;

use super::capitalised;
use crate::build::Build;
use crate::progress::Progress;
use crate::search::{Query, Question, SearchModel, Searcher};

/// Pictures shown of each query.
const SHOWN: usize = 5;

/// Each text searched in one of the builds, by that build's own model: models of different builds give scores that do not
/// compare.
pub(super) async fn section(builds: &[Build], texts: &[String]) -> Result<Section, WorkerError> {
    let mut panels = Vec::with_capacity(texts.len());
    for (text, build) in texts.iter().zip(builds.iter().cycle()) {
        panels.push(panel(build, text, builds.len() > 1).await?);
    }
    Ok(Section {
        id: "search".into(),
        title: "What it is for".into(),
        lead: "Texts that nobody wrote for an image, and the images that fit them best.".into(),
        blocks: vec![
            Block::Retrieval(Retrieval { caption: String::new(), panels }),
            Block::Paragraph("Search for what you like; SPEC is the file of the build:".into()),
            Block::Code {
                language: String::new(),
                text: "urbancross search SPEC \"two tennis courts beside a road\" --html found.html".into(),
            },
        ],
    })
}

/// The beginning of a caption: three queries are to fit on a screen.
pub(super) fn brief(caption: &str) -> String {
    const MOST_WORDS: usize = 10;
    let clause = caption.split(',').next().unwrap_or_default();
    let words: Vec<&str> = clause.split_whitespace().take(MOST_WORDS).collect();
    let brief = words.join(" ");
    if brief.len() < caption.trim_end().len() { brief + "…" } else { brief }
}

async fn panel(build: &Build, text: &str, named: bool) -> Result<RetrievalPanel, WorkerError> {
    let model = SearchModel::of_build(build).await?;
    let searcher = Searcher::open(model, [build], &Progress::new(true)).await?;
    let query = Query::Text(text.to_owned());
    let question = Question { query, filter: Filter::default(), countries: Vec::new(), most: SHOWN };
    let answer = searcher.search(&question).await?;
    let pictures = searcher.pictures(&answer.found).await?;
    let hits = answer.found.iter().map(|found| Hit {
        rank: found.rank as u64,
        score: found.score,
        mark: Mark::None,
        subject: Subject::Picture(Picture {
            bytes: pictures.get(&(found.country.clone(), found.image_id.clone())).cloned().unwrap_or_default(),
            caption: brief(found.captions.first().unwrap_or(&found.image_id)),
            ..Picture::default()
        }),
    });
    Ok(RetrievalPanel {
        label: if named { capitalised(&build.spec.country) } else { String::new() },
        query: Subject::Text(text.to_owned()),
        hits: hits.collect(),
        true_rank: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_captions_are_cut_and_say_so() {
        assert_eq!(brief("a satellite image of a lake, surrounded by woodland"), "a satellite image of a lake…");
        assert_eq!(brief("a lake"), "a lake");
        assert_eq!(brief(&"word ".repeat(30)), format!("{}…", ["word"; 10].join(" ")));
    }
}
