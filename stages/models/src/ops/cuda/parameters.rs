//! What an optimiser does to all parameters of a network, by the kernels of `cuda/parameters.cu`.

use std::collections::BTreeMap;

use candle_core::cuda::cudarc::driver::{DeviceRepr, LaunchConfig, PushKernelArg};
use candle_core::{CudaDevice, DType, Result, Shape, Tensor, bail};

use super::launch::{Arg, Kernels, NOTHING, device, pointer, suffix, unwritten};

const PARAMETERS: Kernels =
    Kernels { module: "urbancross_parameters", ptx: include_str!(concat!(env!("OUT_DIR"), "/parameters.ptx")) };

// As the kernels say.
const TENSORS: usize = 64;
const ARRAYS: usize = 5;
const CHUNK: usize = 16384;
const THREADS: u32 = 256;

/// One parameter on its way through a step of AdamW, all of one shape, contiguous, on one GPU, and sharing no storage.
#[derive(Clone, Copy, Debug)]
pub struct AdamWParameter<'t> {
    /// f32, moved in place.
    pub weights: &'t Tensor,
    /// Both f32, moved in place.
    pub moments: [&'t Tensor; 2],
    /// f32, or bf16 where the copy is.
    pub gradient: &'t Tensor,
    /// Takes the moved weights in half precision.
    pub copy: Option<&'t Tensor>,
    /// Learning rate over the correction of the first moment.
    pub rate: f64,
    /// Factor of the weights: decay.
    pub kept: f64,
}

/// What a step of AdamW does to all parameters alike.
#[derive(Clone, Copy, Debug)]
pub struct AdamWStep<'t> {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Factor of the gradients: clipping.
    pub clip: f64,
    /// Another factor, one f32 on the GPU that nobody has to wait for.
    pub clip_there: Option<&'t Tensor>,
    /// Factor of the root of the second moment: its correction.
    pub spread: f64,
    /// Added to that root.
    pub epsilon: f64,
}

/// `Tensors` of the kernels.
#[repr(C)]
#[derive(Clone, Copy)]
struct Tensors {
    arrays: [[u64; TENSORS]; ARRAYS],
    counts: [i64; TENSORS],
    factors: [[f32; TENSORS]; 2],
    first_chunk: [i32; TENSORS],
}

// SAFETY: numbers alone, laid out as the kernels read them
unsafe impl DeviceRepr for Tensors {}

/// `Step` of the kernels.
#[repr(C)]
#[derive(Clone, Copy)]
struct Step {
    clip_there: u64,
    beta1: f32,
    beta2: f32,
    clip: f32,
    spread: f32,
    epsilon: f32,
}

// SAFETY: numbers alone, laid out as the kernels read them
unsafe impl DeviceRepr for Step {}

/// One tensor's part of a launch.
#[derive(Clone, Copy)]
struct Entry {
    arrays: [u64; ARRAYS],
    count: usize,
    factors: [f32; 2],
}

impl Entry {
    /// Of tensors of one size; an absent one is null.
    fn of(tensors: &[Option<&Tensor>], factors: [f64; 2]) -> Result<Self> {
        let mut arrays = [0; ARRAYS];
        for (array, tensor) in arrays.iter_mut().zip(tensors) {
            *array = at(*tensor)?;
        }
        let count = tensors.iter().flatten().next().map_or(0, |tensor| tensor.elem_count());
        Ok(Self { arrays, count, factors: factors.map(|factor| factor as f32) })
    }
}

fn at(tensor: Option<&Tensor>) -> Result<u64> {
    match tensor.map_or(Ok(NOTHING), pointer)? {
        Arg::Pointer(address) => Ok(address),
        _ => bail!("a tensor without an address"),
    }
}

/// The launches that `entries` take, with the number of blocks of each.
fn launches(entries: &[Entry]) -> Result<Vec<(Tensors, u32)>> {
    let mut all = Vec::with_capacity(entries.len().div_ceil(TENSORS));
    let entries: Vec<&Entry> = entries.iter().filter(|entry| entry.count > 0).collect();
    for entries in entries.chunks(TENSORS) {
        let chunks: usize = entries.iter().map(|entry| entry.count.div_ceil(CHUNK)).sum();
        let Ok(blocks) = i32::try_from(chunks) else { bail!("parameters of {chunks} chunks are too large") };
        let mut tensors = Tensors {
            arrays: [[0; TENSORS]; ARRAYS],
            counts: [0; TENSORS],
            factors: [[0.0; TENSORS]; 2],
            first_chunk: [blocks; TENSORS],
        };
        let mut first = 0;
        for (place, entry) in entries.iter().enumerate() {
            for (arrays, array) in tensors.arrays.iter_mut().zip(entry.arrays) {
                arrays[place] = array;
            }
            for (factors, factor) in tensors.factors.iter_mut().zip(entry.factors) {
                factors[place] = factor;
            }
            tensors.counts[place] = entry.count as i64;
            tensors.first_chunk[place] = first;
            first += entry.count.div_ceil(CHUNK) as i32;
        }
        all.push((tensors, blocks as u32));
    }
    Ok(all)
}

/// An argument of these kernels.
#[derive(Clone, Copy)]
enum Given<'a> {
    Tensors(&'a Tensors),
    Step(&'a Step),
    Pointer(&'a u64),
    Long(&'a i64),
    Float(&'a f32),
}

fn launch(device: &CudaDevice, name: &str, blocks: u32, given: &[Given<'_>]) -> Result<()> {
    let function = device.get_or_load_custom_func(name, PARAMETERS.module, PARAMETERS.ptx)?;
    let mut builder = function.builder();
    for given in given {
        match given {
            Given::Tensors(tensors) => builder.arg(*tensors),
            Given::Step(step) => builder.arg(*step),
            Given::Pointer(pointer) => builder.arg(*pointer),
            Given::Long(number) => builder.arg(*number),
            Given::Float(number) => builder.arg(*number),
        };
    }
    let config = LaunchConfig { grid_dim: (blocks, 1, 1), block_dim: (THREADS, 1, 1), shared_mem_bytes: 0 };
    // SAFETY: the arguments are those of the kernel of this name, and arrays are as long as the counts beside them say
    unsafe { builder.launch(config) }.map_err(candle_core::Error::wrap)?;
    Ok(())
}

/// Entries by the name of their kernel.
type ByKernel = BTreeMap<String, Vec<Entry>>;

fn launch_all(device: &CudaDevice, by_kernel: ByKernel, given: &[Given<'_>]) -> Result<()> {
    for (name, entries) in by_kernel {
        for (tensors, blocks) in launches(&entries)? {
            launch(device, &name, blocks, &[&[Given::Tensors(&tensors)], given].concat())?;
        }
    }
    Ok(())
}

fn named(dtype: DType) -> Result<&'static str> {
    match suffix(dtype) {
        Some(suffix) => Ok(suffix),
        None => bail!("no GPU kernel moves parameters of {dtype:?}"),
    }
}

/// One step of AdamW of all `parameters`, which lie on one GPU. Rates and decays are their own.
///
/// # Errors
/// Tensors of another kind than their fields say.
pub fn adamw(parameters: &[AdamWParameter<'_>], step: &AdamWStep<'_>) -> Result<()> {
    let Some(first) = parameters.first() else { return Ok(()) };
    let mut by_kernel = ByKernel::new();
    for &AdamWParameter { weights, moments, gradient, copy, rate, kept } in parameters {
        let wide = [weights, moments[0], moments[1]];
        let like = wide.iter().chain(&[gradient]).chain(&copy).all(|tensor| tensor.dims() == weights.dims());
        let [of_gradient, of_copy] = [gradient, copy.unwrap_or(weights)].map(Tensor::dtype);
        let known = of_gradient == DType::F32 || (of_gradient, of_copy) == (DType::BF16, DType::BF16);
        if !like || !known || wide.iter().any(|tensor| tensor.dtype() != DType::F32) {
            let (shape, found) = (weights.shape(), gradient.shape());
            bail!("adamw: weights {shape:?}, gradient {found:?} in {of_gradient:?}, copy in {of_copy:?}")
        }
        let tensors = [Some(weights), Some(moments[0]), Some(moments[1]), Some(gradient), copy];
        let name = format!("adamw_{}_{}", named(of_gradient)?, named(of_copy)?);
        by_kernel.entry(name).or_default().push(Entry::of(&tensors, [rate, kept])?);
    }
    if let Some(clip) = step.clip_there.filter(|clip| clip.dtype() != DType::F32 || clip.elem_count() != 1) {
        bail!("adamw: a factor of {:?} {:?}, needs one f32", clip.shape(), clip.dtype())
    }
    let AdamWStep { beta1, beta2, clip, clip_there, spread, epsilon } = *step;
    let [beta1, beta2, clip, spread, epsilon] = [beta1, beta2, clip, spread, epsilon].map(|number| number as f32);
    let step = Step { clip_there: at(clip_there)?, beta1, beta2, clip, spread, epsilon };
    launch_all(&device(first.weights)?, by_kernel, &[Given::Step(&step)])
}

/// The root of the summed squares of all `tensors`, in f32 or bf16 on one GPU and contiguous: a scalar in f64, which nobody has
/// waited for. Chunks are added in f32, their sums in f64, always in the same order.
///
/// # Errors
/// No tensors, or of another kind.
pub fn norm(tensors: &[&Tensor]) -> Result<Tensor> {
    let Some(first) = tensors.first() else { bail!("the norm of no tensors") };
    let device = device(first)?;
    let mut by_kernel = ByKernel::new();
    for tensor in tensors {
        if !matches!(tensor.dtype(), DType::F32 | DType::BF16) {
            bail!("norm: a tensor in {:?}", tensor.dtype())
        }
        let name = format!("squares_{}", named(tensor.dtype())?);
        by_kernel.entry(name).or_default().push(Entry::of(&[Some(tensor)], [0.0; 2])?);
    }
    let chunks: usize = by_kernel.values().flatten().map(|entry| entry.count.div_ceil(CHUNK)).sum();
    let sums = unwritten(&Shape::from(chunks), DType::F32, first)?.tensor();
    let mut place = at(Some(&sums))?;
    for (name, entries) in by_kernel {
        for (tensors, blocks) in launches(&entries)? {
            launch(&device, &name, blocks, &[Given::Tensors(&tensors), Given::Pointer(&place)])?;
            place += u64::from(blocks) * size_of::<f32>() as u64;
        }
    }
    let root = unwritten(&Shape::from(()), DType::F64, first)?.tensor();
    let (sums, to, count) = (at(Some(&sums))?, at(Some(&root))?, chunks as i64);
    launch(&device, "root_of_sum", 1, &[Given::Pointer(&sums), Given::Pointer(&to), Given::Long(&count)])?;
    Ok(root)
}

/// average ← decay · average + (1 − decay) · weights, in place, for pairs of an f32 average and weights in any type, each
/// contiguous and of one shape, all on one GPU.
///
/// # Errors
/// Tensors of another kind.
pub fn move_averages(pairs: &[(&Tensor, &Tensor)], decay: f64) -> Result<()> {
    let Some((first, _)) = pairs.first() else { return Ok(()) };
    let mut by_kernel = ByKernel::new();
    for (average, weights) in pairs {
        if average.dtype() != DType::F32 || average.dims() != weights.dims() {
            bail!("an average {:?} in {:?} of weights {:?}", average.shape(), average.dtype(), weights.shape())
        }
        let name = format!("averages_{}", named(weights.dtype())?);
        by_kernel.entry(name).or_default().push(Entry::of(&[Some(average), Some(weights)], [0.0; 2])?);
    }
    launch_all(&device(first)?, by_kernel, &[Given::Float(&(decay as f32))])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every chunk of every tensor has one block, and blocks are counted through.
    #[test]
    fn launches_cut_tensors_into_chunks() {
        let entry = |count| Entry { arrays: [count as u64; ARRAYS], count, factors: [1.0, 2.0] };
        let counts = [1, 0, CHUNK, CHUNK + 1, 5 * CHUNK];
        let entries: Vec<Entry> = counts.iter().cycle().take(200).map(|&count| entry(count)).collect();
        let launches = launches(&entries).unwrap();
        // 160 are not empty
        assert_eq!(launches.len(), 3);
        let (first, blocks) = &launches[0];
        assert_eq!(first.first_chunk[..6], [0, 1, 2, 4, 9, 10]);
        assert_eq!(first.counts[..5], [1, CHUNK as i64, CHUNK as i64 + 1, 5 * CHUNK as i64, 1]);
        assert_eq!(*blocks, 16 * 9);
        let (last, blocks) = &launches[2];
        assert_eq!((last.first_chunk[31], last.first_chunk[32], *blocks), (8 * 9 - 5, 8 * 9, 8 * 9));
    }

    /// The arguments of a launch have room for 4 KiB.
    #[test]
    fn arguments_have_room() {
        assert!(size_of::<Tensors>() + size_of::<Step>() <= 4096);
    }
}
