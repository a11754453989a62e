//! A rank's connections to all others, the calls that they agree on, and which rank is at fault when they do not.
//!
//! A call begins with a frame to every peer, so that each rank knows who has come. When a rank has waited for a while it
//! tells all others for whom. At the time-out the blame goes to those that never came, without the ones that still wait
//! for another of them in an earlier call; or, if all came, along this chain to the one that waits for nobody. Whoever
//! gives up says whom it blames, and waits until that was read, before it closes: so that the rank at fault is named,
//! and not the one that reports it.

use std::time::{Duration, Instant};

use training::Error;
use training::communicator::call::Call;
use training::communicator::rank_list;

use crate::frame::{Head, Kind, write_call};
use crate::peer::{Chunk, End, Incoming, Outgoing, Peer, Silence};

/// How long last words may take to arrive, when a rank gives up; never more than a tenth of the time-out.
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

    /// How long after the time-out one that came late may take to say whom it waits for itself.
    fn grace(&self) -> Duration {
        self.time_out / 4
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
        Ok(Ongoing { call, number: self.number, deadline: Instant::now() + self.time_out })
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
                _ => return Err(format!("rank {rank} sent something other than its next call").into()),
            }
        }
        Ok(())
    }

    /// The next chunk of a rank, which must have this length.
    pub(crate) fn receive_chunk(&self, rank: usize, len: usize, ongoing: &Ongoing) -> Result<Chunk, Failure> {
        match self.wait_for(rank, ongoing)? {
            Incoming::Data(number, chunk) if number == ongoing.number && chunk.bytes().len() == len => Ok(chunk),
            _ => Err(format!("rank {rank} sent something other than the {len} bytes that were expected").into()),
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
            let blamed = without_waiting(&absent, |rank| self.peers.get(rank)?.as_ref()?.waits_now());
            return Err(format!("{} not come within {:?}", rank_list(&blamed, "did", "did"), self.time_out).into());
        }
        let came = peer.called(ongoing.number).unwrap_or(ongoing.deadline);
        match peer.receive(came + self.grace()) {
            Ok(Incoming::Abort(words)) => return Err(words.into()),
            Ok(Incoming::Gone(how)) => return Err(format!("rank {rank} is gone: {how}").into()),
            Ok(Incoming::Broken(what)) => return Err(format!("rank {rank} sent {what}").into()),
            Ok(incoming) => return Ok(incoming),
            Err(_) => {}
        }
        let waits_for = |rank: usize| self.peers.get(rank)?.as_ref()?.waits_for(ongoing.number);
        let stuck = end_of_chain(rank, self.rank, self.world_size(), waits_for);
        Err(format!("rank {stuck} came but did not go on within {:?}", self.time_out).into())
    }

    /// Ends the world: tells everyone why, and returns the words for this rank.
    pub(crate) fn end(&mut self, failure: Failure) -> String {
        let Failure { words, own_words } = failure;
        self.peers.iter_mut().flatten().for_each(|peer| peer.give_up(&words));
        let until = Instant::now() + LAST_WORDS.min(self.time_out / 10);
        self.peers.iter_mut().flatten().for_each(|peer| peer.flush(until));
        self.peers().for_each(|(_, peer)| peer.await_end(until));
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

/// Of ranks that have not come, those that are to blame: without the ones that still wait, in an earlier call, for another
/// that has not come either. All of them, if each waits for another.
fn without_waiting(absent: &[usize], waits_for: impl Fn(usize) -> Option<usize>) -> Vec<usize> {
    let waits = |rank: usize| waits_for(rank).is_some_and(|for_whom| for_whom != rank && absent.contains(&for_whom));
    let blamed: Vec<usize> = absent.iter().copied().filter(|&rank| !waits(rank)).collect();
    if blamed.is_empty() { absent.to_vec() } else { blamed }
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
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::time::{Duration, Instant};

    use training::communicator::call::Call;

    use super::{Mesh, end_of_chain, without_waiting};
    use crate::frame::{CHUNK_BYTES, HEAD_BYTES, Head, Kind, write_call};
    use crate::peer::Peer;

    /// A peer, and the end of its connection that the test plays.
    fn played_peer(time_out: Duration) -> (Option<Peer>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let played = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (Some(Peer::new(listener.accept().unwrap().0, time_out).unwrap()), played)
    }

    fn say(to: &mut TcpStream, kind: Kind, number: u64, body: &[u8]) {
        to.write_all(&Head { kind, body_bytes: body.len(), number }.write()).unwrap();
        to.write_all(body).unwrap();
    }

    /// Ranks 1 and 2 come to the first call and not to the second, because rank 2 still waits for rank 1 in the first.
    #[test]
    fn a_rank_that_is_held_up_in_an_earlier_call_is_not_blamed() {
        let time_out = Duration::from_secs(1);
        let (peer_1, mut rank_1) = played_peer(time_out);
        let (peer_2, mut rank_2) = played_peer(time_out);
        let mut mesh = Mesh::new(0, vec![None, peer_1, peer_2], time_out);
        let first = write_call(&Call::barrier(0)).unwrap();
        say(&mut rank_1, Kind::Call, 1, &first);
        say(&mut rank_2, Kind::Call, 1, &first);
        say(&mut rank_2, Kind::Note, 1, &1u32.to_le_bytes());
        let mut barrier = || mesh.together(Call::barrier(0), |mesh, ongoing| mesh.await_calls(ongoing));
        barrier().unwrap();
        let begun = Instant::now();
        let error = barrier().unwrap_err().to_string();
        assert!(error.contains(": rank 1 did not come within 1s"), "{error}");
        assert!(begun.elapsed() >= time_out, "one that comes before the time-out is waited for: {:?}", begun.elapsed());
    }

    /// The peer still sends when this rank gives up, and reads only then.
    #[test]
    fn last_words_reach_a_peer_that_still_sends() {
        let time_out = Duration::from_secs(60);
        let (peer, mut played) = played_peer(time_out);
        let mut mesh = Mesh::new(0, vec![None, peer], time_out);
        let data = vec![0; CHUNK_BYTES];
        for _ in 0..4 {
            say(&mut played, Kind::Data, 1, &data);
        }
        std::thread::scope(|scope| {
            scope.spawn(move || mesh.end("rank 2 is gone".to_owned().into()));
            let mut words = [0; HEAD_BYTES + 14];
            played.peek(&mut [0]).unwrap();
            for _ in 0..4 {
                say(&mut played, Kind::Data, 1, &data);
                std::thread::sleep(Duration::from_millis(20));
            }
            played.read_exact(&mut words).unwrap();
            assert!(words.ends_with(b"rank 2 is gone"));
        });
    }

    #[test]
    fn who_waits_in_an_earlier_call_is_not_to_blame() {
        let blamed = |absent: &[usize], waits: [Option<usize>; 4]| without_waiting(absent, |rank| waits[rank]);
        assert_eq!(blamed(&[1, 2], [None; 4]), [1, 2]);
        // rank 1 stopped while it sent a result: rank 0 has it and has gone on, rank 2 still waits for it
        assert_eq!(blamed(&[1, 2], [None, None, Some(1), None]), [1]);
        assert_eq!(blamed(&[1, 2, 3], [None, None, Some(1), Some(2)]), [1]);
        // it waited once for one that has come since
        assert_eq!(blamed(&[1, 2], [None, None, Some(3), None]), [1, 2]);
        assert_eq!(blamed(&[1, 2], [None, Some(2), Some(1), None]), [1, 2]);
        assert_eq!(blamed(&[1], [None, Some(1), None, None]), [1]);
    }

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
