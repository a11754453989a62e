//! Texts per second of a sentence encoder.
//!
//! `tests/peers/sentence_peer.py` prints the same for sentence-transformers on PyTorch. `RAYON_NUM_THREADS` sets the
//! number of threads.

use clap::Args;
use models::sentence::{Reading, SentenceEncoder};
use std::path::PathBuf;

use crate::measure::{best_of, print_peak_memory};
use crate::{Place, Result};

#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    place: Place,
    #[arg(help = "Folder of the encoder, as sentence-transformers writes it")]
    folder: PathBuf,
    #[arg(help = "File with a text in each line")]
    texts: PathBuf,
    #[arg(default_value_t = 3)]
    rounds: usize,
}

pub(crate) fn run(options: &Options) -> Result {
    let device = options.place.device()?;
    let dtype = options.place.precision.dtype();
    let encoder = SentenceEncoder::load(&options.folder, &device, dtype, Reading::default())?;
    let texts = std::fs::read_to_string(&options.texts)?;
    let texts: Vec<&str> = texts.lines().collect();
    let seconds = best_of(&device, options.rounds, || Ok(encoder.encode(&texts)?))?;
    print_peak_memory(&device);
    println!(
        "{} texts, {} threads: {:.0} texts/s",
        texts.len(),
        rayon::current_num_threads(),
        texts.len() as f64 / seconds.wall
    );
    Ok(())
}
