//! Damage: flipped bits, numbers that mean trouble, pieces cut out, doubled or taken from another input.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

const NUMBERS: [u64; 10] = [0, 1, 0x7f, 0xff, 0x7fff, 0xffff, 0x7fff_ffff, 0xffff_ffff, i64::MAX as u64, u64::MAX];
const WORDS: [&str; 12] = [
    "-1",
    "18446744073709551615",
    "9223372036854775807",
    "1e308",
    "../",
    "null",
    "{",
    "[",
    "\"",
    "\n",
    "%2F",
    "\u{308}",
];
/// Inputs grow no further.
const MOST_BYTES: usize = 1 << 16;

/// A damaged copy of an input; pieces come from `other`, too.
pub fn mutated(original: &[u8], other: &[u8], rng: &mut ChaCha8Rng) -> Vec<u8> {
    let mut bytes = original.to_vec();
    for _ in 0..rng.random_range(1..6) {
        let at = rng.random_range(0..=bytes.len());
        let upto = rng.random_range(at..=bytes.len().min(at + 64));
        match rng.random_range(0..9) {
            0 if at < bytes.len() => bytes[at] = rng.random(),
            1 if at < bytes.len() => bytes[at] ^= 1 << rng.random_range(0..8),
            2 if rng.random_range(0..4) == 0 => bytes.truncate(at),
            3 => drop(bytes.drain(at..upto)),
            4 => {
                let piece = bytes[at..upto].to_vec();
                bytes.splice(at..at, piece);
            }
            5 => {
                let number = NUMBERS[rng.random_range(0..NUMBERS.len())].to_le_bytes();
                let width = 1 << rng.random_range(0..4);
                bytes[at..].iter_mut().zip(&number[..width]).for_each(|(byte, new)| *byte = *new);
            }
            6 => drop(bytes.splice(at..at, WORDS[rng.random_range(0..WORDS.len())].bytes())),
            7 => {
                // a number in digits becomes another one
                let digits = |bytes: &[u8], at: usize| bytes[at..].iter().take_while(|b| b.is_ascii_digit()).count();
                let start = (at..bytes.len()).find(|at| bytes[*at].is_ascii_digit()).unwrap_or(at);
                let end = start + digits(&bytes, start);
                drop(bytes.splice(start..end, NUMBERS[rng.random_range(0..NUMBERS.len())].to_string().bytes()));
            }
            _ if !other.is_empty() => {
                let from = rng.random_range(0..other.len());
                let piece = &other[from..(from + rng.random_range(1..64)).min(other.len())];
                drop(bytes.splice(at..upto, piece.iter().copied()));
            }
            _ => {}
        }
        bytes.truncate(MOST_BYTES);
    }
    bytes
}
