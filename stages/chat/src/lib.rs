//! What is said to a server of chat completions (OpenAI's, vLLM's, llama.cpp's) and what its answers mean.
//!
//! | module | what it does |
//! |---|---|
//! | [`Question`] | an image and a prompt as the body of a request |
//! | [`Answer`] | a text, what it took, and which model the server says it was |
//! | [`verdict`] | what a reply means for the question, for the next try, and for all others |
//!
//! Everything is a pure function of its arguments: no sockets, no clock. Whoever speaks HTTP is handed in as [`Server`].

mod answer;
mod question;
mod verdict;

pub use answer::Answer;
pub use question::{AnswerForm, Model, Question, greeting, media_type, with_picture};
pub use verdict::{Reply, Verdict, verdict};

/// Why nobody is answered, by what the caller can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Silence {
    /// Address, key or request are wrong: another try meets the same.
    Wrong(String),
    /// The server does not answer, or is at its limits: another try may help.
    Unreachable(String),
    /// The run was asked to end.
    Stopped,
}

/// A server that answers questions.
pub trait Server: Send + Sync {
    /// One answer for each question, in order; `Err` says why that question has none. Blocks the thread.
    ///
    /// # Errors
    /// What concerns all questions.
    fn ask(&self, questions: Vec<Question>) -> Result<Vec<Result<Answer, String>>, Silence>;
}
