//! Connections between all ranks. Each begins with a hello in both directions, so that a port scanner, a rank of another
//! world or another version of this program never becomes a peer.
//!
//! The token keeps worlds apart; it is no secret from who can read the network. Run ranks inside a trusted network.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use training::communicator::rank_list;

use crate::error::{RanksError, Result};
use crate::mesh::Mesh;
use crate::peer::Peer;

/// Raised when ranks of two builds would not understand each other.
const PROTOCOL: u32 = 1;
const MAGIC: [u8; 8] = *b"UCranks\n";
const HELLO_BYTES: usize = 36;
/// A hello is 36 bytes: whoever takes longer is no rank.
const HELLO_TIME: Duration = Duration::from_secs(5);
/// Connections whose hello is awaited at a time; more are closed at once.
const MOST_GUESTS: usize = 256;
/// Pause between attempts to reach a rank that does not listen yet.
const PAUSE: Duration = Duration::from_millis(50);

/// What keeps one world of ranks apart from others.
pub type Token = [u8; 16];

/// A token that nobody else has.
pub(crate) fn random_token() -> Token {
    use std::hash::{BuildHasher, RandomState};
    let mut token = [0; 16];
    // each state is keyed by the operating system's random numbers
    let (first, second) = token.split_at_mut(8);
    first.copy_from_slice(&RandomState::new().hash_one(std::process::id()).to_le_bytes());
    second.copy_from_slice(&RandomState::new().hash_one(std::process::id()).to_le_bytes());
    token
}

/// The first bytes on a connection, in both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) token: Token,
    pub(crate) rank: u32,
    pub(crate) world_size: u32,
}

impl Hello {
    pub(crate) fn write(self) -> [u8; HELLO_BYTES] {
        let mut bytes = [0; HELLO_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&PROTOCOL.to_le_bytes());
        bytes[12..28].copy_from_slice(&self.token);
        bytes[28..32].copy_from_slice(&self.rank.to_le_bytes());
        bytes[32..].copy_from_slice(&self.world_size.to_le_bytes());
        bytes
    }

    pub(crate) fn read(bytes: &[u8; HELLO_BYTES]) -> Result<Self, String> {
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        if bytes[..8] != MAGIC {
            return Err("no rank: another program".to_owned());
        }
        if word(8) != PROTOCOL {
            return Err(format!("a rank of protocol {}, this one is {PROTOCOL}: run one version everywhere", word(8)));
        }
        let mut token = [0; 16];
        token.copy_from_slice(&bytes[12..28]);
        Ok(Self { token, rank: word(28), world_size: word(32) })
    }

    /// Why the other side is no rank that this one waits for.
    pub(crate) fn refusal(&self, theirs: &Hello) -> Option<String> {
        if theirs.token != self.token {
            return Some("a rank of another world".to_owned());
        }
        if theirs.world_size != self.world_size {
            return Some(format!(
                "rank {} counts {} ranks where this rank counts {}",
                theirs.rank, theirs.world_size, self.world_size
            ));
        }
        (theirs.rank >= self.world_size || theirs.rank == self.rank)
            .then(|| format!("a second rank {} of {}", theirs.rank, theirs.world_size))
    }
}

/// Reads exactly this many bytes before the deadline, however slowly they come.
pub(crate) fn read_until(stream: &mut TcpStream, into: &mut [u8], until: Instant) -> std::io::Result<()> {
    let mut filled = 0;
    while filled < into.len() {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(std::io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut into[filled..]) {
            Ok(0) => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => filled += count,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Says hello and hears one, as the side that connected.
pub(crate) fn greet(stream: &mut TcpStream, mine: Hello, until: Instant) -> Result<Hello, String> {
    let failed = |e: std::io::Error| match e.kind() {
        std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::ConnectionReset => {
            "it closed the connection: another world, or another number of ranks".to_owned()
        }
        _ => e.to_string(),
    };
    stream.set_nodelay(true).map_err(failed)?;
    stream.set_write_timeout(Some(HELLO_TIME)).map_err(failed)?;
    stream.write_all(&mine.write()).map_err(failed)?;
    let mut bytes = [0; HELLO_BYTES];
    read_until(stream, &mut bytes, until).map_err(failed)?;
    let theirs = Hello::read(&bytes)?;
    mine.refusal(&theirs).map_or(Ok(theirs), Err)
}

/// Hears a hello and answers it, as the side that listens. A wrong one gets no answer.
fn welcome(stream: &mut TcpStream, mine: Hello, until: Instant) -> Result<Hello, String> {
    let failed = |e: std::io::Error| format!("no whole hello: {e}");
    stream.set_nodelay(true).map_err(failed)?;
    stream.set_nonblocking(false).map_err(failed)?;
    stream.set_write_timeout(Some(HELLO_TIME)).map_err(failed)?;
    let mut bytes = [0; HELLO_BYTES];
    read_until(stream, &mut bytes, until).map_err(failed)?;
    let theirs = Hello::read(&bytes)?;
    if let Some(problem) = mine.refusal(&theirs) {
        return Err(problem);
    }
    stream.write_all(&mine.write()).map_err(failed)?;
    Ok(theirs)
}

/// Connections from the expected ranks; the others are refused.
pub(crate) fn accept_ranks(
    listener: &TcpListener,
    mine: Hello,
    mut expected: Vec<usize>,
    until: Instant,
) -> Result<Vec<(usize, TcpStream)>> {
    let rendezvous = |e: std::io::Error| RanksError::Rendezvous(format!("cannot listen: {e}"));
    listener.set_nonblocking(true).map_err(rendezvous)?;
    // each hello is awaited by a thread of its own: one guest that dawdles keeps nobody out
    let (greeted, guests) = mpsc::channel();
    let (mut arrived, mut refused, mut waiting) = (Vec::new(), Vec::new(), 0);
    while !expected.is_empty() {
        match listener.accept() {
            Ok((mut stream, address)) if waiting < MOST_GUESTS => {
                waiting += 1;
                let greeted = greeted.clone();
                let until = until.min(Instant::now() + HELLO_TIME);
                let greet = move || {
                    let hello = welcome(&mut stream, mine, until);
                    let _late = greeted.send((hello, stream, address));
                };
                std::thread::Builder::new().name("rank hello".into()).spawn(greet).map_err(rendezvous)?;
            }
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                match guests.recv_timeout(Duration::from_millis(5)) {
                    Ok((hello, stream, address)) => {
                        waiting -= 1;
                        match hello {
                            Ok(hello) if expected.contains(&(hello.rank as usize)) => {
                                expected.retain(|&rank| rank != hello.rank as usize);
                                arrived.push((hello.rank as usize, stream));
                            }
                            Ok(hello) => refused.push(format!("{address}: rank {} once more", hello.rank)),
                            Err(problem) => refused.push(format!("{address}: {problem}")),
                        }
                    }
                    Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
                }
            }
            // a connection that ended before it was accepted
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
        refused.truncate(4);
        if Instant::now() >= until {
            let also = if refused.is_empty() { String::new() } else { format!("; refused {}", refused.join(", ")) };
            return Err(RanksError::Rendezvous(format!(
                "rank {}: {} not come in time{also}; look at their logs, and whether they reach this host",
                mine.rank,
                rank_list(&expected, "did", "did"),
            )));
        }
    }
    Ok(arrived)
}

/// Connects to a rank, again and again until it listens.
pub(crate) fn connect_rank(to: usize, address: SocketAddr, mine: Hello, until: Instant) -> Result<TcpStream> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let attempt = match left.is_zero() {
            true => Err("its time is over".to_owned()),
            false => TcpStream::connect_timeout(&address, left).map_err(|e| e.to_string()),
        };
        let problem = match attempt {
            Ok(mut stream) => match greet(&mut stream, mine, until) {
                Ok(theirs) if theirs.rank as usize == to => return Ok(stream),
                Ok(theirs) => format!("rank {} answers there", theirs.rank),
                Err(problem) => problem,
            },
            Err(problem) => problem,
        };
        if Instant::now() + PAUSE >= until {
            return Err(RanksError::Rendezvous(format!(
                "rank {}: rank {to} cannot be reached at {address}: {problem}; is it running, and is the port open?",
                mine.rank
            )));
        }
        std::thread::sleep(PAUSE);
    }
}

/// Connects every pair of ranks: this one reaches those below it and hears from those above. `there` are connections
/// that exist already.
pub(crate) fn connect_all(
    mine: Hello,
    listener: &TcpListener,
    addresses: &[SocketAddr],
    there: Vec<(usize, TcpStream)>,
    until: Instant,
    time_out: Duration,
) -> Result<Mesh> {
    let (rank, world_size) = (mine.rank as usize, mine.world_size as usize);
    let mut streams: Vec<Option<TcpStream>> = (0..world_size).map(|_| None).collect();
    for (peer, stream) in there {
        streams[peer] = Some(stream);
    }
    let missing = |streams: &[Option<TcpStream>], ranks: std::ops::Range<usize>| -> Vec<usize> {
        ranks.filter(|&peer| streams[peer].is_none()).collect()
    };
    for peer in missing(&streams, 0..rank) {
        streams[peer] = Some(connect_rank(peer, addresses[peer], mine, until)?);
    }
    for (peer, stream) in accept_ranks(listener, mine, missing(&streams, rank + 1..world_size), until)? {
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
    let (token, addresses) = (random_token(), &addresses);
    let until = Instant::now() + Duration::from_secs(60);
    std::thread::scope(|scope| {
        let threads: Vec<_> = listeners
            .iter()
            .enumerate()
            .map(|(rank, listener)| {
                let mine = Hello { token, rank: rank as u32, world_size: world_size as u32 };
                scope.spawn(move || connect_all(mine, listener, addresses, Vec::new(), until, time_out))
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap_or_else(|p| std::panic::resume_unwind(p))).collect()
    })
}
