//! How good the captions are: measures of their words, scores by a CLIP, and what was flagged or written again.

use arrow::array::Array;
use manifests::Artifact;
use manifests::words::count;
use report::{Block, Cell, Column, Histogram, Table};
use stages::table::{Columns, TableError};
use workers::WorkerError;

use super::tables::each;
use super::tally::Tally;
use crate::build::Build;

/// Reasons shown at most.
const SHOWN: usize = 12;

/// Measures of every caption that has them.
#[derive(Debug, Default)]
pub struct CaptionQuality {
    repetition: Tally,
    tag_coverage: Tally,
    clip_scores: Tally,
    perception_scores: Tally,
    /// Captions that were written more than once.
    pub retried: u64,
    /// Flagged rows, with a reason for each.
    pub flagged: Flagged,
    /// Rows of the table of scores that are flagged.
    pub low_scores: Flagged,
    pub structured: Structured,
}

/// Rows under a threshold.
#[derive(Debug, Default)]
pub struct Flagged {
    pub rows: u64,
    reasons: std::collections::BTreeMap<String, u64>,
}

/// Structured captions of all images.
#[derive(Debug, Default)]
pub struct Structured {
    pub images: u64,
    pub variants: u64,
    /// Answers that the captioner was asked for, per image.
    attempts: Tally,
    pub flagged: Flagged,
}

impl Flagged {
    fn add(&mut self, why: &str) {
        self.rows += 1;
        *self.reasons.entry(reason_of(why)).or_default() += 1;
    }
}

/// A reason without its numbers, so that like rows count together.
pub(super) fn reason_of(why: &str) -> String {
    let words = why.split_whitespace().map(|word| {
        let bare = word.trim_matches(|c: char| c.is_ascii_punctuation());
        if !bare.is_empty() && bare.parse::<f64>().is_ok() { word.replace(bare, "…") } else { word.to_owned() }
    });
    let line = words.collect::<Vec<_>>().join(" ");
    // several captions of one row may have several reasons: the first is counted
    line.split(';').next().unwrap_or_default().chars().take(120).collect()
}

/// Adds what is known of captions beyond their own table.
pub async fn gather(build: &Build, quality: &mut CaptionQuality) -> Result<(), WorkerError> {
    // a table that an earlier spec left behind says nothing about this one
    if !build.spec.caption.score.clip.is_empty() {
        each(build, Artifact::CaptionScores, &["scores", "flagged"], |columns| quality.add_scores(columns)).await?;
    }
    if build.spec.caption.structured {
        let columns = ["variants", "attempts", "flagged"];
        each(build, Artifact::StructuredCaptions, &columns, |columns| quality.structured.add(columns)).await?;
    }
    Ok(())
}

impl CaptionQuality {
    /// Columns `quality` and `flagged` of captions.
    pub(super) fn add_captions(&mut self, columns: &Columns<'_>) -> Result<(), TableError> {
        let (list, flagged) = (columns.list("quality")?, columns.text("flagged")?);
        for row in (0..list.len()).filter(|&row| !list.is_null(row)) {
            let items = columns.structs("quality", row)?;
            let inner = columns.inner(&items);
            inner.float32("repetition")?.iter().flatten().for_each(|value| self.repetition.add(value.into()));
            inner.float32("tag_coverage")?.iter().flatten().for_each(|value| self.tag_coverage.add(value.into()));
            self.retried += inner.int32("attempts")?.iter().flatten().filter(|&n| n > 1).count() as u64;
        }
        flagged.iter().flatten().for_each(|why| self.flagged.add(why));
        Ok(())
    }

    fn add_scores(&mut self, columns: &Columns<'_>) -> Result<(), TableError> {
        let (list, flagged) = (columns.list("scores")?, columns.text("flagged")?);
        for row in (0..list.len()).filter(|&row| !list.is_null(row)) {
            let items = columns.structs("scores", row)?;
            let inner = columns.inner(&items);
            inner.float32("clip_score")?.iter().flatten().for_each(|value| self.clip_scores.add(value.into()));
            let perception = inner.float32("perception_score")?;
            perception.iter().flatten().for_each(|value| self.perception_scores.add(value.into()));
        }
        flagged.iter().flatten().for_each(|why| self.low_scores.add(why));
        Ok(())
    }

    /// Nothing where captions were neither generated nor scored.
    pub fn blocks(&self) -> Vec<Block> {
        let histograms: Vec<Block> = [
            ("Repetition: share of word triples that occur earlier in the caption.", "share", &self.repetition),
            ("Tag coverage: share of the tags' words that the caption mentions.", "share", &self.tag_coverage),
            ("CLIPScore: 2.5 × cosine of image and caption, at least 0.", "CLIPScore", &self.clip_scores),
            (
                "PerceptionScore (ours): half CLIPScore, at most 1, half the share of the segmented area that a phrase \
                 of the caption explains.",
                "PerceptionScore",
                &self.perception_scores,
            ),
        ]
        .into_iter()
        .filter(|(_, _, values)| values.total() > 0)
        .map(|(caption, x_label, values)| histogram(caption, x_label, "captions", values))
        .collect();
        let mut blocks: Vec<Block> = histograms.chunks(2).map(|pair| Block::Row(pair.to_vec())).collect();
        if self.repetition.total() > 0 {
            blocks.push(Block::Paragraph(format!(
                "{}: {} written a second time, {} flagged and kept.",
                count(self.repetition.total(), "generated caption"),
                self.retried,
                count(self.flagged.rows, "image")
            )));
        }
        if self.clip_scores.total() > 0 {
            blocks.push(Block::Paragraph(format!(
                "{} scored: {} with a score below its threshold, flagged and kept.",
                count(self.clip_scores.total(), "caption"),
                count(self.low_scores.rows, "image")
            )));
        }
        blocks.extend(self.structured.blocks());
        let reasons: Vec<(&str, &Flagged)> = [
            ("captions", &self.flagged),
            ("caption scores", &self.low_scores),
            ("structured captions", &self.structured.flagged),
        ]
        .into_iter()
        .filter(|(_, flagged)| flagged.rows > 0)
        .collect();
        if !reasons.is_empty() {
            blocks.push(Block::Details {
                summary: "Why rows were flagged".into(),
                blocks: vec![reasons_table(&reasons)],
            });
        }
        blocks
    }
}

impl Structured {
    fn add(&mut self, columns: &Columns<'_>) -> Result<(), TableError> {
        let list = columns.list("variants")?;
        let (attempts, flagged) = (columns.int32("attempts")?, columns.text("flagged")?);
        for row in (0..list.len()).filter(|&row| !list.is_null(row)) {
            self.images += 1;
            self.variants += list.value_length(row) as u64;
            self.attempts.add(f64::from(attempts.value(row)));
        }
        flagged.iter().flatten().for_each(|why| self.flagged.add(why));
        Ok(())
    }

    fn blocks(&self) -> Vec<Block> {
        if self.images == 0 {
            return Vec::new();
        }
        let mut blocks = vec![Block::Paragraph(format!(
            "Structured captions: {} of {}; images with fewer than five are flagged: {}.",
            count(self.variants, "variant"),
            count(self.images, "image"),
            self.flagged.rows
        ))];
        if self.attempts.any_above(0.0) {
            blocks.push(histogram("Answers asked for per image.", "answers", "images", &self.attempts));
        }
        blocks
    }
}

fn histogram(caption: &str, x_label: &str, y_label: &str, values: &Tally) -> Block {
    Block::Histogram(Histogram {
        caption: caption.into(),
        x_label: x_label.into(),
        y_label: y_label.into(),
        ..values.histogram(16)
    })
}

fn reasons_table(all: &[(&str, &Flagged)]) -> Block {
    let mut rows: Vec<(&str, &String, u64)> =
        all.iter().flat_map(|(table, flagged)| flagged.reasons.iter().map(move |(why, n)| (*table, why, *n))).collect();
    rows.sort_by_key(|(_, _, n)| std::cmp::Reverse(*n));
    Block::Table(Table {
        caption: "Flagged rows stay in their tables; the most frequent reasons.".into(),
        columns: vec![Column::text("table"), Column::text("why"), Column::number("images")],
        rows: rows
            .into_iter()
            .take(SHOWN)
            .map(|(table, why, n)| vec![Cell::Text(table.into()), Cell::Text(why.clone()), Cell::Number(n as f64)])
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn like_reasons_count_together() {
        let mut flagged = Flagged::default();
        flagged.add("caption 0: CLIPScore 0.312, less than 0.5; caption 1: CLIPScore 0.1, less than 0.5");
        flagged.add("caption 0: CLIPScore 0.4, less than 0.5");
        flagged.add("repeats its instruction");
        assert_eq!(flagged.rows, 3);
        let reasons: Vec<_> = flagged.reasons.iter().map(|(why, n)| (why.as_str(), *n)).collect();
        assert_eq!(reasons, [("caption …: CLIPScore …, less than …", 2), ("repeats its instruction", 1)]);
    }

    #[test]
    fn a_build_without_measures_shows_none() {
        assert!(CaptionQuality::default().blocks().is_empty());
    }
}
