//! W ranks on a batch of B/W rows each are one rank on a batch of B.

mod second_network;

use choices::SegmentTower;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use candle_core::{DType, Device, Tensor};
use models::clip::Clip;
use models::dual_encoder::DualEncoder;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::tests::matching::Matching;
use super::tests::tiny_network::Tiny;
use super::tests::{LENGTH, SIDE, config};
use super::*;
use crate::adapt;
use crate::batch::{BatchSource, BoxError, Domains, PairBatch, SegmentBatch};
use crate::communicator::{Communicator, Solo, Threads};
use crate::contrastive::{Contrastive, Loss};
use crate::objective::Objective;
use crate::optimiser::AdamWSettings;
use crate::schedule::Schedule;

const IMAGES: usize = 8;
const CAPTIONS: usize = 2;
const STEPS: usize = 5;
const EPOCHS: usize = 4;
const TOLERANCE: f64 = 1e-8;

/// Noise with duplicates, invalid rows and rows without segments; the slice of one rank.
struct Slice {
    rank: usize,
    world_size: usize,
    /// The first half of the images are sources, the others targets; a rank has its slice of both.
    two_domains: bool,
}

/// Images one after the other, sources before targets.
fn put_together(images: &[PairBatch], first_target: usize) -> PairBatch {
    let mut all = PairBatch { image_of_row: Some(Vec::new()), domains: Some(Domains::default()), ..Default::default() };
    let (of_row, domains) = (all.image_of_row.as_mut().unwrap(), all.domains.as_mut().unwrap());
    let all_segments = all.segments.insert(SegmentBatch::default());
    for (nth, image) in images.iter().enumerate() {
        if let Some(segments) = &image.segments {
            let rows_before = domains.target_b.len() as u32;
            all_segments.pixels_shwc.extend(&segments.pixels_shwc);
            all_segments.row_of_segment.extend(segments.row_of_segment.iter().map(|row| row + rows_before));
            all_segments.weights.extend(&segments.weights);
        }
        all.pixels_bhwc.extend(&image.pixels_bhwc);
        all.input_ids_bl.extend(&image.input_ids_bl);
        all.image_keys.extend(&image.image_keys);
        all.caption_keys.extend(&image.caption_keys);
        all.valid.extend(&image.valid);
        for key in &image.caption_keys {
            of_row.push(nth as u32);
            domains.target_b.push(nth >= first_target);
            domains.weights_b.push(0.3 + (key % 5) as f64 / 3.0);
        }
    }
    all
}

fn global_batch(epoch: usize, step: usize) -> PairBatch {
    let mut rng = ChaCha8Rng::seed_from_u64((epoch * STEPS + step) as u64);
    let mut noise = |count: usize| -> Vec<f32> { (0..count).map(|_| rng.random_range(-1.0..1.0)).collect() };
    let image = 3 * SIDE * SIDE;
    let mut pixels = |count: usize| -> Vec<u8> { noise(count).iter().map(|x| (128.0 + 70.0 * x) as u8).collect() };
    let mut pixels_bhwc = pixels(IMAGES * image);
    // image 6 is image 1 again
    pixels_bhwc.copy_within(image..2 * image, 6 * image);
    // the last two images have no segment: with four ranks, one rank has none at all
    let row_of_segment: Vec<u32> = vec![0, 0, 2, 4, 6, 6, 8, 10];
    let pixels_shwc = pixels(row_of_segment.len() * image);
    let weights = noise(row_of_segment.len()).iter().map(|w| w.abs()).collect();
    let rows = IMAGES * CAPTIONS;
    let mut rng = ChaCha8Rng::seed_from_u64(1000 + (epoch * STEPS + step) as u64);
    let mut caption = |row: usize| -> Vec<u32> {
        let row = if row == 9 { 3 } else { row as u32 };
        vec![10, row % 9, rng.random_range(0..9), 11, 0, 0]
    };
    let keys: Vec<u64> = (0..rows as u64).map(|row| if row == 9 { 3 } else { row }).collect();
    PairBatch {
        pixels_bhwc,
        image_of_row: Some((0..rows).map(|row| (row / CAPTIONS) as u32).collect()),
        input_ids_bl: (0..rows).flat_map(&mut caption).collect(),
        image_keys: (0..rows).map(|row| [0, 1, 2, 3, 4, 5, 1, 7][row / CAPTIONS]).collect(),
        caption_keys: keys,
        valid: (0..rows).map(|row| row != 5 && row != 15).collect(),
        segments: Some(SegmentBatch { pixels_shwc, row_of_segment, weights }),
        domains: None,
    }
}

impl BatchSource for Slice {
    fn steps_per_epoch(&self) -> usize {
        STEPS
    }

    fn batch(&mut self, epoch: usize, step: usize) -> Result<PairBatch, BoxError> {
        let batch = global_batch(epoch, step);
        if !self.two_domains {
            return Ok(batch.parts(self.world_size).swap_remove(self.rank));
        }
        let images = batch.parts(IMAGES);
        let (sources, targets) = images.split_at(IMAGES / 2);
        let own = |domain: &[PairBatch]| domain.chunks(domain.len() / self.world_size).nth(self.rank).unwrap().to_vec();
        let (mut own_images, targets) = (own(sources), own(targets));
        let first_target = own_images.len();
        own_images.extend(targets);
        Ok(put_together(&own_images, first_target))
    }
}

fn settings() -> Settings {
    Settings {
        epochs: EPOCHS,
        learning_rate: 1e-2,
        schedule: Schedule::WarmupCosine { warmup_steps: 2 },
        optimiser: AdamWSettings { weight_decay: 0.1, ..AdamWSettings::default() },
        segment_tower: SegmentTower::Shared,
        ema_decay: 0.9,
        dropout: 0.1,
        seed: 5,
        ..Settings::default()
    }
}

/// What a run has come to.
struct Outcome {
    /// First moments that this rank keeps: unlike Adam's steps they show a gradient's size.
    moments: BTreeMap<String, Vec<f64>>,
    /// The most numbers that a rank keeps of them.
    remembered: usize,
    weights: Vec<(String, Vec<f64>)>,
    losses: Vec<f64>,
    norms: Vec<f64>,
    steps: usize,
    samples: u64,
}

#[derive(Clone, Copy, Debug)]
enum Learnt {
    Contrast(Loss),
    Adaptation(adapt::Settings),
    Matching,
}

#[derive(Clone, Copy, Debug)]
enum Network {
    Clip,
    Tiny,
}

#[derive(Clone)]
struct Plan {
    settings: Settings,
    execution: Execution,
    network: Network,
    loss: Learnt,
    /// Ids of padding behind each text.
    padding: usize,
    /// Every other step has no segment in any row.
    sparse_segments: bool,
    dtype: DType,
    /// Every rank is told to stop after this many steps of the call; only rank 1 if there are several.
    stop_after: usize,
}

fn plan(loss: Loss) -> Plan {
    let loss = Learnt::Contrast(loss);
    let execution = Execution { bucket_bytes: 1000, ..Execution::default() };
    let network = Network::Clip;
    Plan {
        settings: settings(),
        execution,
        network,
        loss,
        padding: 0,
        sparse_segments: false,
        dtype: DType::F64,
        stop_after: usize::MAX,
    }
}

fn run_rank(plan: &Plan, ranks: &mut dyn Communicator, folder: Option<&Path>) -> Outcome {
    // ranks begin with networks of their own
    let seed = 1 + ranks.rank() as u64;
    match plan.network {
        Network::Clip => train(Clip::init(&config(), seed, &Device::Cpu, plan.dtype).unwrap(), plan, ranks, folder),
        Network::Tiny => train(Tiny::init(seed, plan.dtype), plan, ranks, folder),
    }
    .unwrap()
}

fn objective(plan: &Plan, dim: usize, rank: usize) -> Box<dyn Objective> {
    match plan.loss {
        Learnt::Contrast(loss) => Box::new(Contrastive::new(loss).unwrap()),
        Learnt::Adaptation(settings) => {
            // ranks begin with discriminators of their own, too
            let settings = adapt::Settings { seed: rank as u64, ..settings };
            Box::new(adapt::Adaptation::in_precision(settings, dim, &Device::Cpu, plan.dtype).unwrap())
        }
        Learnt::Matching => Box::new(Matching::new(rank as u64, plan.dtype)),
    }
}

fn train<N: DualEncoder>(
    network: N,
    plan: &Plan,
    ranks: &mut dyn Communicator,
    folder: Option<&Path>,
) -> crate::Result<Outcome> {
    let objective = objective(plan, network.embed_dim(), ranks.rank());
    let mut trainer = Trainer::new(network, plan.settings.clone(), objective)?;
    let (rank, world_size) = (ranks.rank(), ranks.world_size());
    let stop = AtomicBool::new(false);
    let (mut losses, mut norms) = (Vec::new(), Vec::new());
    let mut observe = |event: &Event| {
        if let Event::Step(progress) = event {
            losses.push(progress.loss);
            norms.push(progress.gradient_norm);
            if losses.len() == plan.stop_after && rank == world_size - 1 {
                stop.store(true, Ordering::Relaxed);
            }
        }
    };
    let mut validate = |_: &N, epoch: usize, _: &mut dyn Communicator| -> Result<f64, BoxError> { Ok(epoch as f64) };
    let slice = Slice { rank, world_size, two_domains: matches!(plan.loss, Learnt::Adaptation(_)) };
    let summary = trainer.fit(Fit {
        ranks,
        source: &mut Changed { slice, padding: plan.padding, sparse_segments: plan.sparse_segments },
        validate: &mut validate,
        folder,
        execution: plan.execution,
        stop: &stop,
        observe: &mut observe,
    })?;
    let wide = |tensor: &Tensor| tensor.flatten_all().unwrap().to_dtype(DType::F64).unwrap().to_vec1().unwrap();
    let weights = trainer.variables().into_iter().map(|(name, tensor)| (name, wide(&tensor))).collect();
    let moments: BTreeMap<String, Vec<f64>> =
        trainer.first_moments().into_iter().map(|(name, moment)| (name, wide(&moment))).collect();
    let (remembered, steps) = (moments.values().map(Vec::len).sum(), summary.steps);
    Ok(Outcome { remembered, moments, weights, losses, norms, steps, samples: summary.position.samples })
}

/// Batches with more ids of padding behind each text, or with no segment in every other step.
struct Changed {
    slice: Slice,
    padding: usize,
    sparse_segments: bool,
}

impl BatchSource for Changed {
    fn steps_per_epoch(&self) -> usize {
        self.slice.steps_per_epoch()
    }

    fn batch(&mut self, epoch: usize, step: usize) -> Result<PairBatch, BoxError> {
        let mut batch = self.slice.batch(epoch, step)?;
        if self.sparse_segments && (epoch * STEPS + step) % 2 == 1 {
            batch.segments = Some(SegmentBatch::default());
        }
        let texts = batch.input_ids_bl.chunks(LENGTH);
        batch.input_ids_bl = texts.flat_map(|ids| ids.iter().copied().chain(vec![0; self.padding])).collect();
        Ok(batch)
    }
}

/// The outcome of rank 0, after making sure that all ranks have the same.
fn run(plan: &Plan, world_size: usize, folder: Option<&Path>) -> Outcome {
    if world_size == 1 {
        return run_rank(plan, &mut Solo, folder);
    }
    let world = Threads::world(world_size, Duration::from_secs(60));
    let outcomes: Vec<Outcome> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            world.into_iter().map(|mut ranks| scope.spawn(move || run_rank(plan, &mut ranks, folder))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let mut outcomes = outcomes.into_iter();
    let mut first = outcomes.next().unwrap();
    for other in outcomes {
        first.remembered = first.remembered.max(other.remembered);
        assert!(first.weights == other.weights, "ranks must not drift apart by a single bit");
        assert_eq!((&first.losses, first.steps, first.samples), (&other.losses, other.steps, other.samples));
    }
    first
}

fn largest_difference(a: &Outcome, b: &Outcome) -> f64 {
    let weights = a.weights.iter().zip(&b.weights).flat_map(|((name, a), (other, b))| {
        assert_eq!(name, other);
        a.iter().zip(b).map(|(a, b)| (a - b).abs())
    });
    let both = a.moments.iter().filter_map(|(name, moment)| Some((moment, b.moments.get(name)?)));
    let moments = both.flat_map(|(a, b)| a.iter().zip(b)).map(|(a, b)| (a - b).abs());
    let weights = weights.chain(moments);
    assert_eq!(a.losses.len(), b.losses.len());
    let losses = a.losses.iter().zip(&b.losses).chain(a.norms.iter().zip(&b.norms)).map(|(a, b)| (a - b).abs());
    weights.chain(losses).fold(0.0, f64::max)
}

/// That the comparison is of something: 20 steps that learn, and every weight that can has moved.
fn assert_learnt(outcome: &Outcome) {
    assert_eq!(outcome.steps, EPOCHS * STEPS);
    // two of a batch's rows take no part
    assert_eq!(outcome.samples, (EPOCHS * STEPS * (IMAGES * CAPTIONS - 2)) as u64);
    let start: Vec<(String, Vec<f64>)> = match outcome.weights.iter().any(|(name, _)| name == "words") {
        true => numbers(Tiny::init(1, DType::F64).parameters()),
        false => numbers(Clip::init(&config(), 1, &Device::Cpu, DType::F64).unwrap().parameters()),
    };
    for (name, before) in start {
        let (_, now) = outcome.weights.iter().find(|(n, _)| *n == name).unwrap();
        // a third of `in_proj_bias` are key biases, whose gradient is zero; hinge has no temperature
        let may_rest = name.contains("in_proj_bias") || name == "logit_scale";
        assert!(may_rest || before.iter().zip(now).any(|(a, b)| (a - b).abs() > 1e-4), "{name} has not moved");
    }
}

fn numbers(parameters: &models::parameters::Parameters) -> Vec<(String, Vec<f64>)> {
    let of = |(name, var): (&str, &candle_core::Var)| (name.to_owned(), var.flatten_all().unwrap().to_vec1().unwrap());
    parameters.iter().map(of).collect()
}

#[test]
fn ranks_equal_one_rank() {
    for loss in [Loss::InfoNce { label_smoothing: 0.1 }, Loss::Hinge { margin: 0.2 }] {
        for segment_tower in [SegmentTower::Shared, SegmentTower::Separate, SegmentTower::Frozen] {
            let plan = Plan { settings: Settings { segment_tower, ..settings() }, ..plan(loss) };
            let alone = run(&plan, 1, None);
            assert_learnt(&alone);
            for world_size in [2, 4] {
                let difference = largest_difference(&alone, &run(&plan, world_size, None));
                assert!(difference < TOLERANCE, "{loss:?}, {segment_tower:?}, {world_size} ranks: {difference:e}");
            }
        }
    }
}

#[test]
fn ranks_adapt_like_one_rank() {
    use adapt::{Adversary, AdversaryWeights, Directions, Distance, Settings};
    let paper = Settings { discriminator_hidden: 16, discriminator_learning_rate: 1e-2, ..Settings::default() };
    let released = Settings {
        adversary: Adversary::Alternating,
        adversary_weights: AdversaryWeights::None,
        distance: Distance::Euclidean,
        directions: Directions::ImageToText,
        triplet_weighted: false,
        ..paper
    };
    let fine_tuning = Settings { source_pairs: false, ..paper };
    for adaptation in [paper, released, fine_tuning] {
        let mut plan = plan(Loss::Hinge { margin: 0.2 });
        plan.loss = Learnt::Adaptation(adaptation);
        plan.sparse_segments = adaptation == released;
        let alone = run(&plan, 1, None);
        assert_learnt(&alone);
        for world_size in [2, 4] {
            plan.execution.shard_optimiser = world_size == 4;
            let difference = largest_difference(&alone, &run(&plan, world_size, None));
            assert!(difference < TOLERANCE, "{adaptation:?}, {world_size} ranks: {difference:e}");
        }
        // the discriminator and its moments survive a stop, and a change of the number of ranks
        let folder = tempfile::tempdir().unwrap();
        let stopped = run(&Plan { stop_after: 7, ..plan.clone() }, 2, Some(folder.path()));
        let mut resumed = run(&plan, 1, Some(folder.path()));
        resumed.losses.splice(0..0, stopped.losses);
        resumed.norms.splice(0..0, stopped.norms);
        let difference = largest_difference(&alone, &resumed);
        assert!(difference < TOLERANCE, "{adaptation:?}, stopped and resumed: {difference:e}");
    }
}

/// A rank that counts its messages with gradients.
struct Counted {
    ranks: Threads,
    sums: usize,
}

impl Communicator for Counted {
    fn way(&self) -> String {
        self.ranks.way()
    }

    fn rank(&self) -> usize {
        self.ranks.rank()
    }

    fn world_size(&self) -> usize {
        self.ranks.world_size()
    }

    fn at_step(&mut self, step: u64) {
        self.ranks.at_step(step);
    }

    fn all_reduce_sum(&mut self, tensor: &Tensor) -> crate::Result<Tensor> {
        self.sums += 1;
        self.ranks.all_reduce_sum(tensor)
    }

    fn all_gather(&mut self, tensor: &Tensor) -> crate::Result<Tensor> {
        self.ranks.all_gather(tensor)
    }

    fn reduce_scatter_sum(&mut self, tensor: &Tensor) -> crate::Result<Tensor> {
        self.ranks.reduce_scatter_sum(tensor)
    }

    fn broadcast(&mut self, tensor: &Tensor, root: usize) -> crate::Result<Tensor> {
        self.ranks.broadcast(tensor, root)
    }

    fn barrier(&mut self) -> crate::Result<()> {
        self.ranks.barrier()
    }
}

#[test]
fn the_discriminators_gradients_travel_with_the_towers() {
    use adapt::{Adversary, Settings};
    let sums = |adversary, source_pairs| {
        let settings = Settings { discriminator_hidden: 16, adversary, source_pairs, ..Settings::default() };
        let mut plan = Plan { loss: Learnt::Adaptation(settings), ..plan(Loss::Hinge { margin: 0.2 }) };
        plan.execution.bucket_bytes = 1 << 30;
        let world = Threads::world(2, Duration::from_secs(60));
        let counts: Vec<usize> = std::thread::scope(|scope| {
            let of = |ranks| {
                let (plan, mut counted) = (&plan, Counted { ranks, sums: 0 });
                scope.spawn(move || {
                    run_rank(plan, &mut counted, None);
                    counted.sums
                })
            };
            world.into_iter().map(of).collect::<Vec<_>>().into_iter().map(|rank| rank.join().unwrap()).collect()
        });
        assert_eq!(counts[0], counts[1]);
        counts[0]
    };
    let without = sums(Adversary::Reversal, false);
    assert_eq!((sums(Adversary::Reversal, true), sums(Adversary::Joint, true)), (without, without));
    assert_eq!(sums(Adversary::Alternating, true), without + EPOCHS * STEPS, "it learns before the encoders do");
}

/// Nothing that they exchange would tell.
#[test]
fn a_rank_of_another_run_is_told_by_all() {
    let own = plan(Loss::Hinge { margin: 0.2 });
    let other = Settings { learning_rate: 2e-2, ..own.settings.clone() };
    let other = Plan { settings: other, ..own.clone() };
    let world = Threads::world(2, Duration::from_secs(60));
    let ended: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = world
            .into_iter()
            .zip([&own, &other])
            .map(|(mut ranks, plan)| {
                scope.spawn(move || {
                    let network = Clip::init(&config(), 1, &Device::Cpu, plan.dtype).unwrap();
                    train(network, plan, &mut ranks, None).err().map_or(String::new(), |error| error.to_string())
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(ended[1].contains("another one on rank 1 than on rank 0 (settings.learning_rate"), "{ended:?}");
    assert!(!ended[0].is_empty(), "rank 0 does not go on alone");
}

#[test]
fn ranks_in_single_precision_stay_close() {
    let plan = Plan { dtype: DType::F32, ..plan(Loss::InfoNce { label_smoothing: 0.0 }) };
    let difference = largest_difference(&run(&plan, 1, None), &run(&plan, 2, None));
    println!("two ranks and one differ by {difference:e} after {} steps in f32", EPOCHS * STEPS);
    assert!(difference < 1e-2, "{difference:e}");
}

#[test]
fn accumulated_and_recomputed_gradients_are_those_of_the_whole_batch() {
    let whole = plan(Loss::InfoNce { label_smoothing: 0.1 });
    let reference = run(&whole, 1, None);
    for (micro_batches, recompute, world_size) in
        [(3, false, 1), (8, false, 1), (1, true, 1), (3, true, 1), (2, true, 2), (100, false, 4)]
    {
        let execution = Execution { micro_batches, recompute, ..whole.execution };
        let outcome = run(&Plan { execution, ..whole.clone() }, world_size, None);
        let difference = largest_difference(&reference, &outcome);
        assert!(difference < TOLERANCE, "{micro_batches} parts, recompute {recompute}, {world_size}: {difference:e}");
    }
}

#[test]
fn a_run_stopped_in_mid_epoch_goes_on_with_another_number_of_ranks() {
    let whole = plan(Loss::InfoNce { label_smoothing: 0.0 });
    let reference = run(&whole, 1, None);
    for (first, second) in [(2, 1), (1, 4), (4, 2)] {
        let folder = tempfile::tempdir().unwrap();
        let stopped = run(&Plan { stop_after: 7, ..whole.clone() }, first, Some(folder.path()));
        assert_eq!(stopped.steps, 7, "told to one rank, all stop after the same step");
        let mut resumed = run(&whole, second, Some(folder.path()));
        assert_eq!(resumed.steps, EPOCHS * STEPS - 7);
        let before = [stopped.losses, stopped.norms];
        for (now, mut before) in [&mut resumed.losses, &mut resumed.norms].into_iter().zip(before) {
            before.append(now);
            *now = before;
        }
        let difference = largest_difference(&reference, &resumed);
        assert!(difference < TOLERANCE, "{first} ranks, then {second}: {difference:e}");
    }
}

/// As on GPUs: ranks agree on the end of a run only where they look at what they have found.
#[test]
fn ranks_that_look_now_and_then_come_to_the_same_bits() {
    let each = plan(Loss::InfoNce { label_smoothing: 0.1 });
    let mut together = each.clone();
    together.execution.look_every_steps = 3;
    for world_size in [1, 2] {
        let (each, found) = (run(&each, world_size, None), run(&together, world_size, None));
        assert!((&each.weights, &each.losses, &each.norms) == (&found.weights, &found.losses, &found.norms));
    }
    let folder = tempfile::tempdir().unwrap();
    let stopped = run(&Plan { stop_after: 7, ..together.clone() }, 2, Some(folder.path()));
    assert_eq!(stopped.steps, 8, "steps of an epoch are looked at three and two at a time");
    let resumed = run(&together, 2, Some(folder.path()));
    assert!(resumed.weights == run(&each, 2, None).weights);
}

#[test]
fn an_optimiser_in_parts_moves_no_bit_and_takes_a_part_of_the_memory() {
    for (dtype, segment_tower) in [(DType::F64, SegmentTower::Separate), (DType::BF16, SegmentTower::Shared)] {
        let settings = Settings { segment_tower, ..settings() };
        let whole = Plan { dtype, settings, ..plan(Loss::InfoNce { label_smoothing: 0.0 }) };
        let parted = Plan { execution: Execution { shard_optimiser: true, ..whole.execution }, ..whole.clone() };
        let alone = run(&parted, 1, None);
        for world_size in [2, 4] {
            let (all, part) = (run(&whole, world_size, None), run(&parted, world_size, None));
            assert_eq!(part.losses, all.losses, "{dtype:?}, {world_size} ranks");
            assert!(part.weights == all.weights, "{dtype:?}, {world_size} ranks");
            assert_eq!(all.remembered, alone.remembered);
            // the largest parameter of these small towers is a fifth of them
            assert!(part.remembered <= all.remembered / world_size + all.remembered / 5, "{}", part.remembered);
            // stopped with one number of ranks and gone on with another, in parts or not
            let folder = tempfile::tempdir().unwrap();
            let stop = |plan: &Plan| Plan { stop_after: 7, ..plan.clone() };
            run(&stop(&parted), world_size, Some(folder.path()));
            let resumed = run(&parted, world_size, Some(folder.path()));
            assert!(resumed.weights == all.weights, "{dtype:?}, resumed by {world_size} ranks");
            if dtype == DType::F64 {
                let folder = tempfile::tempdir().unwrap();
                let mut before = run(&stop(&parted), world_size, Some(folder.path()));
                let after = run(&whole, 1, Some(folder.path()));
                before.losses.extend(&after.losses);
                before.norms.extend(&after.norms);
                (before.weights, before.moments) = (after.weights, after.moments);
                let difference = largest_difference(&alone, &before);
                assert!(difference < TOLERANCE, "{world_size} ranks in parts, then one: {difference:e}");
            }
        }
    }
}

#[test]
fn an_idle_world_leaves_no_row_out() {
    let mut rows: Vec<u64> = Vec::new();
    for rank in 0..4 {
        let batch = Slice { rank, world_size: 4, two_domains: false }.batch(0, 0).unwrap();
        assert_eq!((batch.rows(), batch.input_ids_bl.len()), (IMAGES * CAPTIONS / 4, IMAGES * CAPTIONS / 4 * LENGTH));
        rows.extend(&batch.caption_keys);
    }
    assert_eq!(rows, global_batch(0, 0).caption_keys);
}
