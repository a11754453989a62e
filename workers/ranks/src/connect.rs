//! Connections between all ranks. Each begins with a hello and a proof in both directions ([`hello`](crate::hello)), so
//! that a port scanner, a stranger, a rank of another world or another version of this program never becomes a peer.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Sender};
use std::time::{Duration, Instant};

use training::communicator::rank_list;

use crate::error::{RanksError, Result};
use crate::hello::{HELLO_TIME, Me, greet, welcome};
use crate::mesh::Mesh;
use crate::peer::Peer;
use crate::secret::{Secret, random};
use crate::waiting::Waiting;

/// Connections whose proof is awaited at a time.
const MOST_GUESTS: usize = 256;
/// How long a new connection keeps its place while others wait.
const GRACE: Duration = Duration::from_millis(100);
/// Pause between attempts to reach a rank that does not listen yet.
const PAUSE: Duration = Duration::from_millis(50);
/// Pause between looks for new connections.
const GLANCE: Duration = Duration::from_millis(5);

/// What became of a guest.
struct Met {
    number: usize,
    stream: TcpStream,
    address: SocketAddr,
    rank: Result<usize, String>,
}

/// A connection whose proof is awaited by a thread of its own: one that dawdles keeps nobody out.
struct Guest {
    number: usize,
    since: Instant,
    stream: TcpStream,
    /// Set by who is first: the thread, when the guest has proved itself, or who gives its seat away.
    settled: Arc<AtomicBool>,
}

impl Guest {
    fn receive(
        number: usize,
        stream: TcpStream,
        address: SocketAddr,
        me: Me,
        met: Sender<Met>,
    ) -> std::io::Result<Self> {
        let settled = Arc::new(AtomicBool::new(false));
        let guest = Self { number, since: Instant::now(), stream: stream.try_clone()?, settled: settled.clone() };
        let until = guest.since + HELLO_TIME;
        let greet = move || {
            let mut stream = stream;
            let rank = welcome(&mut stream, &me, until).and_then(|proven| match settled.swap(true, Ordering::AcqRel) {
                true => Err("it was too slow while others were waiting".to_owned()),
                false => proven.answer(&mut stream),
            });
            let _late = met.send(Met { number, stream, address, rank });
        };
        std::thread::Builder::new().name("rank hello".into()).spawn(greet)?;
        Ok(guest)
    }

    /// Ends the wait for a guest that has not proved itself.
    fn dismiss(self) {
        if !self.settled.swap(true, Ordering::AcqRel) {
            let _closed = self.stream.shutdown(Shutdown::Both);
        }
    }
}

/// Connections from the expected ranks; the others are refused.
pub(crate) fn accept_ranks(
    listener: &TcpListener,
    me: Me,
    mut expected: Vec<usize>,
    until: Instant,
) -> Result<Vec<(usize, TcpStream)>> {
    listener.set_nonblocking(true).map_err(|e| RanksError::Rendezvous(format!("cannot listen: {e}")))?;
    let (sender, met) = mpsc::channel();
    let (mut arrived, mut refused, mut guests) = (Vec::new(), Vec::new(), VecDeque::<Guest>::new());
    let mut number = 0;
    let mut waiting = Waiting::new(me.rank);
    while !expected.is_empty() {
        waiting.for_ranks(&expected);
        if guests.len() >= MOST_GUESTS && guests.front().is_some_and(|oldest| oldest.since.elapsed() >= GRACE) {
            guests.pop_front().into_iter().for_each(Guest::dismiss);
        }
        // a connection that ended before it was accepted is none
        let came = (guests.len() < MOST_GUESTS).then(|| listener.accept().ok()).flatten();
        let pause = if came.is_some() { Duration::ZERO } else { GLANCE };
        if let Some((stream, address)) = came {
            number += 1;
            match Guest::receive(number, stream, address, me, sender.clone()) {
                Ok(guest) => guests.push_back(guest),
                Err(e) => refused.push(format!("{address}: {e}")),
            }
        }
        // a flood of connections does not keep this rank from hearing those it has accepted
        for Met { number, stream, address, rank } in met.recv_timeout(pause).into_iter().chain(met.try_iter()) {
            guests.retain(|guest| guest.number != number);
            match rank {
                Ok(rank) if expected.contains(&rank) => {
                    expected.retain(|&other| other != rank);
                    arrived.push((rank, stream));
                }
                Ok(rank) => refused.push(format!("{address}: rank {rank} a second time")),
                Err(problem) => refused.push(format!("{address}: {problem}")),
            }
        }
        refused.truncate(4);
        if !expected.is_empty() && Instant::now() >= until {
            let also = if refused.is_empty() { String::new() } else { format!("; refused {}", refused.join(", ")) };
            return Err(RanksError::Rendezvous(format!(
                "rank {}: {} not come in time{also}; look at their logs, and whether they reach this host",
                me.rank,
                rank_list(&expected, "did", "did"),
            )));
        }
    }
    Ok(arrived)
}

/// Connects to a rank, again and again until it listens.
pub(crate) fn connect_rank(to: usize, address: SocketAddr, me: Me, until: Instant) -> Result<TcpStream> {
    let mut waiting = Waiting::new(me.rank);
    let mut before: Option<String> = None;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let attempt = match left.is_zero() {
            true => Err("it ran out of time".to_owned()),
            false => TcpStream::connect_timeout(&address, left).map_err(|e| e.to_string()),
        };
        let problem = match attempt {
            Ok(mut stream) => match greet(&mut stream, &me, until) {
                Ok(rank) if rank == to => return Ok(stream),
                Ok(rank) => format!("rank {rank} answers there"),
                Err(problem) => problem,
            },
            Err(problem) => problem,
        };
        if Instant::now() + PAUSE >= until {
            // of a try that was cut short the one before it says more
            let problem = before.filter(|_| Instant::now() >= until).unwrap_or(problem);
            return Err(RanksError::Rendezvous(format!(
                "rank {}: rank {to} cannot be reached at {address}: {problem}; is it running, and is the port open?",
                me.rank
            )));
        }
        waiting.for_what(|| format!("rank {to} at {address} ({problem})"));
        before = Some(problem);
        std::thread::sleep(PAUSE);
    }
}

/// Connects every pair of ranks: this one reaches those below it and hears from those above. `there` are connections
/// that exist already.
pub(crate) fn connect_all(
    me: Me,
    listener: &TcpListener,
    addresses: &[SocketAddr],
    there: Vec<(usize, TcpStream)>,
    until: Instant,
    time_out: Duration,
) -> Result<Mesh> {
    let (rank, world_size) = (me.rank as usize, me.world_size as usize);
    let mut streams: Vec<Option<TcpStream>> = (0..world_size).map(|_| None).collect();
    for (peer, stream) in there {
        streams[peer] = Some(stream);
    }
    let missing = |streams: &[Option<TcpStream>], ranks: std::ops::Range<usize>| -> Vec<usize> {
        ranks.filter(|&peer| streams[peer].is_none()).collect()
    };
    for peer in missing(&streams, 0..rank) {
        streams[peer] = Some(connect_rank(peer, addresses[peer], me, until)?);
    }
    for (peer, stream) in accept_ranks(listener, me, missing(&streams, rank + 1..world_size), until)? {
        streams[peer] = Some(stream);
    }
    let peers = streams.into_iter().map(|stream| stream.map(|stream| Peer::new(stream, time_out)).transpose());
    let peers = peers.collect::<std::io::Result<_>>();
    let peers = peers.map_err(|e| RanksError::Rendezvous(format!("rank {rank}: a connection failed: {e}")))?;
    Ok(Mesh::new(rank, peers, time_out))
}

/// A world within this process, over loopback: for tests and measurements.
///
/// # Errors
/// The operating system gives no ports, or a connection fails.
pub fn loopback_world(world_size: usize, time_out: Duration) -> Result<Vec<Mesh>> {
    let failed = |e: std::io::Error| RanksError::Rendezvous(format!("loopback: {e}"));
    let listen = |_| TcpListener::bind((IpAddr::V4(Ipv4Addr::LOCALHOST), 0)).map_err(failed);
    let listeners: Vec<TcpListener> = (0..world_size).map(listen).collect::<Result<_>>()?;
    let addresses: Vec<SocketAddr> = listeners.iter().map(|l| l.local_addr().map_err(failed)).collect::<Result<_>>()?;
    let (token, secret, addresses) = (random()?, Secret::of(&random::<32>()?), &addresses);
    let until = Instant::now() + Duration::from_secs(60);
    std::thread::scope(|scope| {
        let threads: Vec<_> = listeners
            .iter()
            .enumerate()
            .map(|(rank, listener)| {
                let me = Me { token, rank: rank as u32, world_size: world_size as u32, secret };
                scope.spawn(move || connect_all(me, listener, addresses, Vec::new(), until, time_out))
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap_or_else(|p| std::panic::resume_unwind(p))).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn me(rank: u32, secret: Secret) -> Me {
        Me { token: [7; 16], rank, world_size: 3, secret }
    }

    /// The one way in, at the rendezvous and between the ranks: rank, token and number of ranks are right, the secret is
    /// not.
    #[test]
    fn only_who_knows_the_secret_takes_a_rank() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let secret = Secret::of(b"known to the ranks");
        let until = Instant::now() + MINUTE;
        std::thread::scope(|scope| {
            let listening = scope.spawn(move || accept_ranks(&listener, me(0, secret), vec![1, 2], until).unwrap());
            for stranger in [Secret::of(b"a guess"), Secret::none()] {
                let soon = Instant::now() + Duration::from_millis(500);
                let refused = connect_rank(0, address, me(1, stranger), soon).unwrap_err().to_string();
                assert!(refused.contains("another secret"), "{refused}");
            }
            let _there = [1, 2].map(|rank| connect_rank(0, address, me(rank, secret), until).unwrap());
            let mut ranks: Vec<usize> = listening.join().unwrap().into_iter().map(|(rank, _)| rank).collect();
            ranks.sort_unstable();
            assert_eq!(ranks, [1, 2]);
        });
    }

    #[test]
    fn who_has_the_wrong_secret_is_named() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let until = Instant::now() + Duration::from_secs(1);
        std::thread::scope(|scope| {
            scope.spawn(move || connect_rank(0, address, me(1, Secret::none()), until).unwrap_err());
            let secret = Secret::of(b"known to the ranks");
            let problem = accept_ranks(&listener, me(0, secret), vec![1], until).unwrap_err().to_string();
            assert!(
                problem.contains("rank 1 has another secret") && problem.contains("URBANCROSS_SECRET"),
                "{problem}"
            );
        });
    }

    /// Connections that say nothing come without end, and keep every seat for as long as they may.
    #[test]
    fn strangers_at_the_door_keep_no_rank_out() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let (until, done) = (Instant::now() + HELLO_TIME, AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut silent = VecDeque::new();
                while !done.load(Ordering::Relaxed) {
                    silent.extend(TcpStream::connect_timeout(&address, PAUSE));
                    while silent.len() > 2 * MOST_GUESTS {
                        silent.pop_front();
                    }
                }
            });
            let listening = scope.spawn(|| accept_ranks(&listener, me(0, Secret::none()), vec![1], until).map(|_| ()));
            std::thread::sleep(Duration::from_secs(1));
            // before the first of them have had their time
            let soon = Instant::now() + HELLO_TIME - Duration::from_secs(2);
            let came = connect_rank(0, address, me(1, Secret::none()), soon).map(|_| ());
            done.store(true, Ordering::Relaxed);
            came.unwrap();
            listening.join().unwrap().unwrap();
        });
    }
}
