//! One step of a training: forward, the meeting of all ranks, and backward.

use candle_core::backprop::GradStore;
use candle_core::{DType, Tensor, Var};
use models::dual_encoder::{DualEncoder, GroupStatistics, LOGIT_SCALE};

use super::forward::{Column, ColumnGradient, Forward, Networks, wide};
use super::gather::gather;
use super::loaded::Loaded;
use super::phases::StopWatch;
use crate::communicator::Communicator;
use crate::error::{Error, Result};
use crate::gradients::Gradients;
use crate::objective::Gathered;
use crate::objective::{Differentiated, OBJECTIVE_PREFIX, Objective, StepInfo};

/// What a step has found: the same on all ranks.
pub(super) struct Found {
    /// Of all ranks together.
    pub(super) gradients: Gradients,
    /// Of what the objective moves itself, likewise.
    pub(super) own: Gradients,
    /// Names of the parts of the loss.
    pub(super) parts: Vec<&'static str>,
    /// The parts, of all ranks together, in f64 on the device `[P]`.
    pub(super) losses: Tensor,
    /// Of the groups that layers have normalised.
    pub(super) statistics: Vec<GroupStatistics>,
    /// Pairs of the global batch that take part.
    pub(super) pairs: u64,
}

/// Gradients of the global batch, of which `loaded` is this rank's slice. What the towers carry back is `loss_scale` times
/// as large, so that f16 does not lose it; the gradients found are not.
///
/// # Errors
/// A batch that contradicts itself, a rank that is gone, the objective's.
pub(super) fn differentiate<N: DualEncoder>(
    networks: &Networks<'_, N>,
    objective: &mut dyn Objective,
    loaded: &Loaded,
    (info, seed, loss_scale): (StepInfo, u64, f64),
    (ranks, watch): (&mut dyn Communicator, &mut StopWatch),
) -> Result<Found> {
    let masked_ids_bl = objective.masked_ids(&loaded.batch, info)?;
    let ids = loaded.batch.input_ids_bl.len();
    if let Some(masked) = masked_ids_bl.as_ref().filter(|masked| masked.len() != ids) {
        return Err(Error::argument("masked ids", format!("are {}, those of the texts {ids}", masked.len())));
    }
    let (mut forward, embeddings, statistics) =
        Forward::run(networks, loaded, (seed, masked_ids_bl.as_deref()), ranks)?;
    watch.end(|phases| &mut phases.forward)?;
    let gathered = gather(&embeddings, &loaded.batch, networks.network, ranks)?;
    drop(embeddings);
    let statistics = gather_statistics(statistics, networks, ranks)?;
    watch.end(|phases| &mut phases.all_reduce)?;
    let Differentiated { gradients: of_leaves, parts, own, joint } = objective.differentiate(&gathered, info, ranks)?;
    watch.end(|phases| &mut phases.forward)?;
    let mut of_columns = own_gradients(&gathered, &of_leaves, ranks)?;
    watch.end(|phases| &mut phases.all_reduce)?;
    if loss_scale != 1.0 {
        of_columns.scale(loss_scale)?;
    }
    let any_segment = gathered.segments.as_ref().is_some_and(|segments| segments.present_n.contains(&true));
    let scale = networks.network.parameters().get(LOGIT_SCALE).and_then(|var| Some((var, of_leaves.get(var)?.clone())));
    let pairs = gathered.valid_n.iter().filter(|&&valid| valid).count() as u64;
    // tokens of all ranks are large, and the towers need the memory now
    drop((gathered, of_leaves));
    let joint = joint.with_prefix(OBJECTIVE_PREFIX);
    let (own_names, joint_names) = (own.names(), joint.names());
    let mut others = own;
    others.merge(joint)?;
    let mut gradients = backward(&mut forward, networks, (&of_columns, any_segment), others, (ranks, watch))?;
    let own = gradients.take(&own_names);
    if loss_scale != 1.0 {
        let joint = gradients.take(&joint_names);
        gradients = gradients.scaled(loss_scale.recip())?;
        gradients.merge(joint)?;
    }
    // losses and temperature travel together: a few numbers cost as much as one
    let mut numbers = Vec::with_capacity(parts.len() + 1);
    for (_, value) in &parts {
        numbers.push(value.to_dtype(DType::F64)?);
    }
    if let Some((_, gradient)) = &scale {
        numbers.push(gradient.flatten_all()?.sum_all()?.to_dtype(DType::F64)?);
    }
    let mut summed = Tensor::stack(&numbers, 0)?;
    if ranks.world_size() > 1 {
        summed = ranks.all_reduce_sum(&summed)?;
    }
    let parts: Vec<&'static str> = parts.iter().map(|(name, _)| *name).collect();
    if let Some((var, gradient)) = scale {
        let total = summed.get(parts.len())?.to_dtype(wide(gradient.dtype()))?.reshape(var.shape())?;
        gradients.add(LOGIT_SCALE, &total)?;
    }
    let losses = summed.narrow(0, 0, parts.len())?;
    watch.end(|phases| &mut phases.all_reduce)?;
    Ok(Found { gradients, own, parts, losses, statistics, pairs })
}

/// The statistics of all groups of the batch, in their order.
fn gather_statistics<N: DualEncoder>(
    own: Vec<GroupStatistics>,
    networks: &Networks<'_, N>,
    ranks: &mut dyn Communicator,
) -> Result<Vec<GroupStatistics>> {
    // where groups cross ranks each rank has found those of all
    if ranks.world_size() == 1 || networks.crosses_ranks() {
        return Ok(own);
    }
    let all = own.into_iter().map(|GroupStatistics { layer, values_gk }| {
        Ok(GroupStatistics { layer, values_gk: ranks.all_gather(&values_gk.contiguous()?)? })
    });
    all.collect()
}

/// The gradients of this rank's columns, of all ranks' losses.
struct OwnGradients {
    image: ColumnGradient,
    text: ColumnGradient,
    segment: Option<ColumnGradient>,
    masked: Option<ColumnGradient>,
}

impl OwnGradients {
    fn scale(&mut self, factor: f64) -> Result<()> {
        let Self { image, text, segment, masked } = self;
        for column in [image, text].into_iter().chain(segment).chain(masked) {
            for gradient in column.embedding_bd.iter_mut().chain(&mut column.tokens_bld) {
                *gradient = (&*gradient * factor)?;
            }
        }
        Ok(())
    }
}

fn own_gradients(gathered: &Gathered, store: &GradStore, ranks: &mut dyn Communicator) -> Result<OwnGradients> {
    let of = |leaf: &Var| match store.get(leaf) {
        Some(gradient) => Ok(gradient.clone()),
        None => leaf.as_detached_tensor().zeros_like(),
    };
    let mut columns = vec![of(&gathered.image_nd)?, of(&gathered.text_nd)?];
    if let Some(segments) = &gathered.segments {
        columns.push(of(&segments.segment_nd)?);
    }
    let dim = columns[0].dim(1)?;
    let own = ranks.reduce_scatter_sum(&Tensor::cat(&columns, 1)?.contiguous()?)?;
    let embedding_bd = |column: usize| own.narrow(1, column * dim, dim).map(Some);
    let mut tokens_bld = |leaf: Option<&Var>| -> Result<Option<Tensor>> {
        leaf.map(|leaf| ranks.reduce_scatter_sum(&of(leaf)?.contiguous()?)).transpose()
    };
    let tokens = gathered.tokens.as_ref();
    let image_tokens = tokens_bld(tokens.and_then(|tokens| tokens.image_nld.as_ref()))?;
    let text_tokens = tokens_bld(tokens.and_then(|tokens| tokens.text_nld.as_ref()))?;
    let masked_tokens = tokens_bld(tokens.and_then(|tokens| tokens.masked_nld.as_ref()))?;
    let segment = match gathered.segments {
        Some(_) => Some(ColumnGradient { embedding_bd: embedding_bd(2)?, tokens_bld: None }),
        None => None,
    };
    Ok(OwnGradients {
        image: ColumnGradient { embedding_bd: embedding_bd(0)?, tokens_bld: image_tokens },
        text: ColumnGradient { embedding_bd: embedding_bd(1)?, tokens_bld: text_tokens },
        segment,
        masked: masked_tokens.map(|tokens| ColumnGradient { embedding_bd: None, tokens_bld: Some(tokens) }),
    })
}

/// Gradients of all parameters, summed over ranks; those that are there already travel with them.
///
/// candle's backward hands out gradients when it is done, so buckets cannot leave while a tower is on its way. But the
/// towers do not depend on one another on the way back: the image tower's gradients travel while the text tower is
/// still computing.
fn backward<N: DualEncoder>(
    forward: &mut Forward<'_, N>,
    networks: &Networks<'_, N>,
    (of_columns, any_segment): (&OwnGradients, bool),
    others: Gradients,
    (ranks, watch): (&mut dyn Communicator, &mut StopWatch),
) -> Result<Gradients> {
    let mut visual = others;
    let OwnGradients { image, text: of_text, segment, masked } = of_columns;
    // where no row of any rank has a segment nothing is learnt from the column, on one rank as on several
    let segment = segment.as_ref().filter(|_| any_segment);
    let images = [(Column::Image, image)].into_iter().chain(segment.map(|of| (Column::Segment, of)));
    let texts = [(Column::Text, of_text)].into_iter().chain(masked.iter().map(|of| (Column::Masked, of)));
    forward.backward(images, &mut visual, Some(&mut *ranks))?;
    let mut text = Gradients::default();
    if ranks.world_size() == 1 {
        forward.backward(texts, &mut text, None)?;
        visual.merge(text)?;
        watch.end(|phases| &mut phases.backward)?;
        return Ok(visual);
    }
    // A rank without segments brings zeros for a tower that the others' segments have reached.
    if let Some((tower, prefix)) = networks.segment_tower
        && any_segment
        && tower.learns()
    {
        visual.fill(prefix, image_tower(tower))?;
    }
    visual.fill("", image_tower(networks.network))?;
    let bucket_bytes = networks.execution.bucket_bytes;
    let mut summed = if networks.crosses_ranks() {
        // the text tower may need the others on its way
        forward.backward(texts, &mut text, Some(&mut *ranks))?;
        watch.end(|phases| &mut phases.backward)?;
        visual.sum_over_ranks(ranks, bucket_bytes)?
    } else {
        std::thread::scope(|scope| {
            let sending = scope.spawn(|| visual.sum_over_ranks(&mut *ranks, bucket_bytes));
            let computed = forward.backward(texts, &mut text, None);
            let timed = watch.end(|phases| &mut phases.backward);
            let summed = sending.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            computed.and(timed)?;
            Ok::<_, Error>(summed)
        })?
    };
    let is_of_text = |name: &str| !N::is_of_image_tower(name) && name != LOGIT_SCALE;
    text.fill("", networks.network.parameters().iter().filter(|(name, _)| is_of_text(name)))?;
    summed.merge(text.sum_over_ranks(ranks, bucket_bytes)?)?;
    watch.end(|phases| &mut phases.all_reduce)?;
    Ok(summed)
}

/// Parameters of the image tower.
pub(super) fn image_tower<N: DualEncoder>(network: &N) -> impl Iterator<Item = (&str, &Var)> {
    network.parameters().iter().filter(|(name, _)| N::is_of_image_tower(name))
}
