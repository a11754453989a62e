//! What the sampler makes of a batch, epoch by epoch: how similar sources are to targets, which of them are chosen, and what
//! they weigh (the paper's Figure 3). Similarities are of frozen vectors, so that it can be told without training.

use std::path::Path;

use manifests::{BuildSpec, PairSpec};
use serde::Serialize;
use training::adapt::{choose_sources, sample_weights};
use training::batch::BoxError;

use super::batches::Batches;
use super::{Opened, batches_of, settings};
use crate::stage::StageError;
use crate::train_rows::TrainRows;

/// Targets whose similarities are told of.
const MOST_TARGETS: usize = 16;

/// The first batch of one epoch.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Sampled {
    /// From 0.
    pub epoch: usize,
    /// Targets of the batch.
    pub targets: usize,
    /// Sources of the batch, of which some are chosen.
    pub sources: usize,
    /// W1, cut into bands of as many sources as there are targets, the most similar first: mean cosine of each target with
    /// the sources of each band. The first 16 targets.
    pub bands: Vec<Vec<f64>>,
    /// The sources that are learnt from, by their rank in similarity from 0, with their weights.
    pub chosen: Vec<(usize, f64)>,
}

/// What is looked at: the rows of an adaptation, and the model that it starts from.
pub struct LookAt<'a> {
    /// The build that made the source's model.
    pub source_spec: &'a BuildSpec,
    /// Settings of the pair.
    pub pair: &'a PairSpec,
    /// Training rows of the source, with their embeddings.
    pub source: &'a mut dyn TrainRows,
    /// Labelled training rows of the target.
    pub target: &'a mut dyn TrainRows,
    /// Result folder of the source's training.
    pub checkpoint: &'a Path,
}

/// The first batches of some epochs, spread over the adaptation; none where no source is learnt from.
///
/// # Errors
/// As an adaptation with these settings would end.
pub fn look(at: LookAt<'_>, epochs: usize) -> Result<Vec<Sampled>, StageError> {
    if !settings(at.pair)?.source_pairs {
        return Ok(Vec::new());
    }
    let opened = Opened::load(&at.pair.network_of(at.source_spec), at.checkpoint)?;
    let embedded = opened.embed(at.source_spec, at.target)?;
    let model = (&opened.network, &opened.tokenizer);
    let mut batches = batches_of(at.source_spec, at.pair, model, (at.source, at.target), (embedded, (0, 1)))?;
    let of_epoch = |epoch| {
        let failed = |e: BoxError| StageError::Compute { stage: super::NAME, why: e.to_string() };
        batches.sampled(epoch).map_err(failed)
    };
    spread(at.pair.adapt.epochs, epochs).into_iter().map(of_epoch).collect()
}

/// At most so many of `all` numbers from 0, the first and the last among them.
fn spread(all: usize, most: usize) -> Vec<usize> {
    if all <= most { (0..all).collect() } else { (0..most).map(|at| at * (all - 1) / (most - 1).max(1)).collect() }
}

impl Batches<'_> {
    fn sampled(&mut self, epoch: usize) -> Result<Sampled, BoxError> {
        let (target, source) = self.candidates(epoch, 0)?;
        let similarity = self.similarity(&target, &source)?;
        let (targets, sources) = (similarity.targets(), similarity.sources());
        let sums = similarity.sums_over_targets();
        let mut by_rank: Vec<usize> = (0..sources).collect();
        by_rank.sort_by(|a, b| sums[*b].total_cmp(&sums[*a]));
        let bands = (0..targets.min(MOST_TARGETS)).map(|target| {
            let cosines = similarity.of_target(target);
            let mean = |band: &[usize]| band.iter().map(|at| cosines[*at]).sum::<f64>() / band.len().max(1) as f64;
            by_rank.chunks(targets).map(mean).collect()
        });
        let chosen = choose_sources(&similarity, &self.settings, (epoch, 0))?;
        let weights = sample_weights(&similarity.columns(&chosen)?, self.settings.weights);
        let mut ranks = vec![0; sources];
        by_rank.iter().enumerate().for_each(|(rank, at)| ranks[*at] = rank);
        let mut chosen: Vec<(usize, f64)> = chosen.iter().map(|at| ranks[*at]).zip(weights).collect();
        chosen.sort_by_key(|(rank, _)| *rank);
        Ok(Sampled { epoch, targets, sources, bands: bands.collect(), chosen })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epochs_are_spread_over_all_of_them() {
        assert_eq!(spread(2, 6), [0, 1]);
        assert_eq!(spread(60, 6), [0, 11, 23, 35, 47, 59]);
        assert_eq!(spread(0, 6), [0; 0]);
        assert_eq!(spread(5, 1), [0]);
    }
}
