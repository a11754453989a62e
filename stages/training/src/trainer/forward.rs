//! The towers on one rank's batch, there and back.
//!
//! There: embeddings, of one piece of the batch after another. Back: the gradient of the embeddings becomes that of the
//! parameters. Between the two, the embeddings of all ranks meet; so the graph of a large batch is never needed at once,
//! and the result is that of the large batch exactly.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor, Var};
use models::clip::{Chain, Clip};
use models::ops::{Dropout, backward_from, l2_normalise};

use super::loaded::{Loaded, Part};
use super::settings::{Execution, Settings};
use crate::batch::PairBatch;
use crate::error::{Error, Result};
use crate::gradients::Gradients;
use crate::loss::segment_embedding;

/// A tower of the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tower {
    Image,
    Segment,
    Text,
}

/// Whose towers run.
pub(super) struct Networks<'a> {
    pub(super) clip: &'a Clip,
    /// The network whose image tower embeds segments, with the prefix of its parameters' names. None: `clip`'s.
    pub(super) segment_tower: Option<(&'a Clip, &'static str)>,
    pub(super) settings: &'a Settings,
    pub(super) execution: &'a Execution,
}

/// This rank's embeddings, L2-normalised, in f32 or f64, without a graph.
pub(super) struct Embeddings {
    pub(super) image_bd: Tensor,
    pub(super) text_bd: Tensor,
    pub(super) segment: Option<SegmentColumn>,
}

pub(super) struct SegmentColumn {
    pub(super) segment_bd: Tensor,
    pub(super) present_b: Vec<bool>,
}

impl Embeddings {
    /// Images, captions and, where they are learnt from, segments `[B, D]` each.
    pub(super) fn columns(&self) -> Vec<&Tensor> {
        let segment = self.segment.as_ref().map(|segment| &segment.segment_bd);
        [&self.image_bd, &self.text_bd].into_iter().chain(segment).collect()
    }
}

/// A batch that has gone through the towers, ready to go back.
pub(super) struct Forward<'a> {
    networks: &'a Networks<'a>,
    pieces: Vec<Piece>,
}

/// One tower on one piece of the batch.
struct Piece {
    tower: Tower,
    part: Arc<Part>,
    dropout: Option<Dropout>,
    kept: Kept,
    /// Place of its rows in the batch.
    start: usize,
}

/// What is left of the way there.
enum Kept {
    /// Embeddings with their graph.
    Graph(Tensor),
    /// What went from piece to piece of the tower, and its output.
    Between(Vec<Tensor>, Tensor),
    /// Nothing: the way is gone again.
    Nothing,
}

impl<'a> Forward<'a> {
    /// Embeds a batch. `seed` decides what is dropped.
    pub(super) fn run(networks: &'a Networks<'a>, loaded: &Loaded, seed: u64) -> Result<(Self, Embeddings)> {
        let mut forward = Self { networks, pieces: Vec::new() };
        let mut columns: [Vec<Tensor>; 3] = Default::default();
        let mut present_b = Vec::new();
        let single = loaded.parts.len() == 1;
        let mut start = 0;
        for part in &loaded.parts {
            let segments = part.batch.segments.is_some().then_some(Tower::Segment);
            for tower in [Tower::Image, Tower::Text].into_iter().chain(segments) {
                let dropout = networks.dropout(tower, &part.batch, seed);
                let mut piece = Piece { tower, part: part.clone(), dropout, kept: Kept::Nothing, start };
                let (features, present) = piece.forward(networks, single)?;
                columns[tower as usize].push(features);
                if tower == Tower::Segment {
                    present_b.extend(present);
                }
                forward.pieces.push(piece);
            }
            start += part.batch.rows();
        }
        let [images, segments, texts] = columns.map(|column| Tensor::cat(&column, 0));
        let segment = match loaded.batch.segments {
            Some(_) => Some(SegmentColumn { segment_bd: segments?, present_b }),
            None => None,
        };
        Ok((forward, Embeddings { image_bd: images?, text_bd: texts?, segment }))
    }

    /// Gradients of the parameters of one tower from that of its embeddings `[B, D]`.
    pub(super) fn backward(&mut self, tower: Tower, gradient_bd: &Tensor, into: &mut Gradients) -> Result<()> {
        for piece in self.pieces.iter_mut().filter(|piece| piece.tower == tower) {
            let gradient = gradient_bd.narrow(0, piece.start, piece.part.batch.rows())?;
            piece.backward(self.networks, &gradient, into)?;
        }
        Ok(())
    }
}

impl Networks<'_> {
    fn of(&self, tower: Tower) -> (&Clip, &'static str) {
        match (tower, self.segment_tower) {
            (Tower::Segment, Some(tower)) => tower,
            _ => (self.clip, ""),
        }
    }

    fn learns(&self, tower: Tower) -> bool {
        self.of(tower).0.logit_scale().track_op()
    }

    /// Dropped values follow from the seed and from what the row is, not from where it stands: the same step on any
    /// number of ranks and in any number of pieces.
    fn dropout(&self, tower: Tower, batch: &PairBatch, seed: u64) -> Option<Dropout> {
        let share = self.settings.dropout;
        // a frozen tower learns nothing that would have to be made robust
        if share == 0.0 || !self.learns(tower) {
            return None;
        }
        let rows = match tower {
            Tower::Image => batch.image_rows().iter().map(|&row| batch.image_keys[row]).collect(),
            Tower::Text => {
                batch.image_keys.iter().zip(&batch.caption_keys).map(|(i, c)| i ^ c.rotate_left(1)).collect()
            }
            Tower::Segment => {
                let rows: Vec<u32> = batch.segments.iter().flat_map(|s| s.row_of_segment.clone()).collect();
                let nth = |s: usize| rows[..s].iter().filter(|&&row| row == rows[s]).count() as u64;
                (0..rows.len()).map(|s| batch.image_keys[rows[s] as usize].wrapping_add(nth(s))).collect()
            }
        };
        Some(Dropout::new(share, seed.wrapping_add(tower as u64), rows))
    }
}

impl Piece {
    /// Embeddings without a graph, and which rows have segments. Keeps what the way back needs, if it is to.
    fn forward(&mut self, networks: &Networks, keep: bool) -> Result<(Tensor, Vec<bool>)> {
        let (clip, _) = networks.of(self.tower);
        if self.has_no_segment() {
            let (rows, dim) = (self.part.batch.rows(), clip.config().embed_dim);
            let features = Tensor::zeros((rows, dim), wide(clip.dtype()), clip.logit_scale().device())?;
            return Ok((features, vec![false; rows]));
        }
        if keep && networks.learns(self.tower) && !networks.execution.recompute {
            let (features, present) = self.features(clip)?;
            self.kept = Kept::Graph(features.clone());
            return Ok((features.detach(), present));
        }
        let quiet = clip.without_gradients()?;
        if keep && networks.learns(self.tower) {
            let (between, output) = self.between(&quiet)?;
            let finished = self.finish(clip, &output)?;
            self.kept = Kept::Between(between, output);
            return Ok(finished);
        }
        self.features(&quiet)
    }

    fn backward(&mut self, networks: &Networks, gradient_bd: &Tensor, into: &mut Gradients) -> Result<()> {
        let (clip, prefix) = networks.of(self.tower);
        if self.has_no_segment() || !networks.learns(self.tower) {
            return Ok(());
        }
        let kept = match std::mem::replace(&mut self.kept, Kept::Nothing) {
            Kept::Nothing if networks.execution.recompute => {
                let (between, output) = self.between(&clip.without_gradients()?)?;
                Kept::Between(between, output)
            }
            Kept::Nothing => Kept::Graph(self.features(clip)?.0),
            kept => kept,
        };
        match kept {
            Kept::Graph(features) => {
                let gradients = backward_from(&features, gradient_bd)?;
                into.collect(&gradients, prefix, clip.parameters().iter())
            }
            Kept::Between(between, output) => self.back_by_piece(clip, prefix, between, &output, gradient_bd, into),
            Kept::Nothing => Ok(()),
        }
    }

    /// Runs each piece of the tower again, the last one first.
    fn back_by_piece(
        &self,
        clip: &Clip,
        prefix: &str,
        between: Vec<Tensor>,
        output: &Tensor,
        gradient_bd: &Tensor,
        into: &mut Gradients,
    ) -> Result<()> {
        let output = Var::from_tensor(output)?;
        let (features, _) = self.finish(clip, output.as_tensor())?;
        let gradients = backward_from(&features, gradient_bd)?;
        let lost = || Error::Numbers {
            what: "activation checkpointing".into(),
            problem: "a piece of the tower does not depend on the one before".into(),
        };
        let mut gradient = gradients.get(&output).ok_or_else(lost)?.clone();
        let chain = self.chain(clip)?;
        for (index, input) in between.iter().enumerate().rev() {
            let input = Var::from_tensor(input)?;
            let y = chain.piece(index + 1, Some(input.as_tensor()))?;
            let gradients = backward_from(&y, &gradient)?;
            into.collect(&gradients, prefix, clip.parameters().iter())?;
            gradient = gradients.get(&input).ok_or_else(lost)?.clone();
        }
        let gradients = backward_from(&chain.piece(0, None)?, &gradient)?;
        into.collect(&gradients, prefix, clip.parameters().iter())
    }

    /// What goes from piece to piece of the tower, and what comes out.
    fn between(&self, quiet: &Clip) -> Result<(Vec<Tensor>, Tensor)> {
        let chain = self.chain(quiet)?;
        let mut between = Vec::with_capacity(chain.pieces());
        let mut x = chain.piece(0, None)?;
        for index in 1..chain.pieces() {
            let next = chain.piece(index, Some(&x))?;
            between.push(std::mem::replace(&mut x, next));
        }
        Ok((between, x))
    }

    /// Nothing to run the tower on.
    fn has_no_segment(&self) -> bool {
        self.tower == Tower::Segment && self.part.segments.is_none()
    }

    fn features(&self, clip: &Clip) -> Result<(Tensor, Vec<bool>)> {
        self.finish(clip, &self.chain(clip)?.run()?)
    }

    fn chain<'b>(&'b self, clip: &'b Clip) -> Result<Chain<'b>> {
        let (part, dropout) = (&self.part, self.dropout.as_ref());
        Ok(match (self.tower, &part.segments) {
            (Tower::Segment, Some(segments)) => clip.image_chain(segments, dropout)?,
            (Tower::Image | Tower::Segment, _) => clip.image_chain(&part.images, dropout)?,
            (Tower::Text, _) => {
                let (ids, rows) = (&part.batch.input_ids_bl, part.batch.rows());
                clip.text_chain(&Tensor::from_slice(ids, (rows, ids.len() / rows), &Device::Cpu)?, dropout)?
            }
        })
    }

    /// A tower's output made into one normalised embedding for each row, and which rows have one.
    fn finish(&self, clip: &Clip, output: &Tensor) -> Result<(Tensor, Vec<bool>)> {
        let batch = &self.part.batch;
        let rows = batch.rows();
        let output = output.to_dtype(wide(clip.dtype()))?;
        match (self.tower, &batch.segments, &batch.image_of_row) {
            (Tower::Segment, Some(segments), _) => {
                let pooled = segment_embedding(&output, &segments.row_of_segment, &segments.weights, rows)?;
                Ok((pooled.embedding_bd, pooled.present_b))
            }
            (Tower::Image, _, Some(image_of_row)) => {
                let image_of_row = Tensor::from_slice(image_of_row, rows, output.device())?;
                Ok((l2_normalise(&output.index_select(&image_of_row, 0)?)?, vec![true; rows]))
            }
            _ => Ok((l2_normalise(&output)?, vec![true; rows])),
        }
    }
}

/// Type of losses and gradients beside a network's.
pub(super) fn wide(network: DType) -> DType {
    if network == DType::F64 { DType::F64 } else { DType::F32 }
}
