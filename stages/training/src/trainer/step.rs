//! One step of a training: there, the meeting of all ranks, and back.

use candle_core::backprop::GradStore;
use candle_core::{DType, Tensor, Var};
use models::clip::Clip;

use super::forward::{Forward, Networks, Tower, wide};
use super::gather::{Gathered, gather};
use super::loaded::Loaded;
use super::phases::StopWatch;
use crate::communicator::Communicator;
use crate::error::Result;
use crate::gradients::Gradients;
use crate::objective::{Objective, StepInfo};

/// Name of the temperature among the parameters.
const LOGIT_SCALE: &str = "logit_scale";

/// What a step has found: the same on all ranks.
pub(super) struct Found {
    /// Of all ranks together.
    pub(super) gradients: Gradients,
    /// Of what the objective learns itself, likewise.
    pub(super) own: Gradients,
    /// Names of the parts of the loss.
    pub(super) parts: Vec<&'static str>,
    /// The parts, of all ranks together, in f64 on the device `[P]`.
    pub(super) losses: Tensor,
}

/// Gradients of the global batch, of which `loaded` is this rank's slice. What the towers carry back is `loss_scale` times
/// as large, so that f16 does not lose it; the gradients found are not.
///
/// # Errors
/// A batch that contradicts itself, a rank that is gone, the objective's.
pub(super) fn differentiate(
    networks: &Networks<'_>,
    objective: &mut dyn Objective,
    loaded: &Loaded,
    (info, seed, loss_scale): (StepInfo, u64, f64),
    (ranks, watch): (&mut dyn Communicator, &mut StopWatch),
) -> Result<Found> {
    let (mut forward, embeddings) = Forward::run(networks, loaded, seed)?;
    watch.end(|phases| &mut phases.forward)?;
    let gathered = gather(&embeddings, &loaded.batch, networks.clip.logit_scale(), ranks)?;
    watch.end(|phases| &mut phases.all_reduce)?;
    let differentiated = objective.differentiate(&gathered, info, ranks)?;
    watch.end(|phases| &mut phases.forward)?;
    let mut of_columns = own_gradients(&gathered, &differentiated.gradients, ranks)?;
    watch.end(|phases| &mut phases.all_reduce)?;
    if loss_scale != 1.0 {
        of_columns = of_columns.into_iter().map(|column| column * loss_scale).collect::<Result<_, _>>()?;
    }
    let any_segment = gathered.segments.as_ref().is_some_and(|segments| segments.present_n.contains(&true));
    let names = differentiated.own.names();
    let mut gradients =
        backward(&mut forward, networks, (&of_columns, any_segment), differentiated.own, (ranks, watch))?;
    let own = gradients.take(&names);
    if loss_scale != 1.0 {
        gradients = gradients.scaled(loss_scale.recip())?;
    }
    // losses and temperature travel together: a few numbers cost as much as one
    let scale =
        networks.clip.parameters().get(LOGIT_SCALE).and_then(|var| differentiated.gradients.get(var).map(|g| (var, g)));
    let mut numbers = Vec::with_capacity(differentiated.parts.len() + 1);
    for (_, value) in &differentiated.parts {
        numbers.push(value.to_dtype(DType::F64)?);
    }
    if let Some((_, gradient)) = scale {
        numbers.push(gradient.flatten_all()?.sum_all()?.to_dtype(DType::F64)?);
    }
    let mut summed = Tensor::stack(&numbers, 0)?;
    if ranks.world_size() > 1 {
        summed = ranks.all_reduce_sum(&summed)?;
    }
    let parts: Vec<&'static str> = differentiated.parts.iter().map(|(name, _)| *name).collect();
    if let Some((var, gradient)) = scale {
        let total = summed.get(parts.len())?.to_dtype(wide(gradient.dtype()))?.reshape(var.shape())?;
        gradients.add(LOGIT_SCALE, &total)?;
    }
    let losses = summed.narrow(0, 0, parts.len())?;
    watch.end(|phases| &mut phases.all_reduce)?;
    Ok(Found { gradients, own, parts, losses })
}

/// The gradient of this rank's embeddings, of all ranks' losses: images, captions and, where there are any, segments
/// `[B, D]` each.
fn own_gradients(gathered: &Gathered, store: &GradStore, ranks: &mut dyn Communicator) -> Result<Vec<Tensor>> {
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
    Ok((0..columns.len()).map(|column| own.narrow(1, column * dim, dim)).collect::<Result<_, _>>()?)
}

/// Gradients of all parameters, summed over ranks; those that are there already travel with them.
///
/// candle's backward hands out gradients when it is done, so buckets cannot leave while a tower is on its way. But the
/// towers do not depend on one another on the way back: the image tower's gradients travel while the text tower is
/// still computing.
fn backward(
    forward: &mut Forward<'_>,
    networks: &Networks<'_>,
    (of_columns, any_segment): (&[Tensor], bool),
    own: Gradients,
    (ranks, watch): (&mut dyn Communicator, &mut StopWatch),
) -> Result<Gradients> {
    let mut visual = own;
    forward.backward(Tower::Image, &of_columns[0], &mut visual)?;
    if let Some(of_segments) = of_columns.get(2) {
        forward.backward(Tower::Segment, of_segments, &mut visual)?;
    }
    let mut text = Gradients::default();
    if ranks.world_size() == 1 {
        forward.backward(Tower::Text, &of_columns[1], &mut text)?;
        visual.extend(text);
        watch.end(|phases| &mut phases.backward)?;
        return Ok(visual);
    }
    // A rank without segments brings zeros for a tower that the others' segments have reached.
    if let Some((tower, prefix)) = networks.segment_tower
        && any_segment
        && tower.logit_scale().track_op()
    {
        visual.fill(prefix, image_tower(tower))?;
    }
    visual.fill("", image_tower(networks.clip))?;
    let bucket_bytes = networks.execution.bucket_bytes;
    std::thread::scope(|scope| {
        let sending = scope.spawn(|| {
            let summed = visual.sum_over_ranks(ranks, bucket_bytes);
            (summed, ranks)
        });
        let computed = forward.backward(Tower::Text, &of_columns[1], &mut text);
        let timed = watch.end(|phases| &mut phases.backward);
        let (summed, ranks) = sending.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let mut summed = summed?;
        computed.and(timed)?;
        text.fill(
            "",
            networks.clip.parameters().iter().filter(|(name, _)| !is_image_tower(name) && *name != LOGIT_SCALE),
        )?;
        summed.extend(text.sum_over_ranks(ranks, bucket_bytes)?);
        watch.end(|phases| &mut phases.all_reduce)?;
        Ok(summed)
    })
}

fn is_image_tower(name: &str) -> bool {
    name.starts_with("visual.")
}

/// Parameters of the image tower.
pub(super) fn image_tower(clip: &Clip) -> impl Iterator<Item = (&str, &Var)> {
    clip.parameters().iter().filter(|(name, _)| is_image_tower(name))
}
