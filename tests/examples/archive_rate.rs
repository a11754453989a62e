//! Images per second from a zip to a network's input, by the functions that a build calls: directory by range, members by
//! coalesced ranges, inflate and CRC, JPEG decode, resize to 224, normalise 128 at once. One thread.
//!
//! usage: archive_rate ARCHIVE.zip      (counterpart: tests/peers/ingest_peer.py)

use std::collections::HashSet;
use std::path::Path;
use std::time::Instant;

use manifests::spec::StoreOptions;
use models::preprocessing::Preprocessing;
use models::upload::Upload;
use workers::archive::scan_directory;
use workers::fetch::{FetchSettings, fetch};
use workers::listing::ObjectRange;
use workers::stores::SourceStore;

// as the program has it
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SIDE_PX: u32 = 224;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let archive = std::env::args().nth(1).ok_or("usage: archive_rate ARCHIVE.zip")?;
    let archive = Path::new(&archive);
    let name = archive.file_name().and_then(|n| n.to_str()).ok_or("the archive has no name")?;
    let folder = archive.parent().and_then(Path::to_str).ok_or("the archive has no folder")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let wanted: HashSet<String> = zip::ZipArchive::new(std::fs::File::open(archive)?)?
        .file_names()
        .filter_map(|n| Some(n.ok()?.into_owned()))
        .collect();
    let began = Instant::now();
    let images = runtime.block_on(async {
        let source = SourceStore::open(folder, &StoreOptions::default())?;
        let meta = source.head(name).await?.ok_or("the archive is gone")?;
        let found = scan_directory(&source, name, meta.size, meta.e_tag, &|name: &str| wanted.contains(name)).await?;
        let places: Vec<Option<ObjectRange>> = found
            .members
            .into_iter()
            .map(|member| Some(ObjectRange { object: name.to_owned(), etag: None, bytes: None, member: Some(member) }))
            .collect();
        let preprocessing = Preprocessing { side_px: SIDE_PX as usize, mean: pixels::CLIP_MEAN, std: pixels::CLIP_STD };
        let mut upload = Upload::unlocked(&candle_core::Device::Cpu);
        let limits = pixels::DecodeLimits::default();
        let settings = FetchSettings { concurrency: 16, request_bytes: 8 << 20 };
        let mut images = 0;
        for chunk in places.chunks(128) {
            let mut pixels_bhwc = Vec::new();
            for bytes in fetch(&source, chunk, settings).await?.into_iter().flatten() {
                pixels_bhwc.extend(pixels::clip_view(&pixels::decode(&bytes?, &limits)?, SIDE_PX).data);
                images += 1;
            }
            std::hint::black_box(preprocessing.load(&pixels_bhwc, &mut upload)?);
        }
        Ok::<usize, Box<dyn std::error::Error>>(images)
    })?;
    println!("images_per_second {:.1}", images as f64 / began.elapsed().as_secs_f64());
    Ok(())
}
