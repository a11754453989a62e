//! Text from next logits: greedy, nucleus and beam decoding in a running batch.
//!
//! The network is behind [`NextLogits`]; what is done with its logits are functions of numbers alone.

mod beam;
mod generator;
mod logits;
mod search;
mod settings;

pub use generator::Generator;
pub use settings::{EarlyStopping, GenerationSettings, Nucleus};

use crate::Result;

/// One request among those that a network works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub usize);

/// A beam's next token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Branch {
    /// The beam, among those of the step before, that the token continues.
    pub parent: usize,
    /// Id of the token.
    pub token: u32,
}

/// What becomes of one request in a step: its beams from now on.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    /// The request, as it was admitted.
    pub request: RequestId,
    /// Its beams, best first.
    pub branches: &'a [Branch],
}

/// A network that continues sequences, with the state of those that are running.
pub trait NextLogits {
    /// What a sequence begins with.
    type Prompt;

    /// Number V of logits behind each sequence.
    fn vocab_size(&self) -> usize;

    /// Ids that every sequence has before its first new one, as far as they count for the repetition penalty and the
    /// minimal length: T5's start token, nothing where the prompt consists of embeddings.
    fn history(&self) -> &[u32];

    /// Takes up new requests with one beam each; returns the logits behind each prompt, `[N, V]`.
    ///
    /// # Errors
    /// Prompts that do not fit the network, or a device that fails or has no room.
    fn admit(&mut self, prompts: &[(RequestId, Self::Prompt)]) -> Result<Vec<f32>>;

    /// Appends one token to every beam; returns logits, `[beams of all steps, V]` in their order.
    ///
    /// # Errors
    /// Beams or ids that do not exist, or a device that fails or has no room.
    fn advance(&mut self, steps: &[Step<'_>]) -> Result<Vec<f32>>;

    /// Forgets a request. Unknown ones are no error.
    fn release(&mut self, id: RequestId);
}
