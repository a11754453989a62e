//! Captioned images in memory, and batches of augmented views.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::path::Path;

use models::tokenizer::Tokenizer;
use pixels::augment::{Augment, augment};
use pixels::{CLIP_MEAN, CLIP_STD, DecodeLimits, Filter, Rgb, clip_view, decode, normalise_into, resize};
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use training::batch::{BatchSource, BoxError, PairBatch};
use training::order::DataOrder;

use super::Trial;

/// How views of images and captions vary in training.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Views {
    /// Least share of the area that a crop takes.
    pub crop: f32,
    /// Greatest relative change of colours.
    pub colour_jitter: f32,
    /// Flips and quarter turns.
    pub turns: bool,
    /// Captions of an image in one batch.
    pub captions: usize,
    /// Share of words left out.
    pub word_dropout: f64,
}

impl Default for Views {
    fn default() -> Self {
        Self { crop: 0.5, colour_jitter: 0.3, turns: true, captions: 1, word_dropout: 0.1 }
    }
}

#[derive(Deserialize)]
struct Line {
    file: String,
    split: String,
    captions: Vec<String>,
}

/// One image and its captions.
pub struct Pair {
    rgb: Rgb,
    pub image_key: u64,
    pub captions: Vec<String>,
}

/// All pairs by split.
pub struct Pairs {
    pub train: Vec<Pair>,
    pub validation: Vec<Pair>,
    pub test: Vec<Pair>,
}

pub fn key(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

/// Lower case, words apart by one space, no full stop.
fn normalised(caption: &str) -> String {
    let lower = caption.to_lowercase();
    lower.split_whitespace().filter(|word| *word != ".").collect::<Vec<_>>().join(" ")
}

impl Pairs {
    pub fn read(folder: &Path, side: usize) -> Result<Self, BoxError> {
        let text = std::fs::read_to_string(folder.join("captions.jsonl"))?;
        let lines = text.lines().map(serde_json::from_str).collect::<Result<Vec<Line>, _>>()?;
        let read = |line: Line| -> Result<(String, String, Pair), BoxError> {
            let bytes = std::fs::read(folder.join("images").join(&line.file))?;
            let rgb = decode(&bytes, &DecodeLimits::default())?;
            // No more detail than crops can show.
            let most = (side as u32 * 3 / 2).min(rgb.width.min(rgb.height));
            let rgb = resize(&rgb, rgb.width * most / rgb.width.min(rgb.height), most, Filter::Bicubic);
            let captions = line.captions.iter().map(|caption| normalised(caption)).collect();
            Ok((line.file, line.split, Pair { rgb, image_key: key(&bytes), captions }))
        };
        let mut pairs = Self { train: Vec::new(), validation: Vec::new(), test: Vec::new() };
        for (file, split, pair) in lines.into_par_iter().map(read).collect::<Result<Vec<_>, _>>()? {
            match split.as_str() {
                "test" => pairs.test.push(pair),
                _ if key(file.as_bytes()).is_multiple_of(10) => pairs.validation.push(pair),
                _ => pairs.train.push(pair),
            }
        }
        Ok(pairs)
    }
}

impl Pair {
    /// Normalised pixels of one of the 8 flips and turns of the whole image; view 0 is the image itself.
    pub fn pixels(&self, side: usize, view: usize) -> Vec<f32> {
        let rgb = clip_view(&self.rgb, side as u32);
        let mut upright = vec![0.0; 3 * side * side];
        normalise_into(&rgb, &CLIP_MEAN, &CLIP_STD, &mut upright);
        let mut turned = vec![0.0; upright.len()];
        for (index, value) in turned.iter_mut().enumerate() {
            let (plane, y, x) = (index / (side * side), index / side % side, index % side);
            let (y, x) = if view & 1 == 0 { (y, x) } else { (x, y) };
            let y = if view & 2 == 0 { y } else { side - 1 - y };
            let x = if view & 4 == 0 { x } else { side - 1 - x };
            *value = upright[(plane * side + y) * side + x];
        }
        turned
    }
}

/// Batches of images with some of their captions, drawn anew in every pass.
pub struct Source<'a> {
    pairs: &'a [Pair],
    tokenizer: &'a Tokenizer,
    order: DataOrder,
    passes: usize,
    seed: u64,
    views: Views,
    augment: Augment,
    length: usize,
}

impl<'a> Source<'a> {
    pub fn new(pairs: &'a [Pair], tokenizer: &'a Tokenizer, trial: &Trial) -> Result<Self, BoxError> {
        let views = trial.views;
        let augment = Augment {
            side: trial.model.vision.image_size as u32,
            scale: (views.crop, 1.0),
            ratio: (3.0 / 4.0, 4.0 / 3.0),
            flip_horizontal: views.turns,
            flip_vertical: views.turns,
            rotate_quarter_turns: views.turns,
            colour_jitter: views.colour_jitter,
        };
        augment.validate()?;
        Ok(Self {
            order: DataOrder::new(&[pairs.len() as u32], 1, trial.batch, trial.seed)?,
            pairs,
            tokenizer,
            passes: trial.passes,
            seed: trial.seed,
            views,
            augment,
            length: trial.model.text.context_length,
        })
    }

    /// Adds one view of an image and some of its captions.
    fn view(&self, row: u64, pass: usize) -> Result<PairBatch, BoxError> {
        let pair = &self.pairs[row as usize];
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(row << 32 | pass as u64);
        let rgb = augment(&pair.rgb, &self.augment, &mut rng);
        let side = self.augment.side as usize;
        let mut batch = PairBatch { pixel_values_bchw: vec![0.0; 3 * side * side], ..PairBatch::default() };
        normalise_into(&rgb, &CLIP_MEAN, &CLIP_STD, &mut batch.pixel_values_bchw);
        for caption in pair.captions.choose_multiple(&mut rng, self.views.captions) {
            let mut kept = caption.split(' ').collect::<Vec<_>>();
            kept.retain(|_| !rng.random_bool(self.views.word_dropout));
            let ids = self.tokenizer.encode(&kept.join(" "), self.length)?;
            batch.input_ids_bl.extend(ids);
            batch.image_keys.push(pair.image_key);
            batch.caption_keys.push(key(caption.as_bytes()));
        }
        Ok(batch)
    }
}

impl BatchSource for Source<'_> {
    fn steps_per_epoch(&self) -> usize {
        self.passes * self.order.steps_per_epoch()
    }

    fn batch(&mut self, epoch: usize, step: usize) -> Result<PairBatch, BoxError> {
        let steps = self.order.steps_per_epoch();
        let pass = epoch * self.passes + step / steps;
        let rows = self.order.global_batch(pass, step % steps)?;
        let views = rows.into_par_iter().map(|row| self.view(row, pass));
        let mut batch = PairBatch::default();
        let mut image_of_row = Vec::new();
        for (image, view) in (0..).zip(views.collect::<Vec<_>>()) {
            let view = view?;
            image_of_row.resize(image_of_row.len() + view.rows(), image);
            batch.pixel_values_bchw.extend(view.pixel_values_bchw);
            batch.input_ids_bl.extend(view.input_ids_bl);
            batch.image_keys.extend(view.image_keys);
            batch.caption_keys.extend(view.caption_keys);
        }
        batch.valid = vec![true; image_of_row.len()];
        batch.image_of_row = Some(image_of_row);
        Ok(batch)
    }
}
