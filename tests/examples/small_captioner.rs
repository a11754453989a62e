//! An InstructBLIP with random weights, of a size that takes some hundredths of a second for an image on two cores: what
//! `tests/update-bench.sh` has as a captioner that costs something.
//!
//! usage: small_captioner FOLDER

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args().nth(1).ok_or("usage: small_captioner FOLDER")?;
    pipeline_tests::hub::instructblip_of(Path::new(&folder), (384, 1536, 6, 6), (128, 512, 2, 4), (128, 512, 2, 4));
    Ok(())
}
