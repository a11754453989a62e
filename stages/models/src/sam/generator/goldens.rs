//! The generator beside the original one, both over a predictor that is a formula.
//!
//! The formula is that of the in-house `goldens/mask_generator/README.md`; each JSON there holds a seed, an image size,
//! settings and the records of the original. `tests/make_sam_goldens.py` writes more of them. `URBANCROSS_GOLDENS=DIR`
//! checks every such file in DIR and its folders.

use super::{LowResMask, MaskGenerator, MaskGeneratorSettings, MaskRecord, PointSegmenter};
use crate::{ModelError, Result};
use pixels::Rgb;
use pixels::mask::Rle;
use serde_json::Value;
use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Ellipses with a wavy edge, drawn by hashes of crop, point and output.
struct Formula {
    seed: u32,
    crops: AtomicUsize,
}

/// A crop's number and how many of its points were asked.
struct CropState {
    crop: u32,
    points: AtomicUsize,
}

const SIDE: usize = 256;

fn mix(args: [u32; 5]) -> f64 {
    let mut h = 0x811c_9dc5u32;
    for byte in args.iter().flat_map(|arg| arg.to_le_bytes()) {
        h = (h ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    }
    h = (h ^ (h >> 16)).wrapping_mul(0x85eb_ca6b);
    h = (h ^ (h >> 13)).wrapping_mul(0xc2b2_ae35);
    h ^= h >> 16;
    f64::from(h >> 8) / f64::from(1 << 24)
}

impl Formula {
    fn new(seed: u32) -> Self {
        Self { seed, crops: AtomicUsize::new(0) }
    }

    fn logits(u: impl Fn(u32) -> f64, [x, y]: [f64; 2]) -> Vec<f32> {
        let (cx, cy) = (x / 4.0 + (u(0) - 0.5) * 24.0, y / 4.0 + (u(1) - 0.5) * 24.0);
        let (rx, ry) = (4.0 + u(2).powi(2) * 50.0, 4.0 + u(3).powi(2) * 50.0);
        let (sine, cosine) = (std::f64::consts::PI * u(4)).sin_cos();
        let k = 10.0 * 60f64.powf(u(5));
        let logit = |i: usize| {
            let (x, y) = ((i % SIDE) as f64, (i / SIDE) as f64);
            let (dx, dy) = (x - cx, y - cy);
            let (a, b) = ((cosine * dx + sine * dy) / rx, (-sine * dx + cosine * dy) / ry);
            let wave = 0.12 * (0.35 * x + 6.0 * u(6)).sin() * (0.27 * y + 6.0 * u(7)).sin();
            (k * (1.0 - (a * a + b * b).sqrt() + wave)).clamp(-32.0, 32.0) as f32
        };
        (0..SIDE * SIDE).map(logit).collect()
    }
}

impl PointSegmenter for Formula {
    type Embedding = CropState;

    fn input_side(&self) -> usize {
        4 * SIDE
    }

    fn mask_side(&self) -> usize {
        SIDE
    }

    fn embed(&self, images: &[Cow<'_, Rgb>]) -> Result<Vec<CropState>> {
        let crop =
            |_| CropState { crop: self.crops.fetch_add(1, Ordering::Relaxed) as u32, points: AtomicUsize::new(0) };
        Ok(images.iter().map(crop).collect())
    }

    fn masks_at(&self, image: &CropState, points_xy: &[[f64; 2]], above_iou: Option<f32>) -> Result<Vec<LowResMask>> {
        let first = image.points.fetch_add(points_xy.len(), Ordering::Relaxed);
        let mut masks = Vec::new();
        for (prompt, &point) in points_xy.iter().enumerate() {
            for output in 0..3 {
                let u = |t: u32| mix([self.seed, image.crop, (first + prompt) as u32, output as u32, t]);
                let predicted_iou = (0.7 + 0.35 * u(8)) as f32;
                if above_iou.is_none_or(|bound| predicted_iou > bound) {
                    masks.push(LowResMask { prompt, output, predicted_iou, logits: Formula::logits(u, point) });
                }
            }
        }
        Ok(masks)
    }
}

fn image(height: usize, width: usize) -> Rgb {
    Rgb::new(width as u32, height as u32, vec![0; 3 * height * width]).unwrap()
}

fn numbers<const N: usize>(value: &Value) -> [f64; N] {
    std::array::from_fn(|i| value[i].as_f64().unwrap())
}

fn check_record(what: &str, ours: &MaskRecord, theirs: &Value) {
    let [height, width] = numbers::<2>(&theirs["segmentation"]["size"]).map(|x| x as u32);
    let counts = theirs["segmentation"]["counts"].as_str().unwrap();
    let mask = Rle::from_coco_string(counts, height, width).unwrap();
    assert!(ours.segmentation.iou(&mask).unwrap() >= 0.999, "{what}: masks differ");
    let area = theirs["area"].as_f64().unwrap();
    assert!((ours.area_px as f64 - area).abs() <= 0.001 * area, "{what}: area {} beside {area}", ours.area_px);
    let boxes = ours.bbox_xywh.map(f64::from).into_iter().zip(numbers::<4>(&theirs["bbox"]));
    assert!(boxes.into_iter().all(|(a, b)| (a - b).abs() <= 1.0), "{what}: box {:?}", ours.bbox_xywh);
    assert_eq!(ours.crop_box_xywh.map(f64::from), numbers::<4>(&theirs["crop_box"]), "{what}");
    let point = numbers::<2>(&theirs["point_coords"][0]);
    assert!(ours.point_xy.iter().zip(point).all(|(a, b)| (a - b).abs() < 1e-9), "{what}: point {:?}", ours.point_xy);
    let close = |a: f32, b: &Value, tolerance: f64| (f64::from(a) - b.as_f64().unwrap()).abs() <= tolerance;
    assert!(close(ours.predicted_iou, &theirs["predicted_iou"], 1e-6), "{what}: iou {}", ours.predicted_iou);
    // One pixel of the smallest mask.
    assert!(close(ours.stability_score, &theirs["stability_score"], 2e-3), "{what}: {}", ours.stability_score);
}

fn check(path: &Path, golden: &Value) {
    let [height, width] = numbers::<2>(&golden["image_hw"]).map(|x| x as usize);
    let settings: MaskGeneratorSettings = serde_json::from_value(golden["settings"].clone()).unwrap();
    let formula = Formula::new(golden["seed"].as_u64().unwrap() as u32);
    let generator = MaskGenerator::new(&formula, settings).unwrap();
    let records = generator.generate(&[image(height, width)], &|| false).unwrap().remove(0);
    let theirs = golden["records"].as_array().unwrap();
    assert_eq!(records.len(), theirs.len(), "{}", path.display());
    for (index, (ours, theirs)) in records.iter().zip(theirs).enumerate() {
        check_record(&format!("{}, record {index}", path.display()), ours, theirs);
    }
}

/// Files of records in a folder and in the folders within it.
fn goldens(parent: &Path) -> Vec<(PathBuf, Value)> {
    let entries = |folder: &Path| -> Vec<PathBuf> {
        std::fs::read_dir(folder)
            .map(|entries| entries.map(|entry| entry.unwrap().path()).collect())
            .unwrap_or_default()
    };
    let mut files = entries(parent);
    files.extend(entries(parent).iter().flat_map(|folder| entries(folder)));
    files.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    files.sort();
    let read = |path: PathBuf| {
        let golden: Value = serde_json::from_str(&std::fs::read_to_string(&path).ok()?).ok()?;
        (golden["records"].is_array() && golden["image_hw"].is_array()).then_some((path, golden))
    };
    files.into_iter().filter_map(read).collect()
}

#[test]
fn committed_goldens() {
    let goldens = goldens(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens"));
    assert!(!goldens.is_empty());
    goldens.iter().for_each(|(path, golden)| check(path, golden));
}

#[test]
fn in_house_goldens() {
    if let Some(data) = crate::test_data() {
        let goldens = goldens(&data.join("goldens/mask_generator"));
        assert_eq!(goldens.len(), 4);
        goldens.iter().for_each(|(path, golden)| check(path, golden));
    }
}

#[test]
fn goldens_named_by_the_environment() {
    match std::env::var_os("URBANCROSS_GOLDENS") {
        None => println!("skipped: URBANCROSS_GOLDENS names no folder with goldens"),
        Some(parent) => {
            let goldens = goldens(Path::new(&parent));
            println!("{} goldens of the mask generator in {}", goldens.len(), Path::new(&parent).display());
            goldens.iter().for_each(|(path, golden)| check(path, golden));
        }
    }
}

#[test]
fn hashes_are_those_of_the_goldens() {
    // In-house `hash_check.json`, arguments [7, 0, 5, 1].
    assert_eq!([0, 1].map(|t| mix([7, 0, 5, 1, t])), [0.250_070_512_294_769_3, 0.920_530_259_609_222_4]);
}

fn small() -> MaskGeneratorSettings {
    MaskGeneratorSettings { points_per_side: Some(4), crop_n_layers: 1, ..MaskGeneratorSettings::default() }
}

#[test]
fn batches_of_crops_points_and_images_change_nothing() {
    let generate = |settings: MaskGeneratorSettings, images: &[Rgb]| {
        let formula = Formula::new(3);
        MaskGenerator::new(&formula, settings).unwrap().generate(images, &|| false).unwrap()
    };
    let images = [image(90, 120), image(64, 50)];
    let together = generate(small(), &images);
    assert!(together.iter().all(|records| records.len() > 1));
    let piecewise = MaskGeneratorSettings { points_per_batch: 3, crops_per_batch: 1, ..small() };
    assert_eq!(generate(piecewise, &images), together);
    assert_eq!(generate(small(), &images[..1])[0], together[0]);
}

#[test]
fn points_of_ones_own_are_asked() {
    let grid = super::point_grid(4);
    let own = MaskGeneratorSettings { points_per_side: None, point_grids: Some(vec![grid.clone(), grid]), ..small() };
    let generate = |settings| {
        let formula = Formula::new(3);
        MaskGenerator::new(&formula, settings).unwrap().generate(&[image(90, 120)], &|| false).unwrap()
    };
    assert_eq!(generate(own), generate(small()));
}

#[test]
fn it_stops_between_batches() {
    let formula = Formula::new(3);
    let generator = MaskGenerator::new(&formula, MaskGeneratorSettings { points_per_batch: 4, ..small() }).unwrap();
    let asked = AtomicUsize::new(0);
    // Once for the crops, then for each batch of four points.
    let stop = || asked.fetch_add(1, Ordering::Relaxed) == 3;
    let stopped = generator.generate(&[image(90, 120)], &stop);
    assert!(matches!(stopped, Err(ModelError::Stopped)));
    assert_eq!(asked.into_inner(), 4);
    assert!(generator.generate(&[], &|| true).unwrap().is_empty());
}
