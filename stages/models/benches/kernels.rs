//! What our CPU kernels bring over candle: each operation by its kernel, composed of candle's operations, and by
//! candle-nn's layer where it has one, at the sizes of the published networks. Prints the ratios at the end.
//!
//! `cargo bench --profile dev -p models --bench kernels [-- NAME]`

use std::hint::black_box;
use std::path::Path;
use std::time::Duration;

use candle_core::{D, DType, Device, Result, Tensor, Var};
use candle_nn::Module;
use criterion::{BenchmarkGroup, Criterion, measurement::WallTime};
use models::ops::inference::{
    AttentionMask, AttentionPaths, Gate, PackedLinear, PathQueries, RotaryLayout, RotaryTable, Rows, gated,
    paged_attention, rms_norm, rotary,
};
use models::ops::{
    Activation, Block, InvertedBottleneck, RelativePositions, StemStage, activation, add_positions, attention, conv2d,
    depthwise_conv, image_conv2d, inverted_bottleneck, layer_norm, linear, select_rows, stem_stage, transformer_block,
    use_cpu_kernels, window_attention,
};

/// The program's own: glibc's returns the memory of each result to the system, which costs compositions several times what
/// they compute.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Results that differ by more, over the largest value, are no comparison.
const TOLERANCE: f64 = 1e-4;

type Operation = Box<dyn Fn(&[Tensor]) -> Result<Tensor>>;

struct Case {
    name: &'static str,
    shapes: Vec<Vec<usize>>,
    /// Whether the backward pass is measured with it.
    trained: bool,
    /// By its kernel, or composed of candle's operations where kernels are off.
    ours: Operation,
    candle_nn: Option<Operation>,
}

fn case(
    name: &'static str,
    trained: bool,
    shapes: &[&[usize]],
    ours: impl Fn(&[Tensor]) -> Result<Tensor> + 'static,
) -> Case {
    let shapes = shapes.iter().map(|shape| shape.to_vec()).collect();
    Case { name, shapes, trained, ours: Box::new(ours), candle_nn: None }
}

impl Case {
    fn beside(self, candle_nn: impl Fn(&[Tensor]) -> Result<Tensor> + 'static) -> Self {
        Self { candle_nn: Some(Box::new(candle_nn)), ..self }
    }

    /// Arguments with numbers of a normal distribution, tracked where the backward pass is measured.
    fn arguments(&self) -> Result<Vec<Tensor>> {
        let random = |shape: &Vec<usize>| Tensor::randn(0f32, 0.5, shape.as_slice(), &Device::Cpu);
        let tracked = |x: Tensor| if self.trained { Ok(Var::from_tensor(&x)?.into_inner()) } else { Ok(x) };
        self.shapes.iter().map(|shape| tracked(random(shape)?)).collect()
    }

    fn measure(&self, criterion: &mut Criterion) -> Result<()> {
        let arguments = self.arguments()?;
        use_cpu_kernels(true);
        let wanted = (self.ours)(&arguments)?.detach();
        let mut group = criterion.benchmark_group(self.name);
        self.time(&mut group, "ours", &self.ours, &arguments);
        use_cpu_kernels(false);
        assert_close(self.name, &(self.ours)(&arguments)?.detach(), &wanted)?;
        self.time(&mut group, "composed", &self.ours, &arguments);
        if let Some(layer) = &self.candle_nn {
            assert_close(self.name, &layer(&arguments)?.detach(), &wanted)?;
            self.time(&mut group, "candle-nn", layer, &arguments);
        }
        use_cpu_kernels(true);
        group.finish();
        Ok(())
    }

    fn time(&self, group: &mut BenchmarkGroup<'_, WallTime>, by: &str, operation: &Operation, arguments: &[Tensor]) {
        group.bench_function(by, |bencher| {
            bencher.iter(|| {
                let out = operation(arguments).expect("it ran before");
                if self.trained {
                    black_box(out.sum_all().and_then(|sum| sum.backward()).expect("it has a gradient"));
                } else {
                    black_box(out);
                }
            });
        });
    }
}

fn assert_close(name: &str, found: &Tensor, wanted: &Tensor) -> Result<()> {
    let most = |x: Tensor| x.abs()?.flatten_all()?.max(0)?.to_dtype(DType::F64)?.to_scalar::<f64>();
    let (difference, largest) = (most((found - wanted)?)?, most(wanted.clone())?);
    assert!(difference <= TOLERANCE * largest, "{name}: differs by {difference:e} of {largest:e}");
    Ok(())
}

/// candle-nn's attention: it has none of its own but for inference, so that its softmax stands between two products.
fn attention_by_layers(qkv_ble: &Tensor, heads: usize) -> Result<Tensor> {
    let (batch, length, width) = qkv_ble.dims3()?;
    let head = width / 3 / heads;
    let parts = qkv_ble.reshape((batch, length, 3, heads, head))?.permute((2, 0, 3, 1, 4))?.contiguous()?;
    let [q, k, v] = [0, 1, 2].map(|at| parts.get(at));
    let scores = (q?.matmul(&k?.t()?)? * (head as f64).powf(-0.5))?;
    let mixed = candle_nn::ops::softmax(&scores, D::Minus1)?.matmul(&v?)?;
    mixed.transpose(1, 2)?.reshape((batch, length, width / 3))
}

fn norm_by_layer(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    // candle-nn's layer takes a fused operation without a backward pass; this one has it
    candle_nn::ops::layer_norm_slow(x, weight, bias, 1e-5)
}

fn block_by_layers(a: &[Tensor], heads: usize) -> Result<Tensor> {
    let linear =
        |x: &Tensor, weight: usize| candle_nn::Linear::new(a[weight].clone(), Some(a[weight + 1].clone())).forward(x);
    let mixed = attention_by_layers(&linear(&norm_by_layer(&a[0], &a[1], &a[2])?, 3)?, heads)?;
    let x = (&a[0] + linear(&mixed, 5)?)?;
    let inner = linear(&norm_by_layer(&x, &a[7], &a[8])?, 9)?;
    &x + linear(&(&inner * candle_nn::ops::sigmoid(&(&inner * 1.702)?)?)?, 11)?
}

/// ViT-B/32 and CLIP's text tower, eight rows at a time; training and inference.
fn clip_cases() -> Vec<Case> {
    let (batch, tokens, d, m, heads) = (8, 50, 768, 3072, 12);
    let block_shapes: [&[usize]; 13] = [
        &[batch, tokens, d],
        &[d],
        &[d],
        &[3 * d, d],
        &[3 * d],
        &[d, d],
        &[d],
        &[d],
        &[d],
        &[m, d],
        &[m],
        &[d, m],
        &[d],
    ];
    let block = move |a: &[Tensor]| {
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
            heads,
            causal: false,
            activation: Activation::QuickGelu,
        };
        transformer_block(&a[0], &block, None)
    };
    vec![
        case("linear", true, &[&[batch, tokens, d], &[m, d], &[m]], |a| linear(&a[0], &a[1], Some(&a[2])))
            .beside(|a| candle_nn::Linear::new(a[1].clone(), Some(a[2].clone())).forward(&a[0])),
        case("layer_norm", true, &[&[batch, tokens, d], &[d], &[d]], |a| layer_norm(&a[0], &a[1], &a[2], 1e-5))
            .beside(|a| norm_by_layer(&a[0], &a[1], &a[2])),
        case("layer_norm, inference", false, &[&[batch, tokens, d], &[d], &[d]], |a| {
            layer_norm(&a[0], &a[1], &a[2], 1e-5)
        })
        .beside(|a| candle_nn::LayerNorm::new(a[1].clone(), a[2].clone(), 1e-5).forward(&a[0])),
        case("attention", true, &[&[batch, tokens, 3 * d]], move |a| attention(&a[0], heads, false, None))
            .beside(move |a| attention_by_layers(&a[0], heads)),
        case("attention of texts", true, &[&[batch, 77, 3 * 512]], |a| attention(&a[0], 8, true, None)),
        case("gelu", true, &[&[batch, tokens, m]], |a| activation(&a[0], Activation::Gelu)).beside(|a| a[0].gelu_erf()),
        case("quick_gelu", true, &[&[batch, tokens, m]], |a| activation(&a[0], Activation::QuickGelu))
            .beside(|a| &a[0] * candle_nn::ops::sigmoid(&(&a[0] * 1.702)?)?),
        case("transformer_block", true, &block_shapes, block).beside(move |a| block_by_layers(a, heads)),
        case("add_positions", true, &[&[batch, tokens - 1, d], &[tokens, d], &[d]], |a| {
            add_positions(&a[0], &a[1], Some(&a[2]))
        }),
        case("select_rows", true, &[&[batch, 77, 512]], |a| select_rows(&a[0], &[8, 0, 3, 3, 76, 9, 9, 1])),
        case("conv2d", true, &[&[32, 48, 48, 32], &[64, 3, 3, 32], &[64]], |a| conv2d(&a[0], &a[1], Some(&a[2]), 2, 1))
            .beside(|a| {
                let config = candle_nn::Conv2dConfig { padding: 1, stride: 2, ..Default::default() };
                let weight = a[1].permute((0, 3, 1, 2))?.contiguous()?;
                let layer = candle_nn::Conv2d::new(weight, Some(a[2].clone()), config);
                layer.forward(&a[0].permute((0, 3, 1, 2))?.contiguous()?)?.permute((0, 2, 3, 1))
            }),
        case("stem_stage", true, &[&[32, 48, 48, 32], &[64, 3, 3, 32], &[64], &[64], &[64]], |a| {
            let stage = StemStage { weight_ohwi: &a[1], bias_o: &a[2], norm_weight_o: &a[3], norm_bias_o: &a[4] };
            stem_stage(&a[0], stage, Activation::Gelu, 2, 1)
        }),
    ]
}

/// Segment Anything's encoders: ViT-B in windows, and MobileSAM's.
fn sam_cases() -> Vec<Case> {
    vec![
        case("window_attention of 14", false, &[&[1, 64, 64, 2304], &[2304], &[27, 64], &[27, 64]], |a| {
            let positions = RelativePositions::Decomposed { height: a[2].clone(), width: a[3].clone() };
            window_attention(&a[0], &a[1], 12, 14, &positions)
        }),
        case("window_attention, global", false, &[&[1, 64, 64, 2304], &[2304], &[127, 64], &[127, 64]], |a| {
            let positions = RelativePositions::Decomposed { height: a[2].clone(), width: a[3].clone() };
            window_attention(&a[0], &a[1], 12, 64, &positions)
        }),
        case("depthwise_conv", false, &[&[1, 128, 128, 256], &[3, 3, 256], &[256]], |a| {
            depthwise_conv(&a[0], &a[1], &a[2], 1)
        }),
        case("image_conv2d, neck", false, &[&[1, 64, 64, 256], &[256, 3, 3, 256]], |a| {
            image_conv2d(&a[0], &a[1], None, 1, 1)
        }),
        case("image_conv2d, first of MobileSAM", false, &[&[1, 1024, 1024, 3], &[32, 3, 3, 3]], |a| {
            image_conv2d(&a[0], &a[1], None, 2, 1)
        }),
        case("image_conv2d, second of MobileSAM", false, &[&[1, 512, 512, 32], &[64, 3, 3, 32]], |a| {
            image_conv2d(&a[0], &a[1], None, 2, 1)
        }),
        case(
            "inverted_bottleneck",
            false,
            &[&[1, 256, 256, 64], &[256, 64], &[256], &[3, 3, 256], &[256], &[64, 256], &[64]],
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
    ]
}

/// A language model of InstructBLIP, at half of Vicuna-7B's width.
fn language_cases() -> Result<Vec<Case>> {
    let (d, m, heads) = (2048, 5504, 16);
    let weight = Tensor::randn(0f32, 0.02, (m, d), &Device::Cpu)?;
    let packed = |kind: Rows| {
        let (packed, weight) = (PackedLinear::new(&weight, None)?, weight.clone());
        // composed: candle's product with the weight as it is stored
        Ok::<_, candle_core::Error>(move |a: &[Tensor]| match models::ops::cpu_kernels() {
            true => packed.forward(&a[0], kind),
            false => a[0].matmul(&weight.t()?),
        })
    };
    let paths = || {
        let slots = |beam: u32| (0..64).chain(64 + beam * 16..80 + beam * 16).collect();
        (0..5).map(|beam| PathQueries { slots: slots(beam), rows: 1, mask: AttentionMask::Causal }).collect::<Vec<_>>()
    };
    let table = RotaryTable::new(512, d / heads, 1e4, RotaryLayout::Halves, &Device::Cpu)?;
    let positions: Vec<u32> = (0..256).collect();
    Ok(vec![
        case("packed product, 5 rows", false, &[&[5, d]], packed(Rows::Few)?),
        case("packed product, 256 rows", false, &[&[256, d]], packed(Rows::Many)?),
        case("rms_norm", false, &[&[256, d], &[d]], |a| rms_norm(&a[0], &a[1], 1e-6))
            .beside(|a| candle_nn::RmsNorm::new(a[1].clone(), 1e-6).forward(&a[0])),
        case("gated silu", false, &[&[256, 2 * m]], |a| gated(&a[0], Gate::Silu)).beside(move |a| {
            candle_nn::ops::silu(&a[0].narrow(1, 0, m)?.contiguous()?)? * a[0].narrow(1, m, m)?.contiguous()?
        }),
        case("rotary", false, &[&[256, d]], move |a| rotary(&a[0], &positions, &table)),
        case("paged_attention of 5 beams", false, &[&[5, d], &[144, d], &[144, d]], move |a| {
            paged_attention(&a[0], (&a[1], &a[2]), &AttentionPaths::new(paths(), None), heads, 0.088)
        }),
    ])
}

/// How many times as fast as the better of candle's two ways, from what criterion has kept.
fn print_ratios(cases: &[Case], kept: &Path) {
    let median = |case: &Case, by: &str| -> Option<f64> {
        let text = std::fs::read_to_string(kept.join(case.name).join(by).join("new/estimates.json")).ok()?;
        serde_json::from_str::<serde_json::Value>(&text).ok()?["median"]["point_estimate"].as_f64()
    };
    println!("| operation | ours, µs | composed | candle-nn | ours over candle |\n|---|---|---|---|---|");
    for case in cases {
        let [ours, composed, layer] = ["ours", "composed", "candle-nn"].map(|by| median(case, by));
        let (Some(ours), Some(composed)) = (ours, composed) else { continue };
        let layer_text = layer.map_or_else(String::new, |layer| format!("{:.0}", layer / 1e3));
        let ratio = layer.map_or(composed, |layer| layer.min(composed)) / ours;
        let name = format!("{}{}", case.name, if case.trained { ", there and back" } else { "" });
        println!("| {name} | {:.0} | {:.0} | {layer_text} | {ratio:.2} |", ours / 1e3, composed / 1e3);
    }
}

fn main() -> Result<()> {
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    let cases: Vec<Case> = clip_cases().into_iter().chain(sam_cases()).chain(language_cases()?).collect();
    for case in &cases {
        case.measure(&mut criterion)?;
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "../../target".into());
    print_ratios(&cases, &Path::new(&target).join("criterion"));
    criterion.final_summary();
    Ok(())
}
