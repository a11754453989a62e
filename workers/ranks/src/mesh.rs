//! A rank's connections to all others, the calls that they agree on, and who is to blame when they do not.
//!
//! A call begins with a frame to every peer, so that each rank knows who has come. When a rank has waited for a while it
//! tells all others for whom; at the time-out the blame goes to those that never came, or else along this chain to the
//! one that waits for nobody. Whoever gives up says whom it blames before it closes, so nobody blames the messenger.

use std::time::{Duration, Instant};

use training::Error;
use training::communicator::call::Call;
use training::communicator::rank_list;

use crate::frame::{Head, Kind, write_call};
use crate::peer::{Chunk, End, Incoming, Outgoing, Peer, Silence};

/// How long last words may take to leave, when a rank gives up.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// How long results may take to leave, when a rank has finished.
const FAREWELL: Duration = Duration::from_secs(5);
/// Longest time-out: points in time so far off can still be reckoned with.
pub(crate) const MOST_PATIENCE: Duration = Duration::from_secs(1 << 30);
/// No rank: for words that every rank reads the same.
const NOBODY: usize = usize::MAX;

/// Connections of one rank to all others.
pub struct Mesh {
    rank: usize,
    /// By rank; none to itself.
    peers: Vec<Option<Peer>>,
    time_out: Duration,
    step: u64,
    /// Number of the last call, the same on all ranks.
    number: u64,
    /// Why nothing works any more.
    failure: Option<String>,
}

/// A call under way.
#[derive(Clone, Debug)]
pub(crate) struct Ongoing {
    pub(crate) call: Call,
    pub(crate) number: u64,
    pub(crate) deadline: Instant,
}

/// What went wrong, in words for everyone; and for this rank, where they differ.
pub(crate) struct Failure {
    pub(crate) words: String,
    pub(crate) own_words: Option<String>,
}

impl From<String> for Failure {
    fn from(words: String) -> Self {
        Self { words, own_words: None }
    }
}

impl Mesh {
    pub(crate) fn new(rank: usize, peers: Vec<Option<Peer>>, time_out: Duration) -> Self {
        Self { rank, peers, time_out: time_out.min(MOST_PATIENCE), step: 0, number: 0, failure: None }
    }

    /// This rank, from 0.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Number of ranks.
    pub fn world_size(&self) -> usize {
        self.peers.len()
    }

    pub(crate) fn step(&self) -> u64 {
        self.step
    }

    pub(crate) fn at_step(&mut self, step: u64) {
        self.step = step;
    }

    #[cfg(feature = "nccl")]
    pub(crate) fn time_out(&self) -> Duration {
        self.time_out
    }

    /// How long this rank waits for another: the last fifth of the time-out is for one that came late to say whom it
    /// waits for itself.
    fn patience(&self) -> Duration {
        self.time_out * 4 / 5
    }

    /// Why some rank has left, whether it was through or not: the words of one that said why, or else what one did.
    pub(crate) fn who_left(&self) -> Option<Failure> {
        let ends = || self.peers().filter_map(|(rank, peer)| Some((rank, peer.end()?)));
        let said = ends().find_map(|(_, end)| if let End::Said(words) = end { Some(words) } else { None });
        let silent = || {
            ends().find_map(|(rank, end)| match end {
                End::Silent(what) => Some(format!("rank {rank} {what}")),
                End::Said(_) => None,
            })
        };
        said.or_else(silent).map(Failure::from)
    }

    pub(crate) fn peers(&self) -> impl Iterator<Item = (usize, &Peer)> {
        self.peers.iter().enumerate().filter_map(|(rank, peer)| Some((rank, peer.as_ref()?)))
    }

    fn peer(&self, rank: usize) -> Result<&Peer, Failure> {
        let peer = self.peers.get(rank).and_then(Option::as_ref);
        peer.ok_or_else(|| Failure::from(format!("rank {rank} is none of the peers of rank {}", self.rank)))
    }

    /// Does something together: begins the call, waits for everyone's, then `work`. What goes wrong ends the world.
    pub(crate) fn together<R>(
        &mut self,
        call: Call,
        work: impl FnOnce(&mut Self, &Ongoing) -> Result<R, Failure>,
    ) -> training::Result<R> {
        let operation = call.operation.name();
        let result = match &self.failure {
            Some(words) => Err(words.clone()),
            None => {
                let result = self.begin(call).and_then(|ongoing| work(self, &ongoing));
                result.map_err(|failure| self.end(failure))
            }
        };
        result.map_err(|problem| Error::Collective { rank: self.rank, operation, step: self.step, problem })
    }

    fn begin(&mut self, call: Call) -> Result<Ongoing, Failure> {
        let could_not =
            |problem| format!("rank {} could not {} at step {}: {problem}", self.rank, call.operation, call.step);
        if let Some(problem) = call.problem(self.world_size()) {
            return Err(could_not(problem).into());
        }
        let body = write_call(&call).map_err(could_not)?;
        // nobody ends a call that this rank has not called yet, so whoever has left will not take part in this one
        if let Some(failure) = self.who_left() {
            return Err(failure);
        }
        self.number += 1;
        let head = Head { kind: Kind::Call, body_bytes: body.len(), number: self.number };
        self.peers().for_each(|(_, peer)| peer.send(Outgoing::Frame(head, body.clone())));
        Ok(Ongoing { call, number: self.number, deadline: Instant::now() + self.patience() })
    }

    /// Waits until every rank has made the same call.
    pub(crate) fn await_calls(&self, ongoing: &Ongoing) -> Result<(), Failure> {
        for (rank, _) in self.peers() {
            match self.wait_for(rank, ongoing)? {
                Incoming::Call(number, call) if number == ongoing.number => {
                    if let Some(words) = ongoing.call.difference(self.rank, &call, rank, NOBODY) {
                        let own_words = ongoing.call.difference(self.rank, &call, rank, self.rank);
                        return Err(Failure { words, own_words });
                    }
                }
                _ => return Err(format!("rank {rank} sent something else than its next call").into()),
            }
        }
        Ok(())
    }

    /// The next chunk of a rank, which must have this length.
    pub(crate) fn receive_chunk(&self, rank: usize, len: usize, ongoing: &Ongoing) -> Result<Chunk, Failure> {
        match self.wait_for(rank, ongoing)? {
            Incoming::Data(number, chunk) if number == ongoing.number && chunk.bytes().len() == len => Ok(chunk),
            _ => Err(format!("rank {rank} sent something else than the {len} bytes that are due").into()),
        }
    }

    pub(crate) fn recycle(&self, rank: usize, chunk: Chunk) {
        if let Some(Some(peer)) = self.peers.get(rank) {
            peer.recycle(chunk);
        }
    }

    fn wait_for(&self, rank: usize, ongoing: &Ongoing) -> Result<Incoming, Failure> {
        let peer = self.peer(rank)?;
        let mut note_at = Some(Instant::now() + self.time_out / 8);
        loop {
            let until = note_at.map_or(ongoing.deadline, |at| at.min(ongoing.deadline));
            match peer.receive(until) {
                Ok(Incoming::Abort(words)) => return Err(words.into()),
                Ok(Incoming::Gone(how)) => return Err(format!("rank {rank} is gone: {how}").into()),
                Ok(Incoming::Broken(what)) => return Err(format!("rank {rank} sent {what}").into()),
                Ok(incoming) => return Ok(incoming),
                Err(Silence::Over) => return Err(format!("rank {rank} is gone").into()),
                Err(Silence::Late) if Instant::now() < ongoing.deadline => {
                    note_at = None;
                    self.note(rank, ongoing.number);
                }
                Err(Silence::Late) => return self.too_late(rank, peer, ongoing),
            }
        }
    }

    /// Tells the others for whom this rank waits.
    fn note(&self, rank: usize, number: u64) {
        let head = Head { kind: Kind::Note, body_bytes: 4, number };
        self.peers().for_each(|(_, peer)| peer.send(Outgoing::Frame(head, (rank as u32).to_le_bytes().to_vec())));
    }

    /// Patience is over. A rank that came a moment ago gets the time to say for whom it waits itself.
    fn too_late(&self, rank: usize, peer: &Peer, ongoing: &Ongoing) -> Result<Incoming, Failure> {
        let absent = || self.peers().filter(|(_, p)| p.called(ongoing.number).is_none()).map(|(rank, _)| rank);
        let absent: Vec<usize> = absent().collect();
        if !absent.is_empty() {
            return Err(format!("{} not come within {:?}", rank_list(&absent, "did", "did"), self.patience()).into());
        }
        let came = peer.called(ongoing.number).unwrap_or(ongoing.deadline);
        match peer.receive(came + (self.time_out - self.patience())) {
            Ok(Incoming::Abort(words)) => return Err(words.into()),
            Ok(Incoming::Gone(how)) => return Err(format!("rank {rank} is gone: {how}").into()),
            Ok(Incoming::Broken(what)) => return Err(format!("rank {rank} sent {what}").into()),
            Ok(incoming) => return Ok(incoming),
            Err(_) => {}
        }
        let waits_for = |rank: usize| self.peers.get(rank)?.as_ref()?.waits_for(ongoing.number);
        let stuck = end_of_chain(rank, self.rank, self.world_size(), waits_for);
        Err(format!("rank {stuck} came but did not go on within {:?}", self.patience()).into())
    }

    /// Ends the world: tells everyone why, and returns the words for this rank.
    pub(crate) fn end(&mut self, failure: Failure) -> String {
        let Failure { words, own_words } = failure;
        self.peers.iter_mut().flatten().for_each(|peer| peer.give_up(&words));
        let until = Instant::now() + LAST_WORDS;
        self.peers.iter_mut().flatten().for_each(|peer| peer.flush(until));
        let words = own_words.unwrap_or(words);
        self.failure = Some(words.clone());
        words
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        if self.failure.is_none() {
            let until = Instant::now() + self.time_out.min(FAREWELL);
            self.peers.iter_mut().flatten().for_each(|peer| peer.flush(until));
        }
    }
}

/// Follows who waits for whom from `first`, up to a rank that waits for nobody, for `me`, or for one seen before.
fn end_of_chain(first: usize, me: usize, world_size: usize, waits_for: impl Fn(usize) -> Option<usize>) -> usize {
    let mut last = first;
    for _ in 0..world_size {
        match waits_for(last) {
            Some(next) if next != me && next != first && next < world_size => last = next,
            _ => break,
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use super::end_of_chain;

    #[test]
    fn the_blame_goes_to_the_end_of_the_chain() {
        let chain = |waits: [Option<usize>; 5]| end_of_chain(1, 0, 5, |rank| waits[rank]);
        assert_eq!(chain([None; 5]), 1);
        assert_eq!(chain([None, Some(2), Some(3), None, None]), 3);
        assert_eq!(chain([None, Some(0), None, None, None]), 1);
        assert_eq!(chain([None, Some(2), Some(1), None, None]), 2);
        assert_eq!(chain([None, Some(77), None, None, None]), 1);
    }
}
