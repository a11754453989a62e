//! Retrieval of text by text beside the trained model.

use manifests::spec::Captioner;
use manifests::words::count;
use report::{Block, Cell, Column, Level, Table};
use stages::text_retrieval::TextEvaluation;
use training::recall::RecallReport;

use super::{chance, figure_columns, figures};

/// Words for what is searched, and by what.
pub(super) const LEAD: &str = "Captions search what was written about images, and what is said of an image searches \
                               captions, by a sentence encoder that nobody trained. Beside it the trained model on the \
                               same rows, and both together.";

pub(super) fn blocks(text: &TextEvaluation) -> Vec<Block> {
    let mut columns = vec![Column::text("searched by"), Column::text("positives"), Column::text("ties")];
    columns.extend(figure_columns());
    columns.push(chance::chance_column());
    let rows_of = |name: &str, recall: &RecallReport| {
        let readings = [
            ("exact", "lost", &recall.exact.pessimistic),
            ("exact", "won", &recall.exact.optimistic),
            ("group", "lost", &recall.group.pessimistic),
            ("group", "won", &recall.group.optimistic),
        ];
        readings
            .map(|(positives, ties, both)| {
                let mut row = [name, positives, ties].map(|text| Cell::Text(text.into())).to_vec();
                row.extend(figures(both));
                row.push(chance::chance(both));
                row
            })
            .to_vec()
    };
    let mut rows = rows_of("text by text", &text.text);
    rows.extend(rows_of("the trained model", &text.model));
    if let Some(fusion) = &text.fusion {
        rows.extend(rows_of(&format!("both, {:.2} of text", fusion.alpha), &fusion.recall));
    }
    let recall = &text.text;
    let mut blocks = vec![Block::Table(Table {
        caption: format!(
            "Recall in percent over {} and {}.",
            count(recall.image_gallery, "image"),
            count(recall.caption_gallery, "caption")
        ),
        columns,
        rows,
    })];
    if text.tags_to_tags {
        let text = match text.writer {
            Captioner::Geotags => "Tags to tags: the captioner \"geotags\" wrote what is searched from the same tags \
                                   that captions come from. These figures say how well words find their like, and \
                                   nothing of what pictures show."
                .to_owned(),
            told => format!(
                "Tags to tags: captions are made of tags, and the captioner {:?} was told the same tags when it wrote \
                 what is searched. Captions that search it (t2i) find their own words, which says little of what \
                 pictures show; what images search with (i2t) was written without tags.",
                told.name()
            ),
        };
        blocks.push(Block::Note { level: Level::Warning, text });
    }
    blocks.extend(chance::no_better_than_chance("Text by text", recall));
    if text.images_without_text + text.images_without_query > 0 {
        blocks.push(Block::Note {
            level: Level::Info,
            text: format!(
                "Nothing is written about {}, which count as not found; nothing was said of {}, which find nothing.",
                count(text.images_without_text, "image"),
                count(text.images_without_query, "image")
            ),
        });
    }
    blocks.push(Block::Paragraph(match &text.fusion {
        Some(fusion) => format!(
            "Standard scores of each query are added. The share of text was chosen on the validation split: {}.",
            fusion
                .tried
                .iter()
                .map(|(alpha, mr)| format!("{alpha:.2} gives mR {mr:.2}"))
                .collect::<Vec<_>>()
                .join(", ")
        ),
        None => "Both are not added: there is no validation split to choose a share on.".into(),
    }));
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;
    use choices::Protocol;
    use manifests::spec::{StructuredField, VariantRule};
    use stages::evaluate::{EvaluatedRow, recall_of};
    use stages::text_retrieval::Fusion;

    fn recall() -> RecallReport {
        let row = |i: usize| {
            let vector = vec![(i as f32).cos(), (i as f32).sin()];
            EvaluatedRow {
                image_id: format!("i{i}"),
                bytes_digest: manifests::digest::of_bytes(&[i as u8]),
                embedding: vector.clone(),
                captions: vec![(format!("caption {i}"), vector)],
            }
        };
        recall_of(&(0..6).map(row).collect::<Vec<_>>(), Protocol::Standard).unwrap().report
    }

    fn words(text: &TextEvaluation) -> String {
        let blocks = blocks(text).into_iter().map(|block| match block {
            Block::Note { text, .. } | Block::Paragraph(text) => text,
            Block::Table(table) => format!("{:?}", table.rows),
            _ => String::new(),
        });
        blocks.collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn what_a_figure_does_not_mean_is_said() {
        let mut text = TextEvaluation {
            writer: Captioner::Geotags,
            variants: VariantRule::Max,
            fields: vec![StructuredField::Caption],
            tags_to_tags: true,
            images_without_text: 2,
            images_without_query: 1,
            text: recall(),
            model: recall(),
            fusion: Some(Fusion { alpha: 0.25, tried: vec![(0.0, 10.0), (0.25, 12.5)], recall: recall() }),
        };
        let said = words(&text);
        for expected in ["Tags to tags", "about 2 images", "of 1 image,", "both, 0.25 of text", "0.25 gives mR 12.50"] {
            assert!(said.contains(expected), "{expected}: {said}");
        }
        text.writer = Captioner::Server;
        let said = words(&text);
        assert!(said.contains("\"server\" was told the same tags") && !said.contains("geotags"), "{said}");
        text = TextEvaluation {
            tags_to_tags: false,
            images_without_text: 0,
            images_without_query: 0,
            fusion: None,
            ..text
        };
        let said = words(&text);
        assert!(!said.contains("Tags to tags") && !said.contains("not found") && said.contains("no validation split"));
    }
}
