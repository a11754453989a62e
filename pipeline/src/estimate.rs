//! What a whole build takes: memory and hours of each step, from the operations that its networks are counted to need.

use choices::SegmentTower;
use manifests::BuildSpec;
use manifests::spec::{DeviceKind, DeviceNames, Precision, PretrainSpec, Segmenter};
use manifests::words::count;
use serde::Serialize;
use stages::Training;
use stages::cost::ClipCost;
use stages::networks::Networks;
use stages::segment_features::VIEWS_PER_BATCH;

/// What one step of a build takes, of all its rows.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Estimate {
    /// Images that the step works on, at most.
    pub rows: u64,
    /// Additions and multiplications of matrix products.
    pub operations: f64,
    /// At the rates of the machine that `machine` names.
    pub hours: f64,
    /// The machine whose measured rates were taken.
    pub machine: &'static str,
    /// On the device, which may be the host itself.
    pub device_bytes: Memory,
    /// On the host beside it, at most.
    pub host_bytes: u64,
}

/// Memory by what it is for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Memory {
    /// Weights of the networks.
    pub weights: u64,
    /// Gradients, moments, master weights and a moving average.
    pub optimiser: u64,
    /// What the layers make of a batch.
    pub activations: u64,
    /// Keys and values of the language model.
    pub cache: u64,
}

impl Memory {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.weights + self.optimiser + self.activations + self.cache
    }
}

/// Operations a second that were measured (docs/benchmarks-log.md), of each kind of work.
#[derive(Clone, Copy)]
struct Machine {
    name: &'static str,
    /// Towers, there and back.
    passes: f64,
    /// A language model that writes so many rows at once; fewer take it as long.
    words: f64,
    words_rows: f64,
    /// Segment Anything's decoder.
    masks: f64,
}

impl Machine {
    /// In a precision. The card's were measured in bf16; others are less by what its maker says of products of matrices:
    /// 495 and 67 of 989 TFLOP/s.
    fn in_precision(self, precision: Precision) -> Self {
        let share = match precision {
            Precision::Bf16 | Precision::F16 => 1.0,
            _ if self.name == CPU.name => 1.0,
            Precision::Tf32 => 495.0 / 989.0,
            Precision::F32 => 67.0 / 989.0,
        };
        // what writes and what makes masks waits for memory, for twice the bytes
        let bytes = if share < 1.0 { 2.0 } else { 1.0 };
        Self { passes: self.passes * share, masks: self.masks / bytes, words: self.words / bytes, ..self }
    }

    /// The rate of writing so many rows at once.
    fn words_at(&self, rows: usize) -> f64 {
        self.words * (rows as f64 / self.words_rows).clamp(f64::MIN_POSITIVE, 1.0)
    }
}

/// A step of ViT-L/14 with 40 pairs in 0.111 s, a fifth of the card's 989 TFLOP/s of dense bf16; a step of 32 rows through
/// 4 layers of vicuna-7b in 5.0 ms; 1,024 points in 0.641 s.
const GPU: Machine = Machine { name: "one NVIDIA H200", passes: 189e12, words: 12e12, words_rows: 32.0, masks: 5.6e12 };
/// ViT-B/32 at 3.2 pairs/s; 53 tokens/s of a language model of 187 million weights; 1,024 points in 24.6 s.
const CPU: Machine =
    Machine { name: "two cores with AVX-512", passes: 140e9, words: 20e9, words_rows: 1.0, masks: 146e9 };

/// Operations of an image, by kind.
#[derive(Default)]
struct Work {
    passes: f64,
    words: f64,
    /// Rows that are written at once.
    words_rows: usize,
    masks: f64,
}

/// Bytes of a shard in flight, and of its images at most (128 rows or 32 MiB).
const SHARD_BYTES: u64 = 32 << 20;
const ROW_BYTES: u64 = SHARD_BYTES / 128;
/// Bytes of the listing for each image.
const LISTED_BYTES: u64 = 400;
/// Structured captions of an image.
const VARIANTS: usize = 5;
/// Rows of a row group of images.
const ROW_GROUP: u64 = 64;

/// Estimates the steps of a build of `rows` images that ask networks whose sizes are known, by the steps' names.
pub fn of(spec: &BuildSpec, networks: &Networks, rows: u64) -> Vec<(&'static str, Estimate)> {
    on(kind(spec), spec, networks, rows)
}

/// The kind of devices that a spec names.
pub fn kind(spec: &BuildSpec) -> DeviceKind {
    match spec.model.devices() {
        Ok(DeviceNames::Listed(names)) => names[0].kind(),
        Ok(DeviceNames::EveryCuda) | Err(_) => DeviceKind::Cuda,
    }
}

/// The same on devices of a kind, whatever the spec names.
pub fn on(kind: DeviceKind, spec: &BuildSpec, networks: &Networks, rows: u64) -> Vec<(&'static str, Estimate)> {
    let machine = match kind {
        DeviceKind::Cpu => CPU,
        DeviceKind::Cuda => GPU,
    };
    let machine = machine.in_precision(spec.model.precision);
    let maker = Maker { spec, networks, rows, machine };
    stages::steps(spec).iter().filter_map(|step| Some((step.name(), maker.estimate(step.name())?))).collect()
}

struct Maker<'a> {
    spec: &'a BuildSpec,
    networks: &'a Networks,
    rows: u64,
    machine: Machine,
}

impl Maker<'_> {
    fn estimate(&self, step: &str) -> Option<Estimate> {
        let (rows, work, device_bytes) = match step {
            "draft_captions" | "captions" | "structured_captions" | "query_texts" => self.captions(step)?,
            // five variants of three fields; texts of a sentence or two
            "structured_embeddings" => self.sentences(VARIANTS, 80)?,
            "query_embeddings" | "sentence_embeddings" => self.sentences(1, 30)?,
            "segments" => self.segments()?,
            "segment_features" => {
                let scoring = self.networks.scoring?;
                let views = self.spec.score.max_candidates as f64;
                (
                    self.rows,
                    Work { passes: views * scoring.image.operations, ..Work::default() },
                    self.looking(&scoring),
                )
            }
            "draft_scores" | "segment_scores" => {
                let scoring = self.networks.scoring?;
                (self.rows, Work { passes: scoring.text.operations, ..Work::default() }, self.looking(&scoring))
            }
            "caption_scores" => {
                let judge = self.networks.judge?;
                let views = 1.0 + self.spec.score.max_candidates as f64;
                let passes = views * judge.image.operations + judge.text.operations;
                (self.rows, Work { passes, ..Work::default() }, self.looking(&judge))
            }
            "image_embeddings" => {
                let clip = &self.networks.retrieval;
                // flips and quarter turns
                let views = if self.spec.evaluate.average_over_turns { 8.0 } else { 1.0 };
                (self.rows, Work { passes: views * clip.image.operations, ..Work::default() }, self.looking(clip))
            }
            "text_embeddings" => {
                let clip = &self.networks.retrieval;
                (self.rows, Work { passes: clip.text.operations, ..Work::default() }, self.looking(clip))
            }
            "bootstrap" => self.training(Training::Bootstrap),
            "pretrain" => self.training(Training::Pretrain),
            _ => return None,
        };
        let machine = self.machine;
        let words = work.words / machine.words_at(work.words_rows);
        let seconds = work.passes / machine.passes + words + work.masks / machine.masks;
        Some(Estimate {
            rows,
            operations: rows as f64 * (work.passes + work.words + work.masks),
            hours: rows as f64 * seconds / 3600.0,
            machine: machine.name,
            device_bytes,
            host_bytes: self.host(step),
        })
    }

    /// Bytes of a number on the device.
    fn number(&self) -> u64 {
        match self.spec.model.precision {
            Precision::F32 | Precision::Tf32 => 4,
            Precision::Bf16 | Precision::F16 => 2,
        }
    }

    /// A frozen CLIP and a batch of views in one of its layers.
    fn looking(&self, clip: &ClipCost) -> Memory {
        Memory {
            weights: clip.parameters() * self.number(),
            activations: VIEWS_PER_BATCH as u64 * clip.image.layer * self.number(),
            ..Memory::default()
        }
    }

    /// The longest captions that there may be.
    fn captions(&self, step: &str) -> Option<(u64, Work, Memory)> {
        let structured = step == "structured_captions";
        let writer = match step {
            "draft_captions" | "captions" => self.spec.caption.captioner,
            _ => self.spec.caption.structured_by()?,
        };
        let (asked, cost) = (self.spec.caption.in_process(writer)?, self.networks.captioner(writer)?);
        let (tokens, beams, answers) = match structured {
            true => (asked.structured.max_new_tokens, 1, asked.structured.attempts),
            false => (asked.max_new_tokens, if asked.top_p < 1.0 { 1 } else { asked.num_beams }, 1),
        };
        let work = Work {
            passes: cost.reading(),
            words: answers as f64 * cost.writing(tokens, beams),
            words_rows: asked.images_per_batch * beams,
            ..Work::default()
        };
        let positions = (asked.images_per_batch * (cost.prompt() + beams * tokens)) as u64;
        let cache = positions * cost.cached * self.number();
        let bound = if asked.cache_mib > 0 { asked.cache_mib << 20 } else { u64::MAX };
        let wide = if self.spec.model.precision == Precision::F16 { 2 * cost.wide_in_f16 } else { 0 };
        let weights = cost.parameters * self.number() + wide;
        Some((self.rows, work, Memory { weights, cache: cache.min(bound), ..Memory::default() }))
    }

    /// So many texts of an image, of so many tokens.
    fn sentences(&self, texts: usize, tokens: usize) -> Option<(u64, Work, Memory)> {
        let cost = self.networks.sentences?;
        let tokens = tokens.min(self.spec.text_retrieval.max_tokens);
        let work = Work { passes: texts as f64 * cost.operations(tokens), ..Work::default() };
        Some((self.rows, work, Memory { weights: cost.parameters * self.number(), ..Memory::default() }))
    }

    fn segments(&self) -> Option<(u64, Work, Memory)> {
        let (sam, cost) = (&self.spec.segment.sam, self.networks.segmenter?);
        if self.spec.segment.segmenter != Segmenter::Sam {
            return None;
        }
        let mut work = Work::default();
        for layer in 0..=sam.crop_n_layers as u32 {
            let side = sam.points_per_side as f64 / (sam.crop_n_points_downscale_factor as f64).powi(layer as i32);
            let crops = 4f64.powi(layer as i32);
            work.passes += crops * cost.encoder;
            work.masks += crops * side * side * cost.point;
        }
        let held = sam.images_per_batch as u64 * cost.image_held + sam.points_per_batch as u64 * cost.point_held;
        let memory =
            Memory { weights: cost.parameters * self.number(), activations: held * self.number(), ..Memory::default() };
        Some((self.rows, work, memory))
    }

    fn training(&self, training: Training) -> (u64, Work, Memory) {
        let (pretrain, clip) = (stages::pretrain::of_training(self.spec, training), &self.networks.retrieval);
        let ratio = self.spec.split.ratio.map(u64::from);
        let rows = self.rows * ratio[0] / ratio.iter().sum::<u64>().max(1);
        let segments = if self.spec.uses_segments() { pretrain.segments_per_image as f64 } else { 0.0 };
        let texts = pretrain.captions_per_image as f64 * clip.text.operations;
        // there, and back twice: for the weights and for what came in
        let again = pretrain.micro_batches > 1;
        let there = 1.0 + f64::from(u8::from(again)) + f64::from(u8::from(pretrain.recompute_activations));
        let trained = there + 2.0;
        let of_segments = if pretrain.segment_tower == SegmentTower::Frozen { 1.0 } else { trained };
        let passes = trained * (clip.image.operations + texts) + of_segments * segments * clip.image.operations;
        let work = Work { passes: pretrain.epochs as f64 * passes, ..Work::default() };
        (rows, work, self.trained(&pretrain, segments as u64))
    }

    /// A network that is trained, its optimiser, and what a batch leaves for the way back.
    fn trained(&self, pretrain: &PretrainSpec, segments: u64) -> Memory {
        let (clip, number, ranks) = (&self.networks.retrieval, self.number(), self.spec.ranks.processes as u64);
        let (separate, frozen) = match pretrain.segment_tower {
            _ if segments == 0 => (0, 0),
            SegmentTower::Shared => (0, 0),
            SegmentTower::Separate => (clip.image.parameters, 0),
            SegmentTower::Frozen => (0, clip.image.parameters),
        };
        let trained = clip.parameters() + separate;
        let masters = if number < 4 { 4 } else { 0 };
        let average = if pretrain.ema_decay > 0.0 { 4 } else { 0 };
        let shared_by = if self.spec.ranks.shard_optimiser { ranks } else { 1 };
        // two moments
        let optimiser = trained * (number + average) + trained * (masters + 8) / shared_by.max(1);
        let images = (pretrain.batch as u64).div_ceil(ranks * pretrain.micro_batches as u64);
        let recomputed = pretrain.recompute_activations;
        let kept = (1 + segments) * clip.image.kept(recomputed)
            + pretrain.captions_per_image as u64 * clip.text.kept(recomputed);
        Memory {
            weights: (trained + frozen) * number,
            optimiser,
            activations: images * kept * number,
            ..Memory::default()
        }
    }

    /// The listing, and shards in flight; or the loader's two windows.
    fn host(&self, step: &str) -> u64 {
        let devices = match self.spec.model.devices() {
            Ok(DeviceNames::Listed(names)) => names.len() as u64,
            Ok(DeviceNames::EveryCuda) | Err(_) => 1,
        };
        let read = match step {
            "bootstrap" | "pretrain" => 2 * self.spec.pretrain.shuffle_window_row_groups as u64 * ROW_GROUP * ROW_BYTES,
            _ => (devices + 2) * SHARD_BYTES,
        };
        self.rows * LISTED_BYTES + read
    }
}

/// The table that `plan` ends with; no lines where nothing is estimated.
pub fn in_words(estimates: &[(&'static str, Estimate)], listed: u64) -> Vec<String> {
    let Some((_, first)) = estimates.first() else { return Vec::new() };
    let mut lines = vec![
        String::new(),
        format!(
            "estimate of a whole build of {}, by counted operations at the rates of {}; the true figures may be half or \
             twice these",
            count(listed, "image"),
            first.machine
        ),
    ];
    let head = ["hours", "device GiB", "weights", "optimiser", "activations", "cache", "host GiB"];
    lines.push(format!(
        "{:21} {:>9} {:>11} {:>8} {:>10} {:>12} {:>6} {:>9}",
        "step", head[0], head[1], head[2], head[3], head[4], head[5], head[6]
    ));
    let gib = |bytes: u64| format!("{:.1}", bytes as f64 / (1u64 << 30) as f64);
    for (step, estimate) in estimates {
        let memory = &estimate.device_bytes;
        let parts = [memory.total(), memory.weights, memory.optimiser, memory.activations, memory.cache].map(gib);
        let [total, weights, optimiser, activations, cache] = parts;
        lines.push(format!(
            "{step:21} {:>9.2} {total:>11} {weights:>8} {optimiser:>10} {activations:>12} {cache:>6} {:>9}",
            estimate.hours,
            gib(estimate.host_bytes)
        ));
    }
    let hours: f64 = estimates.iter().map(|(_, estimate)| estimate.hours).sum();
    lines.push(format!("{:21} {hours:>9.2}", "all of them"));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use manifests::weights::Weights;
    use std::path::Path;

    fn finland(set: &[&str]) -> BuildSpec {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/countries/finland.toml");
        let set: Vec<String> = set.iter().map(|s| s.to_string()).collect();
        BuildSpec::read(&path, &set).unwrap()
    }

    fn step(spec: &BuildSpec, rows: u64, name: &str) -> Estimate {
        let networks = Networks::of(spec, &Weights::default());
        let found = of(spec, &networks, rows).into_iter().find(|(step, _)| *step == name);
        found.unwrap_or_else(|| panic!("{name} is not estimated")).1
    }

    fn near(value: f64, measured: f64, share: f64) {
        assert!((value / measured - 1.0).abs() < share, "{value} beside {measured}");
    }

    /// Sixteen bytes a parameter, in any precision: 4 + 4 + 8 in f32, 2 + 2 + 4 + 8 in bf16.
    #[test]
    fn a_trained_parameter_has_sixteen_bytes() {
        for precision in ["model.precision=f32", "model.precision=bf16"] {
            let memory = step(&finland(&[precision]), 1000, "pretrain").device_bytes;
            assert_eq!(memory.weights + memory.optimiser, 16 * 427_616_513, "{precision}");
        }
        let averaged = step(&finland(&["pretrain.ema_decay=0.9"]), 1000, "pretrain").device_bytes;
        assert_eq!(averaged.weights + averaged.optimiser, 20 * 427_616_513);
    }

    /// By hand: 56.5 pairs a second and 13.5 GiB with six segments, 360 and 12.5 GiB without, on the card.
    #[test]
    fn trainings_are_near_what_was_measured() {
        let (pairs, epochs, gib) = (40_000 * 7 / 10, 15.0, (1u64 << 30) as f64);
        for (set, pairs_a_second, measured_gib) in [
            (&[][..], 56.5, 13.5),
            (&["pretrain.segments_per_image=0", "pretrain.recompute_activations=false"][..], 360.1, 12.5),
        ] {
            let estimate = step(&finland(set), 40_000, "pretrain");
            assert_eq!(estimate.rows, pairs);
            near(estimate.hours, pairs as f64 * epochs / pairs_a_second / 3600.0, 0.5);
            near(estimate.device_bytes.total() as f64 / gib, measured_gib, 0.25);
        }
    }

    /// 0.025 + 0.641 s an image on the card; a quarter of the decoder's work for half the points along a side.
    #[test]
    fn segments_are_near_what_was_measured() {
        let spec = finland(&[]);
        near(step(&spec, 3600, "segments").hours, 0.666, 0.1);
        let coarse = step(&finland(&["segment.sam.points_per_side=16"]), 3600, "segments");
        near(coarse.hours, 0.025 + 0.641 / 4.0, 0.1);
        assert_eq!(step(&spec, 0, "segments").hours, 0.0);
    }

    #[test]
    fn rates_are_those_of_the_precision_and_of_rows_written_at_once() {
        let hours = |set: &[&str], name: &str| step(&finland(set), 1000, name).hours;
        let tf32 = hours(&["model.precision=tf32"], "pretrain") / hours(&[], "pretrain");
        near(tf32, 989.0 / 495.0, 1e-6);
        near(hours(&["model.precision=f32"], "image_embeddings") / hours(&[], "image_embeddings"), 989.0 / 67.0, 1e-6);
        // one row at once takes as long as eight; what is read before goes by its operations
        let [one, eight] = [1, 8].map(|images| {
            let batch = format!("caption.instructblip.images_per_batch={images}");
            hours(&["caption.instructblip.num_beams=1", &batch], "captions")
        });
        assert!(one > 7.0 * eight && one < 8.0 * eight, "{one} beside {eight}");
        let cpu =
            |set: &[&str]| on(DeviceKind::Cpu, &finland(set), &Networks::of(&finland(set), &Weights::default()), 9);
        assert_eq!(cpu(&["model.precision=f32"])[0].1.hours, cpu(&[])[0].1.hours);
    }

    #[test]
    fn captions_hold_their_weights_and_keys() {
        let memory = step(&finland(&[]), 1, "captions").device_bytes;
        near(memory.weights as f64, 2.0 * 7.91e9, 0.01);
        // 8 images of 64 positions and 5 beams of 256, each of 2 x 32 x 4096 numbers
        assert_eq!(memory.cache, 8 * (64 + 5 * 256) * 2 * 32 * 4096 * 2);
        // LLaVA 1.5 7B: 576 tokens of the image and 64 of words, no beams
        let llava = step(&finland(&["caption.captioner=llava"]), 1, "captions").device_bytes;
        near(llava.weights as f64, 2.0 * 7.06e9, 0.01);
        assert_eq!(llava.cache, 8 * (576 + 64 + 256) * 2 * 32 * 4096 * 2);
        // google/flan-t5-xl keeps 48 layers' `wo` in f32
        let xl = |precision: &str| {
            let weights = "caption.instructblip.weights=Salesforce/instructblip-flan-t5-xl";
            step(&finland(&[weights, &format!("model.precision={precision}")]), 1, "captions").device_bytes.weights
        };
        assert_eq!(xl("f16") - xl("bf16"), 2 * 48 * 5120 * 2048);
        let bound = step(&finland(&["caption.instructblip.cache_mib=100"]), 1, "captions").device_bytes;
        assert_eq!(bound.cache, 100 << 20);
    }

    #[test]
    fn only_steps_that_ask_networks_of_known_size_are_estimated() {
        let names = |set: &[&str]| -> Vec<&str> {
            let spec = finland(set);
            of(&spec, &Networks::of(&spec, &Weights::default()), 1).into_iter().map(|(name, _)| name).collect()
        };
        let all = ["captions", "segments", "segment_features", "segment_scores", "pretrain", "image_embeddings"];
        assert_eq!(names(&[])[..6], all);
        let light = names(&["caption.captioner=geotags", "segment.segmenter=felzenszwalb", "score.clip=bootstrap"]);
        assert_eq!(light[..3], ["bootstrap", "segment_features", "segment_scores"]);
        assert!(!names(&["segment.sam.weights=acme/sam"]).contains(&"segments"));
        let table = in_words(&of(&finland(&[]), &Networks::of(&finland(&[]), &Weights::default()), 9), 9);
        assert!(table[1].contains("9 images") && table[1].contains("H200"), "{table:?}");
    }
}
