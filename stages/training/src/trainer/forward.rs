//! The towers on one rank's batch, forward and backward.
//!
//! Forward: embeddings, of one part of the batch after another. Backward: the gradient of the embeddings becomes that of
//! the parameters. Between the two, the embeddings of all ranks meet; so the graph of a large batch is never needed at
//! once, and the result is that of the large batch exactly.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use models::dual_encoder::{DualEncoder, GroupStatistics, Groups, Pass, Tower};
use models::ops::{Dropout, l2_normalise};

use super::grouping::Grouping;
use super::layers::{Exchange, Saved};
use super::loaded::{Loaded, Part};
use super::settings::{Execution, Settings};
use crate::batch::PairBatch;
use crate::communicator::Communicator;
use crate::error::{Error, Result};
use crate::gradients::Gradients;
use crate::loss::segment_embedding;
use crate::objective::TokenColumns;

/// What one tower makes of each row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Column {
    Image,
    Segment,
    Text,
    /// Texts with other ids in the places that an objective has chosen.
    Masked,
}

/// Whose towers run.
pub(super) struct Networks<'a, N> {
    pub(super) network: &'a N,
    /// The network whose image tower embeds segments, with the prefix of its parameters' names. None: `network`'s.
    pub(super) segment_tower: Option<(&'a N, &'static str)>,
    pub(super) settings: &'a Settings,
    pub(super) execution: &'a Execution,
    /// Which tokens the objective wants.
    pub(super) tokens: TokenColumns,
    /// Rows that are normalised together; none where every layer looks at one input alone.
    pub(super) grouping: Option<Grouping>,
}

/// This rank's embeddings, L2-normalised, in f32 or f64, without a graph.
pub(super) struct Embeddings {
    pub(super) image_bd: Tensor,
    pub(super) text_bd: Tensor,
    pub(super) segment: Option<SegmentColumn>,
    /// Tokens `[B, L, D]`, where they are wanted.
    pub(super) image_tokens: Option<Tensor>,
    pub(super) text_tokens: Option<Tensor>,
    pub(super) masked_tokens: Option<Tensor>,
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

/// The gradient of what one column gave.
#[derive(Default)]
pub(super) struct ColumnGradient {
    pub(super) embedding_bd: Option<Tensor>,
    pub(super) tokens_bld: Option<Tensor>,
}

/// A batch that has gone through the towers, ready to go back.
pub(super) struct Forward<'a, N> {
    networks: &'a Networks<'a, N>,
    passes: Vec<TowerPass>,
}

/// One tower on one part of the batch.
struct TowerPass {
    column: Column,
    part: Arc<Part>,
    /// Ids in place of the part's own `[B, L]`.
    masked_ids: Option<Vec<u32>>,
    dropout: Option<Dropout>,
    groups: Option<Groups>,
    saved: Saved,
    /// Place of its rows in the batch.
    start: usize,
}

/// A tower's output, one for each row.
struct Finished {
    features_bd: Tensor,
    present_b: Vec<bool>,
    tokens_bld: Option<Tensor>,
}

impl Finished {
    fn tensors(&self) -> Vec<Tensor> {
        [&self.features_bd].into_iter().chain(&self.tokens_bld).cloned().collect()
    }
}

impl<'a, N: DualEncoder> Forward<'a, N> {
    /// Embeds a batch, and finds the statistics of its groups, layer by layer. `seed` decides what is dropped;
    /// `masked_ids_bl` are texts to embed as well.
    pub(super) fn run(
        networks: &'a Networks<'a, N>,
        loaded: &Loaded,
        (seed, masked_ids_bl): (u64, Option<&[u32]>),
        ranks: &mut dyn Communicator,
    ) -> Result<(Self, Embeddings, Vec<GroupStatistics>)> {
        let mut exchange = networks.exchange(ranks);
        let mut forward = Self { networks, passes: Vec::new() };
        let mut columns: [Vec<Tensor>; 4] = Default::default();
        let mut tokens: [Vec<Tensor>; 4] = Default::default();
        let mut present_b = Vec::new();
        let mut statistics: BTreeMap<String, Vec<Tensor>> = BTreeMap::new();
        let single = loaded.parts.len() == 1;
        let mut start = 0;
        for part in &loaded.parts {
            let rows = part.batch.rows();
            let segments = part.batch.segments.is_some().then_some(Column::Segment);
            let masked = masked_ids_bl.is_some().then_some(Column::Masked);
            for column in [Column::Image, Column::Text].into_iter().chain(segments).chain(masked) {
                let length = part.batch.input_ids_bl.len() / rows;
                let masked_ids = masked_ids_bl.filter(|_| column == Column::Masked);
                let mut pass = TowerPass {
                    column,
                    masked_ids: masked_ids.map(|ids| ids[start * length..(start + rows) * length].to_vec()),
                    dropout: networks.dropout(column, &part.batch, seed),
                    groups: networks.groups(column, part, start)?,
                    part: part.clone(),
                    saved: Saved::Nothing,
                    start,
                };
                let (finished, found) = pass.forward(networks, single, exchange.as_mut())?;
                columns[column as usize].push(finished.features_bd);
                tokens[column as usize].extend(finished.tokens_bld);
                if column == Column::Segment {
                    present_b.extend(finished.present_b);
                }
                // the network is used on whole images and texts: what it remembers is theirs
                if matches!(column, Column::Image | Column::Text) {
                    for GroupStatistics { layer, values_gk } in found {
                        statistics.entry(layer).or_default().push(values_gk.detach());
                    }
                }
                forward.passes.push(pass);
            }
            start += rows;
        }
        let put_together = |parts: &Vec<Tensor>| (!parts.is_empty()).then(|| Tensor::cat(parts, 0)).transpose();
        let [images, segments, texts, _] = &columns;
        let segment = put_together(segments)?.map(|segment_bd| SegmentColumn { segment_bd, present_b });
        let [image_tokens, _, text_tokens, masked_tokens] = &tokens;
        let embeddings = Embeddings {
            image_bd: Tensor::cat(images, 0)?,
            text_bd: Tensor::cat(texts, 0)?,
            segment,
            image_tokens: put_together(image_tokens)?,
            text_tokens: put_together(text_tokens)?,
            masked_tokens: put_together(masked_tokens)?,
        };
        let statistics = statistics
            .into_iter()
            .map(|(layer, parts)| Ok(GroupStatistics { layer, values_gk: Tensor::cat(&parts, 0)? }));
        let statistics = statistics.collect::<Result<_>>()?;
        Ok((forward, embeddings, statistics))
    }

    /// Gradients of the parameters of the towers from those of some columns. `ranks` are needed where groups cross them.
    pub(super) fn backward<'g>(
        &mut self,
        columns: impl IntoIterator<Item = (Column, &'g ColumnGradient)>,
        into: &mut Gradients,
        ranks: Option<&mut dyn Communicator>,
    ) -> Result<()> {
        let mut exchange = ranks.and_then(|ranks| self.networks.exchange(ranks));
        let passes = &mut self.passes;
        for (column, gradient) in columns {
            for pass in passes.iter_mut().filter(|pass| pass.column == column) {
                let rows = pass.part.batch.rows();
                let of_part = |gradient: &Option<Tensor>| {
                    gradient.as_ref().map(|gradient| gradient.narrow(0, pass.start, rows)).transpose()
                };
                let gradients = [of_part(&gradient.embedding_bd)?, of_part(&gradient.tokens_bld)?];
                pass.backward(self.networks, &gradients, into, exchange.as_mut())?;
            }
        }
        Ok(())
    }
}

impl<N: DualEncoder> Networks<'_, N> {
    fn of(&self, column: Column) -> (&N, &'static str) {
        match (column, self.segment_tower) {
            (Column::Segment, Some(tower)) => tower,
            _ => (self.network, ""),
        }
    }

    fn learns(&self, column: Column) -> bool {
        self.of(column).0.learns()
    }

    fn wants_tokens(&self, column: Column) -> bool {
        match column {
            Column::Image => self.tokens.image,
            Column::Text => self.tokens.text,
            Column::Masked => true,
            Column::Segment => false,
        }
    }

    /// Whether ranks add up numbers between layers.
    pub(super) fn crosses_ranks(&self) -> bool {
        self.grouping.is_some_and(|grouping| grouping.crosses_ranks())
    }

    fn exchange<'b>(&self, ranks: &'b mut dyn Communicator) -> Option<Exchange<'b>> {
        self.crosses_ranks().then_some(Exchange(ranks))
    }

    /// Rows that are normalised together; a frozen tower normalises as it did when it was last used.
    fn groups(&self, column: Column, part: &Part, start: usize) -> Result<Option<Groups>> {
        let Some(grouping) = self.grouping.filter(|_| self.learns(column)) else { return Ok(None) };
        let batch = &part.batch;
        let row_of_input: Vec<usize> = match (column, &batch.segments) {
            (Column::Image, _) => batch.image_rows(),
            (Column::Segment, Some(segments)) if segments.row_of_segment.is_empty() => {
                // a blank one, so that other ranks do not wait
                return Ok(Some(grouping.of_rows((start, batch.rows()), [0].into_iter(), &[false])?));
            }
            (Column::Segment, Some(segments)) => segments.row_of_segment.iter().map(|&row| row as usize).collect(),
            _ => (0..batch.rows()).collect(),
        };
        let counts: Vec<bool> = row_of_input.iter().map(|&row| batch.valid[row]).collect();
        Ok(Some(grouping.of_rows((start, batch.rows()), row_of_input.into_iter(), &counts)?))
    }

    /// Dropped values follow from the seed and from what the row is, not from where it stands: the same step on any
    /// number of ranks and in any number of parts.
    fn dropout(&self, column: Column, batch: &PairBatch, seed: u64) -> Option<Dropout> {
        let share = self.settings.dropout;
        // a frozen tower learns nothing that would have to be made robust
        if share == 0.0 || !self.learns(column) {
            return None;
        }
        let rows = match column {
            Column::Image => batch.image_rows().iter().map(|&row| batch.image_keys[row]).collect(),
            Column::Text | Column::Masked => {
                batch.image_keys.iter().zip(&batch.caption_keys).map(|(i, c)| i ^ c.rotate_left(1)).collect()
            }
            Column::Segment => {
                let rows: Vec<u32> = batch.segments.iter().flat_map(|s| s.row_of_segment.clone()).collect();
                if rows.is_empty() {
                    return None;
                }
                let nth = |s: usize| rows[..s].iter().filter(|&&row| row == rows[s]).count() as u64;
                (0..rows.len()).map(|s| batch.image_keys[rows[s] as usize].wrapping_add(nth(s))).collect()
            }
        };
        Some(Dropout::new(share, seed.wrapping_add(column as u64), rows))
    }
}

impl TowerPass {
    /// Output without a graph, and the statistics of its groups. Saves what the way back needs, if it is to.
    fn forward<N: DualEncoder>(
        &mut self,
        networks: &Networks<N>,
        keep: bool,
        exchange: Option<&mut Exchange>,
    ) -> Result<(Finished, Vec<GroupStatistics>)> {
        let (network, _) = networks.of(self.column);
        if self.has_no_segment() && exchange.is_none() {
            let (rows, dim) = (self.part.batch.rows(), network.embed_dim());
            let features_bd = Tensor::zeros((rows, dim), wide(network.dtype()), network.device())?;
            return Ok((Finished { features_bd, present_b: vec![false; rows], tokens_bld: None }, Vec::new()));
        }
        if !keep || !networks.learns(self.column) {
            let quiet = network.without_gradients()?;
            let (output, statistics) = super::layers::run(self.tower(networks, &quiet)?.as_ref(), exchange)?;
            return Ok((self.finish(&quiet, &output)?, statistics));
        }
        let (saved, finished, statistics) = self.run_and_save(networks, exchange)?;
        self.saved = saved;
        let Finished { features_bd, present_b, tokens_bld } = finished;
        let tokens_bld = tokens_bld.map(|tokens| tokens.detach());
        Ok((Finished { features_bd: features_bd.detach(), present_b, tokens_bld }, statistics))
    }

    fn run_and_save<N: DualEncoder>(
        &self,
        networks: &Networks<N>,
        exchange: Option<&mut Exchange>,
    ) -> Result<(Saved, Finished, Vec<GroupStatistics>)> {
        let (network, _) = networks.of(self.column);
        if networks.execution.recompute {
            let quiet = network.without_gradients()?;
            let (saved, statistics) = Saved::inputs(self.tower(networks, &quiet)?.as_ref(), exchange)?;
            let finished = self.finish(&quiet, saved.output())?;
            return Ok((saved, finished, statistics));
        }
        let mut finished = None;
        let finish = |output: &[Tensor]| {
            let of_rows = self.finish(network, output)?;
            let tensors = of_rows.tensors();
            finished = Some(of_rows);
            Ok(tensors)
        };
        let (saved, statistics) = Saved::graph(self.tower(networks, network)?.as_ref(), finish, exchange)?;
        let finished = finished.expect("a tower that has run is finished");
        Ok((saved, finished, statistics))
    }

    fn backward<N: DualEncoder>(
        &mut self,
        networks: &Networks<N>,
        gradients: &[Option<Tensor>],
        into: &mut Gradients,
        mut exchange: Option<&mut Exchange>,
    ) -> Result<()> {
        let (network, prefix) = networks.of(self.column);
        if (self.has_no_segment() && exchange.is_none()) || !networks.learns(self.column) {
            return Ok(());
        }
        let saved = match std::mem::replace(&mut self.saved, Saved::Nothing) {
            Saved::Nothing => self.run_and_save(networks, exchange.as_deref_mut())?.0,
            saved => saved,
        };
        let finish = |output: &[Tensor]| Ok(self.finish(network, output)?.tensors());
        saved.backward(
            || self.tower(networks, network),
            finish,
            gradients,
            exchange,
            |store| into.collect(store, prefix, network.parameters().iter()),
        )
    }

    /// Nothing to run the tower on.
    fn has_no_segment(&self) -> bool {
        let segments = self.part.batch.segments.as_ref();
        self.column == Column::Segment && segments.is_none_or(|segments| segments.row_of_segment.is_empty())
    }

    fn tower<'b, N: DualEncoder>(&'b self, networks: &Networks<N>, network: &'b N) -> Result<Box<dyn Tower + 'b>> {
        let part = &self.part;
        let tokens = networks.wants_tokens(self.column);
        let pass = Pass { dropout: self.dropout.as_ref(), groups: self.groups.as_ref(), tokens };
        Ok(match (self.column, &part.segments) {
            (Column::Segment, Some(segments)) => network.image_tower(segments, pass)?,
            (Column::Image | Column::Segment, _) => network.image_tower(&part.images, pass)?,
            (Column::Text | Column::Masked, _) => {
                let ids = self.masked_ids.as_ref().unwrap_or(&part.batch.input_ids_bl);
                let rows = part.batch.rows();
                network.text_tower(&Tensor::from_slice(ids, (rows, ids.len() / rows), &Device::Cpu)?, pass)?
            }
        })
    }

    /// A tower's output made into one normalised embedding for each row, and which rows have one.
    fn finish<N: DualEncoder>(&self, network: &N, output: &[Tensor]) -> Result<Finished> {
        let batch = &self.part.batch;
        let rows = batch.rows();
        let widened = |tensor: &Tensor| tensor.to_dtype(wide(network.dtype()));
        let embeddings = widened(&output[0])?;
        let tokens_bld = output.get(1).map(widened).transpose()?;
        if let (Column::Text | Column::Masked, Some(tokens)) = (self.column, &tokens_bld)
            && tokens.dim(1)? != batch.input_ids_bl.len() / rows
        {
            let problem = format!("have shape {:?}: as many are wanted as a text has ids", tokens.shape());
            return Err(Error::argument("tokens of texts", problem));
        }
        if self.has_no_segment() {
            // nothing of a blank image is learnt, but its layers are on the way: candle leaves out what is times the number 0
            let nothing = (&embeddings * embeddings.zeros_like()?)?.sum_keepdim(0)?;
            let nothing = nothing.broadcast_as((rows, network.embed_dim()))?.contiguous()?;
            return Ok(Finished { features_bd: nothing, present_b: vec![false; rows], tokens_bld: None });
        }
        match (self.column, &batch.segments, &batch.image_of_row) {
            (Column::Segment, Some(segments), _) => {
                let pooled = segment_embedding(&embeddings, &segments.row_of_segment, &segments.weights, rows)?;
                Ok(Finished { features_bd: pooled.embedding_bd, present_b: pooled.present_b, tokens_bld: None })
            }
            (Column::Image, _, Some(image_of_row)) => {
                let image_of_row = Tensor::from_slice(image_of_row, rows, embeddings.device())?;
                let features_bd = l2_normalise(&embeddings.index_select(&image_of_row, 0)?)?;
                let tokens_bld = tokens_bld.map(|tokens| tokens.index_select(&image_of_row, 0)).transpose()?;
                Ok(Finished { features_bd, present_b: vec![true; rows], tokens_bld })
            }
            _ => Ok(Finished { features_bd: l2_normalise(&embeddings)?, present_b: vec![true; rows], tokens_bld }),
        }
    }
}

/// Type of losses and gradients beside a network's.
pub(super) fn wide(network: DType) -> DType {
    if network == DType::F64 { DType::F64 } else { DType::F32 }
}
