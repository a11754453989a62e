//! Ranks as processes: how they find each other, and how their tensors travel.
//!
//! [`Place`] says which rank a process is, [`open`] meets the others and returns a
//! [`Communicator`](training::communicator::Communicator). Nothing here is asynchronous: a rank is a thread that owns its
//! device, and each of its connections has a thread that writes and one that reads.

mod board;
mod connect;
mod error;
mod frame;
mod hello;
mod hosts;
mod mesh;
#[cfg(feature = "nccl")]
pub mod nccl;
mod open;
mod peer;
mod place;
mod rendezvous;
mod secret;
mod tcp;

pub use board::{Board, BoardError, FolderBoard, MemoryBoard};
pub use connect::loopback_world;
pub use error::{RanksError, Result};
pub use hello::Token;
pub use hosts::first_host;
pub use mesh::Mesh;
pub use open::{Backend, nccl_problem, open, over};
pub use place::{MAX_WORLD_SIZE, Place, Sharing};
pub use rendezvous::{meet, meet_on_board, own_address};
pub use secret::{SECRET, SECRET_FILE, Secret, new_secret};
pub use tcp::Tcp;
