//! The first bytes on a connection: each side says who it is, then proves that it knows the world's secret.
//!
//! The connecting side speaks and proves first: whoever merely connects learns that a rank listens here, and nothing to
//! guess the secret by. Until a side has proved itself a fixed number of bytes is read from it, within a fixed time.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::error::RanksError;
use crate::secret::{PROOF_BYTES, SECRET, Secret, Side, random};

/// Raised when ranks of two builds would not understand each other.
const PROTOCOL: u32 = 2;
const MAGIC: [u8; 8] = *b"UCranks\n";
const NONCE_BYTES: usize = 32;
const HELLO_BYTES: usize = 36 + NONCE_BYTES;
/// A hello and a proof are a hundred bytes: whoever takes longer is no rank.
pub(crate) const HELLO_TIME: Duration = Duration::from_secs(5);

/// What keeps one world of ranks apart from others. It is no secret.
pub type Token = [u8; 16];

/// This rank, as it presents itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Me {
    pub(crate) token: Token,
    pub(crate) rank: u32,
    pub(crate) world_size: u32,
    pub(crate) secret: Secret,
}

/// What a side says of itself, with a random number that makes this meeting another than all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Hello {
    token: Token,
    rank: u32,
    world_size: u32,
    nonce: [u8; NONCE_BYTES],
}

impl Hello {
    fn write(self) -> [u8; HELLO_BYTES] {
        let mut bytes = [0; HELLO_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&PROTOCOL.to_le_bytes());
        bytes[12..28].copy_from_slice(&self.token);
        bytes[28..32].copy_from_slice(&self.rank.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.world_size.to_le_bytes());
        bytes[36..].copy_from_slice(&self.nonce);
        bytes
    }

    fn read(bytes: &[u8; HELLO_BYTES]) -> Result<Self, String> {
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        if bytes[..8] != MAGIC {
            return Err("no rank: another program".to_owned());
        }
        if word(8) != PROTOCOL {
            return Err(format!("a rank of protocol {}, this one is {PROTOCOL}: run one version everywhere", word(8)));
        }
        let mut hello = Self { token: [0; 16], rank: word(28), world_size: word(32), nonce: [0; NONCE_BYTES] };
        hello.token.copy_from_slice(&bytes[12..28]);
        hello.nonce.copy_from_slice(&bytes[36..]);
        Ok(hello)
    }
}

impl Me {
    fn hello(&self) -> Result<[u8; HELLO_BYTES], String> {
        let nonce = random().map_err(|e: RanksError| e.to_string())?;
        Ok(Hello { token: self.token, rank: self.rank, world_size: self.world_size, nonce }.write())
    }

    /// Why the other side is no rank that this one waits for.
    fn refusal(&self, theirs: &Hello) -> Option<String> {
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

    /// Whether the other side's proof is right.
    fn check(&self, theirs: &Hello, proof: [u8; PROOF_BYTES], wanted: blake3::Hash) -> Result<(), String> {
        match wanted == blake3::Hash::from(proof) {
            true => Ok(()),
            false => Err(format!(
                "rank {} has another secret than rank {}, or one of them has none: give all ranks the same {SECRET}",
                theirs.rank, self.rank
            )),
        }
    }
}

/// Reads exactly this many bytes before the deadline, however slowly they come.
pub(crate) fn read_until(stream: &mut TcpStream, into: &mut [u8], until: Instant) -> std::io::Result<()> {
    let mut filled = 0;
    while filled < into.len() {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut into[filled..]) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => filled += count,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

fn read_array<const BYTES: usize>(stream: &mut TcpStream, until: Instant) -> std::io::Result<[u8; BYTES]> {
    let mut bytes = [0; BYTES];
    read_until(stream, &mut bytes, until)?;
    Ok(bytes)
}

/// Meets who listens, as the side that connected; the rank of the other.
pub(crate) fn greet(stream: &mut TcpStream, me: &Me, until: Instant) -> Result<usize, String> {
    let failed = |e: std::io::Error| match e.kind() {
        ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => {
            "it closed the connection: another world, another number of ranks or another secret".to_owned()
        }
        ErrorKind::WouldBlock | ErrorKind::TimedOut => "it does not answer".to_owned(),
        _ => e.to_string(),
    };
    stream.set_nodelay(true).map_err(failed)?;
    stream.set_write_timeout(Some(HELLO_TIME)).map_err(failed)?;
    let mine = me.hello()?;
    stream.write_all(&mine).map_err(failed)?;
    // a silent one is asked again, on another connection: it may not be the rank
    let answer = read_array(stream, until.min(Instant::now() + HELLO_TIME)).map_err(failed)?;
    let theirs = Hello::read(&answer)?;
    if let Some(problem) = me.refusal(&theirs) {
        return Err(problem);
    }
    let said: [&[u8]; 2] = [&mine, &answer];
    stream.write_all(me.secret.proof(Side::Connecting, said).as_bytes()).map_err(failed)?;
    // it may count this rank in from now on: another try would be a second one
    let proof = read_array(stream, until).map_err(failed)?;
    me.check(&theirs, proof, me.secret.proof(Side::Listening, said))?;
    Ok(theirs.rank as usize)
}

/// A guest that has proved itself and waits for this side's proof.
pub(crate) struct Proven {
    rank: usize,
    answer: blake3::Hash,
}

/// Meets who connected, as the side that listens. A wrong hello or proof gets no answer.
pub(crate) fn welcome(stream: &mut TcpStream, me: &Me, until: Instant) -> Result<Proven, String> {
    let failed = |e: std::io::Error| format!("no whole hello: {e}");
    stream.set_nodelay(true).map_err(failed)?;
    stream.set_nonblocking(false).map_err(failed)?;
    stream.set_write_timeout(Some(HELLO_TIME)).map_err(failed)?;
    let heard = read_array(stream, until).map_err(failed)?;
    let theirs = Hello::read(&heard)?;
    if let Some(problem) = me.refusal(&theirs) {
        return Err(problem);
    }
    let mine = me.hello()?;
    stream.write_all(&mine).map_err(failed)?;
    let said: [&[u8]; 2] = [&heard, &mine];
    let proof = read_array(stream, until).map_err(|e| format!("rank {} proves no secret: {e}", theirs.rank))?;
    me.check(&theirs, proof, me.secret.proof(Side::Connecting, said))?;
    Ok(Proven { rank: theirs.rank as usize, answer: me.secret.proof(Side::Listening, said) })
}

impl Proven {
    /// Lets the guest in; its rank.
    pub(crate) fn answer(&self, stream: &mut TcpStream) -> Result<usize, String> {
        stream.write_all(self.answer.as_bytes()).map_err(|e| format!("rank {} has left: {e}", self.rank))?;
        Ok(self.rank)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;

    fn me(rank: u32) -> Me {
        Me { token: [7; 16], rank, world_size: 2, secret: Secret::of(b"known to the ranks") }
    }

    /// Both ends of a connection.
    fn connected() -> [TcpStream; 2] {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let connecting = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        [connecting, listener.accept().unwrap().0]
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(30)
    }

    /// Somebody who listens where a rank should, and has heard what ranks say.
    #[test]
    fn who_listens_proves_the_secret_too() {
        let theirs = me(0).hello().unwrap();
        for answer in [vec![0; PROOF_BYTES], Vec::new()] {
            let [mut connecting, mut listening] = connected();
            std::thread::scope(|scope| {
                scope.spawn(move || {
                    let _hello: [u8; HELLO_BYTES] = read_array(&mut listening, soon()).unwrap();
                    listening.write_all(&theirs).unwrap();
                    // the guest's own proof is the best one at hand
                    let proof: [u8; PROOF_BYTES] = read_array(&mut listening, soon()).unwrap();
                    listening.write_all(if answer.is_empty() { &proof } else { &answer }).unwrap();
                });
                let refused = greet(&mut connecting, &me(1), soon()).unwrap_err();
                assert!(refused.contains("another secret"), "{refused}");
            });
        }
    }

    /// What a rank has said on one connection is worth nothing on the next.
    #[test]
    fn an_overheard_meeting_lets_nobody_in() {
        let [mut connecting, mut listening] = connected();
        let (hello, mut proof) = (me(1).hello().unwrap(), [0; PROOF_BYTES]);
        let first = std::thread::scope(|scope| {
            let first = scope.spawn(|| welcome(&mut listening, &me(0), soon()));
            connecting.write_all(&hello).unwrap();
            let answer: [u8; HELLO_BYTES] = read_array(&mut connecting, soon()).unwrap();
            proof = *me(1).secret.proof(Side::Connecting, [&hello, &answer]).as_bytes();
            connecting.write_all(&proof).unwrap();
            first.join().unwrap()
        });
        assert_eq!(first.unwrap().rank, 1);
        let [mut connecting, mut listening] = connected();
        connecting.write_all(&[&hello[..], &proof].concat()).unwrap();
        let refused = welcome(&mut listening, &me(0), soon()).map(|proven| proven.rank).unwrap_err();
        assert!(refused.contains("another secret"), "{refused}");
    }

    /// No answer before a whole, right hello; no more than its bytes and a proof's are waited for.
    #[test]
    fn a_guest_is_heard_for_a_short_while() {
        let [mut connecting, mut listening] = connected();
        connecting.write_all(&me(1).hello().unwrap()[..HELLO_BYTES - 1]).unwrap();
        let until = Instant::now() + Duration::from_millis(200);
        let refused = welcome(&mut listening, &me(0), until).map(|proven| proven.rank).unwrap_err();
        assert!(refused.contains("no whole hello"), "{refused}");
        drop(listening);
        assert!(matches!(connecting.read(&mut [0]), Ok(0) | Err(_)), "no answer");
    }
}
