//! NCCL between GPUs, with the TCP mesh beside it as control plane.
//!
//! The mesh carries the unique id, the calls (so that a rank that calls something else is found while the GPU works, and
//! not by a kernel that waits for ever), and the blame. The communicator is non-blocking: whatever NCCL does is polled
//! until a deadline, and then aborted.
//!
//! This file knows device pointers only and compiles without CUDA; `tensors` takes candle's tensors apart.

#[cfg(feature = "cuda")]
mod tensors;

use std::ffi::c_void;
use std::sync::Arc;
use std::time::{Duration, Instant};

use candle_core::{Device, Tensor};
use cudarc::driver::{CudaEvent, CudaStream, DriverError};
use cudarc::nccl::result::{self, NcclStatus};
use cudarc::nccl::sys;
use training::communicator::Communicator;

use crate::error::{RanksError, Result};
use crate::mesh::{Failure, Mesh, Ongoing};
use crate::tcp::Tcp;

/// Bytes of NCCL's unique id.
const ID_BYTES: usize = 128;
/// Pause between two looks at the GPU, once it has not been ready at once.
const PAUSE: Duration = Duration::from_micros(20);
/// How long a call may go on after a peer has left: it may have left because it was ready a moment earlier.
const AFTER_LEAVING: Duration = Duration::from_secs(2);

/// Why the library cannot be loaded; `None`: it can. For `doctor`, and before anything else is called: the bindings panic
/// without it.
pub fn library_problem() -> Option<String> {
    // candle's own CUDA support links libraries instead of loading them: then this program would not have started
    #[cfg(feature = "cuda")]
    return None;
    #[cfg(not(feature = "cuda"))]
    missing_library()
}

#[cfg(not(feature = "cuda"))]
fn missing_library() -> Option<String> {
    // SAFETY: loads libraries of NVIDIA by name, whose initialisers are sound; nothing of them is called
    let [driver, nccl] = unsafe { [cudarc::driver::sys::is_culib_present(), sys::is_culib_present()] };
    match (driver, nccl) {
        (false, _) => Some("the NVIDIA driver is not there: dlopen looks for libcuda.so".to_owned()),
        (true, false) => Some(
            "NCCL is not there: dlopen looks for libnccl.so, but wheels and runtime packages ship libnccl.so.2 only; \
             make a link `libnccl.so -> libnccl.so.2` in a folder of LD_LIBRARY_PATH, or install libnccl-dev"
                .to_owned(),
        ),
        (true, true) => None,
    }
}

/// NCCL's version, such as 2.27.3. Ask [`library_problem`] before.
pub fn library_version() -> Option<String> {
    let version = result::get_nccl_version().ok()?;
    Some(format!("{}.{}.{}", version / 10_000, version / 100 % 100, version % 100))
}

/// One rank of a world of GPUs. Dropping it tells the others that this rank is gone.
///
/// Sums are the same on all ranks and in every run of the same world, but NCCL chooses the order in which it adds.
pub struct Nccl {
    comm: Comm,
    control: Tcp,
    #[cfg_attr(not(feature = "cuda"), allow(dead_code))]
    device: Device,
}

impl Nccl {
    /// A communicator on this stream, with connections to the other ranks as control plane.
    ///
    /// # Errors
    /// [`RanksError::Library`]: the library is not there, or refuses; [`RanksError::Unreachable`]: a rank has left, or
    /// the ranks do not come together within the time-out.
    pub fn on_stream(mut control: Tcp, device: &Device, stream: Arc<CudaStream>) -> Result<Self> {
        if let Some(problem) = library_problem() {
            return Err(RanksError::Library(problem));
        }
        let id = share_id(&mut control)?;
        let comm = Comm::open(control.mesh(), id, stream).map_err(|stuck| stuck.end(control.mesh_mut()))?;
        Ok(Self { comm, control, device: device.clone() })
    }

    /// Calls `launch` together with all ranks, and waits until the GPU is through.
    #[cfg_attr(not(feature = "cuda"), allow(dead_code))]
    fn together(
        &mut self,
        call: training::communicator::call::Call,
        launch: impl FnOnce(&Comm) -> std::result::Result<(), String>,
    ) -> training::Result<()> {
        let comm = &mut self.comm;
        self.control.mesh_mut().together(call, |mesh, ongoing| {
            let result = launch(comm)
                .map_err(|problem| Failure::from(comm.words(mesh, &problem)))
                // while the GPU works
                .and_then(|()| mesh.await_calls(ongoing))
                .and_then(|()| comm.wait(mesh, ongoing));
            if result.is_err() {
                comm.abort();
            }
            result
        })
    }
}

/// The id that rank 0 makes and all others get.
fn share_id(control: &mut Tcp) -> Result<sys::ncclUniqueId> {
    let mut bytes = vec![0u8; ID_BYTES];
    if control.rank() == 0 {
        let id = result::get_uniqueid()
            .map_err(|e| RanksError::Library(format!("nccl gives no unique id: {}", describe(e.0))))?;
        bytes = id.internal.iter().map(|&c| c as u8).collect();
    }
    let shared = Tensor::from_vec(bytes, ID_BYTES, &Device::Cpu).map_err(training::Error::from)?;
    let shared = control.broadcast(&shared, 0)?.to_vec1::<u8>().map_err(training::Error::from)?;
    let mut internal = [0; ID_BYTES];
    internal.iter_mut().zip(shared).for_each(|(c, byte)| *c = byte as std::ffi::c_char);
    Ok(sys::ncclUniqueId { internal })
}

/// NCCL_CONFIG_INITIALIZER of nccl.h, without blocking. A library of another version takes the fields that it knows.
fn non_blocking() -> sys::ncclConfig_t {
    const UNDEFINED: i32 = i32::MIN;
    sys::ncclConfig_t {
        size: size_of::<sys::ncclConfig_t>(),
        magic: 0xcafe_beef,
        version: 22_800,
        blocking: 0,
        cgaClusterSize: UNDEFINED,
        minCTAs: UNDEFINED,
        maxCTAs: UNDEFINED,
        netName: std::ptr::null(),
        splitShare: UNDEFINED,
        trafficClass: UNDEFINED,
        commName: std::ptr::null(),
        collnetEnable: UNDEFINED,
        CTAPolicy: UNDEFINED,
        shrinkShare: UNDEFINED,
        nvlsCTAs: UNDEFINED,
        nChannelsPerNetPeer: UNDEFINED,
        nvlinkCentricSched: UNDEFINED,
        graphUsageMode: UNDEFINED,
        numRmaCtx: UNDEFINED,
        maxP2pPeers: UNDEFINED,
    }
}

/// A non-blocking communicator and the stream that its kernels run on.
struct Comm {
    /// Null once aborted.
    comm: sys::ncclComm_t,
    stream: Arc<CudaStream>,
}

// SAFETY: NCCL communicators may be used from any thread, one at a time; `Comm` is not `Sync` and never shared.
unsafe impl Send for Comm {}

impl Comm {
    fn open(mesh: &Mesh, id: sys::ncclUniqueId, stream: Arc<CudaStream>) -> std::result::Result<Self, Stuck> {
        stream.context().bind_to_thread().map_err(Stuck::Gpu)?;
        let (rank, world_size) = (mesh.rank() as i32, mesh.world_size() as i32);
        let mut config = non_blocking();
        let mut opened = Self { comm: std::ptr::null_mut(), stream };
        // SAFETY: the pointers are to live values; ranks are checked to fit by `MAX_WORLD_SIZE`
        let begun = unsafe { result::comm_init_rank_config(&mut opened.comm, world_size, id, rank, &mut config) };
        begun.map_err(|e| Stuck::Nccl(e.0))?;
        wait_until(mesh, Instant::now() + mesh.time_out(), || opened.is_settled())?;
        Ok(opened)
    }

    /// Whether NCCL has taken what it was given.
    fn is_settled(&self) -> std::result::Result<bool, Stuck> {
        match self.state() {
            sys::ncclResult_t::ncclSuccess => Ok(true),
            sys::ncclResult_t::ncclInProgress => Ok(false),
            other => Err(Stuck::Nccl(other)),
        }
    }

    /// NCCL's asynchronous error.
    fn state(&self) -> sys::ncclResult_t {
        if self.comm.is_null() {
            return sys::ncclResult_t::ncclInvalidUsage;
        }
        let mut state = sys::ncclResult_t::ncclInternalError;
        // SAFETY: the communicator is not null, so it was opened and not aborted
        let asked = unsafe { sys::ncclCommGetAsyncError(self.comm, &mut state) };
        if asked == sys::ncclResult_t::ncclSuccess { state } else { asked }
    }

    /// Waits until the GPU has done everything on the stream.
    fn wait(&self, mesh: &Mesh, ongoing: &Ongoing) -> std::result::Result<(), Failure> {
        let failure = |stuck: Stuck| Failure::from(stuck.words(mesh));
        wait_until(mesh, ongoing.deadline, || self.is_settled()).map_err(failure)?;
        let ready: CudaEvent = self.stream.record_event(None).map_err(|e| failure(Stuck::Gpu(e)))?;
        let is_through = || -> std::result::Result<bool, Stuck> {
            let is_through = ready.try_is_complete().map_err(Stuck::Gpu)?;
            if !is_through {
                self.is_settled()?;
            }
            Ok(is_through)
        };
        wait_until(mesh, ongoing.deadline, is_through).map_err(failure)
    }

    fn words(&self, mesh: &Mesh, problem: &str) -> String {
        format!("rank {}: {problem}", mesh.rank())
    }

    /// Ends the communicator and its kernels, wherever they wait.
    fn abort(&mut self) {
        if !self.comm.is_null() {
            // SAFETY: not null, so it was opened and not aborted; it is never used again
            let _ended = unsafe { result::comm_abort(self.comm) };
            self.comm = std::ptr::null_mut();
        }
    }

    #[cfg_attr(not(feature = "cuda"), allow(dead_code))]
    fn raw_stream(&self) -> sys::cudaStream_t {
        self.stream.cu_stream().cast()
    }

    /// `count` elements of everyone at `from`, added, to `to` on every rank.
    ///
    /// # Safety
    /// Both are device pointers of this stream's GPU to `count` elements, and live until the stream is through.
    #[cfg_attr(not(feature = "cuda"), allow(dead_code))]
    unsafe fn all_reduce(
        &self,
        from: *const c_void,
        to: *mut c_void,
        count: usize,
        dtype: sys::ncclDataType_t,
    ) -> Done {
        let add = sys::ncclRedOp_t::ncclSum;
        // SAFETY: the caller's
        done(unsafe { result::all_reduce(from, to, count, dtype, add, self.comm, self.raw_stream()) })
    }

    /// The slice of this rank, `count` elements, of the sum of everyone's elements at `from`.
    ///
    /// # Safety
    /// As [`Comm::all_reduce`]; `from` is of `count` elements for each rank.
    #[cfg_attr(not(feature = "cuda"), allow(dead_code))]
    unsafe fn reduce_scatter(
        &self,
        from: *const c_void,
        to: *mut c_void,
        count: usize,
        dtype: sys::ncclDataType_t,
    ) -> Done {
        let add = sys::ncclRedOp_t::ncclSum;
        // SAFETY: the caller's
        done(unsafe { result::reduce_scatter(from, to, count, dtype, add, self.comm, self.raw_stream()) })
    }

    /// The bytes of all ranks.
    ///
    /// # Safety
    /// As [`Comm::all_reduce`]; `to` is of `bytes` for each rank.
    #[cfg_attr(not(feature = "cuda"), allow(dead_code))]
    unsafe fn all_gather(&self, from: *const c_void, to: *mut c_void, bytes: usize) -> Done {
        // SAFETY: the caller's
        done(unsafe {
            result::all_gather(from, to, bytes, sys::ncclDataType_t::ncclUint8, self.comm, self.raw_stream())
        })
    }

    /// The bytes of rank `root`.
    ///
    /// # Safety
    /// As [`Comm::all_reduce`].
    #[cfg_attr(not(feature = "cuda"), allow(dead_code))]
    unsafe fn broadcast(&self, from: *const c_void, to: *mut c_void, bytes: usize, root: usize) -> Done {
        let byte = sys::ncclDataType_t::ncclUint8;
        // SAFETY: the caller's
        done(unsafe { result::broadcast(from, to, bytes, byte, root as i32, self.comm, self.raw_stream()) })
    }
}

impl Drop for Comm {
    fn drop(&mut self) {
        self.abort();
    }
}

/// Why NCCL does not get through.
#[derive(Debug)]
enum Stuck {
    /// A rank has left: its words, or what it did.
    Left(String),
    /// Nobody has left, and the time-out is over.
    Late,
    /// What NCCL says.
    Nccl(sys::ncclResult_t),
    /// What the driver says.
    Gpu(DriverError),
}

impl Stuck {
    /// In words for everyone.
    fn words(self, mesh: &Mesh) -> String {
        let problem = match self {
            Self::Left(words) => return words,
            Self::Late => format!("all ranks are there, but nccl was not through within {:?}", mesh.time_out()),
            Self::Nccl(code) => format!("nccl failed: {}", describe(code)),
            Self::Gpu(error) => format!("the GPU failed: {error}"),
        };
        format!("rank {}: {problem}", mesh.rank())
    }

    /// Ranks that do not come together: tells everyone why, and gives the error of this one.
    fn end(self, mesh: &mut Mesh) -> RanksError {
        use sys::ncclResult_t::{ncclRemoteError, ncclSystemError};
        let passes = matches!(self, Self::Left(_) | Self::Late | Self::Nccl(ncclRemoteError | ncclSystemError));
        let words = self.words(mesh);
        let why = format!("nccl does not connect the ranks: {}", mesh.end(Failure::from(words)));
        if passes { RanksError::Unreachable(why) } else { RanksError::Library(why) }
    }
}

/// Waits for NCCL, or what it has given to the GPU.
fn wait_until(
    mesh: &Mesh,
    deadline: Instant,
    mut is_through: impl FnMut() -> std::result::Result<bool, Stuck>,
) -> std::result::Result<(), Stuck> {
    let mut left_at = None;
    loop {
        match is_through() {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            // a rank that is gone is a better explanation than NCCL's
            Err(stuck) => return Err(mesh.who_left().map_or(stuck, |left| Stuck::Left(left.words))),
        }
        if let Some(left) = mesh.who_left() {
            let since = *left_at.get_or_insert_with(Instant::now);
            if since.elapsed() > AFTER_LEAVING {
                return Err(Stuck::Left(left.words));
            }
        }
        if Instant::now() >= deadline {
            return Err(Stuck::Late);
        }
        std::thread::sleep(PAUSE);
    }
}

/// Whether NCCL took a call.
type Done = std::result::Result<(), String>;

fn done(result: std::result::Result<NcclStatus, result::NcclError>) -> Done {
    result.map(|_| ()).map_err(|e| format!("nccl refused: {}", describe(e.0)))
}

fn describe(code: sys::ncclResult_t) -> String {
    let hint = match code {
        sys::ncclResult_t::ncclRemoteError => "another rank died or cannot be reached",
        sys::ncclResult_t::ncclSystemError => "a system call failed; NCCL_DEBUG=WARN says which",
        sys::ncclResult_t::ncclInvalidUsage => "wrong usage, often two ranks on one GPU; NCCL_DEBUG=WARN says more",
        _ => "NCCL_DEBUG=WARN says more",
    };
    format!("{code:?} ({hint})")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// NCCL that connects for ever, because a rank has ended.
    #[test]
    fn a_rank_that_leaves_while_nccl_connects_is_named_and_may_come_again() {
        let minute = Duration::from_secs(60);
        let mut world = crate::loopback_world(2, minute).unwrap();
        let begun = Instant::now();
        drop(world.pop());
        let stuck = wait_until(&world[0], begun + minute, || Ok(false)).unwrap_err();
        assert!(begun.elapsed() < minute / 2, "{:?}", begun.elapsed());
        let error = stuck.end(&mut world[0]);
        assert!(matches!(&error, RanksError::Unreachable(why) if why.contains("rank 1 is gone")), "{error}");
    }

    #[test]
    fn what_passes_is_told_from_what_does_not() {
        let error = |stuck: Stuck| {
            let mut world = crate::loopback_world(2, Duration::from_millis(100)).unwrap();
            stuck.end(&mut world[0])
        };
        for passing in [Stuck::Late, Stuck::Nccl(sys::ncclResult_t::ncclRemoteError)] {
            let error = error(passing);
            assert!(matches!(&error, RanksError::Unreachable(why) if why.contains("rank 0: ")), "{error}");
        }
        let error = error(Stuck::Nccl(sys::ncclResult_t::ncclInvalidUsage));
        assert!(matches!(&error, RanksError::Library(why) if why.contains("two ranks on one GPU")), "{error}");
    }

    /// Without the library this says what to do; the bindings themselves would panic.
    #[test]
    fn a_missing_library_is_no_panic() {
        match super::library_problem() {
            Some(problem) => assert!(problem.contains("dlopen looks for lib"), "{problem}"),
            None => assert!(super::library_version().is_some()),
        }
    }
}
