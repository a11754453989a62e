//! The adaptation as an objective of the training loop.

use std::path::Path;

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor};
use models::parameters::Parameters;
use serde_json::{Value, json};

use super::adversary::{DomainPair, discriminator_loss};
use super::objective::objective;
use super::{Adversary, Discriminator, DomainBatch, Settings, Triplet, triplet};
use crate::communicator::Communicator;
use crate::error::{Error, Result};
use crate::gradients::Gradients;
use crate::loss::{Features, PairKeys};
use crate::objective::Gathered;
use crate::objective::{Differentiated, Objective, StepInfo};
use crate::optimiser::{AdamW, AdamWSettings, State, groups_by_decay};
use crate::trainer::{share_optimiser, share_parameters};

const DISCRIMINATOR: &str = "discriminator.safetensors";
const OPTIMISER: &str = "discriminator_optimiser.safetensors";

/// Triplets of both domains against a discriminator of domains (Eq. 11 and 12). A row's weight is W_vec.
///
/// Where a batch has segments, the triplets of their embeddings (Eq. 4) and the captions count beside those of the images,
/// as they do in pre-training. The discriminator sees images and captions only.
pub struct Adaptation {
    settings: Settings,
    game: Option<Game>,
}

/// The discriminator, which learns beside the encoders and at a rate of its own.
struct Game {
    discriminator: Discriminator,
    optimiser: AdamW,
    /// Parameters and the optimiser's state before the step at hand, where that may overflow.
    before: Option<(Parameters, State)>,
    /// Gradient norm of the step at hand.
    norm: Option<Tensor>,
}

/// The rows of one domain among the gathered ones.
struct Side {
    image_nd: Tensor,
    text_nd: Tensor,
    image_keys_n: Vec<u64>,
    caption_keys_n: Vec<u64>,
    valid_n: Vec<bool>,
    weights_n: Vec<f64>,
    rows: std::ops::Range<usize>,
}

impl Adaptation {
    /// `dim` is the width of the embeddings.
    ///
    /// # Errors
    /// Settings that make no sense.
    pub fn new(settings: Settings, dim: usize, device: &Device) -> Result<Self> {
        Self::in_precision(settings, dim, device, DType::F32)
    }

    /// The same with a discriminator, and everything beside the towers, in another type than f32.
    ///
    /// # Errors
    /// Settings that make no sense.
    pub fn in_precision(settings: Settings, dim: usize, device: &Device, dtype: DType) -> Result<Self> {
        settings.check()?;
        let plays = settings.adversary != Adversary::Off && settings.source_pairs;
        let game = plays
            .then(|| -> Result<Game> {
                let discriminator =
                    Discriminator::init(dim, settings.discriminator_hidden, settings.seed, device, dtype)?;
                let parameters = discriminator.parameters().iter().map(|(name, var)| (name.to_owned(), var.clone()));
                let adam = AdamWSettings { beta2: 0.999, weight_decay: 0.0, ..AdamWSettings::default() };
                let optimiser = AdamW::new(groups_by_decay(parameters, 0.0), adam)?;
                Ok(Game { discriminator, optimiser, before: None, norm: None })
            })
            .transpose()?;
        Ok(Self { settings, game })
    }

    /// Triplets of this rank's segments and their captions, by name; of both domains as far as their images have any.
    fn segment_parts(&self, gathered: &Gathered, progress: f64) -> Result<Vec<(&'static str, Tensor)>> {
        let (settings, shape) = (&self.settings, Triplet::at(&self.settings, progress));
        let mut parts = Vec::new();
        if settings.source_pairs
            && let Some(source) = Side::of_segments(gathered, false)?
        {
            let weights = settings.triplet_weighted.then_some(source.weights_n.as_slice());
            let loss = source.with(|source| triplet(source, weights, &shape))?;
            parts.push(("source_segment_triplet", (loss * settings.source_weight)?));
        }
        if (settings.target_triplet || !settings.source_pairs)
            && let Some(target) = Side::of_segments(gathered, true)?
        {
            parts.push(("target_segment_triplet", target.with(|target| triplet(target, None, &shape))?));
        }
        Ok(parts)
    }

    /// Learning rate of the discriminator.
    fn rate(&self, info: StepInfo) -> f64 {
        self.settings.discriminator_learning_rate * info.rate_factor
    }
}

impl Side {
    fn of(gathered: &Gathered, target: bool) -> Result<Self> {
        Self::of_column(gathered, (gathered.image_nd.as_tensor(), &gathered.valid_n), target)
    }

    /// The same with segments in the place of images; a row without any is not valid. None where no row is.
    fn of_segments(gathered: &Gathered, target: bool) -> Result<Option<Self>> {
        let Some(segments) = &gathered.segments else { return Ok(None) };
        let both = segments.present_n.iter().zip(&gathered.valid_n);
        let valid_n: Vec<bool> = both.map(|(&present, &valid)| present && valid).collect();
        let side = Self::of_column(gathered, (segments.segment_nd.as_tensor(), &valid_n), target)?;
        Ok(side.valid_n.contains(&true).then_some(side))
    }

    fn of_column(gathered: &Gathered, (visual_nd, valid_n): (&Tensor, &[bool]), target: bool) -> Result<Self> {
        let chosen: Vec<usize> = (0..gathered.target_n.len()).filter(|&row| gathered.target_n[row] == target).collect();
        let before = |row: usize| chosen.partition_point(|&chosen| chosen < row);
        let index: Vec<u32> = chosen.iter().map(|&row| row as u32).collect();
        let index = Tensor::from_vec(index, chosen.len(), gathered.image_nd.device())?;
        let pick = |keys: &[u64]| chosen.iter().map(|&row| keys[row]).collect();
        Ok(Self {
            image_nd: visual_nd.index_select(&index, 0)?,
            text_nd: gathered.text_nd.index_select(&index, 0)?,
            image_keys_n: pick(&gathered.image_keys_n),
            caption_keys_n: pick(&gathered.caption_keys_n),
            valid_n: chosen.iter().map(|&row| valid_n[row]).collect(),
            weights_n: chosen.iter().map(|&row| gathered.weight_n[row]).collect(),
            rows: before(gathered.rows.start)..before(gathered.rows.end),
        })
    }

    /// Calls `use_it` with this rank's rows of the domain beside everyone's.
    fn with<R>(&self, use_it: impl FnOnce(&DomainBatch<'_>) -> Result<R>) -> Result<R> {
        let own = |all: &Tensor| all.narrow(0, self.rows.start, self.rows.len());
        let (image_bd, text_bd) = (own(&self.image_nd)?, own(&self.text_nd)?);
        use_it(&DomainBatch {
            features: Features {
                image_bd: &image_bd,
                text_bd: &text_bd,
                image_nd: &self.image_nd,
                text_nd: &self.text_nd,
            },
            keys: PairKeys { image_n: &self.image_keys_n, caption_n: &self.caption_keys_n, valid_n: &self.valid_n },
            rows: self.rows.clone(),
        })
    }
}

impl Game {
    /// This rank's gradients of the discriminator, also of what no row of this rank has reached.
    fn gradients(&self, store: &GradStore) -> Result<Gradients> {
        let mut gradients = Gradients::default();
        gradients.collect(store, "", self.discriminator.parameters().iter())?;
        gradients.fill("", self.discriminator.parameters().iter())?;
        Ok(gradients)
    }

    /// One step of the discriminator, the same on all ranks.
    fn step(&mut self, gradients: &Gradients, learning_rate: f64) -> Result<()> {
        self.norm = Some(self.optimiser.step_unread(gradients, learning_rate)?);
        Ok(())
    }
}

impl Objective for Adaptation {
    fn identity(&self) -> Value {
        json!({ "adaptation": self.settings })
    }

    fn differentiate(
        &mut self,
        gathered: &Gathered,
        info: StepInfo,
        ranks: &mut dyn Communicator,
    ) -> Result<Differentiated> {
        let (settings, target) = (self.settings, Side::of(gathered, true)?);
        let segment_parts = self.segment_parts(gathered, info.progress)?;
        if !settings.source_pairs {
            let shape = Triplet::at(&settings, info.progress);
            let mut parts = vec![("target_triplet", target.with(|target| triplet(target, None, &shape))?)];
            parts.extend(segment_parts);
            return Differentiated::sum_of(&parts);
        }
        let source = Side::of(gathered, false)?;
        let rate = self.rate(info);
        source.with(|source_rows| {
            target.with(|target_rows| {
                let pair = DomainPair {
                    source: source_rows,
                    target: target_rows,
                    weights_n: &source.weights_n,
                    weighted: settings.adversary_weights,
                };
                if let (Adversary::Alternating, Some(game)) = (settings.adversary, &mut self.game) {
                    let gradients = game.gradients(&discriminator_loss(&game.discriminator, &pair)?.backward()?)?;
                    // the encoders play against what it has learnt here: these cannot travel with theirs
                    game.step(&gradients.sum_over_ranks(ranks, usize::MAX)?, rate)?;
                }
                let discriminator = self.game.as_ref().map(|game| &game.discriminator);
                let progress = info.progress;
                let step = objective(source_rows, target_rows, &source.weights_n, discriminator, &settings, progress)?;
                let total = segment_parts.iter().try_fold(step.total, |total, (_, part)| total + part)?;
                let store = total.backward()?;
                let own = match (settings.adversary, &self.game) {
                    (Adversary::Reversal | Adversary::Joint, Some(game)) => game.gradients(&store)?,
                    _ => Gradients::default(),
                };
                let mut parts = vec![("source_triplet", step.source_triplet)];
                parts.extend(step.target_triplet.map(|loss| ("target_triplet", loss)));
                parts.extend(segment_parts.iter().map(|(name, part)| (*name, part.detach())));
                if let Some(loss) = step.adversarial {
                    // what encoders that play want is its opposite
                    let weighted = (loss.to_dtype(DType::F64)? * settings.adversarial_factor(progress))?;
                    parts.push(("adversarial", weighted.neg()?));
                }
                Ok(Differentiated { gradients: store, parts, own, joint: Gradients::default() })
            })
        })
    }

    fn learn(&mut self, own: &Gradients, info: StepInfo) -> Result<()> {
        let rate = self.rate(info);
        match &mut self.game {
            Some(game) if !own.is_empty() => game.step(own, rate),
            _ => Ok(()),
        }
    }

    fn take_norm(&mut self) -> Option<Tensor> {
        self.game.as_mut()?.norm.take()
    }

    fn remember(&mut self) -> Result<()> {
        // elsewhere it learns after the encoders, and not from a step that they do not take
        let (Adversary::Alternating, Some(game)) = (self.settings.adversary, &mut self.game) else { return Ok(()) };
        game.before = Some((game.discriminator.parameters().deep_copy()?, game.optimiser.state()?.copied()?));
        Ok(())
    }

    fn undo(&mut self) -> Result<()> {
        let Some(game) = &mut self.game else { return Ok(()) };
        let Some((parameters, state)) = game.before.take() else { return Ok(()) };
        game.discriminator.parameters().copy_from(&parameters)?;
        game.optimiser.set_state(state).map_err(|problem| Error::argument("discriminator's optimiser", problem))
    }

    fn save(&self, folder: &Path) -> Result<()> {
        let Some(game) = &self.game else { return Ok(()) };
        game.discriminator.save(&folder.join(DISCRIMINATOR))?;
        game.optimiser.save(&folder.join(OPTIMISER))
    }

    fn load(&mut self, folder: &Path) -> Result<()> {
        let Some(game) = &mut self.game else { return Ok(()) };
        let parameters = game.discriminator.parameters();
        let dtype = parameters.iter().next().map_or(DType::F32, |(_, var)| var.dtype());
        let path = folder.join(DISCRIMINATOR);
        let saved = Discriminator::load(&path, &Device::Cpu, dtype)?;
        if (saved.dim(), saved.hidden()) != (game.discriminator.dim(), game.discriminator.hidden()) {
            let problem = format!(
                "is of widths {} and {}, this run's of {} and {}",
                saved.dim(),
                saved.hidden(),
                game.discriminator.dim(),
                game.discriminator.hidden()
            );
            return Err(Error::DamagedCheckpoint { path, problem });
        }
        parameters.copy_from(saved.parameters())?;
        game.optimiser.load(&folder.join(OPTIMISER))
    }

    fn share(&mut self, ranks: &mut dyn Communicator) -> Result<()> {
        let Some(game) = &mut self.game else { return Ok(()) };
        share_parameters(game.discriminator.parameters(), ranks)?;
        share_optimiser(&mut game.optimiser, None, |_| true, ranks)
    }
}
