//! How ranks find each other: at the address of rank 0, or through a shared board.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs, UdpSocket};
use std::time::{Duration, Instant};

use training::communicator::rank_list;

use crate::connect::{accept_ranks, connect_all, connect_rank};
use crate::error::{RanksError, Result};
use crate::hello::{Me, Token, read_until};
use crate::mesh::{MOST_PATIENCE, Mesh};
use crate::rank_info::{MAX_WORLD_SIZE, RankInfo};
use crate::rendezvous_store::{RendezvousStore, on_board};
use crate::secret::{SECRET, SECRET_FILE, Secret, random};
use crate::waiting::Waiting;

/// Bytes of an address in the table: IPv6 (IPv4 mapped into it) and port.
const ADDRESS_BYTES: usize = 18;
/// Random bytes that a rank leaves on a board.
const SEED_BYTES: usize = 32;

/// Meets the other ranks where rank 0 listens: it collects everyone's address and hands out the table. `wait` is the
/// time for all to come, `time_out` that of each operation afterwards.
///
/// # Errors
/// Ranks that did not come in time, by number; an address that cannot be resolved, bound or reached.
pub fn meet(place: &RankInfo, wait: Duration, time_out: Duration) -> Result<Mesh> {
    let place = &place.clone().check()?;
    let until = Instant::now() + wait.min(MOST_PATIENCE);
    if place.world_size == 1 {
        return Ok(Mesh::new(0, vec![None], time_out));
    }
    let Some((host, port)) = &place.master else {
        return Err(RanksError::Configuration("several ranks need MASTER_ADDR and MASTER_PORT".to_owned()));
    };
    let address = resolve(place.rank as u32, host, *port, until)?;
    let secret = secret_for(address, place.secret)?;
    let me = Me { token: place.token, rank: place.rank as u32, world_size: place.world_size as u32, secret };
    if place.rank == 0 { lead(me, address, until, time_out) } else { follow(me, address, until, time_out) }
}

/// What ranks prove that meet at this address. Without a secret anybody who reaches the port could be one of them, so
/// they meet on this machine only.
fn secret_for(address: SocketAddr, secret: Option<Secret>) -> Result<Secret> {
    match secret {
        Some(secret) => Ok(secret),
        None if address.ip().to_canonical().is_loopback() => Ok(Secret::none()),
        None => Err(RanksError::Configuration(format!(
            "rank 0 is to listen at {address}, where others than the ranks may knock, and the ranks have no secret: put \
             one (`openssl rand -hex 32`) into {SECRET} of every rank, or into a file that only you can read and name \
             it in {SECRET_FILE}; ranks that meet in the work store (URBANCROSS_RENDEZVOUS) need none"
        ))),
    }
}

/// The host's address, also when its name is known to the resolver a little later than its ranks run.
fn resolve(rank: u32, host: &str, port: u16, until: Instant) -> Result<SocketAddr> {
    let mut waiting = Waiting::new(rank);
    loop {
        let problem = match (host, port).to_socket_addrs() {
            Ok(mut addresses) => match addresses.next() {
                Some(address) => return Ok(address),
                None => "it has no address".to_owned(),
            },
            Err(e) => e.to_string(),
        };
        if Instant::now() + Duration::from_secs(1) >= until {
            return Err(RanksError::Rendezvous(format!("host {host:?} of rank 0: {problem}; set MASTER_ADDR")));
        }
        waiting.for_what(|| format!("the name of rank 0's host {host:?} to be known ({problem})"));
        std::thread::sleep(Duration::from_millis(500));
    }
}

fn failed(rank: u32, what: &str) -> impl Fn(std::io::Error) -> RanksError {
    move |e| RanksError::Rendezvous(format!("rank {rank}: {what}: {e}"))
}

/// Rank 0. Its connections to the others stay, so it needs no second port.
fn lead(me: Me, address: SocketAddr, until: Instant, time_out: Duration) -> Result<Mesh> {
    let listener = TcpListener::bind(address).or_else(|e| match e.kind() {
        // the name of a service, or of an address that is translated on the way
        std::io::ErrorKind::AddrNotAvailable if !address.ip().is_loopback() => {
            let any = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
            TcpListener::bind::<(IpAddr, u16)>((any, address.port()))
        }
        _ => Err(e),
    });
    let listener = listener.map_err(failed(0, &format!("cannot listen at {address}; choose another MASTER_PORT")))?;
    let world_size = me.world_size as usize;
    let mut streams = accept_ranks(&listener, me, (1..world_size).collect(), until)?;
    let token: Token = random()?;
    let mut table = vec![0; token.len() + world_size * ADDRESS_BYTES];
    table[..token.len()].copy_from_slice(&token);
    for (rank, stream) in &mut streams {
        let at = token.len() + *rank * ADDRESS_BYTES;
        read_until(stream, &mut table[at..at + ADDRESS_BYTES], until)
            .map_err(failed(0, &format!("rank {rank} came but did not say where it listens")))?;
    }
    for (rank, stream) in &mut streams {
        stream.write_all(&table).map_err(failed(0, &format!("rank {rank} does not take the table of addresses")))?;
    }
    let addresses = read_table(&table[token.len()..]);
    connect_all(Me { token, ..me }, &listener, &addresses, streams, until, time_out)
}

/// Every other rank.
fn follow(me: Me, address: SocketAddr, until: Instant, time_out: Duration) -> Result<Mesh> {
    let rank = me.rank;
    let mut leader = connect_rank(0, address, me, until)?;
    // where rank 0 was reached from, the others reach this rank: loopback stays on loopback
    let ip = leader.local_addr().map_err(failed(rank, "own address"))?.ip();
    let listener = TcpListener::bind((ip, 0)).map_err(failed(rank, &format!("cannot listen at {ip}")))?;
    let own = listener.local_addr().map_err(failed(rank, "own address"))?;
    leader.write_all(&write_address(own)).map_err(failed(rank, "rank 0 does not take the address"))?;
    let mut table = vec![0; size_of::<Token>() + me.world_size as usize * ADDRESS_BYTES];
    read_until(&mut leader, &mut table, until).map_err(failed(
        rank,
        "rank 0 did not hand out the addresses; its message says which ranks it has waited for",
    ))?;
    let mut token = Token::default();
    token.copy_from_slice(&table[..size_of::<Token>()]);
    let addresses = read_table(&table[size_of::<Token>()..]);
    let there: Vec<(usize, TcpStream)> = vec![(0, leader)];
    connect_all(Me { token, ..me }, &listener, &addresses, there, until, time_out)
}

fn write_address(address: SocketAddr) -> [u8; ADDRESS_BYTES] {
    let ip = match address.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    let mut bytes = [0; ADDRESS_BYTES];
    bytes[..16].copy_from_slice(&ip.octets());
    bytes[16..].copy_from_slice(&address.port().to_le_bytes());
    bytes
}

fn read_table(bytes: &[u8]) -> Vec<SocketAddr> {
    let (addresses, _) = bytes.as_chunks::<ADDRESS_BYTES>();
    let read = |bytes: &[u8; ADDRESS_BYTES]| {
        let [ip @ .., p0, p1] = *bytes;
        SocketAddr::new(Ipv6Addr::from(ip).to_canonical(), u16::from_le_bytes([p0, p1]))
    };
    addresses.iter().map(read).collect()
}

/// How long ranks that are all on a board may take to reach each other.
const MOST_CONNECTING: Duration = Duration::from_secs(60);

/// Meets the other ranks through a board that all can reach, such as an object store: each puts its address under
/// `key`, which names the run and the attempt. `ip` is where the others reach this rank ([`own_address`]).
///
/// # Errors
/// As [`meet`]; and another process has this rank's place on the board already, or one that is there has ended: every attempt needs a key
/// of its own.
pub fn meet_in_store(
    board: &dyn RendezvousStore,
    key: &str,
    place: (usize, usize),
    ip: IpAddr,
    wait: Duration,
    time_out: Duration,
) -> Result<Mesh> {
    meet_in_store_unless(board, key, place, ip, wait, time_out, &|| Ok(false))
}

/// The same, as long as the others have not gone on to another key: that is looked up as often as the board is.
///
/// # Errors
/// As [`meet_in_store`]; [`RanksError::Taken`] too where they have gone on.
pub fn meet_in_store_unless(
    board: &dyn RendezvousStore,
    key: &str,
    (rank, world_size): (usize, usize),
    ip: IpAddr,
    wait: Duration,
    time_out: Duration,
    have_gone_on: &dyn Fn() -> Result<bool>,
) -> Result<Mesh> {
    let until = Instant::now() + wait.min(MOST_PATIENCE);
    let number = rank as u32;
    if rank >= world_size || world_size > MAX_WORLD_SIZE {
        return Err(RanksError::Configuration(format!(
            "rank {rank} of {world_size}: ranks count from 0, and {MAX_WORLD_SIZE} are the most"
        )));
    }
    let listener = TcpListener::bind((ip, 0)).map_err(failed(number, &format!("cannot listen at {ip}")))?;
    let own = listener.local_addr().map_err(failed(number, "own address"))?;
    let name = |rank: usize| format!("{key}/rank-{rank}");
    // who can read the board is trusted: the secret lies there
    let mut entry = random::<SEED_BYTES>()?.to_vec();
    entry.extend(write_address(own));
    if !on_board(&name(rank), board.put_if_absent(&name(rank), &entry))? {
        return Err(RanksError::Taken(format!(
            "rank {rank}: another process is this rank of {key} already; a new attempt needs a new key"
        )));
    }
    let mut entries: Vec<Option<(Secret, SocketAddr)>> = vec![None; world_size];
    let mut pause = Duration::from_millis(50);
    let mut waiting = Waiting::new(number);
    loop {
        for (peer, entry) in entries.iter_mut().enumerate().filter(|(_, entry)| entry.is_none()) {
            if let Some(bytes) = on_board(&name(peer), board.get(&name(peer)))? {
                *entry = Some(read_entry(&bytes).ok_or_else(|| {
                    RanksError::Rendezvous(format!("{} is no rank's address; use another key", name(peer)))
                })?);
            }
        }
        let missing: Vec<usize> = (0..world_size).filter(|&peer| entries[peer].is_none()).collect();
        if missing.is_empty() {
            break;
        }
        if have_gone_on()? {
            return Err(RanksError::Taken(format!("rank {rank}: others have gone on from {key} to a new key")));
        }
        waiting.for_ranks(&missing);
        if Instant::now() + pause >= until {
            return Err(RanksError::Rendezvous(format!(
                "rank {rank}: {} not come to {key} within {wait:?}; look at their logs",
                rank_list(&missing, "did", "did")
            )));
        }
        std::thread::sleep(pause);
        pause = (pause * 3 / 2).min(Duration::from_secs(2));
    }
    let entries: Vec<(Secret, SocketAddr)> = entries.into_iter().flatten().collect();
    let addresses: Vec<SocketAddr> = entries.iter().map(|(_, address)| *address).collect();
    // the secret of rank 0 is everyone's
    let secret = entries[0].0;
    let me = Me { token: secret.derived("token"), rank: number, world_size: world_size as u32, secret };
    // whoever lives listens already, and looks at the board every other second
    let until = until.min(Instant::now() + MOST_CONNECTING);
    connect_all(me, &listener, &addresses, Vec::new(), until, time_out).map_err(|error| match error {
        RanksError::Rendezvous(why) => RanksError::Unreachable(why),
        other => other,
    })
}

fn read_entry(bytes: &[u8]) -> Option<(Secret, SocketAddr)> {
    let (seed, address) = bytes.split_first_chunk::<SEED_BYTES>()?;
    let [address] = read_table(address)[..] else { return None };
    (address.port() > 0 && bytes.len() == seed.len() + ADDRESS_BYTES).then(|| (Secret::of(seed), address))
}

/// Variable that says at which address, or by which network interface, the others reach this rank.
pub const ADDRESS: &str = "URBANCROSS_ADDRESS";

/// Where the others reach this rank: as [`ADDRESS`] says, else by the way that this machine takes to others, which on many
/// clusters is the slow network.
///
/// # Errors
/// The variable names neither an address nor an interface that has one.
pub fn announced_address(said: Option<&str>) -> Result<IpAddr> {
    let Some(said) = said.map(str::trim).filter(|said| !said.is_empty()) else { return Ok(own_address()) };
    if let Ok(ip) = said.parse() {
        return Ok(ip);
    }
    let (found, names) = interface_address(said);
    found.ok_or_else(|| {
        RanksError::Configuration(format!(
            "{ADDRESS} = {said:?} is neither an address nor a network interface with one; the interfaces are {}",
            names.join(", ")
        ))
    })
}

/// The first address of an interface, of the older kind if it has both; and the names of all interfaces.
fn interface_address(wanted: &str) -> (Option<IpAddr>, Vec<String>) {
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
    let mut of_wanted: Vec<IpAddr> = interfaces.iter().filter(|i| i.name == wanted).map(|i| i.ip()).collect();
    of_wanted.sort_by_key(|ip| (ip.is_ipv6(), *ip));
    let mut names: Vec<String> = interfaces.into_iter().map(|interface| interface.name).collect();
    names.sort_unstable();
    names.dedup();
    (of_wanted.first().copied(), names)
}

/// The address that this machine uses towards others; loopback if it has no network.
pub fn own_address() -> IpAddr {
    // connecting a datagram socket sends nothing: it only asks for the route (192.0.2.0/24 is for documentation)
    let route = || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9))?;
        Ok::<_, std::io::Error>(socket.local_addr()?.ip())
    };
    route().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rank_announces_what_it_is_told_to() {
        assert_eq!(announced_address(Some("10.1.2.3")).unwrap(), IpAddr::V4(Ipv4Addr::new(10, 1, 2, 3)));
        assert_eq!(announced_address(Some(" lo ")).unwrap(), IpAddr::V4(Ipv4Addr::LOCALHOST));
        assert_eq!(announced_address(Some("")).unwrap(), own_address());
        assert_eq!(announced_address(None).unwrap(), own_address());
        let why = announced_address(Some("ib77")).unwrap_err().to_string();
        assert!(why.contains(ADDRESS) && why.contains("ib77") && why.contains("lo"), "{why}");
    }

    #[test]
    fn only_this_machine_needs_no_secret() {
        let of = |text: &str, secret| secret_for(text.parse().unwrap(), secret).map_err(|e| e.to_string());
        for near in ["127.0.0.1:80", "127.1.2.3:80", "[::1]:80", "[::ffff:127.0.0.1]:80"] {
            assert_eq!(of(near, None), Ok(Secret::none()), "{near}");
        }
        let secret = Secret::of(b"told to every rank");
        for far in ["10.1.2.3:80", "0.0.0.0:80", "[::]:80", "[fe80::1]:80"] {
            let why = of(far, None).unwrap_err();
            assert!([far, SECRET, SECRET_FILE].iter().all(|word| why.contains(word)), "{why}");
            assert_eq!(of(far, Some(secret)), Ok(secret));
        }
    }

    /// An address and a token can be found out; the secret lies where only the ranks can read.
    #[test]
    fn the_secret_on_a_board_is_proved() {
        let board = crate::MemoryBoard::default();
        let (minute, loopback) = (Duration::from_secs(60), Ipv4Addr::LOCALHOST.into());
        std::thread::scope(|scope| {
            let rank_0 = scope.spawn(|| meet_in_store(&board, "run", (0, 2), loopback, minute, minute).map(|_| ()));
            let (secret, address) = loop {
                match board.get("run/rank-0").unwrap() {
                    Some(entry) => break read_entry(&entry).unwrap(),
                    None => std::thread::sleep(Duration::from_millis(5)),
                }
            };
            board.put_if_absent("run/rank-1", &[1; SEED_BYTES + ADDRESS_BYTES]).unwrap();
            let me = |secret: Secret, token| Me { token, rank: 1, world_size: 2, secret };
            let token = secret.derived("token");
            let soon = Instant::now() + Duration::from_millis(500);
            let refused = connect_rank(0, address, me(Secret::none(), token), soon).unwrap_err().to_string();
            assert!(refused.contains("another secret"), "{refused}");
            connect_rank(0, address, me(secret, token), Instant::now() + minute).unwrap();
            rank_0.join().unwrap().unwrap();
        });
    }

    #[test]
    fn addresses_travel() {
        for text in ["127.0.0.1:80", "[::1]:65535", "10.1.2.3:1"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(read_table(&write_address(address)), [address]);
            let mut entry = vec![7; SEED_BYTES];
            entry.extend(write_address(address));
            assert_eq!(read_entry(&entry), Some((Secret::of(&[7; SEED_BYTES]), address)));
            entry.push(0);
            assert_eq!(read_entry(&entry), None);
        }
        assert_eq!(read_entry(&[0; SEED_BYTES + ADDRESS_BYTES]), None, "no port");
    }
}
