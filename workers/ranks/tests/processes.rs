//! Ranks as real processes: this test binary starts itself again for each rank.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use candle_core::{Device, Tensor};
use ranks::{Backend, RankInfo, open};

/// Set for a process that is a rank and not the test.
const ROLE: &str = "RANKS_TEST_TIME_OUT_MS";

/// The rank: adds up for ever, says after how many steps, and why it ended.
#[test]
fn rank_process() {
    let Some(time_out) = std::env::var(ROLE).ok().and_then(|ms| ms.parse().ok()) else { return };
    let place = RankInfo::from_environment(&|name| std::env::var(name).ok()).unwrap().unwrap();
    let mut rank = match open(&place, Backend::Auto, &Device::Cpu, Duration::from_millis(time_out)) {
        Ok(rank) => rank,
        Err(e) => return eprintln!("ended: {e}"),
    };
    // 8 MiB, so that a signal meets the ranks within an operation
    let mine = Tensor::ones(2 << 20, candle_core::DType::F32, &Device::Cpu).unwrap();
    for step in 0.. {
        rank.at_step(step);
        match rank.all_reduce_sum(&mine) {
            Ok(_) => eprintln!("step {step}"),
            Err(e) => return eprintln!("ended: {e}"),
        }
    }
}

struct Rank {
    process: Child,
    said: BufReader<std::process::ChildStderr>,
}

impl Rank {
    fn start(rank: usize, world_size: usize, port: u16, time_out: Duration) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["rank_process", "--exact", "--nocapture", "--test-threads=1"])
            .env(ROLE, time_out.as_millis().to_string())
            .envs([("RANK", rank), ("WORLD_SIZE", world_size), ("LOCAL_RANK", rank)].map(|(n, v)| (n, v.to_string())))
            .envs([("MASTER_ADDR", "127.0.0.1".to_owned()), ("MASTER_PORT", port.to_string())])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(process.stderr.take().unwrap());
        Self { process, said }
    }

    /// Reads on to a line that begins so; empty if the process ends before.
    fn says(&mut self, begin: &str) -> String {
        let mut line = String::new();
        while self.said.read_line(&mut line).unwrap() > 0 && !line.starts_with(begin) {
            line.clear();
        }
        line
    }

    fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.process.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }
}

impl Drop for Rank {
    fn drop(&mut self) {
        let _ended = self.process.kill();
        let _reaped = self.process.wait();
    }
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Starts three ranks, does something to rank 1 while they add, and returns what the others say, within `most`.
fn what_the_others_say(signal: &str, time_out: Duration, most: Duration) -> [String; 2] {
    let port = free_port();
    let mut ranks = [0, 1, 2].map(|rank| Rank::start(rank, 3, port, time_out));
    for rank in &mut ranks {
        assert!(rank.says("step 2").starts_with("step 2"), "the ranks work");
    }
    let begin = Instant::now();
    ranks[1].signal(signal);
    let said = [ranks[0].says("ended"), ranks[2].says("ended")];
    assert!(begin.elapsed() < most, "the others end within {most:?}: {:?}, {said:?}", begin.elapsed());
    said
}

#[test]
fn a_killed_rank_ends_the_others_at_once() {
    // the time-out plays no part: far longer than the others may take on a busy machine
    for said in what_the_others_say("-KILL", Duration::from_secs(60), Duration::from_secs(10)) {
        assert!(said.contains("all_reduce_sum of step ") && said.contains(": rank 1 is gone"), "{said:?}");
    }
}

#[test]
fn a_stopped_rank_ends_the_others_after_the_time_out() {
    // beside the time-out: a step under way, words to say, a busy machine
    let time_out = Duration::from_secs(2);
    for said in what_the_others_say("-STOP", time_out, time_out + Duration::from_secs(5)) {
        assert!(said.contains("all_reduce_sum of step ") && said.contains(": rank 1 "), "{said:?}");
        assert!(said.contains("did not come within 2s") || said.contains("did not go on within 2s"), "{said:?}");
    }
}

#[test]
fn ranks_that_do_not_come_are_named() {
    let port = free_port();
    let mut ranks = [0, 2].map(|rank| Rank::start(rank, 4, port, Duration::from_secs(1)));
    let said = ranks[0].says("ended");
    assert!(said.contains("ranks 1 and 3 did not come in time"), "{said:?}");
    let said = ranks[1].says("ended");
    assert!(said.contains("rank 0 "), "{said:?}");
}
