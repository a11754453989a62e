use std::ops::Range;

use candle_core::{DType, Device, Tensor, Var};
use serde::Deserialize;

use super::*;

/// Written by `tests/goldens/make_goldens.py`.
const GOLDEN: &str = include_str!("../../tests/goldens/losses.json");
const TOLERANCE: f64 = 1e-10;

#[derive(Deserialize)]
struct Golden {
    inputs: Inputs,
    info_nce: Case,
    info_nce_smoothed: Case,
    hinge: Case,
    segment_text: SegmentCase,
}

#[derive(Deserialize)]
struct Inputs {
    image: Vec<Vec<f64>>,
    text: Vec<Vec<f64>>,
    image_keys: Vec<u64>,
    caption_keys: Vec<u64>,
    valid: Vec<bool>,
    logit_scale: f64,
    margin: f64,
    label_smoothing: f64,
    phi: Vec<Vec<f64>>,
    row_of_segment: Vec<u32>,
    weights: Vec<f32>,
}

#[derive(Deserialize)]
struct Case {
    loss: f64,
    image_gradient: Vec<Vec<f64>>,
    text_gradient: Vec<Vec<f64>>,
    logit_scale_gradient: Option<f64>,
}

#[derive(Deserialize)]
struct SegmentCase {
    loss: f64,
    embedding: Vec<Vec<f64>>,
    present: Vec<bool>,
    phi_gradient: Vec<Vec<f64>>,
}

fn golden() -> Golden {
    serde_json::from_str(GOLDEN).unwrap()
}

impl Inputs {
    fn keys<'a>(&'a self, valid_n: &'a [bool]) -> PairKeys<'a> {
        PairKeys { image_n: &self.image_keys, caption_n: &self.caption_keys, valid_n }
    }

    fn contrast(&self, rows: Range<usize>, label_smoothing: f64) -> Contrast {
        Contrast::new(&self.keys(&self.valid), rows, label_smoothing, DType::F64, &Device::Cpu).unwrap()
    }

    fn variables(&self) -> (Var, Var, Var) {
        let matrix = |rows: &[Vec<f64>]| Var::from_tensor(&tensor(rows)).unwrap();
        (matrix(&self.image), matrix(&self.text), Var::new(self.logit_scale, &Device::Cpu).unwrap())
    }
}

fn tensor(rows: &[Vec<f64>]) -> Tensor {
    let flat: Vec<f64> = rows.iter().flatten().copied().collect();
    Tensor::from_vec(flat, (rows.len(), rows[0].len()), &Device::Cpu).unwrap()
}

fn everyone<'a>(image: &'a Tensor, text: &'a Tensor) -> Features<'a> {
    Features { image_bd: image, text_bd: text, image_nd: image, text_nd: text }
}

fn scalar(tensor: &Tensor) -> f64 {
    tensor.to_scalar().unwrap()
}

#[track_caller]
fn assert_close(found: &Tensor, expected: &[Vec<f64>]) {
    let difference = (found - tensor(expected)).unwrap().abs().unwrap().max_all().unwrap();
    assert!(scalar(&difference) < TOLERANCE, "{found}\nis not\n{expected:?}");
}

#[test]
fn info_nce_and_its_gradients_match_the_transcription() {
    let Golden { inputs, info_nce: plain, info_nce_smoothed, .. } = golden();
    for (case, label_smoothing) in [(plain, 0.0), (info_nce_smoothed, inputs.label_smoothing)] {
        let (image, text, logit_scale) = inputs.variables();
        let contrast = inputs.contrast(0..6, label_smoothing);
        let loss = info_nce(&everyone(&image, &text), &logit_scale, &contrast).unwrap();
        assert!((scalar(&loss) - case.loss).abs() < TOLERANCE, "{loss} is not {}", case.loss);
        let gradients = loss.backward().unwrap();
        assert_close(gradients.get(&image).unwrap(), &case.image_gradient);
        assert_close(gradients.get(&text).unwrap(), &case.text_gradient);
        let by_scale = scalar(gradients.get(&logit_scale).unwrap());
        assert!((by_scale - case.logit_scale_gradient.unwrap()).abs() < TOLERANCE);
    }
}

#[test]
fn hinge_and_its_gradients_match_the_transcription() {
    let Golden { inputs, hinge: case, .. } = golden();
    let (image, text, _) = inputs.variables();
    let loss = hinge(&everyone(&image, &text), inputs.margin, &inputs.contrast(0..6, 0.0)).unwrap();
    assert!((scalar(&loss) - case.loss).abs() < TOLERANCE, "{loss} is not {}", case.loss);
    let gradients = loss.backward().unwrap();
    assert_close(gradients.get(&image).unwrap(), &case.image_gradient);
    assert_close(gradients.get(&text).unwrap(), &case.text_gradient);
}

#[test]
fn segment_embedding_and_its_loss_match_the_transcription() {
    let Golden { inputs, segment_text: case, .. } = golden();
    let (_, text, logit_scale) = inputs.variables();
    let phi = Var::from_tensor(&tensor(&inputs.phi)).unwrap();
    let segments = segment_embedding(&phi, &inputs.row_of_segment, &inputs.weights, 6).unwrap();
    assert_eq!(segments.present_b, case.present);
    assert_close(&segments.embedding_bd, &case.embedding);
    let kept: Vec<bool> = inputs.valid.iter().zip(&segments.present_b).map(|(a, b)| *a && *b).collect();
    let contrast = Contrast::new(&inputs.keys(&kept), 0..6, 0.0, DType::F64, &Device::Cpu).unwrap();
    let loss = info_nce(&everyone(&segments.embedding_bd, &text), &logit_scale, &contrast).unwrap();
    assert!((scalar(&loss) - case.loss).abs() < TOLERANCE, "{loss} is not {}", case.loss);
    assert_close(loss.backward().unwrap().get(&phi).unwrap(), &case.phi_gradient);
}

#[test]
fn a_segment_unlike_the_caption_weighs_nothing() {
    let phi = Var::new(&[[1f64, 0.0], [0.0, 1.0], [1.0, 0.0]], &Device::Cpu).unwrap();
    let segments = segment_embedding(&phi, &[0, 0, 1], &[0.05, -0.04, -0.5], 2).unwrap();
    assert_eq!(segments.present_b, [true, false]);
    assert_eq!(segments.embedding_bd.to_vec2::<f64>().unwrap(), [[1.0, 0.0], [0.0, 0.0]]);
    let gradients = segments.embedding_bd.sum_all().unwrap().backward().unwrap();
    let of_phi = gradients.get(&phi).unwrap().to_vec2::<f64>().unwrap();
    assert_eq!(of_phi[1..], [[0.0, 0.0], [0.0, 0.0]]);
}

/// Local rows against gathered columns: losses and gradients of two ranks add up to those of one.
#[test]
fn ranks_add_up_to_one() {
    let inputs = golden().inputs;
    let total = |rows_of_ranks: &[Range<usize>], use_hinge: bool| {
        let (image, text, logit_scale) = inputs.variables();
        let mut sum = Tensor::zeros((), DType::F64, &Device::Cpu).unwrap();
        for rows in rows_of_ranks {
            let contrast = inputs.contrast(rows.clone(), 0.0);
            let (image_bd, text_bd) = (image.narrow(0, rows.start, rows.len()), text.narrow(0, rows.start, rows.len()));
            let (image_bd, text_bd) = (image_bd.unwrap(), text_bd.unwrap());
            let features = Features { image_bd: &image_bd, text_bd: &text_bd, image_nd: &image, text_nd: &text };
            let loss = if use_hinge {
                hinge(&features, 0.2, &contrast).unwrap()
            } else {
                info_nce(&features, &logit_scale, &contrast).unwrap()
            };
            sum = (sum + loss).unwrap();
        }
        let gradients = sum.backward().unwrap();
        (scalar(&sum), gradients.get(&image).unwrap().to_vec2::<f64>().unwrap())
    };
    let whole = vec![Range { start: 0, end: 6 }];
    for use_hinge in [false, true] {
        let (one_loss, one_gradient) = total(&whole, use_hinge);
        for ranks in [vec![0..3, 3..6], vec![0..2, 2..4, 4..6]] {
            let (loss, gradient) = total(&ranks, use_hinge);
            assert!((loss - one_loss).abs() < TOLERANCE);
            assert_close(&tensor(&gradient), &one_gradient);
        }
    }
}

#[test]
fn extreme_logits_stay_finite() {
    let image = Var::new(&[[1f32, 0.0], [0.0, 1.0], [-1.0, 0.0]], &Device::Cpu).unwrap();
    let text = Var::new(&[[-1f32, 0.0], [0.0, 1.0], [1.0, 0.0]], &Device::Cpu).unwrap();
    let keys = PairKeys { image_n: &[1, 2, 3], caption_n: &[1, 2, 3], valid_n: &[true; 3] };
    let contrast = Contrast::new(&keys, 0..3, 0.0, DType::F32, &Device::Cpu).unwrap();
    let logit_scale = Var::new(models::dual_encoder::MAX_LOGIT_SCALE as f32, &Device::Cpu).unwrap();
    let loss = info_nce(&everyone(&image, &text), &logit_scale, &contrast).unwrap();
    // Two of three pairs are opposite: each loses 100 - (-100) in both directions.
    assert!((loss.to_scalar::<f32>().unwrap() - 400.0 / 3.0).abs() < 1e-3);
    let gradients = loss.backward().unwrap();
    let largest = gradients.get(&image).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
    assert!(largest.is_finite() && largest > 1.0);
}

#[test]
fn a_batch_without_valid_rows_loses_nothing() {
    let (image, text, logit_scale) = golden().inputs.variables();
    let keys = PairKeys { image_n: &[1; 6], caption_n: &[1; 6], valid_n: &[false; 6] };
    let contrast = Contrast::new(&keys, 0..6, 0.1, DType::F64, &Device::Cpu).unwrap();
    let loss = info_nce(&everyone(&image, &text), &logit_scale, &contrast).unwrap();
    assert_eq!(scalar(&loss), 0.0);
    let gradients = loss.backward().unwrap();
    assert_eq!(scalar(&gradients.get(&image).unwrap().abs().unwrap().max_all().unwrap()), 0.0);
}

#[test]
fn contradictions_are_named() {
    let keys = PairKeys { image_n: &[1, 2], caption_n: &[1], valid_n: &[true; 2] };
    let error = Contrast::new(&keys, 0..2, 0.0, DType::F32, &Device::Cpu).unwrap_err().to_string();
    assert!(error.contains("2 images, 1 captions"), "{error}");
    let phi = Tensor::zeros((2, 3), DType::F32, &Device::Cpu).unwrap();
    let error = segment_embedding(&phi, &[0, 5], &[1.0, 1.0], 2).unwrap_err().to_string();
    assert!(error.contains("segment 1 has weight 1 and row 5 of 2"), "{error}");
    let (image, text, logit_scale) = golden().inputs.variables();
    let keys = PairKeys { image_n: &[1, 2], caption_n: &[1, 2], valid_n: &[true; 2] };
    let contrast = Contrast::new(&keys, 0..2, 0.0, DType::F64, &Device::Cpu).unwrap();
    let error = info_nce(&everyone(&image, &text), &logit_scale, &contrast).unwrap_err().to_string();
    assert!(error.contains("[6, 5]") && error.contains("[2, 2]"), "{error}");
}
