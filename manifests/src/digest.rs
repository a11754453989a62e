//! Content digests: 128 bits of BLAKE3, written as 32 hexadecimal digits.

use serde::Serialize;

/// Hexadecimal digest of some content. 128 bits: two different contents meet by chance about once
/// in 10^19 tables of a billion rows, and 32 characters stay readable in a table.
pub type Digest = String;

/// Digest of raw bytes.
pub fn of_bytes(bytes: &[u8]) -> Digest {
    short(blake3::hash(bytes))
}

/// Digest of several byte strings; each is preceded by its length, so that `["ab", "c"]` and
/// `["a", "bc"]` differ.
pub fn of_parts<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Digest {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    short(hasher.finalize())
}

/// Digest of a value through its canonical JSON ([`canonical_json`]).
pub fn of_value(value: &impl Serialize) -> Digest {
    of_bytes(canonical_json(value).as_bytes())
}

/// JSON with sorted keys and no white space: equal values give equal text in every process.
///
/// `serde_json::Value` keeps its maps sorted by key (the `preserve_order` feature is off, which a
/// test asserts), so one round through it is enough.
pub fn canonical_json(value: &impl Serialize) -> String {
    serde_json::to_value(value).expect("plain data serialises").to_string()
}

/// The 128 bits of a digest, to hold and compare many of them. A text that is no digest has those of its own digest.
pub fn bits(digest: &str) -> [u8; 16] {
    let is_digest = digest.len() == 32 && digest.bytes().all(|byte| byte.is_ascii_hexdigit());
    let number = is_digest.then(|| u128::from_str_radix(digest, 16).ok()).flatten();
    number.map_or_else(|| bits(&of_bytes(digest.as_bytes())), u128::to_be_bytes)
}

/// The digest that has these bits.
pub fn of_bits(bits: [u8; 16]) -> Digest {
    format!("{:032x}", u128::from_be_bytes(bits))
}

fn short(hash: blake3::Hash) -> Digest {
    hash.to_hex()[..32].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_json_sorts_keys() {
        let text: serde_json::Value = serde_json::from_str(r#"{"b": 1, "a": {"d": 2, "c": 3}}"#).unwrap();
        assert_eq!(canonical_json(&text), r#"{"a":{"c":3,"d":2},"b":1}"#);
    }

    /// Records of runs are compared and gone on from: what is read back is what was written.
    #[test]
    fn numbers_survive_json() {
        let seconds = 1.343_155_180_000_000_1;
        for number in std::iter::successors(Some(seconds), |n: &f64| Some(f64::from_bits(n.to_bits() + 1))).take(1000) {
            let read: f64 = serde_json::from_str(&serde_json::to_string(&number).unwrap()).unwrap();
            assert_eq!(read, number);
        }
    }

    #[test]
    fn bits_of_a_digest_are_those_that_it_shows() {
        assert_eq!(bits("000000000000000000000000000001ff")[14..], [1, 255]);
        let other = "a text that is no digest";
        assert_eq!(bits(other), bits(&of_bytes(other.as_bytes())));
        assert_eq!(bits("+0000000000000000000000000000001"), bits(&of_bytes(b"+0000000000000000000000000000001")));
    }

    #[test]
    fn parts_are_delimited() {
        assert_ne!(of_parts([&b"ab"[..], b"c"]), of_parts([&b"a"[..], b"bc"]));
        assert_eq!(of_bytes(b"").len(), 32);
    }
}
