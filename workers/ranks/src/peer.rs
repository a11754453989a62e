//! One connection to another rank: a thread that writes, a thread that reads.
//!
//! Both always go on, whatever the rank itself waits for, so that large messages in both directions never wait for each
//! other. What the reader has read ahead is bounded; what the writer has before it is no more than the operation under
//! way, because nobody begins the next one before everybody has called it.

use std::io::{BufReader, BufWriter, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, SyncSender, TryRecvError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use candle_core::Tensor;
use training::communicator::call::Call;
use training::communicator::elements::with_bytes;

use crate::frame::{CHUNK_BYTES, HEAD_BYTES, Head, Kind, WORDS_BYTES, abort_words, read_call};

/// Chunks that the reader may be ahead.
const READ_AHEAD: usize = 8;

/// What the writer is to send.
pub(crate) enum Outgoing {
    /// A head with a small body.
    Frame(Head, Vec<u8>),
    /// Bytes `start..end` of a host tensor, in chunks.
    Elements { number: u64, tensor: Tensor, start: usize, end: usize },
    /// One chunk.
    Chunk { number: u64, bytes: Arc<[u8]> },
}

/// What the reader has read.
pub(crate) enum Incoming {
    Call(u64, Call),
    Data(u64, Chunk),
    /// The peer ends, and says why.
    Abort(String),
    /// The connection ended without a word.
    Gone(String),
    /// The peer sends what no rank sends.
    Broken(String),
}

/// How a peer ended.
#[derive(Clone, Debug)]
pub(crate) enum End {
    /// It said why, for everyone.
    Said(String),
    /// What it did instead of a last word.
    Silent(String),
}

/// Received bytes, aligned for every element type.
pub(crate) struct Chunk {
    words: Vec<u64>,
    len: usize,
}

impl Chunk {
    fn new() -> Self {
        Self { words: vec![0; CHUNK_BYTES / 8], len: 0 }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.words)[..self.len]
    }
}

/// Why nothing more comes from a peer, or did not come in time.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Silence {
    Late,
    Over,
}

/// The other end of a connection.
pub(crate) struct Peer {
    stream: TcpStream,
    outgoing: Option<Sender<Outgoing>>,
    incoming: Option<Receiver<Incoming>>,
    used: Sender<Chunk>,
    seen: Arc<Seen>,
    writer: Option<JoinHandle<()>>,
    reader: Option<JoinHandle<()>>,
}

/// What is known of a peer, apart from the data that wait in order.
#[derive(Default)]
struct Seen {
    /// Number of the last call whose frame has arrived, and when.
    called: Mutex<Option<(u64, Instant)>>,
    /// Number of the call that waits, and for whom.
    waits: Mutex<Option<(u64, usize)>>,
    /// Why nothing more comes.
    end: Mutex<Option<End>>,
    /// Set to end the writer after the chunk at hand.
    give_up: AtomicBool,
    /// The last words of the writer, if it is to give up.
    last_words: Mutex<Option<String>>,
    /// Set when the writer has written everything, or failed.
    written: AtomicBool,
    /// Set when the reader has read everything, or failed.
    read: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // plain values: a panic of their holder leaves them whole
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Peer {
    /// Takes over a connection whose hello is done.
    pub(crate) fn new(stream: TcpStream, time_out: Duration) -> std::io::Result<Self> {
        stream.set_nodelay(true)?;
        // the reader waits for as long as ranks compute; the deadline of an operation is kept by who waits for it
        stream.set_read_timeout(None)?;
        stream.set_write_timeout(Some(time_out))?;
        let seen = Arc::new(Seen::default());
        let (outgoing, to_write) = mpsc::channel();
        let (read, incoming) = mpsc::sync_channel(READ_AHEAD);
        let (used, free) = mpsc::channel();
        let (writing, reading) = (stream.try_clone()?, stream.try_clone()?);
        let (writer_seen, reader_seen) = (seen.clone(), seen.clone());
        let writer = std::thread::Builder::new()
            .name("rank writer".into())
            .spawn(move || write_frames(writing, &to_write, &writer_seen))?;
        let reader = std::thread::Builder::new()
            .name("rank reader".into())
            .spawn(move || read_frames(reading, &read, &free, &reader_seen))?;
        Ok(Self {
            stream,
            outgoing: Some(outgoing),
            incoming: Some(incoming),
            used,
            seen,
            writer: Some(writer),
            reader: Some(reader),
        })
    }

    /// Queues something. A writer that has ended is noticed by the reader, which says why.
    pub(crate) fn send(&self, outgoing: Outgoing) {
        if let Some(queue) = &self.outgoing {
            let _ended = queue.send(outgoing);
        }
    }

    pub(crate) fn receive(&self, until: Instant) -> Result<Incoming, Silence> {
        let left = until.saturating_duration_since(Instant::now());
        let incoming = self.incoming.as_ref().ok_or(Silence::Over)?;
        incoming.recv_timeout(left).map_err(|e| match e {
            RecvTimeoutError::Timeout => Silence::Late,
            RecvTimeoutError::Disconnected => Silence::Over,
        })
    }

    /// Gives a chunk back, to be filled again.
    pub(crate) fn recycle(&self, chunk: Chunk) {
        let _ended = self.used.send(chunk);
    }

    /// When the frame of call `number` arrived, if it did.
    pub(crate) fn called(&self, number: u64) -> Option<Instant> {
        lock(&self.seen.called).filter(|(last, _)| *last >= number).map(|(_, at)| at)
    }

    /// Why nothing more comes from the peer, even while its last frames wait to be received.
    pub(crate) fn end(&self) -> Option<End> {
        lock(&self.seen.end).clone()
    }

    /// For whom the peer says to wait in call `number`.
    pub(crate) fn waits_for(&self, number: u64) -> Option<usize> {
        lock(&self.seen.waits).filter(|(call, _)| *call == number).map(|(_, rank)| rank)
    }

    /// For whom the peer says to wait in its own last call, whichever that is.
    pub(crate) fn waits_now(&self) -> Option<usize> {
        let (number, _) = (*lock(&self.seen.called))?;
        self.waits_for(number)
    }

    /// Lets the writer say why this rank ends, once the chunk at hand is written. What is read from now on is dropped.
    pub(crate) fn give_up(&mut self, words: &str) {
        *lock(&self.seen.last_words) = Some(abort_words(words).to_owned());
        self.seen.give_up.store(true, Ordering::Release);
        self.outgoing = None;
        self.incoming = None;
    }

    /// Waits until the writer has nothing left to write.
    pub(crate) fn flush(&mut self, until: Instant) {
        self.outgoing = None;
        await_flag(&self.seen.written, until);
    }

    /// Waits until the peer has ended its side too. A connection closed earlier is reset by what the peer still sends,
    /// and a reset takes words with it that the peer has not read.
    pub(crate) fn await_end(&self, until: Instant) {
        await_flag(&self.seen.read, until);
    }
}

fn await_flag(flag: &AtomicBool, until: Instant) {
    while !flag.load(Ordering::Acquire) && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(1));
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.outgoing = None;
        self.incoming = None;
        // wakes both threads, whatever they wait for
        let _closed = self.stream.shutdown(Shutdown::Both);
        for thread in [self.writer.take(), self.reader.take()].into_iter().flatten() {
            let _ended = thread.join();
        }
    }
}

fn write_frames(stream: TcpStream, to_write: &Receiver<Outgoing>, seen: &Seen) {
    let mut out = BufWriter::with_capacity(16 << 10, stream);
    let result = write_until_told(&mut out, to_write, seen);
    if result.is_ok() {
        let words = lock(&seen.last_words).take();
        if let Some(words) = words {
            let head = Head { kind: Kind::Abort, body_bytes: words.len(), number: 0 };
            let _lost = out.write_all(&head.write()).and_then(|()| out.write_all(words.as_bytes()));
        }
        let _lost = out.flush();
    }
    // the peer reads the end only after everything that was written
    let _closed = out.get_ref().shutdown(Shutdown::Write);
    seen.written.store(true, Ordering::Release);
    // whatever is left in the buffer after an error is not wanted
    let (_stream, _buffer) = out.into_parts();
}

/// Writes what comes until the queue ends or this rank gives up.
fn write_until_told(out: &mut BufWriter<TcpStream>, to_write: &Receiver<Outgoing>, seen: &Seen) -> std::io::Result<()> {
    let given_up = || seen.give_up.load(Ordering::Acquire);
    loop {
        let next = match to_write.try_recv() {
            Ok(next) => next,
            Err(TryRecvError::Disconnected) => return Ok(()),
            // small frames go out together
            Err(TryRecvError::Empty) => {
                out.flush()?;
                match to_write.recv() {
                    Ok(next) => next,
                    Err(mpsc::RecvError) => return Ok(()),
                }
            }
        };
        if given_up() {
            return Ok(());
        }
        match next {
            Outgoing::Frame(head, body) => {
                out.write_all(&head.write())?;
                out.write_all(&body)?;
            }
            Outgoing::Chunk { number, bytes } => write_chunk(out, number, &bytes)?,
            Outgoing::Elements { number, tensor, start, end } => {
                let written = with_bytes(&tensor, |bytes| {
                    bytes[start..end]
                        .chunks(CHUNK_BYTES)
                        .take_while(|_| !given_up())
                        .try_for_each(|chunk| write_chunk(out, number, chunk))
                });
                written.map_err(|e| std::io::Error::other(e.to_string()))??;
            }
        }
    }
}

fn write_chunk(out: &mut BufWriter<TcpStream>, number: u64, bytes: &[u8]) -> std::io::Result<()> {
    out.write_all(&Head { kind: Kind::Data, body_bytes: bytes.len(), number }.write())?;
    out.write_all(bytes)
}

fn read_frames(stream: TcpStream, read: &SyncSender<Incoming>, free: &Receiver<Chunk>, seen: &Seen) {
    // small, because whatever passes through this buffer is copied once more
    let mut from = BufReader::with_capacity(4 << 10, stream);
    loop {
        let incoming = read_frame(&mut from, free, seen);
        let end = match &incoming {
            Some(Incoming::Abort(why)) => Some(End::Said(why.clone())),
            Some(Incoming::Gone(how)) => Some(End::Silent(format!("is gone: {how}"))),
            Some(Incoming::Broken(what)) => Some(End::Silent(format!("sent {what}"))),
            _ => None,
        };
        let last = end.is_some();
        if last {
            *lock(&seen.end) = end;
        }
        // when nobody takes it any more, this end still reads on: closing on unread bytes would reset the connection,
        // and the peer might lose our last words
        let _dropped = incoming.map(|incoming| read.send(incoming));
        if last {
            seen.read.store(true, Ordering::Release);
            return;
        }
    }
}

/// The next frame that waits its turn; `None` after one that does not.
fn read_frame(from: &mut BufReader<TcpStream>, free: &Receiver<Chunk>, seen: &Seen) -> Option<Incoming> {
    let gone = |e: std::io::Error| match e.kind() {
        ErrorKind::UnexpectedEof => Incoming::Gone("its connection has ended".to_owned()),
        _ => Incoming::Gone(format!("its connection has ended: {e}")),
    };
    let mut head = [0; HEAD_BYTES];
    if let Err(e) = from.read_exact(&mut head) {
        return Some(gone(e));
    }
    let head = match Head::read(&head) {
        Ok(head) => head,
        Err(problem) => return Some(Incoming::Broken(problem)),
    };
    if head.kind == Kind::Data {
        let mut chunk = free.try_recv().unwrap_or_else(|_| Chunk::new());
        chunk.len = head.body_bytes;
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut chunk.words);
        return Some(match from.read_exact(&mut bytes[..head.body_bytes]) {
            Ok(()) => Incoming::Data(head.number, chunk),
            Err(e) => gone(e),
        });
    }
    let mut words = [0; WORDS_BYTES];
    let words = &mut words[..head.body_bytes];
    if let Err(e) = from.read_exact(words) {
        return Some(gone(e));
    }
    match head.kind {
        Kind::Call => Some(match read_call(words) {
            Ok(call) => {
                *lock(&seen.called) = Some((head.number, Instant::now()));
                Incoming::Call(head.number, call)
            }
            Err(problem) => Incoming::Broken(problem),
        }),
        Kind::Note => {
            let rank = words.first_chunk().map_or(u32::MAX, |rank| u32::from_le_bytes(*rank));
            *lock(&seen.waits) = Some((head.number, rank as usize));
            None
        }
        Kind::Abort | Kind::Data => Some(Incoming::Abort(String::from_utf8_lossy(words).into_owned())),
    }
}
