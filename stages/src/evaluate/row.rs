//! What is evaluated of an image.

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
