//! Ranks as processes: how they find each other, and how their tensors travel.
//!
//! [`RankInfo`] says which rank a process is, [`open`] meets the others and returns a
//! [`Communicator`](training::communicator::Communicator). Nothing here is asynchronous: a rank is a thread that owns its
//! device, and each of its connections has a thread that writes and one that reads.

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
mod rank_info;
mod rendezvous;
mod rendezvous_store;
mod secret;
mod tcp;
mod waiting;

pub use connect::loopback_world;
pub use error::{RanksError, Result};
pub use hello::Token;
pub use hosts::first_host;
pub use mesh::Mesh;
pub use open::{Backend, nccl_problem, open, over};
pub use rank_info::{MAX_WORLD_SIZE, RankInfo, Sharing};
pub use rendezvous::{ADDRESS, announced_address, meet, meet_in_store, meet_in_store_unless, own_address};
pub use rendezvous_store::{BoardError, FolderBoard, MemoryBoard, RendezvousStore};
pub use secret::{SECRET, SECRET_FILE, Secret, new_secret};
pub use tcp::Tcp;
