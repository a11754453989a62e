//! Rows that a training learns from, and where they come from.

use manifests::digest;
use pixels::mask::Rle;

/// One image to learn from.
#[derive(Debug, Clone)]
pub struct TrainRow {
    /// Stem of the image's name.
    pub image_id: String,
    /// The encoded picture.
    pub bytes: Vec<u8>,
    /// Digest of the bytes.
    pub bytes_digest: String,
    /// Texts that belong to the image.
    pub captions: Vec<String>,
    /// Selected segments with their weights.
    pub segments: Vec<(Rle, f32)>,
    /// Embeddings by the model of the country, where the tables of them are read.
    pub embedded: Option<Embedded>,
}

/// L2-normalised embeddings of one image and of its captions, by one model.
#[derive(Debug, Clone)]
pub struct Embedded {
    /// Of the picture.
    pub image: Vec<f32>,
    /// Mean direction of the captions.
    pub text: Vec<f32>,
}

/// Why rows cannot be read.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{why}")]
pub struct RowsError {
    /// Another try may find them: the store did not answer.
    pub passes: bool,
    /// What failed, where.
    pub why: String,
}

/// The rows of one split of a country at pinned versions, by row group.
pub trait TrainRows: Send {
    /// Rows of the split in each row group.
    fn groups(&self) -> &[u32];
    /// Reads the split's rows of a group.
    ///
    /// # Errors
    /// [`RowsError`] if the tables or the source cannot be read.
    fn read(&mut self, group: usize) -> Result<Vec<TrainRow>, RowsError>;
    /// Reads the split's rows of several groups, in the order of these; together where that is faster.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    fn read_many(&mut self, groups: &[usize]) -> Result<Vec<Vec<TrainRow>>, RowsError> {
        groups.iter().map(|&group| self.read(group)).collect()
    }
    /// All captions of the split, for training a vocabulary.
    ///
    /// # Errors
    /// [`RowsError`] if the table cannot be read.
    fn captions(&mut self) -> Result<Vec<String>, RowsError>;
}

/// Rows of which nobody may look at more than their number.
#[cfg(test)]
pub(crate) struct Untouched(pub(crate) Vec<u32>);

#[cfg(test)]
impl TrainRows for Untouched {
    fn groups(&self) -> &[u32] {
        &self.0
    }

    fn read(&mut self, group: usize) -> Result<Vec<TrainRow>, RowsError> {
        panic!("group {group} was read")
    }

    fn captions(&mut self) -> Result<Vec<String>, RowsError> {
        panic!("captions were read")
    }
}

/// Images of all row groups.
pub fn rows_of(rows: &dyn TrainRows) -> u64 {
    rows.groups().iter().map(|&rows| u64::from(rows)).sum()
}

/// The first 64 bits of a hexadecimal digest.
pub fn key_of_digest(digest: &str) -> u64 {
    digest.get(..16).and_then(|hex| u64::from_str_radix(hex, 16).ok()).unwrap_or(0)
}

/// Equal for captions that say the same in the same words.
pub fn caption_key(caption: &str) -> u64 {
    key_of_digest(&digest::of_bytes(wording::normalise_caption(caption).as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_captions_have_equal_keys() {
        assert_eq!(caption_key("Two planes ."), caption_key("two  planes"));
        assert_ne!(caption_key("two planes"), caption_key("three planes"));
    }
}
