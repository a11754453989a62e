//! Launching kernels on tensors that are contiguous, and those of `cuda/rows.cu` that have no file of their own.

use std::ops::Range;
use std::sync::LazyLock;

use candle_core::backend::BackendStorage;
use candle_core::cuda::cudarc::driver::{DevicePtr, LaunchConfig, PushKernelArg};
use candle_core::cuda_backend::CudaDType;
use candle_core::op::BackpropOp;
use candle_core::{CudaDevice, CudaStorage, DType, Result, Shape, Storage, Tensor, WithDType, bail};
use half::{bf16, f16};

/// The compiled kernels of one file.
pub(super) struct Kernels {
    pub(super) module: &'static str,
    pub(super) ptx: &'static str,
}

const ROWS: Kernels = Kernels { module: "urbancross_rows", ptx: include_str!(concat!(env!("OUT_DIR"), "/rows.ptx")) };

/// Rows of a block, one warp each: `WARPS` of the kernels.
const WARPS: u32 = 4;
/// Rows that a block of column sums reads at once: `ROWS` of the kernels.
const ROWS_AT_ONCE: u32 = 8;
/// Parts in which columns are added: a fixed number, so that sums do not depend on the GPU.
const PARTS: usize = 64;
const MAX_BLOCKS: usize = 4096;
const THREADS: u32 = 256;

/// Whether the kernels take this tensor. `URBANCROSS_GPU_KERNELS=off`: none, compositions of candle's operations.
pub(crate) fn applies(tensor: &Tensor) -> bool {
    static ON: LazyLock<bool> =
        LazyLock::new(|| std::env::var_os("URBANCROSS_GPU_KERNELS").is_none_or(|value| value != "off"));
    tensor.device().is_cuda() && matches!(tensor.dtype(), DType::F32 | DType::BF16 | DType::F16) && *ON
}

/// An argument of a kernel.
#[derive(Clone, Copy)]
pub(super) enum Arg {
    Pointer(u64),
    Long(i64),
    Int(i32),
    Float(f32),
}

/// No array.
pub(super) const NOTHING: Arg = Arg::Pointer(0);

/// Rows and columns of a matrix, whatever its dimensions but the last.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    pub(super) rows: usize,
    pub(super) columns: usize,
}

impl Rows {
    pub(super) fn of(tensor: &Tensor) -> Result<Self> {
        let columns = tensor.dims().last().copied().unwrap_or(1);
        let rows = tensor.elem_count() / columns.max(1);
        if columns == 0 || i32::try_from(columns).is_err() {
            bail!("a GPU kernel was given rows of {columns} elements")
        }
        Ok(Self { rows, columns })
    }

    /// One warp for each row.
    pub(super) fn blocks(self) -> Result<LaunchConfig> {
        let blocks = u32::try_from(self.rows.div_ceil(WARPS as usize));
        let blocks = blocks.map_err(|_| candle_core::Error::Msg(format!("{} rows are too many", self.rows)))?;
        Ok(LaunchConfig { grid_dim: (blocks, 1, 1), block_dim: (32, WARPS, 1), shared_mem_bytes: 0 })
    }

    pub(super) fn sizes(self) -> [Arg; 2] {
        [Arg::Long(self.rows as i64), Arg::Int(self.columns as i32)]
    }
}

fn each(count: usize) -> LaunchConfig {
    let blocks = count.div_ceil(THREADS as usize).clamp(1, MAX_BLOCKS) as u32;
    LaunchConfig { grid_dim: (blocks, 1, 1), block_dim: (THREADS, 1, 1), shared_mem_bytes: 0 }
}

pub(super) fn device(tensor: &Tensor) -> Result<CudaDevice> {
    Ok(tensor.device().as_cuda_device()?.clone())
}

/// Where elements lie. Good as long as the storage lives: memory that was freed is used again only by work behind
/// what has been launched, since there is one stream.
pub(super) fn address(storage: &CudaStorage, start: usize) -> Result<Arg> {
    fn of<T: CudaDType>(storage: &CudaStorage, start: usize) -> Result<u64> {
        let slice = storage.as_cuda_slice::<T>()?;
        let (pointer, _) = slice.device_ptr(slice.stream());
        Ok(pointer + (start * size_of::<T>()) as u64)
    }
    Ok(Arg::Pointer(match storage.dtype() {
        DType::F32 => of::<f32>(storage, start),
        DType::BF16 => of::<bf16>(storage, start),
        DType::F16 => of::<f16>(storage, start),
        DType::F64 => of::<f64>(storage, start),
        DType::I32 => of::<i32>(storage, start),
        DType::U8 => of::<u8>(storage, start),
        other => bail!("no GPU kernel for {other:?}"),
    }?))
}

/// Where the elements of a tensor begin.
pub(super) fn pointer(tensor: &Tensor) -> Result<Arg> {
    let (storage, layout) = tensor.storage_and_layout();
    match (&*storage, layout.contiguous_offsets()) {
        (Storage::Cuda(storage), Some((start, _))) => address(storage, start),
        _ => bail!("a GPU kernel was given a tensor with gaps, or of the CPU"),
    }
}

/// What a kernel has made.
pub(crate) struct Made {
    pub(super) storage: CudaStorage,
    shape: Shape,
}

impl Made {
    pub(super) fn shaped(self, shape: impl Into<Shape>) -> Result<Self> {
        let shape = shape.into();
        if shape.elem_count() != self.shape.elem_count() {
            bail!("{:?} elements cannot be shaped as {shape:?}", self.shape)
        }
        Ok(Self { shape, ..self })
    }

    pub(super) fn parts(self) -> (CudaStorage, Shape) {
        (self.storage, self.shape)
    }

    pub(crate) fn tensor(self) -> Tensor {
        Tensor::from_storage(Storage::Cuda(self.storage), self.shape, BackpropOp::none(), false)
    }
}

/// Bytes that a kernel of packs reads at once.
const PACK_BYTES: u64 = 16;

/// Launches `name` for the type of `like`, and for packs of elements where they fit: all arrays have to be aligned, and
/// every one of `sizes` a number of packs.
pub(super) fn launch_packed(name: &str, like: &Tensor, count: usize, sizes: &[usize], args: &[Arg]) -> Result<()> {
    let (name, pack) = packed(name, like, sizes, args);
    launch(&name, like, each(count / pack), args)
}

/// The name of the kernel, and how many elements it takes at once.
pub(super) fn packed(name: &str, like: &Tensor, sizes: &[usize], args: &[Arg]) -> (String, usize) {
    let suffix = suffix(like.dtype()).unwrap_or_default();
    let pack = PACK_BYTES as usize / like.dtype().size_in_bytes();
    let aligned = |arg: &Arg| !matches!(arg, Arg::Pointer(pointer) if !pointer.is_multiple_of(PACK_BYTES));
    match sizes.iter().all(|size| size.is_multiple_of(pack)) && args.iter().all(aligned) {
        true => (format!("{name}_{suffix}_packed"), pack),
        false => (format!("{name}_{suffix}"), 1),
    }
}

pub(super) fn suffix(dtype: DType) -> Option<&'static str> {
    match dtype {
        DType::F32 => Some("f32"),
        DType::BF16 => Some("bf16"),
        DType::F16 => Some("f16"),
        _ => None,
    }
}

/// Launches `name` for the type of `like`.
fn launch_typed(name: &str, like: &Tensor, config: LaunchConfig, args: &[Arg]) -> Result<()> {
    match suffix(like.dtype()) {
        Some(suffix) => launch(&format!("{name}_{suffix}"), like, config, args),
        None => bail!("{name}: no GPU kernel for {:?}", like.dtype()),
    }
}

pub(super) fn launch(name: &str, like: &Tensor, config: LaunchConfig, args: &[Arg]) -> Result<()> {
    launch_of(&ROWS, name, like, config, args)
}

/// Launches a kernel of any file.
pub(super) fn launch_of(
    kernels: &Kernels,
    name: &str,
    like: &Tensor,
    config: LaunchConfig,
    args: &[Arg],
) -> Result<()> {
    let function = device(like)?.get_or_load_custom_func(name, kernels.module, kernels.ptx)?;
    let mut builder = function.builder();
    for arg in args {
        match arg {
            Arg::Pointer(pointer) => builder.arg(pointer),
            Arg::Long(number) => builder.arg(number),
            Arg::Int(number) => builder.arg(number),
            Arg::Float(number) => builder.arg(number),
        };
    }
    // SAFETY: the arguments are those of the kernel of this name, and every array is as long as the sizes beside it say
    unsafe { builder.launch(config) }.map_err(candle_core::Error::wrap)?;
    Ok(())
}

/// What a kernel is going to fill.
pub(super) fn unwritten(shape: &Shape, dtype: DType, like: &Tensor) -> Result<Made> {
    fn of<T: CudaDType + WithDType + candle_core::cuda::cudarc::driver::DeviceRepr>(
        device: &CudaDevice,
        count: usize,
    ) -> Result<CudaStorage> {
        // SAFETY: every element is written by the kernel that it is made for
        let slice = unsafe { device.alloc::<T>(count) }?;
        Ok(CudaStorage::wrap_cuda_slice(slice, device.clone()))
    }
    let (device, count) = (device(like)?, shape.elem_count());
    let storage = match dtype {
        DType::F32 => of::<f32>(&device, count),
        DType::BF16 => of::<bf16>(&device, count),
        DType::F16 => of::<f16>(&device, count),
        DType::F64 => of::<f64>(&device, count),
        other => bail!("no GPU kernel for {other:?}"),
    }?;
    Ok(Made { storage, shape: shape.clone() })
}

/// A result as large and of the same type as `x`, which `fill` is told to write.
pub(super) fn like(x: &Tensor, fill: impl FnOnce(Arg) -> Result<()>) -> Result<Made> {
    let out = unwritten(x.shape(), x.dtype(), x)?;
    fill(address(&out.storage, 0)?)?;
    Ok(out)
}

pub(super) fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, epsilon: f64) -> Result<Made> {
    let rows = Rows::of(x)?;
    let [count, columns] = rows.sizes();
    like(x, |y| {
        let args = [pointer(x)?, pointer(weight)?, pointer(bias)?, y, count, columns, Arg::Float(epsilon as f32)];
        let (name, _) = packed("layer_norm", x, &[rows.columns], &args);
        launch(&name, x, rows.blocks()?, &args)
    })
}

/// Gradients of input, weight and bias; `more` is added to that of the input.
pub(super) fn layer_norm_back(
    x: &Tensor,
    weight: &Tensor,
    dy: &Tensor,
    more: Option<&Tensor>,
    epsilon: f64,
) -> Result<[Tensor; 3]> {
    let rows = Rows::of(x)?;
    let [count, columns] = rows.sizes();
    let per_row = Shape::from(rows.rows);
    let [means, rstds] = [(); 2].map(|()| unwritten(&per_row, DType::F32, x).map(Made::tensor));
    let (means, rstds) = (means?, rstds?);
    let more = more.map(pointer).transpose()?.unwrap_or(NOTHING);
    let dx = like(x, |dx| {
        let moments = [pointer(&means)?, pointer(&rstds)?];
        let arrays = [pointer(x)?, pointer(weight)?, pointer(dy)?, more, dx, moments[0], moments[1]];
        let (name, _) = packed("layer_norm_back", x, &[rows.columns], &arrays[..5]);
        let args = [&arrays[..], &[count, columns, Arg::Float(epsilon as f32)]].concat();
        launch(&name, x, rows.blocks()?, &args)
    })?;
    let (sums, z_sums) = column_sums_with(dy, Some((x, &means, &rstds)), 0..0)?;
    match z_sums {
        Some(z_sums) => Ok([dx.tensor(), z_sums, sums]),
        None => bail!("layer_norm: no gradient of the weight"),
    }
}

/// Sums over all rows `[N]`.
pub(super) fn column_sums(x: &Tensor) -> Result<Tensor> {
    column_sums_but(x, 0..0)
}

/// The same, and zeros in some columns.
pub(super) fn column_sums_but(x: &Tensor, zeros: Range<usize>) -> Result<Tensor> {
    Ok(column_sums_with(x, None, zeros)?.0)
}

type Normalised<'a> = (&'a Tensor, &'a Tensor, &'a Tensor);

fn column_sums_with(
    dy: &Tensor,
    normalised: Option<Normalised<'_>>,
    zeros: Range<usize>,
) -> Result<(Tensor, Option<Tensor>)> {
    let rows = Rows::of(dy)?;
    let [count, columns] = rows.sizes();
    let per_part = rows.rows.div_ceil(PARTS).max(1);
    let parts = rows.rows.div_ceil(per_part).max(1);
    let partial = Shape::from((parts, rows.columns));
    let unwritten_sums = || unwritten(&partial, DType::F32, dy).map(Made::tensor);
    let sums = unwritten_sums()?;
    let z_sums = normalised.map(|_| unwritten_sums()).transpose()?;
    let [x, means, rstds] = match normalised {
        Some((x, means, rstds)) => [pointer(x)?, pointer(means)?, pointer(rstds)?],
        None => [NOTHING; 3],
    };
    let at = |tensor: &Option<Tensor>| tensor.as_ref().map_or(Ok(NOTHING), pointer);
    let arrays = [pointer(&sums)?, at(&z_sums)?];
    let args = [pointer(dy)?, x, means, rstds, arrays[0], arrays[1], count, columns, Arg::Long(per_part as i64)];
    let (name, pack) = packed("column_sums", dy, &[rows.columns], &args[..2]);
    let grid_dim = (rows.columns.div_ceil(32 * pack) as u32, parts as u32, 1);
    launch(&name, dy, LaunchConfig { grid_dim, block_dim: (32, ROWS_AT_ONCE, 1), shared_mem_bytes: 0 }, &args)?;
    let unwritten_row = || unwritten(&Shape::from(rows.columns), dy.dtype(), dy).map(Made::tensor);
    let out = unwritten_row()?;
    let z_out = normalised.map(|_| unwritten_row()).transpose()?;
    let ints = [zeros.start, zeros.end].map(|column| Arg::Int(column as i32));
    let args = [arrays[0], arrays[1], pointer(&out)?, at(&z_out)?, Arg::Int(parts as i32), columns, ints[0], ints[1]];
    let grid_dim = (rows.columns.div_ceil(THREADS as usize) as u32, if z_out.is_some() { 2 } else { 1 }, 1);
    let config = LaunchConfig { grid_dim, block_dim: (THREADS, 1, 1), shared_mem_bytes: 0 };
    launch_typed("column_sums_finish", dy, config, &args)?;
    Ok((out, z_out))
}

/// x + bias over the last dimension, and `more` of the shape of x.
pub(super) fn add_bias(x: &Tensor, bias: &Tensor, more: Option<&Tensor>) -> Result<Made> {
    let (count, columns) = (x.elem_count(), Rows::of(x)?.columns);
    let more = more.map(pointer).transpose()?.unwrap_or(NOTHING);
    like(x, |y| {
        let args = [pointer(x)?, pointer(bias)?, more, y, counted(count)?, Arg::Int(columns as i32)];
        launch_packed("add_bias", x, count, &[columns], &args)
    })
}

/// As many elements as a kernel's 32-bit counter passes over without beginning anew.
pub(super) fn counted(count: usize) -> Result<Arg> {
    match i32::try_from(count) {
        Ok(_) => Ok(Arg::Long(count as i64)),
        Err(_) => bail!("a GPU kernel was given {count} elements; lower the batch"),
    }
}

/// The activation of this number, as the kernel counts them.
pub(super) fn activation(x: &Tensor, kind: i32) -> Result<Made> {
    let count = x.elem_count();
    like(x, |y| {
        let args = [pointer(x)?, y, counted(count)?, Arg::Int(kind)];
        launch_packed("activation", x, count, &[count], &args)
    })
}

pub(super) fn activation_back(x: &Tensor, dy: &Tensor, kind: i32) -> Result<Made> {
    let count = x.elem_count();
    like(x, |dx| {
        let args = [pointer(x)?, pointer(dy)?, dx, counted(count)?, Arg::Int(kind)];
        launch_packed("activation_back", x, count, &[count], &args)
    })
}
