//! What every [`Communicator`] must do, as one suite that runs on each implementation, also from tests of other crates.
//! Every check panics with what was wrong, like a test.
//!
//! The reference is worked out here with candle's own operations, not with the kernels that are under test.

use std::sync::{Barrier, Mutex, mpsc};
use std::time::{Duration, Instant};

use candle_core::{DType, Device, Tensor};

use super::Communicator;
use crate::error::{Error, Result};

/// Makes a world: number of ranks, time-out of each operation.
pub type MakeWorld<'a> = &'a dyn Fn(usize, Duration) -> Vec<Box<dyn Communicator>>;

/// Where nothing may take long: far above what a loaded machine needs.
const PATIENCE: Duration = Duration::from_secs(60);
/// Where somebody is late on purpose.
const SHORT: Duration = Duration::from_secs(2);

/// Runs every check on worlds of 1 to 4 ranks whose tensors lie on the CPU.
pub fn conformance(world: MakeWorld<'_>) {
    for world_size in 1..=4 {
        operations(world, world_size, &|_| Device::Cpu);
    }
    faults(world);
}

/// Every operation, with every type, many shapes and large tensors; `device` is the device of a rank.
pub fn operations(world: MakeWorld<'_>, world_size: usize, device: &(dyn Fn(usize) -> Device + Sync)) {
    let ranks = world(world_size, PATIENCE);
    assert_eq!(ranks.len(), world_size, "a world has as many ranks as asked for");
    let failures: Vec<Result<()>> = in_threads(ranks, |rank| {
        let device = device(rank.rank());
        assert_eq!(rank.world_size(), world_size);
        let mut step = 0;
        for dtype in [DType::F64, DType::F32, DType::BF16, DType::F16] {
            for shape in shapes(world_size, dtype, &device) {
                rank.at_step(step);
                step += 1;
                sums(rank, dtype, &shape, &device)?;
            }
        }
        for dtype in [DType::F64, DType::F32, DType::BF16, DType::F16, DType::U32, DType::I64, DType::U8] {
            for shape in shapes(world_size, dtype, &device) {
                rank.at_step(step);
                step += 1;
                copies(rank, dtype, &shape, &device)?;
            }
        }
        for _ in 0..100 {
            rank.barrier()?;
        }
        Ok(())
    });
    for (rank, failure) in failures.into_iter().enumerate() {
        failure.unwrap_or_else(|e| panic!("world of {world_size}: rank {rank}: {e}"));
    }
}

fn shapes(world_size: usize, dtype: DType, device: &Device) -> Vec<Vec<usize>> {
    let mut shapes = vec![vec![], vec![1], vec![world_size, 1], vec![3 * world_size, 5], vec![257, 33]];
    // a GPU holds no tensor without elements
    if device.is_cpu() {
        shapes.push(vec![0, 3]);
    }
    if dtype == DType::F32 {
        // 4 MiB, so that several frames are under way at once, and no multiple of anything
        shapes.push(vec![260 / world_size * world_size, 4001]);
    }
    shapes
}

fn sums(rank: &mut dyn Communicator, dtype: DType, shape: &[usize], device: &Device) -> Result<()> {
    let (me, world_size) = (rank.rank(), rank.world_size());
    let parts: Vec<Tensor> = (0..world_size).map(|r| numbers(r, shape, dtype)).collect::<Result<_>>()?;
    let expected = sum_in_rank_order(&parts, dtype)?;
    let mine = parts[me].to_device(device)?;
    let sum = rank.all_reduce_sum(&mine)?;
    assert!(sum.device().same_device(device), "the sum lies on the rank's device");
    same_bits(&sum, &expected, "all_reduce_sum");
    same_bits(&rank.all_reduce_sum(&mine)?, &expected, "all_reduce_sum once more");
    if shape.len() == 2 {
        // elements that do not lie one after the other
        let turned = rank.all_reduce_sum(&mine.t()?)?;
        same_bits(&turned, &expected.t()?, "all_reduce_sum of a transposed tensor");
    }
    if shape.first().is_some_and(|rows| rows % world_size == 0) {
        let rows = shape[0] / world_size;
        let slice = rank.reduce_scatter_sum(&mine)?;
        same_bits(&slice, &expected.narrow(0, me * rows, rows)?, "reduce_scatter_sum");
    }
    Ok(())
}

fn copies(rank: &mut dyn Communicator, dtype: DType, shape: &[usize], device: &Device) -> Result<()> {
    let (me, world_size) = (rank.rank(), rank.world_size());
    let parts: Vec<Tensor> = (0..world_size).map(|r| numbers(r, shape, dtype)).collect::<Result<_>>()?;
    let mine = parts[me].to_device(device)?;
    if !shape.is_empty() {
        let all = rank.all_gather(&mine)?;
        assert!(all.device().same_device(device), "the gathered tensor lies on the rank's device");
        same_bits(&all, &Tensor::cat(&parts, 0)?, "all_gather");
    }
    for (root, expected) in parts.iter().enumerate() {
        same_bits(&rank.broadcast(&mine, root)?, expected, "broadcast");
    }
    Ok(())
}

/// Numbers of a rank that look random (splitmix64), with fractions of many bits where the type has fractions.
fn numbers(rank: usize, shape: &[usize], dtype: DType) -> Result<Tensor> {
    let count: usize = shape.iter().product();
    let bits = (0..count as u64).map(|i| {
        let x = (i + ((rank as u64) << 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (x ^ (x >> 27)) >> 40
    });
    let values: Vec<f32> = match dtype {
        DType::F64 | DType::F32 | DType::BF16 | DType::F16 => bits.map(|x| x as f32 / 83_886.0 - 100.0).collect(),
        _ => bits.map(|x| (x % 256) as f32).collect(),
    };
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?.to_dtype(dtype)?)
}

fn sum_in_rank_order(parts: &[Tensor], dtype: DType) -> Result<Tensor> {
    let wide = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
    let mut sum = parts[0].to_dtype(wide)?;
    for part in &parts[1..] {
        sum = (sum + part.to_dtype(wide)?)?;
    }
    Ok(sum.to_dtype(dtype)?)
}

fn same_bits(got: &Tensor, expected: &Tensor, what: &str) {
    assert_eq!(got.dtype(), expected.dtype(), "{what}: type");
    assert_eq!(got.dims(), expected.dims(), "{what} of {:?}: shape", expected.dtype());
    // every type fits into f64 without loss, and no number is NaN
    let values = |t: &Tensor| -> Result<Vec<f64>> {
        Ok(t.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?)
    };
    let (got_values, expected_values) = (values(got).expect("readable"), values(expected).expect("readable"));
    let first = got_values.iter().zip(&expected_values).position(|(a, b)| a.to_bits() != b.to_bits());
    if let Some(at) = first {
        let (got_value, expected_value) = (got_values[at], expected_values[at]);
        panic!("{what} of {:?} {:?}: element {at} is {got_value}, not {expected_value}", got.dtype(), got.dims());
    }
}

/// Ranks that die, hang or call something else: everyone learns who, where and when.
pub fn faults(world: MakeWorld<'_>) {
    a_rank_that_died_is_named(world);
    a_rank_that_panicked_is_named(world);
    a_stuck_rank_is_named_by_all(world);
    other_calls_are_named(world);
    calls_without_sense_are_refused(world);
}

fn small(device: &Device) -> Tensor {
    Tensor::new(&[[1f32, 2.0], [3.0, 4.0], [5.0, 6.0]], device).expect("a constant")
}

fn a_rank_that_died_is_named(world: MakeWorld<'_>) {
    for dead in 0..3 {
        let problems = in_threads(world(3, PATIENCE), |rank| {
            rank.at_step(7);
            rank.barrier().expect("all are there");
            if rank.rank() == dead {
                return None;
            }
            rank.at_step(8);
            let begin = Instant::now();
            let first = rank.all_reduce_sum(&small(&Device::Cpu)).expect_err("a rank is dead");
            let second = rank.barrier().expect_err("the world has ended");
            assert!(begin.elapsed() < PATIENCE / 2, "a dead rank is noticed at once, not by the time-out");
            Some((first, second))
        });
        for (rank, problem) in problems.into_iter().enumerate().filter(|(rank, _)| *rank != dead) {
            let (first, second) = problem.expect("live ranks report");
            names(&first, rank, "all_reduce_sum", 8, &[&format!("rank {dead}")]);
            names(&second, rank, "barrier", 8, &[&format!("rank {dead}")]);
        }
    }
}

fn a_rank_that_panicked_is_named(world: MakeWorld<'_>) {
    let mut ranks = world(2, PATIENCE);
    let (mut first, second) = (ranks.remove(0), ranks.remove(0));
    let problem = std::thread::scope(|scope| {
        scope.spawn(move || {
            let _unwound = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
                let _held = second;
                // without the hook's message on the terminal
                std::panic::resume_unwind(Box::new("rank 1 panics"));
            }));
        });
        first.all_gather(&small(&Device::Cpu)).expect_err("rank 1 panicked")
    });
    names(&problem, 0, "all_gather", 0, &["rank 1"]);
}

fn a_stuck_rank_is_named_by_all(world: MakeWorld<'_>) {
    let (reported, reports) = mpsc::channel::<()>();
    let reports = Mutex::new(reports);
    // threads that begin late on a busy machine are not stuck
    let all_run = Barrier::new(4);
    let problems = in_threads(world(4, SHORT), |rank| {
        all_run.wait();
        rank.barrier().expect("all are there");
        rank.at_step(3);
        if rank.rank() == 2 {
            let reports = reports.lock().expect("no panic");
            (0..3).for_each(|_| reports.recv_timeout(PATIENCE).expect("the others do not wait for ever"));
            // what the others sent before they left may still add up once
            let mut late = || rank.all_reduce_sum(&small(&Device::Cpu)).err();
            return late().or_else(late).expect("the others have left");
        }
        let problem = rank.all_reduce_sum(&small(&Device::Cpu)).expect_err("rank 2 is stuck");
        reported.clone().send(()).expect("rank 2 listens");
        problem
    });
    for (rank, problem) in problems.iter().enumerate() {
        names(problem, rank, "all_reduce_sum", 3, &["rank 2"]);
    }
}

fn other_calls_are_named(world: MakeWorld<'_>) {
    let check =
        |odd: &(dyn Fn(&mut dyn Communicator) -> Error + Sync), operation: &'static str, step, words: &[&str]| {
            for world_size in [2, 3] {
                let problems = in_threads(world(world_size, PATIENCE), |rank| {
                    rank.at_step(5);
                    if rank.rank() == 1 {
                        return odd(rank);
                    }
                    rank.broadcast(&small(&Device::Cpu), 0).expect_err("rank 1 calls something else")
                });
                for (rank, problem) in problems.iter().enumerate() {
                    let own = if rank == 1 { (operation, step) } else { ("broadcast", 5) };
                    names(problem, rank, own.0, own.1, words);
                    let text = problem.to_string();
                    assert!(rank == 1 || text.contains("rank 1 "), "{text:?} names the other rank");
                }
            }
        };
    let tensor = small(&Device::Cpu);
    let other_operation = |rank: &mut dyn Communicator| rank.all_gather(&tensor).expect_err("others broadcast");
    check(&other_operation, "all_gather", 5, &["all_gather", "broadcast"]);
    let other_shape = |rank: &mut dyn Communicator| {
        rank.broadcast(&tensor.narrow(0, 0, 2).expect("three rows"), 0).expect_err("another shape")
    };
    check(&other_shape, "broadcast", 5, &["[2, 2]", "[3, 2]"]);
    let other_type = |rank: &mut dyn Communicator| {
        rank.broadcast(&tensor.to_dtype(DType::F64).expect("a cast"), 0).expect_err("another type")
    };
    check(&other_type, "broadcast", 5, &["f64", "f32"]);
    let other_root = |rank: &mut dyn Communicator| rank.broadcast(&tensor, 1).expect_err("another root");
    check(&other_root, "broadcast", 5, &["of rank 1", "of rank 0"]);
    let other_step = |rank: &mut dyn Communicator| {
        rank.at_step(6);
        rank.broadcast(&tensor, 0).expect_err("another step")
    };
    check(&other_step, "broadcast", 6, &["at step 6", "at step 5"]);
}

fn calls_without_sense_are_refused(world: MakeWorld<'_>) {
    type Senseless = (&'static str, fn(&mut dyn Communicator) -> Error);
    let calls: [Senseless; 4] = [
        ("all_reduce_sum", |rank| {
            let whole = Tensor::new(&[1u32], &Device::Cpu).expect("a constant");
            rank.all_reduce_sum(&whole).expect_err("a sum of u32")
        }),
        ("all_gather", |rank| {
            let scalar = Tensor::new(1f32, &Device::Cpu).expect("a constant");
            rank.all_gather(&scalar).expect_err("a gathered scalar")
        }),
        ("reduce_scatter_sum", |rank| {
            rank.reduce_scatter_sum(&small(&Device::Cpu)).expect_err("three rows for two ranks")
        }),
        ("broadcast", |rank| rank.broadcast(&small(&Device::Cpu), 2).expect_err("no such root")),
    ];
    for (operation, call) in calls {
        let problems = in_threads(world(2, PATIENCE), |rank| call(rank));
        for (rank, problem) in problems.iter().enumerate() {
            names(problem, rank, operation, 0, &[]);
        }
    }
}

/// The error is of this rank, operation and step, and contains the words.
fn names(error: &Error, rank: usize, operation: &str, step: u64, words: &[&str]) {
    let Error::Collective { rank: r, operation: o, step: s, problem } = error else {
        panic!("rank {rank}: not the error of a collective: {error}");
    };
    assert_eq!((*r, *o, *s), (rank, operation, step), "{error}");
    for word in words {
        assert!(problem.contains(word), "rank {rank}: {problem:?} does not say {word:?}");
    }
}

/// Runs every rank in a thread of its own; a rank is dropped as soon as its thread is through.
fn in_threads<R: Send>(ranks: Vec<Box<dyn Communicator>>, work: impl Fn(&mut dyn Communicator) -> R + Sync) -> Vec<R> {
    let work = &work;
    std::thread::scope(|scope| {
        let threads: Vec<_> = ranks.into_iter().map(|mut rank| scope.spawn(move || work(&mut *rank))).collect();
        threads.into_iter().map(|t| t.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    })
}
