//! The kernel beside the composition.

use super::{LowResMask, Selection};
use crate::ops::cpu_kernels;
use crate::sam::{EncoderConfig, MaskOutputs, PointLabel, Prompt, Sam, SamConfig};
use candle_core::{DType, Device, Tensor};

/// A small network whose image has 400 positions: two tiles, the second not full.
fn config(depth: usize) -> SamConfig {
    let mut config = SamConfig::preset("vit-b").unwrap();
    config.image_size = 160;
    let EncoderConfig::Vit(vit) = &mut config.encoder else { unreachable!("the preset is a ViT") };
    (vit.patch_size, vit.width, vit.depth, vit.heads, vit.mlp_width) = (8, 8, 2, 2, 16);
    (vit.window, vit.global_blocks) = (7, vec![1]);
    let d = &mut config.decoder;
    (d.width, d.depth, d.heads, d.mlp_width, d.iou_head_width) = (32, depth, 4, 24, 20);
    config
}

fn pixels(config: &SamConfig) -> Tensor {
    let side = config.image_size;
    let values: Vec<f32> = (0..3 * side * side).map(|i| ((i * 7919) % 1013) as f32 / 506.5 - 1.0).collect();
    Tensor::from_vec(values, (1, 3, side, side), &Device::Cpu).unwrap()
}

fn points(count: usize) -> Vec<Prompt> {
    (0..count).map(|i| Prompt::point([(i * 37 % 160) as f32, (i * 61 % 160) as f32])).collect()
}

fn assert_same(ours: &[LowResMask], theirs: &[LowResMask]) {
    assert_eq!(ours.len(), theirs.len());
    let scale = theirs.iter().flat_map(|mask| &mask.logits).fold(0.0f32, |scale, x| scale.max(x.abs()));
    for (a, b) in ours.iter().zip(theirs) {
        assert_eq!((a.prompt, a.output), (b.prompt, b.output));
        assert!((a.predicted_iou - b.predicted_iou).abs() < 1e-5);
        let worst = a.logits.iter().zip(&b.logits).fold(0.0f32, |worst, (a, b)| worst.max((a - b).abs()));
        assert!(worst < 1e-4 * scale, "{worst} of {scale}");
    }
}

#[test]
fn kernel_and_composition_agree() {
    for depth in [1, 2, 3] {
        let config = config(depth);
        // Other types have no kernel.
        let [fast, composed] =
            [DType::F32, DType::F64].map(|dtype| Sam::init(&config, 3, &Device::Cpu, dtype).unwrap());
        assert!(fast.decoder.kernel.is_some() == cpu_kernels() && composed.decoder.kernel.is_none());
        let images = [&fast, &composed].map(|sam| sam.embed_images(&pixels(&config)).unwrap().remove(0));
        let mask: Vec<f32> = (0..config.mask_side().pow(2)).map(|i| (i % 23) as f32 - 11.0).collect();
        let corners = Prompt { box_xyxy: Some([10.0, 20.0, 90.0, 140.0]), ..Prompt::default() };
        let both = Prompt {
            points_xy: vec![([30.0, 40.0], PointLabel::Foreground), ([90.0, 4.0], PointLabel::Background)],
            ..corners.clone()
        };
        let masked = Prompt { mask_logits: Some(mask), ..corners.clone() };
        for prompts in [points(18), vec![corners], vec![both], vec![masked.clone(), masked]] {
            for outputs in [MaskOutputs::Multi, MaskOutputs::Single] {
                let ours = fast.predict(&images[0], &prompts, outputs, None).unwrap();
                let theirs = composed.predict(&images[1], &prompts, outputs, None).unwrap();
                assert_same(&ours, &theirs);
            }
        }
    }
}

#[test]
fn masks_depend_on_no_other_prompt_and_on_no_thread() {
    let config = config(2);
    let sam = Sam::init(&config, 3, &Device::Cpu, DType::F32).unwrap();
    let image = sam.embed_images(&pixels(&config)).unwrap().remove(0);
    let prompts = points(17);
    let predict = |prompts: &[Prompt]| sam.predict(&image, prompts, MaskOutputs::Multi, None).unwrap();
    let all = predict(&prompts);
    let alone = predict(&prompts[16..]);
    // a library's matrix product may add in another order when it has other rows beside it
    if !cpu_kernels() {
        let moved: Vec<LowResMask> = alone.into_iter().map(|mask| LowResMask { prompt: 16, ..mask }).collect();
        return assert_same(&moved, &all[48..]);
    }
    for (mask, alone) in all[48..].iter().zip(&alone) {
        assert_eq!(mask.logits, alone.logits);
        assert_eq!(mask.predicted_iou, alone.predicted_iou);
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    assert_eq!(pool.install(|| predict(&prompts)), all);
}

#[test]
fn prompts_in_pieces_have_the_masks_that_they_have_at_once() {
    let config = config(2);
    let sam = Sam::init(&config, 3, &Device::Cpu, DType::F64).unwrap();
    let image = sam.embed_images(&pixels(&config)).unwrap().remove(0);
    let mask = |prompt: usize| (0..config.mask_side().pow(2)).map(|i| ((i + prompt) % 23) as f32 - 11.0).collect();
    let masked =
        points(7).into_iter().enumerate().map(|(i, point)| Prompt { mask_logits: Some(mask(i)), ..point }).collect();
    for prompts in [points(7), masked] {
        let (sparse, length) = sam.prompt_encoder.sparse(&prompts).unwrap();
        let sparse = Tensor::from_vec(sparse, (7, length, 32), &Device::Cpu).unwrap().to_dtype(DType::F64).unwrap();
        let dense = sam.prompt_encoder.dense(&prompts, &Device::Cpu, DType::F64).unwrap();
        let selection = Selection { outputs: 1..4, above_iou: None };
        let predict = |most| {
            let (decoder, no_mask) = (&sam.decoder, sam.prompt_encoder.no_mask());
            decoder.predict_in_pieces(most, &image.0, &sparse, dense.as_ref(), no_mask, &selection).unwrap()
        };
        let whole = predict(7);
        assert_eq!(whole.len(), 21);
        for most in [0, 1, 3, 100] {
            assert_same(&predict(most), &whole);
        }
    }
}

#[test]
fn qualities_that_are_no_numbers_are_refused() {
    let config = config(2);
    let mut tensors = Sam::random_tensors(&config, 3).unwrap();
    let name = "mask_decoder.iou_token.weight";
    let mut token: Vec<f32> = tensors[name].flatten_all().unwrap().to_vec1().unwrap();
    token[0] = f32::NAN;
    let token = Tensor::from_vec(token, (1, config.decoder.width), &Device::Cpu).unwrap();
    tensors.insert(name.to_owned(), token);
    for dtype in [DType::F32, DType::F64] {
        let sam = Sam::from_tensors(&config, &tensors, &Device::Cpu, dtype).unwrap();
        let image = sam.embed_images(&pixels(&config)).unwrap().remove(0);
        let error = sam.predict(&image, &points(2), MaskOutputs::Multi, Some(0.5)).unwrap_err().to_string();
        assert!(error.contains("quality of a mask is not finite"), "{error}");
    }
}

#[test]
fn masks_of_low_quality_are_left_out() {
    let config = config(2);
    for dtype in [DType::F32, DType::F64] {
        let sam = Sam::init(&config, 3, &Device::Cpu, dtype).unwrap();
        let image = sam.embed_images(&pixels(&config)).unwrap().remove(0);
        let all = sam.predict(&image, &points(5), MaskOutputs::Multi, None).unwrap();
        let bound = all[4].predicted_iou;
        let some = sam.predict(&image, &points(5), MaskOutputs::Multi, Some(bound)).unwrap();
        let expected: Vec<LowResMask> = all.into_iter().filter(|mask| mask.predicted_iou > bound).collect();
        assert!(!expected.is_empty() && expected.len() < 14);
        assert_eq!(some, expected);
        let selection = Selection { outputs: 0..1, above_iou: Some(f32::NAN) };
        assert!(!selection.keeps(1.0));
    }
}
