//! Meeting: through the address of rank 0, through boards, and beside guests that are no ranks.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::time::Duration;

use candle_core::{Device, Tensor};
use ranks::{
    Backend, FolderBoard, MemoryBoard, Mesh, RankInfo, RanksError, RendezvousStore, SECRET, Secret, Sharing, Tcp, meet,
    meet_in_store, open,
};
use training::communicator::Communicator;

const MINUTE: Duration = Duration::from_secs(60);
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn place(rank: usize, world_size: usize, port: u16) -> RankInfo {
    let master = Some(("127.0.0.1".to_owned(), port));
    RankInfo {
        rank,
        world_size,
        local_rank: Some(rank),
        sharing: Sharing { ranks: 1, of_cores: 0 },
        master,
        token: [7; 16],
        secret: None,
    }
}

/// Runs all ranks of a world, and checks that they add up.
fn add_up(world_size: usize, mesh: impl Fn(usize) -> Result<Mesh, RanksError> + Sync) {
    let mesh = &mesh;
    std::thread::scope(|scope| {
        for rank in 0..world_size {
            scope.spawn(move || {
                let mut rank = Tcp::new(mesh(rank).unwrap());
                let mine = Tensor::new(&[rank.rank() as f32], &Device::Cpu).unwrap();
                let all = rank.all_gather(&mine).unwrap().to_vec1::<f32>().unwrap();
                assert_eq!(all, (0..world_size).map(|r| r as f32).collect::<Vec<_>>());
            });
        }
    });
}

#[test]
fn ranks_meet_where_rank_0_listens() {
    for world_size in [1, 2, 5] {
        let port = free_port();
        add_up(world_size, |rank| meet(&place(rank, world_size, port), MINUTE, Duration::MAX));
    }
}

#[test]
fn ranks_meet_with_a_secret() {
    let secret = |text: &'static str| {
        let variables = move |name: &str| (name == SECRET).then(|| text.to_owned());
        Secret::from_environment(&variables).unwrap()
    };
    let port = free_port();
    let known = |rank| RankInfo { secret: secret("0123456789abcdef"), ..place(rank, 3, port) };
    add_up(3, |rank| {
        // a stranger asks for every rank that is still free, before those that know better do
        if rank > 0 {
            let stranger = RankInfo { secret: secret("fedcba9876543210"), ..place(rank, 3, port) };
            let refused = meet(&stranger, Duration::from_millis(300), MINUTE).err().unwrap().to_string();
            assert!(refused.contains("rank 0 cannot be reached"), "{refused}");
        }
        meet(&known(rank), MINUTE, MINUTE)
    });
}

#[test]
fn ranks_of_several_machines_need_a_secret() {
    for rank in [0, 1] {
        let far = RankInfo { master: Some(("192.0.2.1".to_owned(), 29500)), ..place(rank, 2, 1) };
        let refused = meet(&far, MINUTE, MINUTE).err().unwrap();
        assert!(matches!(refused, RanksError::Configuration(_)) && refused.to_string().contains(SECRET), "{refused}");
    }
}

#[test]
fn ranks_meet_on_boards() {
    let folder = tempfile::tempdir().unwrap();
    let (memory, files) = (MemoryBoard::default(), FolderBoard(folder.path().to_owned()));
    add_up(3, |rank| meet_in_store(&memory, "run/0", (rank, 3), LOOPBACK, MINUTE, MINUTE));
    add_up(4, |rank| meet_in_store(&files, "run/0", (rank, 4), LOOPBACK, MINUTE, MINUTE));
    let again = meet_in_store(&memory, "run/0", (1, 3), LOOPBACK, MINUTE, MINUTE).err().unwrap().to_string();
    assert!(again.contains("rank 1") && again.contains("new key"), "{again}");
    memory.put_if_absent("run/1/rank-2", b"rubbish").unwrap();
    let rubbish = meet_in_store(&memory, "run/1", (0, 3), LOOPBACK, MINUTE, MINUTE).err().unwrap().to_string();
    assert!(rubbish.contains("run/1/rank-2"), "{rubbish}");
    let short = Duration::from_millis(300);
    let alone = meet_in_store(&memory, "run/2", (0, 3), LOOPBACK, short, MINUTE).err().unwrap().to_string();
    assert!(alone.contains("ranks 1 and 2 did not come to run/2"), "{alone}");
}

#[test]
fn a_world_of_one_needs_no_address() {
    let alone = RankInfo { master: None, ..place(0, 1, 1) };
    assert_eq!(open(&alone, Backend::Auto, &Device::Cpu, MINUTE).unwrap().world_size(), 1);
    let lost = RankInfo { master: None, ..place(0, 2, 1) };
    assert!(matches!(meet(&lost, MINUTE, MINUTE), Err(RanksError::Configuration(_))));
    let beyond = place(2, 2, 1);
    assert!(matches!(meet(&beyond, Duration::MAX, Duration::MAX), Err(RanksError::Configuration(_))));
    let board = MemoryBoard::default();
    let beyond = meet_in_store(&board, "run", (0, 0), LOOPBACK, MINUTE, MINUTE);
    assert!(matches!(beyond, Err(RanksError::Configuration(_))));
}

#[test]
fn nccl_that_cannot_be_is_refused_by_all() {
    let port = free_port();
    std::thread::scope(|scope| {
        for rank in 0..2 {
            scope.spawn(move || {
                let problem = open(&place(rank, 2, port), Backend::Nccl, &Device::Cpu, MINUTE).err().unwrap();
                assert!(matches!(problem, RanksError::Library(_)), "{problem}");
            });
        }
    });
}

/// Random bytes, endless bytes, silence, a wrong token, another world size, a closed connection: the ranks meet anyway.
#[test]
fn guests_that_are_no_ranks_keep_nobody_out() {
    let port = free_port();
    let connect = move || loop {
        match TcpStream::connect(("127.0.0.1", port)) {
            Ok(stream) => return stream,
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    let refused = |mut stream: TcpStream| {
        stream.set_read_timeout(Some(MINUTE)).unwrap();
        assert!(matches!(stream.read(&mut [0]), Ok(0) | Err(_)), "no answer");
    };
    std::thread::scope(|scope| {
        let rank_0 = scope.spawn(move || meet(&place(0, 2, port), MINUTE, MINUTE).map(Tcp::new));
        let silent: Vec<TcpStream> = (0..20).map(|_| connect()).collect();
        let mut slow = connect();
        slow.write_all(b"UC").unwrap();
        for bytes in [vec![0xff; 36], vec![0; 1 << 20], b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n".to_vec()] {
            let mut stream = connect();
            let _closed = stream.write_all(&bytes);
            refused(stream);
        }
        drop(connect());
        for stranger in [RankInfo { token: [8; 16], ..place(1, 2, port) }, place(1, 3, port)] {
            // time to be heard among the silent ones, on a busy machine too
            let problem = meet(&stranger, Duration::from_secs(3), MINUTE).err().unwrap().to_string();
            assert!(problem.contains("rank 0 cannot be reached") && problem.contains("another world"), "{problem}");
        }
        let mut rank_1 = meet(&place(1, 2, port), MINUTE, MINUTE).map(Tcp::new).unwrap();
        let mut rank_0 = rank_0.join().unwrap().unwrap();
        let other = scope.spawn(move || rank_1.barrier());
        rank_0.barrier().unwrap();
        other.join().unwrap().unwrap();
        drop((silent, slow));
    });
}

/// What rank 0 does when a rank that has proved itself sends bytes that no rank sends.
#[test]
fn a_peer_that_sends_rubbish_ends_the_world() {
    let mut hello = b"UCranks\n".to_vec();
    hello.extend(2u32.to_le_bytes());
    hello.extend([7; 16]);
    hello.extend(1u32.to_le_bytes());
    hello.extend(2u32.to_le_bytes());
    hello.extend([9; 32]);
    let no_secret = blake3::derive_key("urbancross ranks: a world's secret", b"");
    let mut huge = vec![2, 0, 0, 0];
    huge.extend(u32::MAX.to_le_bytes());
    huge.extend([0; 8]);
    let mut long_call = vec![1, 0, 0, 0];
    long_call.extend(1025u32.to_le_bytes());
    long_call.extend([0; 8]);
    let mut data_before_call = vec![2, 0, 0, 0, 4, 0, 0, 0, 1];
    data_before_call.extend([0; 11]);
    for (bytes, words) in [
        (vec![0xff; 64], "unknown kind 255"),
        (huge, "4294967295 bytes"),
        (long_call, "1025 bytes"),
        (data_before_call, "something other than its next call"),
        (vec![1, 0, 0, 0, 16], "is gone"),
    ] {
        let port = free_port();
        let hello = &hello;
        std::thread::scope(|scope| {
            let rank_0 = scope.spawn(move || {
                let mut rank = Tcp::new(meet(&place(0, 2, port), MINUTE, MINUTE).unwrap());
                rank.all_reduce_sum(&Tensor::new(&[1f32], &Device::Cpu).unwrap()).unwrap_err().to_string()
            });
            let mut stream = loop {
                match TcpStream::connect(("127.0.0.1", port)) {
                    Ok(stream) => break stream,
                    Err(_) => std::thread::sleep(Duration::from_millis(5)),
                }
            };
            stream.write_all(hello).unwrap();
            let mut answer = [0; 68];
            stream.read_exact(&mut answer).unwrap();
            let said = [b"proof of the connecting side\n", &hello[..], &answer].concat();
            stream.write_all(blake3::keyed_hash(&no_secret, &said).as_bytes()).unwrap();
            stream.write_all(&[0; 18]).unwrap();
            stream.read_exact(&mut [0; 32 + 16 + 2 * 18]).unwrap();
            stream.write_all(&bytes).unwrap();
            if words == "is gone" {
                stream.shutdown(std::net::Shutdown::Write).unwrap();
            }
            let problem = rank_0.join().unwrap();
            assert!(problem.contains("rank 1 ") && problem.contains(words), "{problem:?} says {words:?}");
        });
    }
}
