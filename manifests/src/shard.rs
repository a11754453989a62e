//! Which shard an image belongs to.

/// Shard of an image: the first 64 bits of the BLAKE3 hash of its id, modulo `shards`.
///
/// It depends on nothing else, so every table of a build places an image in the same shard and
/// joins between tables stay inside a shard.
///
/// ```
/// assert_eq!(manifests::shard_of("a198234555_CH_19", 16), 11);
/// ```
pub fn shard_of(image_id: &str, shards: u32) -> u32 {
    let hash = blake3::hash(image_id.as_bytes());
    let first = u64::from_le_bytes(hash.as_bytes()[..8].try_into().expect("a hash has 32 bytes"));
    (first % u64::from(shards.max(1))) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_stable_and_even() {
        // Changing these numbers moves every row of every existing table.
        assert_eq!(shard_of("a198234555_CH_19", 16), 11);
        let mut counts = [0; 8];
        for i in 0..8000 {
            counts[shard_of(&format!("w{i}_DE_19"), 8) as usize] += 1;
        }
        assert!(counts.iter().all(|&c| (850..1150).contains(&c)), "{counts:?}");
    }
}
