//! The communicator for a place: alone, over TCP, or NCCL.

use std::time::Duration;

use candle_core::{Device, Tensor};
use training::communicator::{Communicator, Solo};

use crate::error::{RanksError, Result};
use crate::mesh::Mesh;
use crate::rank_info::RankInfo;
use crate::rendezvous::meet;
use crate::tcp::Tcp;

/// What tensors travel through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    /// NCCL where every rank has a GPU and the library, otherwise TCP.
    #[default]
    Auto,
    /// TCP, through host memory.
    Tcp,
    /// NCCL, between GPUs.
    Nccl,
}

/// Meets the other ranks and returns this one's communicator; tensors lie on `device`. Every operation, and the meeting
/// itself, waits `time_out` for one that does not come. A rank of its own needs no communicator, but gets NCCL's where
/// it is asked for: the way to try and to measure it with one GPU.
///
/// # Errors
/// Ranks that did not come, by number; NCCL is asked for but cannot be used.
pub fn open(place: &RankInfo, backend: Backend, device: &Device, time_out: Duration) -> Result<Box<dyn Communicator>> {
    if place.world_size == 1 && backend != Backend::Nccl {
        return Ok(Box::new(Solo));
    }
    over(meet(place, time_out, time_out)?, backend, device)
}

/// The communicator over connections that are there already, as [`meet_in_store`](crate::meet_in_store) makes them.
///
/// # Errors
/// NCCL is asked for but cannot be used, here or on another rank.
pub fn over(mesh: Mesh, backend: Backend, device: &Device) -> Result<Box<dyn Communicator>> {
    let problem = match backend {
        Backend::Tcp => Some("tcp was chosen".to_owned()),
        Backend::Auto | Backend::Nccl => nccl_problem(device),
    };
    // ranks decide together, by the one that cannot
    let mut tcp = Tcp::new(mesh);
    let can = Tensor::from_vec(vec![u8::from(problem.is_none())], 1, &Device::Cpu).map_err(training::Error::from)?;
    let can = tcp.all_gather(&can)?.to_vec1::<u8>().map_err(training::Error::from)?;
    match (backend, can.iter().position(|&can| can == 0)) {
        (Backend::Nccl, Some(rank)) => Err(RanksError::Library(match problem {
            Some(problem) => format!("rank {} cannot use nccl: {problem}", tcp.rank()),
            None => format!("rank {rank} cannot use nccl; its message says why"),
        })),
        (Backend::Auto, Some(rank)) => {
            let why = match problem {
                Some(problem) => problem,
                None => format!("rank {rank} cannot use NCCL; its messages say why"),
            };
            Ok(Box::new(tcp.because(why)))
        }
        (Backend::Tcp, Some(_)) => Ok(Box::new(tcp)),
        (_, None) => over_nccl(tcp, device),
    }
}

#[cfg(all(feature = "nccl", feature = "cuda"))]
fn over_nccl(tcp: Tcp, device: &Device) -> Result<Box<dyn Communicator>> {
    Ok(Box::new(crate::nccl::Nccl::new(tcp, device)?))
}

#[cfg(not(all(feature = "nccl", feature = "cuda")))]
fn over_nccl(tcp: Tcp, _: &Device) -> Result<Box<dyn Communicator>> {
    // `nccl_problem` has said so before
    Ok(Box::new(tcp))
}

/// Why this process cannot use NCCL with tensors on this device; `None`: it can.
pub fn nccl_problem(device: &Device) -> Option<String> {
    if !device.is_cuda() {
        return Some("tensors do not lie on an NVIDIA GPU".to_owned());
    }
    #[cfg(feature = "nccl")]
    return crate::nccl::library_problem();
    #[cfg(not(feature = "nccl"))]
    Some("this program was built without it; build with --features cuda,nccl".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_taken_is_said() {
        let ways: Vec<String> = std::thread::scope(|scope| {
            let world = crate::loopback_world(2, Duration::from_secs(30)).unwrap();
            let taken = world
                .into_iter()
                .zip([Backend::Auto, Backend::Tcp])
                .map(|(mesh, backend)| scope.spawn(move || over(mesh, backend, &Device::Cpu).unwrap().way()));
            taken.collect::<Vec<_>>().into_iter().map(|rank| rank.join().unwrap()).collect()
        });
        assert!(ways[0].contains("TCP") && ways[0].contains("do not lie on an NVIDIA GPU"), "{ways:?}");
        assert_eq!(ways[1], "TCP, through host memory");
    }

    #[test]
    fn one_rank_is_solo_unless_nccl_is_asked_for() {
        let variables =
            |name: &str| matches!(name, "RANK" | "WORLD_SIZE").then(|| u8::from(name != "RANK").to_string());
        let place = RankInfo::from_environment(&variables).unwrap().expect("a place");
        let open = |backend| open(&place, backend, &Device::Cpu, Duration::from_secs(5));
        for backend in [Backend::Auto, Backend::Tcp] {
            assert_eq!(open(backend).unwrap().world_size(), 1);
        }
        let refused = open(Backend::Nccl).err().expect("no GPU here").to_string();
        assert!(refused.contains("rank 0 cannot use nccl") && refused.contains("GPU"), "{refused}");
    }
}
