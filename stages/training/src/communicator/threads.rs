//! Ranks as threads of one process: for tests, and for a laptop with several small devices.
//!
//! Every operation is a round. A rank lays down its tensor and waits; whoever comes last works out the results, lays one
//! into each rank's box and wakes the others. A rank can begin the next round only after it took its result, so a box is
//! never overwritten.

use std::collections::BTreeSet;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use candle_core::{Device, Tensor};

use super::call::{Call, Operation};
use super::elements::{on_host, sum_of_tensors};
use super::{Communicator, rank_list};
use crate::error::{Error, Result};

/// Longest time-out: points in time so far off can still be reckoned with.
const MOST_PATIENCE: Duration = Duration::from_secs(1 << 30);

/// One rank of a world of threads. Dropping it tells the others that this rank is gone.
pub struct Threads {
    rank: usize,
    step: u64,
    meeting: Arc<Meeting>,
}

struct Meeting {
    world_size: usize,
    time_out: Duration,
    round: Mutex<Round>,
    changed: Condvar,
}

#[derive(Default)]
struct Round {
    /// What each rank brought, until the last one comes.
    brought: Vec<Option<(Call, Option<Tensor>)>>,
    /// What each rank gets, until it takes it.
    boxes: Vec<Option<Option<Tensor>>>,
    gone: BTreeSet<usize>,
    failure: Option<Failure>,
}

/// Why the world ended.
#[derive(Clone)]
enum Failure {
    Differ { rank: usize, call: Call, other_rank: usize, other: Call },
    Said(String),
}

impl Failure {
    fn in_words(&self, reader: usize) -> String {
        match self {
            Self::Said(words) => words.clone(),
            // told from the reader's side, if it is one of the two
            Self::Differ { rank, call, other_rank, other } if *other_rank == reader => {
                other.difference(*other_rank, call, *rank, reader).unwrap_or_default()
            }
            Self::Differ { rank, call, other_rank, other } => {
                call.difference(*rank, other, *other_rank, reader).unwrap_or_default()
            }
        }
    }
}

impl Threads {
    /// A world of `world_size` ranks, in rank order: give each to its thread. A rank waits for the others `time_out` at
    /// most, in each operation.
    pub fn world(world_size: usize, time_out: Duration) -> Vec<Self> {
        let round = Round {
            brought: (0..world_size).map(|_| None).collect(),
            boxes: (0..world_size).map(|_| None).collect(),
            ..Round::default()
        };
        let meeting = Arc::new(Meeting { world_size, time_out, round: Mutex::new(round), changed: Condvar::new() });
        (0..world_size).map(|rank| Self { rank, step: 0, meeting: meeting.clone() }).collect()
    }

    /// One round: lays down the tensor, returns what this rank gets.
    fn meet(&mut self, call: Call, tensor: Option<&Tensor>) -> Result<Option<Tensor>> {
        let operation = call.operation;
        self.meet_or_say(call, tensor).map_err(|problem| Error::Collective {
            rank: self.rank,
            operation: operation.name(),
            step: self.step,
            problem,
        })
    }

    fn meet_or_say(&self, call: Call, tensor: Option<&Tensor>) -> Result<Option<Tensor>, String> {
        let meeting = &*self.meeting;
        let on_host = tensor.map(on_host).transpose();
        let mut round = meeting.lock();
        if round.failure.is_none() {
            round.failure = match (call.problem(meeting.world_size), &on_host) {
                (Some(problem), _) => Some(self.refusal(&call, &problem)),
                (None, Err(e)) => Some(self.refusal(&call, &e.to_string())),
                (None, Ok(_)) => round.difference(self.rank, &call),
            };
        }
        if round.failure.is_none() {
            round.brought[self.rank] = Some((call.clone(), on_host.unwrap_or_default()));
            if round.brought.iter().all(Option::is_some)
                && let Err(e) = round.conclude(&call)
            {
                round.failure = Some(self.refusal(&call, &e.to_string()));
            }
        }
        if round.failure.is_some() || round.boxes[self.rank].is_some() {
            meeting.changed.notify_all();
        }
        let deadline = Instant::now() + meeting.time_out.min(MOST_PATIENCE);
        let result = loop {
            // a round that was concluded before the world ended still counts
            if let Some(result) = round.boxes[self.rank].take() {
                break result;
            }
            if round.failure.is_none() {
                round.failure = meeting.absence(&round, deadline);
                if round.failure.is_some() {
                    meeting.changed.notify_all();
                }
            }
            if let Some(failure) = &round.failure {
                return Err(failure.in_words(self.rank));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            round = meeting.changed.wait_timeout(round, left).unwrap_or_else(PoisonError::into_inner).0;
        };
        drop(round);
        let device = tensor.map_or(&Device::Cpu, Tensor::device);
        result.map(|result| own(&result, device)).transpose().map_err(|e| e.to_string())
    }

    /// The others did nothing wrong, but learn why this rank ends.
    fn refusal(&self, call: &Call, problem: &str) -> Failure {
        Failure::Said(format!("rank {} could not {} at step {}: {problem}", self.rank, call.operation, call.step))
    }
}

/// A copy on the rank's own device: what one rank does to its result in place is not seen by others.
fn own(shared: &Tensor, device: &Device) -> Result<Tensor> {
    Ok(if device.is_cpu() { shared.copy()? } else { shared.to_device(device)? })
}

impl Meeting {
    fn lock(&self) -> MutexGuard<'_, Round> {
        // a rank that panicked within a round is gone, which its drop says
        self.round.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ranks that will not come any more, or did not come in time.
    fn absence(&self, round: &Round, deadline: Instant) -> Option<Failure> {
        let missing = || (0..self.world_size).filter(|&rank| round.brought[rank].is_none());
        let gone: Vec<usize> = missing().filter(|rank| round.gone.contains(rank)).collect();
        if !gone.is_empty() {
            return Some(Failure::Said(format!("{} gone", rank_list(&gone, "is", "are"))));
        }
        (Instant::now() >= deadline).then(|| {
            let late: Vec<usize> = missing().collect();
            Failure::Said(format!("{} not come within {:?}", rank_list(&late, "did", "did"), self.time_out))
        })
    }
}

impl Round {
    /// How the call of a rank differs from those that are already there.
    fn difference(&self, rank: usize, call: &Call) -> Option<Failure> {
        self.brought.iter().enumerate().find_map(|(other_rank, brought)| {
            let (other, _) = brought.as_ref()?;
            (other != call).then(|| Failure::Differ { rank, call: call.clone(), other_rank, other: other.clone() })
        })
    }

    /// Everyone is there: works out each rank's result.
    fn conclude(&mut self, call: &Call) -> Result<()> {
        let world_size = self.brought.len();
        let tensors: Vec<Tensor> = self.brought.iter_mut().filter_map(|b| b.take().and_then(|(_, t)| t)).collect();
        let results: Vec<Option<Tensor>> = match call.operation {
            Operation::Barrier => vec![None; world_size],
            Operation::AllReduceSum => vec![Some(sum_of_tensors(&tensors, call.dtype)?); world_size],
            Operation::AllGather => vec![Some(Tensor::cat(&tensors, 0)?); world_size],
            Operation::Broadcast => vec![Some(tensors[call.root].clone()); world_size],
            Operation::ReduceScatterSum => {
                let sum = sum_of_tensors(&tensors, call.dtype)?;
                let rows = call.shape[0] / world_size;
                (0..world_size).map(|rank| Ok(Some(sum.narrow(0, rank * rows, rows)?))).collect::<Result<_>>()?
            }
        };
        self.boxes = results.into_iter().map(Some).collect();
        Ok(())
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.meeting.lock().gone.insert(self.rank);
        self.meeting.changed.notify_all();
    }
}

impl Communicator for Threads {
    fn way(&self) -> String {
        "memory of this process".to_owned()
    }

    fn rank(&self) -> usize {
        self.rank
    }

    fn world_size(&self) -> usize {
        self.meeting.world_size
    }

    fn at_step(&mut self, step: u64) {
        self.step = step;
    }

    fn all_reduce_sum(&mut self, tensor: &Tensor) -> Result<Tensor> {
        self.with_tensor(Operation::AllReduceSum, tensor, 0)
    }

    fn all_gather(&mut self, tensor: &Tensor) -> Result<Tensor> {
        self.with_tensor(Operation::AllGather, tensor, 0)
    }

    fn reduce_scatter_sum(&mut self, tensor: &Tensor) -> Result<Tensor> {
        self.with_tensor(Operation::ReduceScatterSum, tensor, 0)
    }

    fn broadcast(&mut self, tensor: &Tensor, root: usize) -> Result<Tensor> {
        self.with_tensor(Operation::Broadcast, tensor, root)
    }

    fn barrier(&mut self) -> Result<()> {
        self.meet(Call::barrier(self.step), None).map(|_| ())
    }
}

impl Threads {
    fn with_tensor(&mut self, operation: Operation, tensor: &Tensor, root: usize) -> Result<Tensor> {
        let result = self.meet(Call::with(operation, self.step, tensor, root), Some(tensor))?;
        // only a barrier has none
        Ok(result.unwrap_or_else(|| tensor.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_conform() {
        crate::communicator::conformance::conformance(&|world_size, time_out| {
            let ranks = Threads::world(world_size, time_out).into_iter();
            ranks.map(|rank| Box::new(rank) as Box<dyn Communicator>).collect()
        });
    }

    #[test]
    fn three_threads_add_gather_and_notice_who_is_gone() {
        let ranks = Threads::world(3, Duration::MAX);
        let problems: Vec<Option<String>> = std::thread::scope(|scope| {
            let threads: Vec<_> = ranks
                .into_iter()
                .map(|mut rank| {
                    scope.spawn(move || {
                        rank.at_step(7);
                        let r = rank.rank() as f32;
                        let mine = Tensor::new(&[[r, 1.0], [10.0 * r, 2.0]], &Device::Cpu).unwrap();
                        let sum = rank.all_reduce_sum(&mine).unwrap().to_vec2::<f32>().unwrap();
                        assert_eq!(sum, [[3.0, 3.0], [30.0, 6.0]]);
                        let all = rank.all_gather(&mine).unwrap();
                        assert_eq!(all.dims(), [6, 2]);
                        rank.barrier().unwrap();
                        (rank.rank() != 1).then(|| rank.broadcast(&mine, 0).unwrap_err().to_string())
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(problems[0].as_deref(), Some("rank 0: broadcast of step 7: rank 1 is gone"));
        assert_eq!(problems[2].as_deref(), Some("rank 2: broadcast of step 7: rank 1 is gone"));
    }
}
