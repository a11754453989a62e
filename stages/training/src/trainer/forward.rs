//! The towers on one rank's batch, there and back.
//!
//! There: embeddings, of one piece of the batch after another. Back: the gradient of the embeddings becomes that of the
//! parameters. Between the two, the embeddings of all ranks meet; so the graph of a large batch is never needed at once,
//! and the result is that of the large batch exactly.

use std::rc::Rc;

use candle_core::{DType, Device, Tensor, Var};
use models::clip::{Chain, Clip};
use models::ops::{Dropout, backward_from, l2_normalise};

use super::settings::{Execution, Settings};
use crate::batch::{PairBatch, SegmentBatch};
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
    batch: Rc<PairBatch>,
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
    pub(super) fn run(networks: &'a Networks<'a>, batch: &Rc<PairBatch>, seed: u64) -> Result<(Self, Embeddings)> {
        check(batch, networks.clip.config().vision.image_size)?;
        let mut forward = Self { networks, pieces: Vec::new() };
        let mut columns: [Vec<Tensor>; 3] = Default::default();
        let mut present_b = Vec::new();
        // a whole batch is not copied: its pixels are many
        let parts = match networks.execution.micro_batches {
            0 | 1 => vec![batch.clone()],
            count => batch.parts(count).into_iter().map(Rc::new).collect(),
        };
        let single = parts.len() == 1;
        let mut start = 0;
        for part in parts {
            let segments = part.segments.is_some().then_some(Tower::Segment);
            for tower in [Tower::Image, Tower::Text].into_iter().chain(segments) {
                let dropout = networks.dropout(tower, &part, seed);
                let mut piece = Piece { tower, batch: part.clone(), dropout, kept: Kept::Nothing, start };
                let (features, present) = piece.there(networks, single)?;
                columns[tower as usize].push(features);
                if tower == Tower::Segment {
                    present_b.extend(present);
                }
                forward.pieces.push(piece);
            }
            start += part.rows();
        }
        let [images, segments, texts] = columns.map(|column| Tensor::cat(&column, 0));
        let segment = match batch.segments {
            Some(_) => Some(SegmentColumn { segment_bd: segments?, present_b }),
            None => None,
        };
        Ok((forward, Embeddings { image_bd: images?, text_bd: texts?, segment }))
    }

    /// Gradients of the parameters of one tower from that of its embeddings `[B, D]`.
    pub(super) fn back(&mut self, tower: Tower, gradient_bd: &Tensor, into: &mut Gradients) -> Result<()> {
        for piece in self.pieces.iter_mut().filter(|piece| piece.tower == tower) {
            let gradient = gradient_bd.narrow(0, piece.start, piece.batch.rows())?;
            piece.back(self.networks, &gradient, into)?;
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
    fn there(&mut self, networks: &Networks, keep: bool) -> Result<(Tensor, Vec<bool>)> {
        let (clip, _) = networks.of(self.tower);
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

    fn back(&mut self, networks: &Networks, gradient_bd: &Tensor, into: &mut Gradients) -> Result<()> {
        let (clip, prefix) = networks.of(self.tower);
        let nothing_to_learn = self.tower == Tower::Segment && self.segment_count() == 0;
        if nothing_to_learn || !networks.learns(self.tower) {
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

    fn segment_count(&self) -> usize {
        self.batch.segments.as_ref().map_or(0, |segments| segments.row_of_segment.len())
    }

    fn features(&self, clip: &Clip) -> Result<(Tensor, Vec<bool>)> {
        if self.tower == Tower::Segment && self.segment_count() == 0 {
            let (rows, dim) = (self.batch.rows(), clip.config().embed_dim);
            let scale = clip.logit_scale();
            return Ok((Tensor::zeros((rows, dim), wide(clip.dtype()), scale.device())?, vec![false; rows]));
        }
        self.finish(clip, &self.chain(clip)?.run()?)
    }

    fn chain<'b>(&'b self, clip: &'b Clip) -> Result<Chain<'b>> {
        let (batch, dropout) = (&self.batch, self.dropout.as_ref());
        let images = |values: &[f32]| -> Result<Tensor> {
            let side = clip.config().vision.image_size;
            let shape = (values.len() / (3 * side * side), 3, side, side);
            Ok(Tensor::from_slice(values, shape, &Device::Cpu)?.to_device(clip.logit_scale().device())?)
        };
        Ok(match self.tower {
            Tower::Image => clip.image_chain(&images(&batch.pixel_values_bchw)?, dropout)?,
            Tower::Segment => {
                let none = SegmentBatch::default();
                let segments = batch.segments.as_ref().unwrap_or(&none);
                clip.image_chain(&images(&segments.pixel_values_schw)?, dropout)?
            }
            Tower::Text => {
                let shape = (batch.rows(), batch.input_ids_bl.len() / batch.rows());
                clip.text_chain(&Tensor::from_slice(&batch.input_ids_bl, shape, &Device::Cpu)?, dropout)?
            }
        })
    }

    /// A tower's output made into one normalised embedding for each row, and which rows have one.
    fn finish(&self, clip: &Clip, output: &Tensor) -> Result<(Tensor, Vec<bool>)> {
        let rows = self.batch.rows();
        let output = output.to_dtype(wide(clip.dtype()))?;
        match (self.tower, &self.batch.segments, &self.batch.image_of_row) {
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

fn check(batch: &PairBatch, side: usize) -> Result<()> {
    let rows = batch.rows();
    let image = 3 * side * side;
    let images = match &batch.image_of_row {
        None => rows,
        Some(image_of_row) => image_of_row.last().map_or(0, |&i| i as usize + 1),
    };
    let indices = batch.image_of_row.as_ref().map_or(rows, Vec::len);
    let no_segments = SegmentBatch::default();
    let segments = batch.segments.as_ref().unwrap_or(&no_segments);
    let count = segments.row_of_segment.len();
    let domains = batch.domains.as_ref().map_or((rows, rows), |d| (d.target_b.len(), d.weights_b.len()));
    for (what, found, expected) in [
        ("pixel_values_bchw", batch.pixel_values_bchw.len(), images * image),
        ("image_of_row", indices, rows),
        ("caption_keys", batch.caption_keys.len(), rows),
        ("valid", batch.valid.len(), rows),
        ("pixel_values_schw", segments.pixel_values_schw.len(), count * image),
        ("segment weights", segments.weights.len(), count),
        ("domains", domains.0, rows),
        ("weights of rows", domains.1, rows),
    ] {
        if found != expected {
            let problem = format!(
                "has {found} values; {rows} rows, {images} images and {count} segments \
                 of {side} x {side} pixels need {expected}"
            );
            return Err(Error::argument(what, problem));
        }
    }
    if let Some(image_of_row) = &batch.image_of_row
        && !(image_of_row.first() == Some(&0)
            && image_of_row.windows(2).all(|pair| pair[1] - pair[0].min(pair[1]) <= 1 && pair[0] <= pair[1]))
    {
        return Err(Error::argument("image_of_row", "must count up from 0: the rows of an image stand together"));
    }
    if let Some(&row) = segments.row_of_segment.iter().find(|&&row| row as usize >= rows) {
        return Err(Error::argument("segments", format!("one has row {row} of {rows}")));
    }
    let ids = batch.input_ids_bl.len();
    if rows == 0 || ids == 0 || !ids.is_multiple_of(rows) {
        let problem = format!("has {ids} values for {rows} rows: needs as many ids in every row");
        return Err(Error::argument("input_ids_bl", problem));
    }
    Ok(())
}
