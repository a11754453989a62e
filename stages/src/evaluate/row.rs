//! What is evaluated of an image.

use std::collections::HashMap;

/// One image of the split, with its captions.
#[derive(Debug, Clone)]
pub struct EvaluatedRow {
    /// Stem of the image's name.
    pub image_id: String,
    /// Digest of its bytes: images with one digest are one picture.
    pub bytes_digest: String,
    /// Of length one, as those of the captions.
    pub embedding: Vec<f32>,
    /// Texts with their embeddings.
    pub captions: Vec<(String, Vec<f32>)>,
}

/// A caption as the retrieval model's vocabulary has it, which knows neither capitals nor how many spaces there are.
pub(crate) fn as_read(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase()
}

/// Vectors of one text or picture whose cosine is above this differ by rounding alone, also in half precision.
const ALIKE: f32 = 0.999;

/// One vector for all that are equal, in the order in which they come. Those of one text or picture can differ in their last
/// bits where they were embedded in batches of other sizes, and must tie all the same. A vocabulary that knows capitals
/// makes others of texts that differ in these: they stay.
pub(crate) fn one_of_each<'a>(vectors: &[(&str, &'a [f32])]) -> Vec<&'a [f32]> {
    let bits = |vector: &'a [f32]| vector.iter().map(|value| value.to_bits());
    let mut chosen: HashMap<&str, &'a [f32]> = HashMap::new();
    for &(of, vector) in vectors {
        let known = chosen.entry(of).or_insert(vector);
        // whatever the order of the rows
        if bits(vector).lt(bits(known)) {
            *known = vector;
        }
    }
    let cosine = |one: &[f32], other: &[f32]| one.iter().zip(other).map(|(a, b)| a * b).sum::<f32>();
    let one = |&(of, vector): &(&str, &'a [f32])| match chosen.get(of) {
        Some(known) if cosine(known, vector) > ALIKE => known,
        _ => vector,
    };
    vectors.iter().map(one).collect()
}
