//! Retrieval of text by text (TRSLLaVA, arXiv 2512.10596), measured by the protocol of [`recall`]: captions search what was
//! written about images, and what is said of an image searches captions. Beside it the trained model on the same rows,
//! and a sum of both.

use choices::Protocol;
use manifests::BuildSpec;
use manifests::spec::{Captioner, StructuredField, VariantRule};
use serde::{Deserialize, Serialize};
use training::recall::{
    self, Combine, Cosines, Directions, Pairs, Queries, RecallReport, Standardised, Variants, WeightedSum,
};

use crate::evaluate::row::{EvaluatedRow, as_read, one_of_each};
use crate::stage::StageError;
use crate::train_rows::{caption_key, key_of_digest};

const STAGE: &str = "evaluate";
/// Raised when the same vectors would give other figures.
pub const VERSION: u32 = 3;
/// Images that are one unit of parallel work.
const BLOCK_ROWS: usize = 256;

/// Vectors of texts of one image, by the sentence encoder, and those of the trained model.
#[derive(Debug, Clone)]
pub struct TextRow {
    /// The trained model's vectors, with the captions.
    pub evaluated: EvaluatedRow,
    /// Of the structured captions; none where nobody could write any.
    pub variants: Vec<Vec<f32>>,
    /// Equal where the texts of these are.
    pub variants_digest: String,
    /// Of what was said of the image; `None` where nothing was.
    pub query: Option<Vec<f32>>,
    /// Of each caption, as a query.
    pub queries: Vec<Vec<f32>>,
    /// Of each caption, as what is searched.
    pub documents: Vec<Vec<f32>>,
}

/// How well text finds text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TextEvaluation {
    /// Who wrote what is searched: a captioner's name.
    pub writer: Captioner,
    /// What stood for an image with several texts.
    pub variants: VariantRule,
    /// Fields that were searched.
    pub fields: Vec<StructuredField>,
    /// Both sides come from the same tags, or captions do and whoever wrote what is searched was told these: the
    /// figures say little of what pictures show.
    pub tags_to_tags: bool,
    /// Images in the gallery that nobody wrote anything about: they count as not found.
    pub images_without_text: usize,
    /// Images that nothing was said of: they find nothing.
    pub images_without_query: usize,
    /// Text by text.
    pub text: RecallReport,
    /// The trained model on the same rows.
    pub model: RecallReport,
    /// A sum of both; `None` where no validation split can choose the share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fusion: Option<Fusion>,
}

/// Standard scores of both, added.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fusion {
    /// Share of the texts' scores.
    pub alpha: f64,
    /// Shares that were tried, with the mean recall of the validation split.
    pub tried: Vec<(f64, f64)>,
    /// On the test split.
    pub recall: RecallReport,
}

/// Measures a test split; shares are chosen on the validation split.
///
/// # Errors
/// [`StageError::Compute`] for vectors of different widths, or not of length one.
pub fn evaluate(spec: &BuildSpec, validation: &[TextRow], test: &[TextRow]) -> Result<TextEvaluation, StageError> {
    let writer = spec.caption.structured_by().unwrap_or(Captioner::Geotags);
    let (rule, protocol) = (spec.text_retrieval.variants, spec.evaluate.protocol);
    let split = Split::new(test, rule)?;
    let fusion = match validation.iter().any(|row| !row.queries.is_empty()) {
        false => None,
        true => {
            let tried = Split::new(validation, rule)?.fused(&spec.text_retrieval.fusion_alpha, protocol)?;
            let tried: Vec<(f64, f64)> =
                tried.into_iter().map(|(alpha, recall)| (alpha, recall.exact.pessimistic.mean_recall)).collect();
            // of equal ones the first
            let best = tried.iter().copied().reduce(|best, next| if next.1 > best.1 { next } else { best });
            let alpha = best.map_or(0.0, |(alpha, _)| alpha);
            split.fused(&[alpha], protocol)?.pop().map(|(alpha, recall)| Fusion { alpha, tried, recall })
        }
    };
    let mut fields = spec.text_retrieval.fields.clone();
    fields.sort_unstable();
    Ok(TextEvaluation {
        writer,
        variants: rule,
        fields,
        // whoever is told the tags is told the captions that are made of them, word for word; a file is told nothing
        tags_to_tags: writer == Captioner::Geotags
            || (spec.caption.captioner == Captioner::Geotags && writer != Captioner::Given),
        images_without_text: test.iter().filter(|row| row.variants.is_empty()).count(),
        images_without_query: test.iter().filter(|row| row.query.is_none()).count(),
        text: split.text(protocol)?,
        model: split.model(protocol)?,
        fusion,
    })
}

/// The vectors of a split behind each other.
struct Split {
    combine: Combine,
    own_image_m: Vec<u32>,
    image_keys_n: Vec<u64>,
    caption_keys_m: Vec<u64>,
    /// Of the sentence encoder.
    width: usize,
    variants: (Vec<f32>, Vec<usize>),
    said: (Vec<f32>, Vec<usize>),
    queries_md: Vec<f32>,
    documents_md: Vec<f32>,
    /// Of the trained model.
    model_width: usize,
    image_nd: Vec<f32>,
    text_md: Vec<f32>,
}

fn compute(error: impl ToString) -> StageError {
    StageError::Compute { stage: STAGE, why: error.to_string() }
}

impl Split {
    fn new(rows: &[TextRow], rule: VariantRule) -> Result<Self, StageError> {
        let width = rows.iter().find_map(|row| row.queries.first()).map_or(0, Vec::len);
        let model_width = rows.first().map_or(0, |row| row.evaluated.embedding.len());
        for row in rows {
            let id = &row.evaluated.image_id;
            let mut texts = row.variants.iter().chain(&row.query).chain(&row.queries).chain(&row.documents);
            let mut of_model =
                [&row.evaluated.embedding].into_iter().chain(row.evaluated.captions.iter().map(|c| &c.1));
            if texts.any(|v| v.len() != width) || of_model.any(|v| v.len() != model_width) {
                return Err(compute(format!(
                    "image {id}: its vectors differ in width from those of others; embed again"
                )));
            }
            let captions = row.evaluated.captions.len();
            if row.queries.len() != captions || row.documents.len() != captions {
                let (one, other) = (row.queries.len(), row.documents.len());
                return Err(compute(format!(
                    "image {id}: {captions} captions, with {one} vectors as queries and {other} as documents; run the build again"
                )));
            }
        }
        let kept = |row: &TextRow| match rule {
            VariantRule::First => row.variants.len().min(1),
            VariantRule::Max | VariantRule::Mean => row.variants.len(),
        };
        let captions = || rows.iter().flat_map(|row| &row.evaluated.captions);
        let texts = || captions().map(|(text, _)| text.as_str());
        // what is equal ties, in the sentence encoder's vectors as in the model's
        let variants: Vec<(String, &[f32])> = rows
            .iter()
            .flat_map(|row| {
                let numbered = row.variants[..kept(row)].iter().enumerate();
                numbered.map(move |(number, vector)| (format!("{} {number}", row.variants_digest), vector.as_slice()))
            })
            .collect();
        let variants: Vec<_> = variants.iter().map(|(of, vector)| (of.as_str(), *vector)).collect();
        let pictures: Vec<_> =
            rows.iter().map(|row| (row.evaluated.bytes_digest.as_str(), row.evaluated.embedding.as_slice())).collect();
        let read: Vec<String> = texts().map(as_read).collect();
        let of_model: Vec<_> =
            read.iter().zip(captions()).map(|(text, (_, vector))| (text.as_str(), vector.as_slice())).collect();
        let of_texts = |of: fn(&TextRow) -> &Vec<Vec<f32>>| {
            let vectors: Vec<_> = texts().zip(rows.iter().flat_map(of).map(Vec::as_slice)).collect();
            one_of_each(&vectors).concat()
        };
        Ok(Self {
            combine: if rule == VariantRule::Mean { Combine::Mean } else { Combine::Max },
            own_image_m: (0u32..)
                .zip(rows)
                .flat_map(|(image, row)| row.evaluated.captions.iter().map(move |_| image))
                .collect(),
            image_keys_n: rows.iter().map(|row| key_of_digest(&row.evaluated.bytes_digest)).collect(),
            caption_keys_m: captions().map(|(text, _)| caption_key(text)).collect(),
            width,
            variants: (one_of_each(&variants).concat(), rows.iter().map(kept).collect()),
            said: (
                rows.iter().flat_map(|row| &row.query).flatten().copied().collect(),
                rows.iter().map(|row| usize::from(row.query.is_some())).collect(),
            ),
            queries_md: of_texts(|row| &row.queries),
            documents_md: of_texts(|row| &row.documents),
            model_width,
            image_nd: one_of_each(&pictures).concat(),
            text_md: one_of_each(&of_model).concat(),
        })
    }

    fn recall(&self, by: Directions<'_>, protocol: Protocol) -> Result<RecallReport, StageError> {
        let pairs = Pairs {
            own_image_m: &self.own_image_m,
            image_keys_n: &self.image_keys_n,
            caption_keys_m: &self.caption_keys_m,
        };
        Ok(recall::evaluate_scores(by, pairs, protocol, BLOCK_ROWS).map_err(compute)?.report)
    }

    /// Captions against what was written of images, and what is said of images against captions.
    fn texts(&self) -> Result<(Variants<'_>, Variants<'_>), StageError> {
        let found = Variants::new(self.combine, (&self.variants.0, &self.variants.1), &self.queries_md, self.width);
        let asked = Variants::new(Combine::Max, (&self.said.0, &self.said.1), &self.documents_md, self.width);
        Ok((found.map_err(compute)?, asked.map_err(compute)?))
    }

    fn text(&self, protocol: Protocol) -> Result<RecallReport, StageError> {
        let (found, asked) = self.texts()?;
        self.recall(Directions { text_to_image: &found, image_to_text: &asked }, protocol)
    }

    fn cosines(&self) -> Result<Cosines<'_>, StageError> {
        Cosines::new(&self.image_nd, &self.text_md, self.model_width).map_err(compute)
    }

    fn model(&self, protocol: Protocol) -> Result<RecallReport, StageError> {
        let cosines = self.cosines()?;
        self.recall(Directions { text_to_image: &cosines, image_to_text: &cosines }, protocol)
    }

    /// Recall by share of the texts' scores.
    fn fused(&self, shares: &[f64], protocol: Protocol) -> Result<Vec<(f64, RecallReport)>, StageError> {
        let ((found, asked), cosines) = (self.texts()?, self.cosines()?);
        let (found, asked) = (Standardised::new(&found, Queries::Captions), Standardised::new(&asked, Queries::Images));
        let by_captions = Standardised::new(&cosines, Queries::Captions);
        let by_images = Standardised::new(&cosines, Queries::Images);
        let recall = |share: f64| {
            let to_image = WeightedSum { one: &found, other: &by_captions, share: share as f32 };
            let to_text = WeightedSum { one: &asked, other: &by_images, share: share as f32 };
            let recall = self.recall(Directions { text_to_image: &to_image, image_to_text: &to_text }, protocol)?;
            Ok((share, recall))
        };
        shares.iter().map(|share| recall(*share)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use manifests::digest;

    /// A unit vector.
    fn at(angle: f32) -> Vec<f32> {
        vec![angle.cos(), angle.sin()]
    }

    /// Texts that fit by `text`, pixels that fit by `pixels`.
    fn rows(count: usize, text: impl Fn(usize) -> f32, pixels: impl Fn(usize) -> f32) -> Vec<TextRow> {
        let own = |i: usize| at(i as f32 * 0.1);
        let row = |i: usize| TextRow {
            evaluated: EvaluatedRow {
                image_id: format!("i{i}"),
                bytes_digest: digest::of_bytes(format!("i{i}").as_bytes()),
                embedding: at(pixels(i)),
                captions: vec![(format!("caption {i}"), own(i))],
            },
            variants: vec![at(text(i)), at(text(i) + 3.0)],
            variants_digest: format!("t{i}"),
            query: Some(at(text(i))),
            queries: vec![own(i)],
            documents: vec![own(i)],
        };
        (0..count).map(row).collect()
    }

    fn spec(set: &[&str]) -> BuildSpec {
        let text = "country = \"x\"\n[source]\nkind = \"skyscript\"\nurl = \"x\"\n[caption]\nstructured = \
                    true\n[text_retrieval]\nencoder = \"a/b\"\n";
        BuildSpec::parse(text, "t", &set.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>()).unwrap()
    }

    const RIGHT: fn(usize) -> f32 = |i| i as f32 * 0.1;
    const WRONG: fn(usize) -> f32 = |i| ((i * 7) % 20) as f32 * 0.1 + 1.0;

    #[test]
    fn texts_find_texts_and_the_share_is_chosen_on_validation() {
        let (validation, test) = (rows(20, RIGHT, WRONG), rows(20, RIGHT, WRONG));
        let found = evaluate(&spec(&[]), &validation, &test).unwrap();
        assert_eq!(found.text.exact.pessimistic.mean_recall, 100.0);
        assert!(found.model.exact.pessimistic.mean_recall < 80.0);
        let fusion = found.fusion.unwrap();
        assert_eq!((fusion.tried.len(), fusion.recall.exact.pessimistic.mean_recall), (5, 100.0));
        let best = fusion.tried.iter().find(|tried| tried.0 == fusion.alpha).unwrap();
        assert!(fusion.tried.iter().all(|tried| tried.1 <= best.1), "{fusion:?}");
        // a validation split that trusts pixels chooses them, whatever the test split would have liked
        let misled = evaluate(&spec(&[]), &rows(20, WRONG, RIGHT), &test).unwrap().fusion.unwrap();
        assert!(misled.alpha < 1.0 && misled.recall.exact.pessimistic.mean_recall < 100.0, "{misled:?}");
        assert_eq!(evaluate(&spec(&[]), &[], &test).unwrap().fusion, None, "nothing can choose");
    }

    #[test]
    fn variants_count_as_the_spec_says() {
        let mut test = rows(20, RIGHT, WRONG);
        test.iter_mut().for_each(|row| row.variants.reverse());
        let recall = |rule: &str| {
            let set = format!("text_retrieval.variants={rule}");
            evaluate(&spec(&[&set]), &[], &test).unwrap().text.exact.pessimistic.t2i.at_1
        };
        assert_eq!(recall("max"), 100.0);
        assert!(recall("first") < 50.0, "the first variant of each is another's");
    }

    /// They may have been embedded in batches of other sizes.
    #[test]
    fn equal_captions_tie_though_their_vectors_differ_in_their_last_bits() {
        let mut test = rows(2, |_| 0.0, |_| 0.0);
        let text = test[0].evaluated.captions[0].0.clone();
        let nudged: Vec<f32> =
            test[0].documents[0].iter().map(|v| f32::from_bits(v.to_bits().saturating_sub(1))).collect();
        test[1].evaluated.captions[0] = (text, nudged.clone());
        (test[1].documents[0], test[1].queries[0]) = (nudged.clone(), nudged);
        let found = evaluate(&spec(&[]), &[], &test).unwrap();
        for of in [&found.text, &found.model] {
            assert_eq!((of.exact.pessimistic.i2t.at_1, of.i2t_ties.twin_percent), (0.0, 100.0), "{of:?}");
        }
    }

    /// So may these.
    #[test]
    fn images_with_equal_texts_tie_though_their_vectors_differ_in_their_last_bits() {
        let mut test = rows(2, |_| 0.0, |_| 0.0);
        test[1].variants_digest = test[0].variants_digest.clone();
        for value in test[1].variants.iter_mut().flatten() {
            *value = f32::from_bits(value.to_bits().saturating_sub(1));
        }
        for rule in ["max", "mean", "first"] {
            let set = format!("text_retrieval.variants={rule}");
            let found = evaluate(&spec(&[&set]), &[], &test).unwrap().text.exact;
            assert_eq!((found.pessimistic.t2i.at_1, found.optimistic.t2i.at_1), (0.0, 100.0), "{rule}");
        }
    }

    #[test]
    fn images_without_a_text_are_lost_and_counted() {
        let mut test = rows(20, RIGHT, WRONG);
        test[3].variants.clear();
        test[5].query = None;
        let found = evaluate(&spec(&[]), &[], &test).unwrap();
        assert_eq!((found.images_without_text, found.images_without_query), (1, 1));
        let both = [&found.text.exact.optimistic, &found.text.exact.pessimistic];
        assert!(both.iter().all(|both| (both.t2i.at_10, both.i2t.at_10) == (95.0, 95.0)), "{:?}", found.text.exact);
    }

    #[test]
    fn both_sides_from_tags_are_said_to_be() {
        let test = rows(5, RIGHT, WRONG);
        assert!(evaluate(&spec(&[]), &[], &test).unwrap().tags_to_tags);
        let pixels = ["caption.captioner=instructblip", "caption.instructblip.weights=a/b"];
        assert!(!evaluate(&spec(&pixels), &[], &test).unwrap().tags_to_tags);
        // captions are the tags, and whoever writes what is searched is told these
        let server = [
            "caption.structured_captioner=server",
            "caption.server.url=http://h/v1",
            "caption.server.model=m",
            "caption.captioner=geotags",
        ];
        assert!(evaluate(&spec(&server), &[], &test).unwrap().tags_to_tags);
        let file = ["caption.structured_file=texts.jsonl", "text_retrieval.query_file=queries.json"];
        assert!(!evaluate(&spec(&file), &[], &test).unwrap().tags_to_tags);
    }

    #[test]
    fn vectors_that_do_not_belong_together_are_named() {
        let mut test = rows(5, RIGHT, WRONG);
        test[2].queries.clear();
        let why = evaluate(&spec(&[]), &[], &test).unwrap_err().to_string();
        assert!(why.contains("image i2") && why.contains("0 vectors as queries"), "{why}");
    }
}
