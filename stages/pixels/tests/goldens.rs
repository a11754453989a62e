//! Agreement with Pillow, pycocotools and scikit-image on the numbers that `goldens.py` wrote.

use std::collections::HashMap;
use std::path::PathBuf;

use choices::Felzenszwalb;
use pixels::felzenszwalb::segment;
use pixels::mask::Rle;
use pixels::{DecodeLimits, Filter, Rgb};

fn golden(name: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/goldens");
    folder.join(name)
}

/// The words of each line of a golden text.
fn lines(name: &str) -> Vec<Vec<String>> {
    let text = std::fs::read_to_string(golden(name)).unwrap();
    let words = |line: &str| line.split(' ').map(str::to_owned).collect();
    text.lines().map(words).collect()
}

fn number<T: std::str::FromStr>(word: &str) -> T {
    let parsed = word.parse().ok();
    parsed.unwrap_or_else(|| panic!("{word:?} is no number"))
}

fn bytes(hexadecimal: &str) -> Vec<u8> {
    let digits = hexadecimal.as_bytes().chunks(2);
    digits.map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

/// As `noise` in goldens.py.
fn noise(seed: u32) -> impl Iterator<Item = u8> {
    let mut state = seed;
    std::iter::repeat_with(move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    })
}

/// As `picture` in goldens.py.
fn picture(width: u32, height: u32) -> Rgb {
    let mut grain = noise(1);
    let mut data = Vec::new();
    for y in 0..height {
        for x in 0..width {
            for channel in 0..3 {
                let wave = 3 * ((x * (3 + channel) + y * (5 - channel)) % 128).abs_diff(64);
                let check = (x / 13 + y / 9) % 2 * 40;
                let grain = u32::from(grain.next().unwrap()) / 8;
                data.push((wave + check + grain).min(255) as u8);
            }
        }
    }
    Rgb::new(width, height, data).unwrap()
}

/// As `regions` in goldens.py.
fn regions(width: u32, height: u32) -> Rgb {
    let mut grain = noise(1);
    let mut data = Vec::new();
    for y in 0..height {
        for x in 0..width {
            let disc = x.abs_diff(20).pow(2) + y.abs_diff(24).pow(2) < 144;
            let bar = y > 30 && y < 40 && x > 36;
            let colour = match (bar, disc, x < width / 2) {
                (true, _, _) => [210, 200, 60],
                (_, true, _) => [30, 60, 160],
                (_, _, true) => [60, 90, 40],
                _ => [130, 125, 110],
            };
            data.extend(colour.map(|value| value + grain.next().unwrap() / 16));
        }
    }
    Rgb::new(width, height, data).unwrap()
}

/// As `binary_mask` in goldens.py.
fn binary_mask(height: u32, width: u32, threshold: u32, period: u32, seed: u32) -> Rle {
    let mut grain = noise(seed);
    let mut bits = Vec::new();
    for y in 0..height {
        for x in 0..width {
            let below = u32::from(grain.next().unwrap()) < threshold;
            bits.push(below && (x * 2 + y) % period * 3 < period * 2);
        }
    }
    Rle::from_row_major(&bits, height, width).unwrap()
}

fn samples(rgb: &Rgb, stride: usize) -> Vec<u8> {
    let (pixels, _) = rgb.data.as_chunks::<3>();
    let rows = pixels.chunks(rgb.width as usize).step_by(stride);
    rows.flat_map(|row| row.iter().step_by(stride).flatten().copied()).collect()
}

/// Mean and largest absolute difference.
fn differences(ours: &[u8], theirs: &[u8]) -> (f64, u8) {
    assert_eq!(ours.len(), theirs.len());
    let each = || ours.iter().zip(theirs).map(|(a, b)| a.abs_diff(*b));
    let mean = each().map(f64::from).sum::<f64>() / ours.len() as f64;
    (mean, each().max().unwrap())
}

#[test]
fn resize_equals_pillow_within_rounding() {
    for line in lines("resize.txt") {
        let filter = match line[0].as_str() {
            "bicubic" => Filter::Bicubic,
            _ => Filter::Bilinear,
        };
        let [width, height, to_width, to_height] = [1, 2, 3, 4].map(|word| number::<u32>(&line[word]));
        let ours = pixels::resize(&picture(width, height), to_width, to_height, filter);
        let (mean, largest) = differences(&samples(&ours, 11), &bytes(&line[5]));
        println!("{:?}: mean {mean:.4}, largest {largest}", &line[..5]);
        assert!(mean <= 0.5 && largest <= 3, "{:?}: {mean} {largest}", &line[..5]);
    }
}

#[test]
fn clip_view_equals_torchvision_on_pillow() {
    for line in lines("clip_view.txt") {
        let [width, height] = [0, 1].map(|word| number::<u32>(&line[word]));
        let ours = pixels::clip_view(&picture(width, height), 224);
        assert_eq!((ours.width, ours.height), (224, 224));
        let (mean, largest) = differences(&samples(&ours, 11), &bytes(&line[2]));
        println!("{width} x {height}: mean {mean:.4}, largest {largest}");
        assert!(mean <= 0.5 && largest <= 3, "{width} x {height}: {mean} {largest}");
    }
}

#[test]
fn decode_equals_pillow() {
    for line in lines("decode.txt") {
        let encoded = std::fs::read(golden(&line[0])).unwrap();
        assert_eq!(pixels::dimensions(&encoded), Ok((45, 34)), "{}", line[0]);
        let ours = pixels::decode(&encoded, &DecodeLimits::default()).unwrap();
        assert_eq!((ours.width, ours.height), (45, 34));
        let (mean, largest) = differences(&ours.data, &bytes(&line[1]));
        println!("{}: mean {mean:.4}, largest {largest}", line[0]);
        // The inverse cosine transform and the chroma upsampling of JPEG may be rounded differently.
        let (mean_limit, largest_limit) = if line[0].ends_with("jpg") { (0.5, 4) } else { (0.2, 1) };
        assert!(mean <= mean_limit && largest <= largest_limit, "{}", line[0]);
    }
}

#[test]
fn run_lengths_equal_pycocotools() {
    for line in lines("run_lengths.txt") {
        let [height, width, threshold, period, seed] = [0, 1, 2, 3, 4].map(|word| number::<u32>(&line[word]));
        let mask = binary_mask(height, width, threshold, period, seed);
        assert_eq!(mask.to_coco_string(), line[11], "{height} x {width}");
        assert_eq!(Rle::from_coco_string(&line[11], height, width).as_ref(), Ok(&mask));
        assert_eq!(mask.area_px(), number::<u64>(&line[5]));
        let their_box = [6, 7, 8, 9].map(|word| number::<u32>(&line[word]));
        assert_eq!(mask.bbox_xywh(), their_box);
        let other = binary_mask(height, width, 180, 7, seed + 100);
        let iou = mask.iou(&other).unwrap();
        assert!((iou - number::<f64>(&line[10])).abs() < 1e-12, "{iou} {}", line[10]);
    }
}

/// Pixels on which two divisions of the same image agree, when each of our segments is matched with
/// the label that it shares most pixels with.
fn agreeing_px(segments: &[Rle], labels: &[u8]) -> usize {
    segments
        .iter()
        .map(|rle| {
            let mut shared = HashMap::new();
            for (bit, label) in rle.to_row_major().into_iter().zip(labels) {
                *shared.entry(label).or_insert(0) += usize::from(bit);
            }
            shared.into_values().max().unwrap_or(0)
        })
        .sum()
}

#[test]
fn felzenszwalb_equals_scikit_image() {
    for line in lines("felzenszwalb.txt") {
        let settings =
            Felzenszwalb { scale: number(&line[0]), sigma_px: number(&line[1]), min_size_px: number(&line[2]) };
        let labels = bytes(&line[3]);
        let ours = segment(&regions(60, 48), &settings);
        let masks: Vec<Rle> = ours.into_iter().map(|segment| segment.rle).collect();
        let their_count = usize::from(*labels.iter().max().unwrap()) + 1;
        let agreeing = agreeing_px(&masks, &labels);
        println!("{settings:?}: {} and {their_count} segments, {agreeing} of {} pixels", masks.len(), labels.len());
        // They blur in double precision: edges of nearly equal weight may be visited in another order.
        assert_eq!(masks.len(), their_count, "{settings:?}");
        assert!(agreeing * 100 >= labels.len() * 99, "{settings:?}: {agreeing}");
    }
}
