//! Memory stays bounded whatever the input: measured by an allocator that counts per thread.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::Read;

use sources::SourceError;
use sources::csv::read_csv;
use sources::meta::Meta;
use sources::zip::{Directory, DirectoryParser, Limits};

thread_local! {
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

struct Counting;

fn count(bytes: isize) {
    LIVE.set(LIVE.get() + bytes);
    PEAK.set(PEAK.get().max(LIVE.get()));
}

// SAFETY: every call is passed on to the system's allocator unchanged; counting touches only
// thread-local cells that need neither allocation nor destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's contract is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller's contract is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Most bytes that were live at once while `run` ran, above those live before.
pub fn peak_bytes(run: impl FnOnce()) -> isize {
    let before = LIVE.get();
    PEAK.set(before);
    run();
    PEAK.get() - before
}

/// A directory of a million members, made chunk by chunk.
struct Entries {
    next: u64,
    count: u64,
    bytes: Vec<u8>,
}

impl Entries {
    /// Every name is as long as the others, so that the length is known beforehand.
    const LENGTH: u64 = 46 + "images2/w000000000_FI_20.jpg".len() as u64;

    fn chunk(&mut self, entries: u64) -> &[u8] {
        self.bytes.clear();
        for id in self.next..self.count.min(self.next + entries) {
            let mut header = [0; 46];
            header[..4].copy_from_slice(b"PK\x01\x02");
            header[28] = 28;
            header[42..].copy_from_slice(&(id as u32).to_le_bytes());
            self.bytes.extend(header);
            self.bytes.extend(b"images2/w");
            self.bytes.extend((0..9).rev().map(|place| b'0' + (id / 10u64.pow(place) % 10) as u8));
            self.bytes.extend(b"_FI_20.jpg");
        }
        self.next += entries;
        &self.bytes
    }
}

#[test]
fn a_million_members_are_parsed_in_constant_memory() {
    let count = 1_000_000;
    let directory =
        Directory { offset: 1 << 34, length: count * Entries::LENGTH, entries: count, archive_offset: 0, zip64: true };
    let mut entries = Entries { next: 0, count, bytes: Vec::with_capacity(1 << 17) };
    let (mut wanted, mut all) = (0u64, 0);
    let peak = peak_bytes(|| {
        let mut parser = DirectoryParser::new(directory, &Limits::default()).unwrap();
        while entries.next < count {
            // Cut at odd places, so that entries straddle the pieces.
            for piece in entries.chunk(1000).chunks(10_007) {
                parser
                    .feed(piece, &mut |entry| {
                        wanted += u64::from(entry.name()?.ends_with("7_FI_20.jpg"));
                        Ok(())
                    })
                    .unwrap();
            }
        }
        all = parser.finish().unwrap();
    });
    assert_eq!((all, wanted), (count, count / 10));
    assert!(peak < 10_000, "{peak} bytes for {count} entries");
}

#[test]
fn an_open_quote_does_not_read_the_file_into_memory() {
    struct Endless(usize);
    impl Read for Endless {
        fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
            let length = out.len().min(self.0);
            out[..length].fill(b'x');
            self.0 -= length;
            Ok(length)
        }
    }
    let text = (&b"filepath,title\na,\"open "[..]).chain(Endless(64 << 20));
    let peak = peak_bytes(|| {
        let error = read_csv(text, &mut |_| Ok(())).unwrap_err();
        assert!(matches!(error, SourceError::Table(_)), "{error}");
    });
    assert!(peak < 2 << 20, "{peak} bytes");
}

#[test]
fn giant_lengths_in_pickles_allocate_nothing() {
    for prefix in [
        &b"X\xff\xff\xff\xff"[..],
        b"B\xff\xff\xff\xff",
        b"\x8b\xff\xff\xff\xff",
        b"\x8d\xff\xff\xff\xff\xff\xff\xff\x7f",
        b"\x96\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x95\xff\xff\xff\xff\xff\xff\xff\x7f",
    ] {
        let peak = peak_bytes(|| assert!(Meta::from_pickle(prefix).is_err()));
        assert!(peak < 1000, "{peak} bytes for {}", prefix.escape_ascii());
    }
}
