//! Images per second that the training's loader makes ready, without a network: from the tables, decoded, augmented and
//! tokenised.
//!
//! ```text
//! loader_rate SPEC SIDE_PX [SECONDS]
//! ```
//!
//! The build of SPEC must have run until `captions` and `splits`. `tests/peers/loader_peer.py` prints the same for a
//! PyTorch DataLoader over the same images. `RAYON_NUM_THREADS` sets the number of threads.

use choices::Preset;
use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use manifests::{Artifact, BuildSpec};
use models::clip::ClipConfig;
use models::tokenizer::Tokenizer;
use pipeline::build::Build;
use stages::pretrain::loader;
use stages::train_rows::TrainRows;
use training::batch::BatchSource;
use workers::train::{Members, TableRows};

/// As in the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let path = args.first().ok_or("which spec?")?;
    let side: usize = args.get(1).ok_or("which side, in pixels?")?.parse()?;
    let seconds: f64 = args.get(2).map_or(Ok(10.0), |arg| arg.parse())?;
    let build = Build::open_work(BuildSpec::read(Path::new(path), &[])?, Arc::default()).await?;
    let mut inputs = Vec::new();
    for artifact in [Artifact::Images, Artifact::Captions, Artifact::Splits] {
        inputs.push(build.pin(artifact).await?);
    }
    let mut rows = TableRows::open(&build.work, &inputs, Members::Split("train")).await?;
    let (images, rate) = tokio::task::block_in_place(|| {
        std::thread::scope(|scope| scope.spawn(|| measure(&build.spec, &mut rows, side, seconds)).join())
    })
    .map_err(|_| "the loader failed; its message is above")??;
    println!("loader, {side} px: {rate:.1} images/s ({images} images)");
    Ok(())
}

fn measure(
    spec: &BuildSpec,
    rows: &mut TableRows,
    side: usize,
    seconds: f64,
) -> Result<(usize, f64), Box<dyn Error + Send + Sync>> {
    let tokenizer = Tokenizer::train(rows.captions()?, 1000)?;
    let mut config = ClipConfig::preset(Preset::Tiny);
    config.vision.image_size = side;
    let mut loader = loader(spec, &config, &tokenizer, rows)?;
    let steps = loader.steps_per_epoch();
    // the first batch opens files and reads a window
    loader.batch(0, 0)?;
    let (start, mut images, mut step) = (Instant::now(), 0, 1);
    while start.elapsed().as_secs_f64() < seconds {
        let batch = loader.batch(step / steps, step % steps)?;
        let images_of = |rows: &Vec<u32>| rows.last().map_or(0, |&image| image as usize + 1);
        images += batch.image_of_row.as_ref().map_or(spec.pretrain.batch, images_of);
        // as the training loop does
        loader.take_back(batch);
        step += 1;
    }
    Ok((images, images as f64 / start.elapsed().as_secs_f64()))
}
