//! Which rank of how many a process is, and where rank 0 listens: read from what launchers set.

use crate::error::{RanksError, Result};
use crate::hello::Token;
use crate::hosts::first_host;
use crate::secret::Secret;

/// Most ranks of a world.
pub const MAX_WORLD_SIZE: usize = 4096;

/// A process's place in its world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RankInfo {
    /// From 0.
    pub rank: usize,
    /// Number of ranks.
    pub world_size: usize,
    /// Rank among those of this machine, where the launcher says: the number of its GPU.
    pub local_rank: Option<usize>,
    /// How the ranks of this machine come by its cores.
    pub sharing: Sharing,
    /// Where rank 0 listens; not needed by a world of one.
    pub master: Option<(String, u16)>,
    /// The same for all ranks of this world, and another for other worlds.
    pub token: Token,
    /// What the ranks prove to each other; none is needed on one machine.
    pub secret: Option<Secret>,
}

/// How ranks of one machine come by its cores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sharing {
    /// Ranks on this machine.
    pub ranks: usize,
    /// They share where they see as many cores as these; with fewer, each has been given its own.
    pub of_cores: usize,
}

impl Sharing {
    /// Slurm binds tasks to cores, or does not, as its administrators have decided.
    fn of_slurm(variable: &dyn Fn(&str) -> Option<String>) -> Self {
        let count = |name: &str| variable(name).and_then(|text| text.parse::<usize>().ok());
        let tasks = variable("SLURM_STEP_TASKS_PER_NODE").or_else(|| variable("SLURM_TASKS_PER_NODE"));
        let node = count("SLURM_NODEID").unwrap_or(0);
        let ranks = tasks.and_then(|tasks| tasks_of_node(&tasks, node)).unwrap_or(1);
        Self { ranks, of_cores: count("SLURM_CPUS_ON_NODE").unwrap_or(usize::MAX) }
    }

    /// Threads for a rank that sees `cores`.
    pub fn threads(self, cores: usize) -> usize {
        if cores >= self.of_cores { (cores / self.ranks.max(1)).max(1) } else { cores }
    }
}

/// Tasks of one node, of Slurm's short form for all: `4(x2),3` are four on the first two nodes and three on the next.
fn tasks_of_node(list: &str, node: usize) -> Option<usize> {
    let mut before = 0;
    for part in list.split(',') {
        let (tasks, nodes) = match part.split_once("(x") {
            Some((tasks, nodes)) => (tasks, nodes.strip_suffix(')')?.parse().ok()?),
            None => (part, 1),
        };
        before += nodes;
        if node < before {
            return tasks.trim().parse().ok();
        }
    }
    None
}

impl RankInfo {
    /// The place that torchrun's variables (`RANK`, `WORLD_SIZE`, `LOCAL_RANK`, `MASTER_ADDR`, `MASTER_PORT`) say, or
    /// else Slurm's; `None`: no launcher has started this process.
    ///
    /// # Errors
    /// A variable is missing beside its partner, cannot be read, or contradicts another: the message says which.
    pub fn from_environment(variable: &dyn Fn(&str) -> Option<String>) -> Result<Option<Self>> {
        Self::read(variable, true)
    }

    /// As [`from_environment`](Self::from_environment), for ranks that meet on a [`RendezvousStore`](crate::RendezvousStore) and need no
    /// address of rank 0.
    ///
    /// # Errors
    /// Likewise.
    pub fn without_master(variable: &dyn Fn(&str) -> Option<String>) -> Result<Option<Self>> {
        Self::read(variable, false)
    }

    fn read(variable: &dyn Fn(&str) -> Option<String>, needs_master: bool) -> Result<Option<Self>> {
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let place = match (variable("RANK"), variable("WORLD_SIZE")) {
            (Some(rank), Some(world_size)) => Self::from_torchrun(&variable, &rank, &world_size, needs_master)?,
            (Some(_), None) => return Err(partner("RANK", "WORLD_SIZE", "the number of ranks")),
            (None, Some(_)) => return Err(partner("WORLD_SIZE", "RANK", "this process's number, from 0")),
            (None, None) => match Self::from_slurm(&variable, needs_master)? {
                Some(place) => place,
                None => return Ok(None),
            },
        };
        place.check().map(Some)
    }

    fn from_torchrun(
        variable: &dyn Fn(&str) -> Option<String>,
        rank: &str,
        world_size: &str,
        needs_master: bool,
    ) -> Result<Self> {
        let world_size = number("WORLD_SIZE", world_size)?;
        let master = match (variable("MASTER_ADDR"), variable("MASTER_PORT")) {
            (Some(host), Some(port)) => Some((host, read_port(&port)?)),
            _ if world_size == 1 || !needs_master => None,
            (None, _) => return Err(partner("WORLD_SIZE", "MASTER_ADDR", "the host of rank 0")),
            (_, None) => return Err(partner("MASTER_ADDR", "MASTER_PORT", "a free port there")),
        };
        let attempt = [variable("TORCHELASTIC_RUN_ID"), variable("TORCHELASTIC_RESTART_COUNT")];
        Ok(Self {
            rank: number("RANK", rank)?,
            world_size,
            local_rank: variable("LOCAL_RANK").map(|local| number("LOCAL_RANK", &local)).transpose()?,
            sharing: Sharing {
                ranks: variable("LOCAL_WORLD_SIZE").map_or(Ok(1), |ranks| number("LOCAL_WORLD_SIZE", &ranks))?,
                of_cores: 0,
            },
            token: token_of(&format!("{master:?} {world_size} {attempt:?}")),
            master,
            secret: Secret::from_environment(variable)?,
        })
    }

    fn from_slurm(variable: &dyn Fn(&str) -> Option<String>, needs_master: bool) -> Result<Option<Self>> {
        let Some(rank) = variable("SLURM_PROCID") else { return Ok(None) };
        let Some(world_size) = variable("SLURM_STEP_NUM_TASKS").or_else(|| variable("SLURM_NTASKS")) else {
            return Err(partner("SLURM_PROCID", "SLURM_NTASKS", "the number of tasks; start with srun --ntasks"));
        };
        let world_size = number("SLURM_NTASKS", &world_size)?;
        let job = variable("SLURM_JOB_ID").or_else(|| variable("SLURM_JOBID"));
        let attempt = [job.clone(), variable("SLURM_STEP_ID"), variable("SLURM_RESTART_COUNT")];
        let master = if world_size == 1 || !needs_master {
            None
        } else {
            let nodes = || variable("SLURM_STEP_NODELIST").or_else(|| variable("SLURM_JOB_NODELIST"));
            let host = match (variable("MASTER_ADDR"), nodes()) {
                (Some(host), _) => host,
                (None, Some(nodes)) => first_host(&nodes)?,
                (None, None) => return Err(partner("SLURM_PROCID", "SLURM_JOB_NODELIST", "the nodes of the job")),
            };
            let port = match (variable("MASTER_PORT"), &job) {
                (Some(port), _) => read_port(&port)?,
                (None, Some(_)) => port_of(&format!("{attempt:?}")),
                (None, None) => return Err(partner("SLURM_PROCID", "SLURM_JOB_ID", "which the port is made of")),
            };
            Some((host, port))
        };
        Ok(Some(Self {
            rank: number("SLURM_PROCID", &rank)?,
            world_size,
            local_rank: variable("SLURM_LOCALID").map(|local| number("SLURM_LOCALID", &local)).transpose()?,
            sharing: Sharing::of_slurm(variable),
            master,
            token: token_of(&format!("{world_size} {attempt:?}")),
            secret: Secret::from_environment(variable)?,
        }))
    }

    /// The place, if its numbers fit together.
    pub(crate) fn check(self) -> Result<Self> {
        let Self { rank, world_size, .. } = self;
        let local_rank = self.local_rank.unwrap_or(0);
        let problem = if world_size == 0 || world_size > MAX_WORLD_SIZE {
            format!("a world of {world_size} ranks; 1 to {MAX_WORLD_SIZE} are possible")
        } else if rank >= world_size {
            format!("rank {rank} of {world_size}: ranks count from 0, so the last one is {}", world_size - 1)
        } else if local_rank >= world_size {
            format!("local rank {local_rank} of a world of {world_size}: it counts the ranks of this machine, from 0")
        } else {
            return Ok(self);
        };
        Err(RanksError::Configuration(problem))
    }
}

fn partner(there: &str, missing: &str, what: &str) -> RanksError {
    RanksError::Configuration(format!("{there} is set but {missing} is not: set it to {what}, or unset {there}"))
}

fn number(name: &str, value: &str) -> Result<usize> {
    value.trim().parse().map_err(|_| RanksError::Configuration(format!("{name}={value:?} is no whole number")))
}

fn read_port(value: &str) -> Result<u16> {
    let port = value.trim().parse().ok().filter(|port| *port > 0);
    port.ok_or_else(|| RanksError::Configuration(format!("MASTER_PORT={value:?} is no port (1 to 65535)")))
}

/// A port that ranks of one job agree on, below those that systems hand out by themselves (32768 and more).
fn port_of(text: &str) -> u16 {
    const FIRST: u16 = 15_000;
    const COUNT: u128 = 15_000;
    FIRST + (fnv(text) % COUNT) as u16
}

fn token_of(text: &str) -> Token {
    fnv(text).to_le_bytes()
}

/// FNV-1a of 128 bits: the same in every process, and nothing depends on it being hard to guess.
fn fnv(text: &str) -> u128 {
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0100_0000_0000_0000_0000_013b;
    text.bytes().fold(OFFSET, |hash, byte| (hash ^ u128::from(byte)).wrapping_mul(PRIME))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(variables: &[(&str, &str)]) -> Result<Option<RankInfo>, String> {
        let get = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
        RankInfo::from_environment(&get).map_err(|e| e.to_string())
    }

    const TORCHRUN: [(&str, &str); 5] =
        [("RANK", "3"), ("WORLD_SIZE", "4"), ("LOCAL_RANK", "1"), ("MASTER_ADDR", "node7"), ("MASTER_PORT", "29500")];
    const SLURM: [(&str, &str); 5] = [
        ("SLURM_PROCID", "5"),
        ("SLURM_NTASKS", "8"),
        ("SLURM_LOCALID", "1"),
        ("SLURM_JOB_NODELIST", "gpu[003-007,012],login1"),
        ("SLURM_JOB_ID", "4711"),
    ];

    fn with(
        base: &[(&'static str, &'static str)],
        name: &str,
        value: &'static str,
    ) -> Vec<(&'static str, &'static str)> {
        let mut variables = base.to_vec();
        variables.iter_mut().filter(|(n, _)| *n == name).for_each(|(_, v)| *v = value);
        variables
    }

    #[test]
    fn cores_are_divided_where_the_launcher_did_not() {
        let threads = |variables: &[(&str, &str)], cores| place(variables).unwrap().unwrap().sharing.threads(cores);
        assert_eq!(threads(&TORCHRUN, 16), 16, "nobody says that others are here");
        assert_eq!(threads(&[&TORCHRUN[..], &[("LOCAL_WORLD_SIZE", "4")]].concat(), 18), 4);
        assert_eq!(threads(&[&TORCHRUN[..], &[("LOCAL_WORLD_SIZE", "4")]].concat(), 2), 1);
        assert_eq!(threads(&SLURM, 16), 16);
        let node = [("SLURM_TASKS_PER_NODE", "4(x2),2"), ("SLURM_NODEID", "1"), ("SLURM_CPUS_ON_NODE", "64")];
        assert_eq!(threads(&[&SLURM[..], &node].concat(), 64), 16, "all see all");
        assert_eq!(threads(&[&SLURM[..], &node].concat(), 16), 16, "each is bound to its own");
        assert_eq!([0, 2, 3].map(|n| tasks_of_node("4(x2),2", n)), [Some(4), Some(2), None]);
        assert_eq!(["", "x", "4(x", "4(xy)"].map(|text| tasks_of_node(text, 0)), [None; 4]);
    }

    #[test]
    fn nobody_launched_this() {
        assert_eq!(place(&[]), Ok(None));
        assert_eq!(place(&[("SLURM_JOB_ID", "1"), ("SLURM_NTASKS", "4"), ("RANK", "")]), Ok(None));
    }

    #[test]
    fn torchrun_says_where() {
        let there = place(&TORCHRUN).unwrap().unwrap();
        assert_eq!((there.rank, there.world_size, there.local_rank), (3, 4, Some(1)));
        assert_eq!(there.master, Some(("node7".to_owned(), 29500)));
        let other = place(&with(&TORCHRUN, "RANK", "0")).unwrap().unwrap();
        assert_eq!(there.token, other.token);
        let elsewhere = place(&with(&TORCHRUN, "MASTER_PORT", "29501")).unwrap().unwrap();
        assert_ne!(there.token, elsewhere.token);
        let alone = place(&[("RANK", "0"), ("WORLD_SIZE", "1")]).unwrap().unwrap();
        assert_eq!((alone.world_size, alone.master), (1, None));
    }

    #[test]
    fn slurm_says_where() {
        let there = place(&SLURM).unwrap().unwrap();
        assert_eq!((there.rank, there.world_size, there.local_rank), (5, 8, Some(1)));
        let (host, port) = there.master.clone().unwrap();
        assert_eq!(host, "gpu003");
        assert!((15_000..30_000).contains(&port));
        let other_job = place(&with(&SLURM, "SLURM_JOB_ID", "4712")).unwrap().unwrap();
        assert_ne!(other_job.token, there.token);
        assert_ne!(other_job.master, there.master);
        let mut overridden = SLURM.to_vec();
        overridden.extend([("MASTER_ADDR", "10.0.0.1"), ("MASTER_PORT", "1234")]);
        assert_eq!(place(&overridden).unwrap().unwrap().master, Some(("10.0.0.1".to_owned(), 1234)));
        // torchrun inside of a Slurm job
        let mut both = SLURM.to_vec();
        both.extend(TORCHRUN);
        assert_eq!(place(&both).unwrap().unwrap().rank, 3);
    }

    #[test]
    fn ranks_take_the_secret_that_they_are_given() {
        let secret = ("URBANCROSS_SECRET", "0123456789abcdef");
        for launcher in [&TORCHRUN, &SLURM] {
            assert_eq!(place(launcher).unwrap().unwrap().secret, None);
            let given = place(&[&launcher[..], &[secret]].concat()).unwrap().unwrap();
            assert!(given.secret.is_some() && !format!("{given:?}").contains(secret.1));
        }
    }

    #[test]
    fn contradictions_teach() {
        let says = |variables: &[(&'static str, &'static str)], words: &str| {
            let problem = place(variables).unwrap_err();
            assert!(problem.contains(words), "{problem:?} says {words:?}");
        };
        says(&TORCHRUN[..1], "RANK is set but WORLD_SIZE is not");
        says(&TORCHRUN[1..2], "WORLD_SIZE is set but RANK is not");
        says(&TORCHRUN[..3], "MASTER_ADDR is not");
        says(&TORCHRUN[..4], "MASTER_PORT is not");
        says(&with(&TORCHRUN, "RANK", "4"), "the last one is 3");
        says(&with(&TORCHRUN, "RANK", "-1"), "RANK=\"-1\"");
        says(&with(&TORCHRUN, "WORLD_SIZE", "0"), "0 ranks");
        says(&with(&TORCHRUN, "WORLD_SIZE", "99999999"), "4096");
        says(&with(&TORCHRUN, "LOCAL_RANK", "9"), "local rank 9");
        says(&with(&TORCHRUN, "MASTER_PORT", "0"), "MASTER_PORT=\"0\"");
        says(&with(&TORCHRUN, "MASTER_PORT", "70000"), "MASTER_PORT");
        says(&[&TORCHRUN[..], &[("URBANCROSS_SECRET", "short")]].concat(), "URBANCROSS_SECRET holds 5 bytes");
        says(&SLURM[..1], "SLURM_NTASKS is not");
        says(&SLURM[..3], "SLURM_JOB_NODELIST is not");
        says(&SLURM[..4], "SLURM_JOB_ID is not");
        says(&with(&SLURM, "SLURM_JOB_NODELIST", "gpu[1-"), "gpu[1-");
    }
}
