//! Networks: tensors in, tensors out.
//!
//! - [`clip`]: a trainable CLIP of any size, which reads and writes the open_clip and Hugging Face layouts,
//! - [`sam`]: Segment Anything, its image encoders and its automatic mask generator,
//! - [`sentence`]: frozen encoders of sentences,
//! - [`dual_encoder`]: what a training asks of any network with two towers,
//! - [`device`]: the GPUs of this process, each opened once,
//! - [`tokenizer`]: captions to token ids,
//! - [`captioning`]: what networks that caption images have in common,
//! - [`instructblip`]: a frozen InstructBLIP that captions images,
//! - [`llava`]: a frozen LLaVA that does, too,
//! - [`language`]: frozen language models and how text is drawn from them,
//! - [`ops`]: differentiable operations with CPU kernels of our own,
//! - [`parameters`]: the named variables of a network,
//! - [`preprocessing`]: pixels as an image tower wants them.
//!
//! Shape letters: `b` batch, `l` sequence, `d` width, `h`/`w` image, `c` channel, `o`/`i` output/input features.

pub mod captioning;
mod checkpoint;
pub mod clip;
pub mod device;
pub mod dual_encoder;
mod error;
mod frozen_vit;
pub mod instructblip;
pub mod language;
pub mod llava;
pub mod ops;
pub mod parameters;
pub mod preprocessing;
pub mod sam;
pub mod sentence;
pub mod tokenizer;
pub mod upload;

pub use error::ModelError;

/// Result of this crate.
pub type Result<T, E = ModelError> = std::result::Result<T, E>;

/// The folder of in-house test data; says so when there is none.
#[cfg(test)]
pub(crate) fn test_data() -> Option<std::path::PathBuf> {
    let folder = std::env::var_os("URBANCROSS_TEST_DATA").map(std::path::PathBuf::from);
    if folder.is_none() {
        println!("skipped: URBANCROSS_TEST_DATA names no folder with test data");
    }
    folder
}
