//! Seconds that Segment Anything takes for an image, part by part, with random weights.
//!
//! The decoder's and the post-processing's times are those of 64 points, multiplied by the number of batches; `whole` runs
//! the generator on one image. `tests/peers/sam_peer.py` prints the same for the original code and for transformers.

use clap::Args;
use models::sam::generator::{MaskGenerator, MaskGeneratorSettings, PointSegmenter, point_grid};
use models::sam::{LowResMask, Sam, SamConfig};
use pixels::Rgb;
use std::borrow::Cow;
use std::error::Error;
use std::path::PathBuf;

use crate::Place;
use crate::measure::{best_of, print_peak_memory, profile, seconds};

const POINTS_PER_BATCH: usize = 64;
const IMAGE_SIDE: usize = 512;

#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    place: Place,
    #[arg(default_value = "mobile", help = "vit-b, vit-l, vit-h or mobile")]
    preset: String,
    #[arg(default_value_t = 32)]
    points_per_side: usize,
    #[arg(default_value_t = 2)]
    rounds: usize,
    #[arg(default_value = "encoder,decoder,post", help = "What to measure; also `whole`")]
    parts: String,
    #[arg(long = "profile", help = "Let a profiler see one batch of the decoder only")]
    profiled: bool,
    #[arg(help = "Write the weights here, with the original names, for the peer")]
    save_to: Option<PathBuf>,
}

pub(crate) fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    let Options { place, preset, points_per_side, rounds, parts, profiled, save_to } = options;
    let (points_per_side, rounds) = (*points_per_side, *rounds);
    let batches = (points_per_side * points_per_side) as f64 / POINTS_PER_BATCH as f64;
    let (device, dtype) = (place.device()?, place.precision.dtype());
    let config = SamConfig::preset(preset).ok_or("unknown preset")?;
    println!("{preset}: {points_per_side} points per side, {} threads", rayon::current_num_threads());

    if parts.contains("post") {
        let blobs = Blobs::new(config.image_size, config.mask_side());
        let settings = MaskGeneratorSettings { points_per_side: Some(8), ..MaskGeneratorSettings::default() };
        let generator = MaskGenerator::new(&blobs, settings)?;
        let mut records = 0;
        let seconds = best_of(&device, rounds, || {
            records = generator.generate(&[image()], &|| false)?[0].len();
            Ok(())
        })?;
        println!("post {} per image ({records} records of {POINTS_PER_BATCH} points)", seconds.times(batches));
    }
    if parts == "post" {
        return Ok(());
    }
    let tensors = Sam::random_tensors(&config, 1)?;
    if let Some(path) = save_to {
        candle_core::safetensors::save(&tensors.clone().into_iter().collect(), path)?;
    }
    let sam = Sam::from_tensors(&config, &tensors, &device, dtype)?;
    drop(tensors);
    let pixels = sam.pixel_values(&[image()])?;
    if parts.contains("encoder") {
        let seconds = best_of(&device, rounds, || Ok(sam.embed_images(&pixels)?))?;
        println!("encoder {seconds} per image");
    }
    if parts.contains("decoder") {
        let embedding = sam.embed_images(&pixels)?.remove(0);
        let points: Vec<[f64; 2]> = point_grid(8).iter().map(|xy| xy.map(|x| x * config.image_size as f64)).collect();
        let seconds = best_of(&device, rounds, || Ok(sam.masks_at(&embedding, &points, None)?))?;
        println!("decoder {} per image", seconds.times(batches));
        if *profiled {
            profile(true);
            sam.masks_at(&embedding, &points, None)?;
            profile(false);
        }
    }
    if parts.contains("whole") {
        let settings =
            MaskGeneratorSettings { points_per_side: Some(points_per_side), ..MaskGeneratorSettings::default() };
        let generator = MaskGenerator::new(&sam, settings)?;
        let (seconds, records) = seconds(&device, || generator.generate(&[image()], &|| false))?;
        println!("whole {seconds} per image, {} records", records[0].len());
    }
    print_peak_memory(&device);
    Ok(())
}

/// A picture of noise.
pub(crate) fn image() -> Rgb {
    let data = (0..3 * IMAGE_SIDE * IMAGE_SIDE).map(|i| ((i * 7919) % 251) as u8).collect();
    Rgb::new(IMAGE_SIDE as u32, IMAGE_SIDE as u32, data).expect("three bytes a pixel")
}

/// Round masks that cost nothing to predict, so that only the work behind the network is measured.
struct Blobs {
    input_side: usize,
    mask_side: usize,
    masks: Vec<LowResMask>,
}

impl Blobs {
    fn new(input_side: usize, mask_side: usize) -> Self {
        let blob = |i: usize| {
            let (cx, cy, radius) = ((i * 37 % mask_side) as f32, (i * 91 % mask_side) as f32, (10 + i % 60) as f32);
            let logit = |place: usize| {
                let (x, y) = ((place % mask_side) as f32 - cx, (place / mask_side) as f32 - cy);
                (radius - (x * x + y * y).sqrt()) * 4.0
            };
            LowResMask {
                prompt: i / 3,
                output: i % 3,
                predicted_iou: 0.8 + 0.002 * (i * 13 % 100) as f32,
                logits: (0..mask_side * mask_side).map(logit).collect(),
            }
        };
        Self { input_side, mask_side, masks: (0..3 * POINTS_PER_BATCH).map(blob).collect() }
    }
}

impl PointSegmenter for Blobs {
    type Embedding = ();

    fn input_side(&self) -> usize {
        self.input_side
    }

    fn mask_side(&self) -> usize {
        self.mask_side
    }

    fn embed(&self, images: &[Cow<'_, Rgb>]) -> models::Result<Vec<()>> {
        Ok(vec![(); images.len()])
    }

    fn masks_at(&self, _: &(), _: &[[f64; 2]], above_iou: Option<f32>) -> models::Result<Vec<LowResMask>> {
        let keeps = |mask: &&LowResMask| above_iou.is_none_or(|bound| mask.predicted_iou > bound);
        Ok(self.masks.iter().filter(keeps).cloned().collect())
    }
}
