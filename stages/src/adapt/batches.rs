//! Batches of two countries: the target's pairs, and the source pairs that the sampler chooses for them.

use std::collections::BTreeMap;

use training::adapt::{Embeddings, Settings, Similarity, SimilarityOf, aggregate, choose_sources, sample_weights};
use training::batch::{BatchSource, BoxError, Domains, PairBatch};
use training::order::rank_slice;

use crate::pretrain::batches::Preparer;
use crate::pretrain::reader::{HeldRow, Reader};
use crate::train_rows::{Embedded, TrainRow};

/// Everyone's slice: which rows a step learns from is decided on the whole batch.
const WHOLE: (usize, usize) = (0, 1);

/// Batches of an adaptation: this rank's slice of the chosen sources, then its slice of the targets.
pub(super) struct Batches<'a> {
    pub(super) preparer: Preparer<'a>,
    /// `None` where no source is learnt from.
    pub(super) source: Option<Reader<'a>>,
    pub(super) target: Reader<'a>,
    /// Embeddings of the target's training rows by the source's model, by image id.
    pub(super) target_embedded: BTreeMap<String, Embedded>,
    pub(super) settings: Settings,
    pub(super) passes_per_epoch: usize,
    pub(super) place: (usize, usize),
}

/// The chosen sources of a batch, with W_vec.
struct Chosen {
    rows: Vec<HeldRow>,
    weights: Vec<f64>,
}

impl Batches<'_> {
    /// Target rows of a step, and the source rows to choose from. A pass over either country is an epoch of its order.
    pub(super) fn candidates(&mut self, epoch: usize, step: usize) -> Result<(Vec<HeldRow>, Vec<HeldRow>), BoxError> {
        let steps = self.target.steps_per_epoch();
        let target = self.target.batch(epoch * self.passes_per_epoch + step / steps, step % steps, WHOLE)?;
        let global_step = epoch * self.steps_per_epoch() + step;
        let Some(source) = &mut self.source else { return Ok((target, Vec::new())) };
        let steps = source.steps_per_epoch();
        Ok((target, source.batch(global_step / steps, global_step % steps, WHOLE)?))
    }

    /// W1: of each target with every source.
    pub(super) fn similarity(&self, target: &[HeldRow], source: &[HeldRow]) -> Result<Similarity, BoxError> {
        let of = self.settings.similarity;
        let targets = embeddings(target, of, |row| self.target_embedded.get(&row.image_id))?;
        let sources = embeddings(source, of, |row| row.embedded.as_ref())?;
        Ok(Similarity::new(&targets, &sources)?)
    }

    fn choose(&self, target: &[HeldRow], source: Vec<HeldRow>, place: (usize, usize)) -> Result<Chosen, BoxError> {
        if source.is_empty() {
            return Ok(Chosen { rows: source, weights: Vec::new() });
        }
        let similarity = self.similarity(target, &source)?;
        let chosen = choose_sources(&similarity, &self.settings, place)?;
        let weights = sample_weights(&similarity.columns(&chosen)?, self.settings.weights);
        Ok(Chosen { rows: chosen.into_iter().map(|at| source[at].clone()).collect(), weights })
    }

    /// This rank's slice.
    fn own<T: Clone>(&self, all: &[T]) -> Result<Vec<T>, BoxError> {
        let (rank, world_size) = self.place;
        let places: Vec<u64> = (0..all.len() as u64).collect();
        Ok(rank_slice(&places, rank, world_size)?.iter().map(|&at| all[at as usize].clone()).collect())
    }
}

/// Frozen embeddings of rows, aggregated (Eq. 9).
fn embeddings<'r>(
    rows: &'r [HeldRow],
    similarity: SimilarityOf,
    of: impl Fn(&'r TrainRow) -> Option<&'r Embedded>,
) -> Result<Embeddings, BoxError> {
    let (mut image_nd, mut text_nd, mut dim) = (Vec::new(), Vec::new(), 0);
    for (group, row) in rows {
        let row = &group[*row];
        let embedded = of(row)
            .ok_or_else(|| format!("image {} has no embedding by the source's model: run its build", row.image_id))?;
        dim = embedded.image.len();
        image_nd.extend(match similarity {
            SimilarityOf::Pair => &embedded.image,
            SimilarityOf::Text => &embedded.text,
        });
        text_nd.extend(&embedded.text);
    }
    Ok(aggregate(&image_nd, &text_nd, dim)?)
}

impl BatchSource for Batches<'_> {
    fn steps_per_epoch(&self) -> usize {
        self.target.steps_per_epoch() * self.passes_per_epoch
    }

    fn batch(&mut self, epoch: usize, step: usize) -> Result<PairBatch, BoxError> {
        let (target, source) = self.candidates(epoch, step)?;
        let chosen = self.choose(&target, source, (epoch, step))?;
        let (mut rows, mut weights_b) = (self.own(&chosen.rows)?, self.own(&chosen.weights)?);
        let sources = rows.len();
        rows.extend(self.own(&target)?);
        weights_b.resize(rows.len(), 1.0);
        // each pass over the target looks at its images anew
        let draw = epoch * self.passes_per_epoch + step / self.target.steps_per_epoch();
        let mut batch = self.preparer.batch(&rows, draw)?;
        batch.domains = Some(Domains { target_b: (0..rows.len()).map(|row| row >= sources).collect(), weights_b });
        Ok(batch)
    }

    fn take_back(&mut self, used: PairBatch) {
        self.preparer.take_back(used);
    }
}
