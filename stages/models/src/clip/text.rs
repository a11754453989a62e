use super::config::Eot;
use super::vision::dropped;
use super::weights::TextWeights;
use crate::ops::{Dropout, add_positions, embedding, project, transformer_block};
use candle_core::{Result, Tensor};

impl TextWeights {
    /// `ids [B, L]` row by row, to `[B, E]`.
    ///
    /// Attention is causal and the embedding is read at the end of the text, so nothing behind the longest text of
    /// the batch can matter: it is cut off, which saves most of the work for short captions.
    pub(super) fn encode(&self, ids: &[Vec<u32>], eot: Eot, dropout: Option<&Dropout>) -> Result<Tensor> {
        let ends: Vec<u32> = ids.iter().map(|ids| end_of_text(ids, eot) as u32).collect();
        let length = ends.iter().max().map_or(1, |&end| end as usize + 1);
        let cut: Vec<u32> = ids.iter().flat_map(|ids| &ids[..length]).copied().collect();
        let ids_bl = Tensor::from_vec(cut, (ids.len(), length), self.table_vd.device())?;
        let x = embedding(&self.table_vd, &ids_bl)?;
        let mut x = dropped(dropout, add_positions(&x, &self.positions_ld, None)?)?;
        let (last, blocks) = match self.blocks.split_last() {
            Some(split) => split,
            None => candle_core::bail!("a text tower without layers"),
        };
        for block in blocks {
            x = Dropout::of_difference(dropout, &x, transformer_block(&x, block, None)?)?;
        }
        let pooled_bd = transformer_block(&x, last, Some(&ends))?;
        project(&self.ln_final.apply(&pooled_bd)?, &self.projection)
    }
}

/// The position that a text is read at; without an end token it is where the reference implementations look too:
/// the first for [`Eot::Id`] and for nothing but padding.
fn end_of_text(ids: &[u32], eot: Eot) -> usize {
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
