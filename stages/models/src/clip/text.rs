use super::config::Eot;
use super::vision::dropped;
use super::weights::TextWeights;
use crate::ops::{Dropout, add_positions, embedding, project, transformer_block};
use candle_core::{Device, Result, Tensor};

/// Token ids, cut to the longest text of the batch.
///
/// Attention is causal and the embedding is read at the end of the text, so nothing behind the longest text can
/// matter; leaving it out saves most of the work for short captions.
pub(super) struct TextInput {
    ids_bl: Tensor,
    /// Position that each text is read at `[B]`.
    ends: Vec<u32>,
}

impl TextInput {
    pub(super) fn new(ids: &[Vec<u32>], eot: Eot, device: &Device) -> Result<Self> {
        let ends: Vec<u32> = ids.iter().map(|ids| end_of_text(ids, eot) as u32).collect();
        let length = ends.iter().max().map_or(1, |&end| end as usize + 1);
        let cut: Vec<u32> = ids.iter().flat_map(|ids| &ids[..length]).copied().collect();
        Ok(Self { ids_bl: Tensor::from_vec(cut, (ids.len(), length), device)?, ends })
    }
}

impl TextWeights {
    /// The embedding, and each block.
    pub(super) fn layers(&self) -> usize {
        1 + self.blocks.len()
    }

    /// Ids to tokens `[B, L, D]`.
    pub(super) fn embed(&self, input: &TextInput, dropout: Option<&Dropout>) -> Result<Tensor> {
        let x = embedding(&self.table_vd, &input.ids_bl)?;
        dropped(dropout, add_positions(&x, &self.positions_ld, None)?)
    }

    /// Block `index`, counted from 1, on tokens `[B, L, D]`; the last one ends in embeddings `[B, E]`.
    pub(super) fn layer(
        &self,
        index: usize,
        x: &Tensor,
        input: &TextInput,
        dropout: Option<&Dropout>,
    ) -> Result<Tensor> {
        let block = &self.blocks[index - 1];
        if index < self.blocks.len() {
            return Dropout::of_difference(dropout, index, x, transformer_block(x, block, None)?);
        }
        let pooled_bd = transformer_block(x, block, Some(&input.ends))?;
        project(&self.ln_final.apply(&pooled_bd)?, &self.projection)
    }
}

/// The position that a text is read at; without an end token it is where the reference implementations look too:
/// the first for [`Eot::Id`] and for nothing but padding.
pub(super) fn end_of_text(ids: &[u32], eot: Eot) -> usize {
    match eot {
        Eot::Argmax => {
            let largest = ids.iter().max();
            ids.iter().position(|id| Some(id) == largest).unwrap_or(0)
        }
        Eot::Id(end) => ids.iter().position(|&id| id == end).unwrap_or(0),
        Eot::LastNonPad(pad) => ids.iter().rposition(|&id| id != pad).unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_text_is_found_by_each_rule() {
        assert_eq!(end_of_text(&[8, 3, 9, 9, 9], Eot::Argmax), 2);
        assert_eq!(end_of_text(&[8, 3, 9, 0, 0], Eot::Argmax), 2);
        assert_eq!(end_of_text(&[8, 3, 2, 9, 2], Eot::Id(2)), 2);
        assert_eq!(end_of_text(&[8, 3], Eot::Id(2)), 0);
        assert_eq!(end_of_text(&[8, 3, 2, 0, 0], Eot::LastNonPad(0)), 2);
        assert_eq!(end_of_text(&[0, 0], Eot::LastNonPad(0)), 0);
    }
}
