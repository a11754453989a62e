//! The suite that every communicator passes, over TCP on loopback.

use candle_core::{Device, Tensor};
use ranks::{Tcp, loopback_world};
use training::communicator::conformance::conformance;
use training::communicator::{Communicator, Threads};

const MINUTE: std::time::Duration = std::time::Duration::from_secs(60);

#[test]
fn tcp_conforms() {
    conformance(&|world_size, time_out| {
        let meshes = loopback_world(world_size, time_out).unwrap();
        meshes.into_iter().map(|mesh| Box::new(Tcp::new(mesh)) as Box<dyn Communicator>).collect()
    });
}

/// Sums of three ranks, where the order of adding is visible, are those of threads, bit by bit.
#[test]
fn tcp_and_threads_agree() {
    fn sums(world: Vec<Box<dyn Communicator>>) -> Vec<Vec<u32>> {
        std::thread::scope(|scope| {
            let ranks: Vec<_> = world
                .into_iter()
                .map(|mut rank| {
                    scope.spawn(move || {
                        let seed = rank.rank() as f32 + 1.0;
                        let numbers: Vec<f32> = (0..300_000).map(|i| (i as f32 * seed).sin() * 1e4).collect();
                        let mine = Tensor::new(numbers, &Device::Cpu).unwrap();
                        let sum = rank.all_reduce_sum(&mine).unwrap().to_vec1::<f32>().unwrap();
                        sum.into_iter().map(f32::to_bits).collect()
                    })
                })
                .collect();
            ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
        })
    }
    let threads = Threads::world(3, MINUTE).into_iter().map(|r| Box::new(r) as Box<dyn Communicator>);
    let meshes = loopback_world(3, MINUTE).unwrap();
    let tcp = meshes.into_iter().map(|mesh| Box::new(Tcp::new(mesh)) as Box<dyn Communicator>);
    let (threads, tcp) = (sums(threads.collect()), sums(tcp.collect()));
    assert!(threads == tcp && tcp[0] == tcp[1] && tcp[1] == tcp[2]);
}
