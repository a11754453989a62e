//! Parts of Segment Anything's mask decoder, by the kernels of `cuda/masks.cu`. All tensors are contiguous and of one type.

use candle_core::cuda::cudarc::driver::LaunchConfig;
use candle_core::{DType, Result, Shape, Tensor, bail};

use super::launch::{Arg, Kernels, Made, address, launch_of, pointer, suffix, unwritten};

const MASKS: Kernels =
    Kernels { module: "urbancross_masks", ptx: include_str!(concat!(env!("OUT_DIR"), "/masks.ptx")) };

// As the kernels say.
const THREADS: usize = 128;
const WIDTHS: [usize; 3] = [4, 8, 16];
const OUTPUTS: usize = 4;
/// Shared memory of a block that needs no permission.
const SHARED_BYTES: usize = 48 << 10;

/// Whether the kernels know a decoder of these sizes: the width of a head, channels of the image upscaled once and twice, and how
/// many masks it predicts for a prompt.
pub(crate) fn knows_decoder(dtype: DType, head_width: usize, channels: [usize; 2], masks: usize) -> bool {
    let pack = 16 / dtype.size_in_bytes();
    let lanes = channels[0] / pack;
    let fits = channels.iter().all(|channels| channels.is_multiple_of(pack));
    fits && WIDTHS.contains(&head_width) && lanes.is_power_of_two() && lanes <= 32 && masks <= OUTPUTS
}

fn name(kernel: &str, like: &Tensor) -> Result<String> {
    match suffix(like.dtype()) {
        Some(suffix) => Ok(format!("{kernel}_{suffix}")),
        None => bail!("{kernel}: no GPU kernel for {:?}", like.dtype()),
    }
}

fn ints<const N: usize>(sizes: [usize; N]) -> [Arg; N] {
    sizes.map(|size| Arg::Int(size as i32))
}

fn over(blocks: usize, samples: usize, shared_bytes: usize) -> Result<LaunchConfig> {
    let (Ok(blocks), Ok(samples)) = (u32::try_from(blocks), u16::try_from(samples)) else {
        bail!("{blocks} blocks for each of {samples} prompts are too many; ask fewer points at once")
    };
    Ok(LaunchConfig {
        grid_dim: (blocks, u32::from(samples), 1),
        block_dim: (THREADS as u32, 1, 1),
        shared_mem_bytes: shared_bytes as u32,
    })
}

/// Attention between few tokens and many places, one of which asks the other.
struct Between {
    samples: usize,
    tokens: usize,
    places: usize,
    heads: usize,
    width: usize,
    /// All samples see the same image.
    one_image: bool,
}

impl Between {
    /// `tokens [P, T, D]`, `image [P or 1, N, D]`
    fn of(tokens: &Tensor, image: &Tensor, heads: usize) -> Result<Self> {
        let ((samples, tokens, inner), (images, places, width)) = (tokens.dims3()?, image.dims3()?);
        if inner != width || !width.is_multiple_of(heads) || (images != samples && images != 1) {
            bail!("attention of {samples} samples of {tokens} x {inner} with {images} of {places} x {width}")
        }
        Ok(Self { samples, tokens, places, heads, width: width / heads, one_image: images == 1 })
    }

    fn launch(&self, kernel: &str, blocks: usize, shared: usize, qkv: [&Tensor; 3], out: &Made) -> Result<()> {
        let arrays = [pointer(qkv[0])?, pointer(qkv[1])?, pointer(qkv[2])?, address(&out.storage, 0)?];
        let sizes = ints([self.places, self.tokens, self.heads, usize::from(self.one_image)]);
        let scale = Arg::Float((self.width as f32).powf(-0.5));
        let name = name(&format!("{kernel}_{}", self.width), qkv[0])?;
        let config = over(blocks, self.samples, shared)?;
        launch_of(&MASKS, &name, qkv[0], config, &[&arrays[..], &sizes, &[scale]].concat())
    }
}

/// Places `q [P or 1, N, D]` attend to tokens `k`, `v` `[P, T, D]`: `[P, N, D]`.
pub(crate) fn attend_to_tokens(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize) -> Result<Tensor> {
    let between = Between::of(k, q, heads)?;
    let Between { samples, tokens, places, width, .. } = between;
    let shared = 2 * tokens * heads * (width + 1) * size_of::<f32>();
    if shared > SHARED_BYTES {
        bail!("{tokens} tokens are too many for a GPU's shared memory; give fewer points in a prompt")
    }
    let out = unwritten(&Shape::from((samples, places, heads * width)), q.dtype(), q)?;
    between.launch("attend_few_keys", (places * heads).div_ceil(THREADS), shared, [q, k, v], &out)?;
    Ok(out.tensor())
}

/// Tokens `q [P, T, D]` attend to places `k`, `v` `[P or 1, N, D]`: `[P, T, D]`.
pub(crate) fn attend_to_places(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize) -> Result<Tensor> {
    let between = Between::of(q, k, heads)?;
    let out = unwritten(q.shape(), q.dtype(), q)?;
    between.launch("attend_few_queries", between.tokens * heads, 0, [q, k, v], &out)?;
    Ok(out.tensor())
}

/// GELU(layer norm(x + bias)) over the last dimension.
pub(crate) fn biased_norm_gelu(
    x: &Tensor,
    bias: &Tensor,
    [weight, shift]: [&Tensor; 2],
    epsilon: f64,
) -> Result<Tensor> {
    let channels = bias.elem_count();
    let (rows, lanes) = (x.elem_count() / channels, channels / (16 / x.dtype().size_in_bytes()));
    let y = unwritten(x.shape(), x.dtype(), x)?;
    let arrays = [pointer(x)?, pointer(bias)?, pointer(weight)?, pointer(shift)?, address(&y.storage, 0)?];
    let rest = [Arg::Long(rows as i64), Arg::Int(lanes as i32), Arg::Float(epsilon as f32)];
    let config = over((rows * lanes).div_ceil(THREADS), 1, 0)?;
    launch_of(&MASKS, &name("biased_norm_gelu", x)?, x, config, &[&arrays[..], &rest].concat())?;
    Ok(y.tensor())
}

/// Masks `[kept, 4 side, 4 side]` from `x [P, side^2, 4 * 4 C]`, to which `bias [C]` is still to be added before their GELU, and
/// `hyper [P, M, C]`. `slots`, `P * M` of them, say which of the kept masks each one is; -1: it is not kept.
pub(crate) fn upscaled_masks(x: &Tensor, bias: &Tensor, hyper: &Tensor, slots: &[i32], side: usize) -> Result<Tensor> {
    let (samples, outputs, channels) = hyper.dims3()?;
    let kept = slots.iter().filter(|slot| **slot >= 0).count();
    let pixels = 16 * side * side;
    if slots.len() != samples * outputs || x.elem_count() != samples * pixels * channels || outputs > OUTPUTS {
        bail!("masks of {samples} x {outputs} x {channels} from {:?} for {} slots", x.shape(), slots.len())
    }
    let slots = Tensor::from_slice(slots, slots.len(), x.device())?;
    let y = unwritten(&Shape::from((kept, 4 * side, 4 * side)), x.dtype(), x)?;
    let arrays = [pointer(x)?, pointer(bias)?, pointer(hyper)?, pointer(&slots)?, address(&y.storage, 0)?];
    let shared = (1 + outputs) * channels * size_of::<f32>();
    let config = over(pixels.div_ceil(THREADS), samples, shared)?;
    let sizes = ints([side, channels, outputs]);
    launch_of(&MASKS, &name("masks", x)?, x, config, &[&arrays[..], &sizes].concat())?;
    Ok(y.tensor())
}

/// x + bias over the last dimension of `x [.., D]`, whatever its length; `bias` may be of several dimensions, the last ones of x.
pub(crate) fn add_bias(x: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let rows = x.reshape((x.elem_count() / bias.elem_count().max(1), bias.elem_count()))?;
    Ok(super::launch::add_bias(&rows, &bias.flatten_all()?, None)?.shaped(x.shape().clone())?.tensor())
}
