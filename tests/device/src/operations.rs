//! Every operation of `models::ops`, there and back.

use candle_core::{DType, Device, Tensor, Var};
use models::ops::inference::{
    AttentionMask, AttentionPaths, DistanceBias, Gate, PathQueries, RotaryLayout, RotaryTable, cross_attention, gated,
    paged_attention, residual_norm, rms_norm, rotary,
};
use models::ops::{
    Activation, Block, Dropout, InvertedBottleneck, RelativePositions, StemStage, activation, add_positions, attention,
    conv2d, depthwise_conv, embedding, image_conv2d, inverted_bottleneck, l2_normalise, layer_norm, linear, mean_pool,
    patches, project, select_rows, stem_stage, transformer_block, window_attention,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::check::{Checks, poison, tolerance};
use crate::{Place, Result, parameters};

type Apply = Box<dyn Fn(&[Tensor]) -> candle_core::Result<Tensor>>;

/// An operation with the shapes of its arguments.
struct Case {
    name: &'static str,
    shapes: Vec<Vec<usize>>,
    /// Whether it can be differentiated.
    trained: bool,
    apply: Apply,
}

fn case(
    name: &'static str,
    trained: bool,
    shapes: &[&[usize]],
    apply: impl Fn(&[Tensor]) -> candle_core::Result<Tensor> + 'static,
) -> Case {
    Case { name, shapes: shapes.iter().map(|shape| shape.to_vec()).collect(), trained, apply: Box::new(apply) }
}

/// Compares every operation in every type with the CPU in f64 on the same rounded inputs.
pub(crate) fn run(place: &Place, seed: u64) -> Result {
    let device = place.device()?;
    let mut checks = Checks::default();
    for case in training_cases().into_iter().chain(inference_cases()) {
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            let what = format!("{} {dtype:?}", case.name);
            if let Err(problem) = compare(&case, dtype, &device, seed, &mut checks) {
                checks.fails(&what, problem);
            }
        }
    }
    if let Err(problem) = parameters::run(&device, seed, &mut checks) {
        checks.fails("optimiser", problem);
    }
    checks.finish()
}

fn compare(case: &Case, dtype: DType, device: &Device, seed: u64, checks: &mut Checks) -> Result {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut random = |shape: &[usize]| -> candle_core::Result<Tensor> {
        let count: usize = shape.iter().product();
        let values: Vec<f32> = (0..count).map(|_| rng.random_range(-1.0..1.0)).collect();
        Tensor::from_vec(values, shape, &Device::Cpu)?.to_dtype(dtype)
    };
    let args = case.shapes.iter().map(|shape| random(shape)).collect::<candle_core::Result<Vec<_>>>()?;
    let there = |x: &Tensor| x.to_device(device);
    let exact = |x: &Tensor| x.to_dtype(DType::F64);
    poison(device)?;
    if !case.trained {
        let found = (case.apply)(&args.iter().map(there).collect::<candle_core::Result<Vec<_>>>()?)?;
        let wanted = (case.apply)(&args.iter().map(exact).collect::<candle_core::Result<Vec<_>>>()?)?;
        checks.close(&format!("{} {dtype:?}", case.name), &found, &wanted, tolerance(dtype));
        return Ok(());
    }
    let variables = |change: &dyn Fn(&Tensor) -> candle_core::Result<Tensor>| {
        args.iter().map(|arg| Var::from_tensor(&change(arg)?)).collect::<candle_core::Result<Vec<_>>>()
    };
    let tracked = |vars: &[Var]| vars.iter().map(|var| var.as_tensor().clone()).collect::<Vec<_>>();
    let (ours, reference) = (variables(&there)?, variables(&exact)?);
    let (found, wanted) = ((case.apply)(&tracked(&ours))?, (case.apply)(&tracked(&reference))?);
    checks.close(&format!("{} {dtype:?}", case.name), &found, &wanted, tolerance(dtype));
    let weights = random(wanted.dims())?;
    poison(device)?;
    let found = (found * there(&weights)?)?.sum_all()?.backward()?;
    let wanted = (wanted * exact(&weights)?)?.sum_all()?.backward()?;
    for (index, (ours, reference)) in ours.iter().zip(&reference).enumerate() {
        let what = format!("{} {dtype:?}, gradient {index}", case.name);
        match (found.get(ours), wanted.get(reference)) {
            // a gradient is a sum over many rounded numbers
            (Some(found), Some(wanted)) => checks.close(&what, found, wanted, 3.0 * tolerance(dtype)),
            (None, None) => {}
            (found, _) => checks.fails(&what, if found.is_some() { "should be none" } else { "is missing" }),
        }
    }
    Ok(())
}

fn training_cases() -> Vec<Case> {
    let (d, m) = (64, 160);
    let block_shapes: [&[usize]; 13] =
        [&[3, 50, d], &[d], &[d], &[3 * d, d], &[3 * d], &[d, d], &[d], &[d], &[d], &[m, d], &[m], &[d, m], &[d]];
    let block = |causal: bool, rows: Option<&'static [u32]>| {
        move |a: &[Tensor]| {
            let block = Block {
                ln_1_weight_d: a[1].clone(),
                ln_1_bias_d: a[2].clone(),
                in_proj_weight: a[3].clone(),
                in_proj_bias: a[4].clone(),
                out_proj_weight: a[5].clone(),
                out_proj_bias_d: a[6].clone(),
                ln_2_weight_d: a[7].clone(),
                ln_2_bias_d: a[8].clone(),
                fc_weight: a[9].clone(),
                fc_bias_m: a[10].clone(),
                proj_weight: a[11].clone(),
                proj_bias_d: a[12].clone(),
                heads: 4,
                causal,
                activation: Activation::QuickGelu,
            };
            transformer_block(&a[0], &block, rows)
        }
    };
    vec![
        case("gelu", true, &[&[7, 333]], |a| activation(&a[0], Activation::Gelu)),
        case("quick_gelu", true, &[&[7, 333]], |a| activation(&a[0], Activation::QuickGelu)),
        case("linear", true, &[&[5, 33, 64], &[96, 64], &[96]], |a| linear(&a[0], &a[1], Some(&a[2]))),
        case("linear without bias", true, &[&[70, 64], &[96, 64]], |a| linear(&a[0], &a[1], None)),
        case("project", true, &[&[37, 64], &[64, 48]], |a| project(&a[0], &a[1])),
        case("layer_norm", true, &[&[5, 33, 64], &[64], &[64]], |a| layer_norm(&a[0], &a[1], &a[2], 1e-5)),
        case("l2_normalise", true, &[&[33, 64]], |a| l2_normalise(&a[0])),
        case("attention", true, &[&[3, 77, 192]], |a| attention(&a[0], 4, false, None)),
        case("attention of 80", true, &[&[3, 80, 192]], |a| attention(&a[0], 4, false, None)),
        case("attention, causal and padded", true, &[&[2, 41, 192]], |a| {
            let valid: Vec<u8> = (0..82).map(|i| u8::from(i < 60)).collect();
            attention(&a[0], 4, true, Some(&Tensor::from_vec(valid, (2, 41), a[0].device())?))
        }),
        case("transformer_block", true, &block_shapes, block(false, None)),
        case("transformer_block, causal, one row", true, &block_shapes, block(true, Some(&[49, 0, 17]))),
        case("embedding", true, &[&[50, 64]], |a| {
            let ids: Vec<u32> = (0..60).map(|i| i * i % 50).collect();
            embedding(&a[0], &Tensor::from_vec(ids, (4, 15), a[0].device())?)
        }),
        case("add_positions", true, &[&[4, 16, 64], &[17, 64], &[64]], |a| add_positions(&a[0], &a[1], Some(&a[2]))),
        case("add_positions without class", true, &[&[4, 16, 64], &[18, 64]], |a| add_positions(&a[0], &a[1], None)),
        case("select_rows", true, &[&[4, 9, 64]], |a| select_rows(&a[0], &[8, 0, 3, 3])),
        case("patches", false, &[&[2, 3, 32, 32]], |a| patches(&a[0], 8)),
        case("conv2d", true, &[&[2, 17, 17, 16], &[24, 3, 3, 16], &[24]], |a| conv2d(&a[0], &a[1], Some(&a[2]), 2, 1)),
        case("stem_stage", true, &[&[2, 16, 16, 16], &[24, 3, 3, 16], &[24], &[24], &[24]], |a| {
            let stage = StemStage { weight_ohwi: &a[1], bias_o: &a[2], norm_weight_o: &a[3], norm_bias_o: &a[4] };
            stem_stage(&a[0], stage, Activation::Gelu, 2, 1)
        }),
        case("window_attention, decomposed", false, &[&[2, 9, 9, 96], &[96], &[9, 8], &[9, 8]], |a| {
            let positions = RelativePositions::Decomposed { height: a[2].clone(), width: a[3].clone() };
            window_attention(&a[0], &a[1], 4, 5, &positions)
        }),
        case("window_attention, decomposed, of packs", false, &[&[1, 16, 16, 96], &[96], &[15, 16], &[15, 16]], |a| {
            let positions = RelativePositions::Decomposed { height: a[2].clone(), width: a[3].clone() };
            window_attention(&a[0], &a[1], 2, 8, &positions)
        }),
        case("window_attention, bias", false, &[&[2, 9, 9, 96], &[96], &[4, 25, 25]], |a| {
            window_attention(&a[0], &a[1], 4, 5, &RelativePositions::Bias(a[2].clone()))
        }),
        case("dropout", true, &[&[4, 9, 64]], |a| Dropout::new(0.3, 7, vec![11, 5, 5, 8]).apply(2, &a[0])),
    ]
}

fn inference_cases() -> Vec<Case> {
    let paths = || {
        vec![
            PathQueries { slots: vec![0, 1, 2, 3, 4], rows: 3, mask: AttentionMask::Causal },
            PathQueries { slots: vec![0, 1, 9, 8], rows: 1, mask: AttentionMask::Causal },
            PathQueries { slots: vec![5, 6, 7], rows: 2, mask: AttentionMask::Full },
        ]
    };
    vec![
        case("depthwise_conv", false, &[&[2, 9, 9, 24], &[3, 3, 24], &[24]], |a| {
            depthwise_conv(&a[0], &a[1], &a[2], 2)
        }),
        case("mean_pool", false, &[&[2, 9, 8, 24]], |a| mean_pool(&a[0], 2)),
        case("image_conv2d", false, &[&[2, 16, 16, 16], &[24, 3, 3, 16]], |a| image_conv2d(&a[0], &a[1], None, 1, 1)),
        case(
            "inverted_bottleneck",
            false,
            &[&[2, 9, 9, 16], &[64, 16], &[64], &[3, 3, 64], &[64], &[16, 64], &[16]],
            |a| {
                let weights = InvertedBottleneck {
                    expand_weight: a[1].clone(),
                    expand_bias_m: a[2].clone(),
                    depthwise_weight_hwm: a[3].clone(),
                    depthwise_bias_m: a[4].clone(),
                    project_weight: a[5].clone(),
                    project_bias_o: a[6].clone(),
                    stride: 1,
                    residual: true,
                };
                inverted_bottleneck(&a[0], &weights)
            },
        ),
        case("cross_attention", false, &[&[2, 5, 64], &[2, 33, 128]], |a| cross_attention(&a[0], &a[1], 4)),
        case("rms_norm", false, &[&[33, 64], &[64]], |a| rms_norm(&a[0], &a[1], 1e-6)),
        case("residual_norm", false, &[&[33, 64], &[33, 64], &[64], &[64]], |a| {
            residual_norm(&a[0], &a[1], &a[2], &a[3], 1e-5)
        }),
        case("gated silu", false, &[&[33, 128]], |a| gated(&a[0], Gate::Silu)),
        case("gated gelu", false, &[&[33, 128]], |a| gated(&a[0], Gate::GeluTanh)),
        case("rotary halves", false, &[&[6, 64]], |a| {
            let table = RotaryTable::new(64, 16, 1e4, RotaryLayout::Halves, a[0].device())?;
            rotary(&a[0], &[0, 1, 2, 40, 63, 7], &table)
        }),
        case("rotary pairs", false, &[&[6, 64]], |a| {
            let table = RotaryTable::new(64, 16, 1e4, RotaryLayout::Pairs, a[0].device())?;
            rotary(&a[0], &[0, 1, 2, 40, 63, 7], &table)
        }),
        case("paged_attention", false, &[&[6, 64], &[10, 32], &[10, 32]], move |a| {
            paged_attention(&a[0], (&a[1], &a[2]), &AttentionPaths::new(paths(), None), 4, 0.25)
        }),
        case("paged_attention with distances", false, &[&[6, 64], &[10, 64], &[10, 64]], move |a| {
            let bias = DistanceBias { values_hn: (0..4 * 19).map(|i| (i as f32).sin()).collect(), reach: 10 };
            paged_attention(&a[0], (&a[1], &a[2]), &AttentionPaths::new(paths(), Some(bias)), 4, 0.25)
        }),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever `models::ops` offers has a case here, or a reason why not.
    #[test]
    fn every_operation_is_checked() {
        let sources = [include_str!("../../../stages/models/src/ops/mod.rs"), INFERENCE];
        let offered = sources.iter().flat_map(|source| source.lines()).filter(|line| line.starts_with("pub use"));
        let items = offered.filter_map(|line| line.split_once("::")).map(|(_, items)| items);
        let names = items.flat_map(|items| items.split(|c: char| !(c.is_alphanumeric() || c == '_')));
        // functions: types begin with a capital letter, constants are all capitals
        let mut functions: Vec<&str> = names.filter(|name| name.starts_with(|c: char| c.is_lowercase())).collect();
        functions.sort_unstable();
        functions.dedup();
        assert!(functions.contains(&"attention") && functions.contains(&"rms_norm"), "{functions:?}");
        let cases = include_str!("operations.rs").split("#[cfg(test)]").next().unwrap_or_default();
        // three work on slices of host memory; `parameters.rs` and the trainings show the others
        let elsewhere =
            ["log_softmax_rows", "byte_products", "widest", "adamw", "norm", "move_averages", "backward_from"];
        for function in functions {
            assert!(
                cases.contains(&format!("{function}(")) || elsewhere.contains(&function),
                "models::ops::{function} has no case in this file"
            );
        }
    }

    const INFERENCE: &str = include_str!("../../../stages/models/src/ops/inference/mod.rs");

    /// The cases are right: the CPU passes them, with its kernels in f32 and with compositions in half precision.
    #[test]
    fn the_cpu_passes() {
        run(&Place { device: "cpu".to_owned(), precision: crate::Precision::F32 }, 3).unwrap();
    }
}
