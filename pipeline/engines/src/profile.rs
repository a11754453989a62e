//! The profile of a cluster: what its administrators and its machines want of every job.

use std::collections::BTreeMap;

use manifests::spec::MOST_SHARDS;
use serde::{Deserialize, Serialize};

use crate::job::step_like;

/// How long a silent worker keeps its shards, where nobody says otherwise.
pub const LEASE_SECONDS: u64 = 60;
/// A day: whoever waits longer for a dead worker waits for nothing.
pub const MOST_LEASE_SECONDS: u64 = 86_400;

/// Section of the steps that have none of their own.
const DEFAULT: &str = "default";

/// A profile, as `profile.toml` gives it. Everything has a default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Profile {
    /// How long a worker that is not heard of keeps its shards.
    pub lease_seconds: u64,
    /// How jobs are given to Slurm.
    pub slurm: Slurm,
    /// How jobs are given to Kubernetes.
    pub kubernetes: Kubernetes,
    /// How jobs are given to Ray.
    pub ray: Ray,
    /// What each step needs, by its name; `default` stands for those that are not named.
    pub stage: BTreeMap<String, Resources>,
}

impl Default for Profile {
    fn default() -> Self {
        Self {
            lease_seconds: LEASE_SECONDS,
            slurm: Slurm::default(),
            kubernetes: Kubernetes::default(),
            ray: Ray::default(),
            stage: BTreeMap::new(),
        }
    }
}

/// What one step's processes need.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Resources {
    /// Workers of a stage; machines of a training.
    pub workers: u32,
    /// GPUs of each.
    pub gpus: u32,
    /// Processor cores of each.
    pub cpus: u32,
    /// Memory of each, such as `16G`.
    pub memory: String,
    /// Slurm's partition, where it is another than that of the whole run.
    pub partition: String,
}

impl Resources {
    /// What no cluster can give.
    fn problems(&self, step: &str) -> Vec<String> {
        let numbers = [
            ("workers", self.workers, 1, MOST_SHARDS),
            ("gpus", self.gpus, 0, MOST_GPUS),
            ("cpus", self.cpus, 1, MOST_CPUS),
        ];
        let outside = numbers.into_iter().filter(|(_, value, least, most)| !(*least..=*most).contains(value));
        let mut problems: Vec<String> = outside
            .map(|(name, value, least, most)| {
                format!("stage.{step}.{name} = {value}: it must be a whole number between {least} and {most}")
            })
            .collect();
        let is_amount = crate::memory::mebibytes(&self.memory).is_some_and(|mebibytes| mebibytes > 0);
        if !self.memory.is_empty() && !is_amount {
            problems.push(format!("stage.{step}.memory = {:?}: it must be an amount such as 16G", self.memory));
        }
        problems
    }
}

/// More than any machine has.
const MOST_GPUS: u32 = 64;
const MOST_CPUS: u32 = 4096;

impl Default for Resources {
    fn default() -> Self {
        Self { workers: 4, gpus: 0, cpus: 4, memory: "16G".to_owned(), partition: String::new() }
    }
}

/// How jobs are given to Slurm; what is empty is left to the site.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Slurm {
    /// Account that is charged.
    pub account: String,
    /// Partition of all jobs.
    pub partition: String,
    /// Quality of service.
    pub qos: String,
    /// Time limit of a job, such as `24:00:00`.
    pub time: String,
    /// Nodes that are not used, as Slurm writes lists of them.
    pub exclude: String,
    /// Reservation or constraint lines and the like, each as it stands behind `#SBATCH`.
    pub options: Vec<String>,
    /// Lines of shell before the program, such as `module load cuda`.
    pub setup: Vec<String>,
    /// Folder that all nodes see, for scripts and logs.
    pub logs: String,
    /// How the program is called on a node; `urbancross` if it is on the path there.
    pub program: String,
    /// Most workers at a time.
    pub max_workers: u32,
}

impl Default for Slurm {
    fn default() -> Self {
        Self {
            account: String::new(),
            partition: String::new(),
            qos: String::new(),
            time: String::new(),
            exclude: String::new(),
            options: Vec::new(),
            setup: Vec::new(),
            logs: String::new(),
            program: "urbancross".to_owned(),
            max_workers: 256,
        }
    }
}

/// How jobs are given to Kubernetes; what is empty is left out of the objects.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Kubernetes {
    /// Namespace of all objects.
    pub namespace: String,
    /// Image with the program.
    pub image: String,
    /// Secret with which the image is pulled.
    pub pull_secret: String,
    /// Kueue's local queue.
    pub queue: String,
    /// Priority class of the pods.
    pub priority_class: String,
    /// Account of the driver; workers have none.
    pub service_account: String,
    /// Secret whose keys become variables of all pods, such as the store's credentials.
    pub env_secret: String,
    /// Labels of the nodes that are used.
    pub node_selector: BTreeMap<String, String>,
    /// Taints that are tolerated, by key; an empty value tolerates every value.
    pub tolerations: BTreeMap<String, String>,
    /// Size of each pod's scratch folder, such as `50Gi`.
    pub scratch: String,
    /// Runtime class, such as `nvidia`.
    pub runtime_class: String,
    /// Most workers at a time.
    pub max_workers: u32,
}

impl Default for Kubernetes {
    fn default() -> Self {
        Self {
            namespace: "default".to_owned(),
            image: String::new(),
            pull_secret: String::new(),
            queue: String::new(),
            priority_class: String::new(),
            service_account: "urbancross-driver".to_owned(),
            env_secret: String::new(),
            node_selector: BTreeMap::new(),
            tolerations: BTreeMap::new(),
            scratch: "20Gi".to_owned(),
            runtime_class: String::new(),
            max_workers: 256,
        }
    }
}

/// How jobs are given to Ray.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ray {
    /// Address of the head's dashboard, where its Jobs API is; `RAY_ADDRESS` says more, where it is of HTTP.
    pub address: String,
    /// How the program is called on each node; its variable `URBANCROSS` says more.
    pub program: String,
    /// How the Python is called where the driver runs that has Ray.
    pub python: String,
}

impl Default for Ray {
    fn default() -> Self {
        Self {
            address: "http://127.0.0.1:8265".to_owned(),
            program: "urbancross".to_owned(),
            python: "python3".to_owned(),
        }
    }
}

impl Profile {
    /// Reads a profile.
    ///
    /// # Errors
    /// What is wrong with it, by field, with the field that was probably meant.
    pub fn parse(text: &str) -> Result<Self, String> {
        let table: toml::Table = toml::from_str(text).map_err(|error| error.to_string().trim_end().to_owned())?;
        let profile: Profile = manifests::spec::section(&table, "")?;
        let lease = profile.lease_seconds;
        let lease = (!(1..=MOST_LEASE_SECONDS).contains(&lease)).then(|| {
            format!("lease_seconds = {lease}: it must be a whole number of seconds between 1 and {MOST_LEASE_SECONDS}")
        });
        let of_steps = profile.stage.iter().flat_map(|(step, of)| of.problems(step));
        let problems: Vec<String> = lease.into_iter().chain(of_steps).collect();
        if problems.is_empty() { Ok(profile) } else { Err(problems.join("; ")) }
    }

    /// What a training needs: one machine, unless it is named.
    pub fn training(&self, name: &str) -> Resources {
        let resources = self.resources(name);
        if self.section(name) == DEFAULT { Resources { workers: 1, ..resources } } else { resources }
    }

    /// What a driver needs. It may measure, so it may have a GPU; but only one that it is given by name.
    pub fn driver(&self) -> Resources {
        let none = || Resources { gpus: 0, ..self.resources("drive") };
        self.stage.get("drive").cloned().unwrap_or_else(none)
    }

    /// What a step needs.
    pub fn resources(&self, step: &str) -> Resources {
        self.stage.get(self.section(step)).cloned().unwrap_or_default()
    }

    /// The section that says what a step needs; one run of an ablation or of a sweep needs what an adaptation or a training does.
    pub fn section<'s>(&self, step: &'s str) -> &'s str {
        [step, step_like(step)].into_iter().find(|name| self.stage.contains_key(*name)).unwrap_or(DEFAULT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_says_what_each_step_needs() {
        let text = "[slurm]\npartition = \"gpu\"\n[stage.captions]\nworkers = 8\ngpus = 1\n[stage.default]\ncpus = 2\n";
        let profile = Profile::parse(text).unwrap();
        assert_eq!((profile.resources("captions").workers, profile.resources("captions").gpus), (8, 1));
        assert_eq!((profile.resources("images").cpus, profile.resources("images").workers), (2, 4));
        assert_eq!(Profile::parse("").unwrap().resources("images"), Resources::default());
    }

    #[test]
    fn what_is_wrong_is_named() {
        let error = Profile::parse("[slurm]\npartitoin = \"gpu\"\n").unwrap_err();
        assert!(error.contains("slurm.partitoin") && error.contains("partition"), "{error}");
        let error = Profile::parse("[stage.captions]\ngpus = \"one\"\n").unwrap_err();
        assert!(error.contains("stage.captions.gpus"), "{error}");
        let error = Profile::parse("[ray]\nadress = \"http://head:8265\"\n").unwrap_err();
        assert!(error.contains("ray.adress") && error.contains("address"), "{error}");
        assert!(Profile::parse("[slurm").is_err());
        assert!(Profile::parse("[stage.x]\nmemory = \"16Gi\"\n").is_ok());
        // workers take no other lease
        for lease in [0, 604_800] {
            let error = Profile::parse(&format!("lease_seconds = {lease}\n")).unwrap_err();
            assert!(error.contains(&format!("lease_seconds = {lease}: ")) && error.contains("86400"), "{error}");
        }
        assert!(Profile::parse("lease_seconds = 86400\n").is_ok());
        for (wrong, said) in [
            ("workers = 4294967295", "stage.x.workers"),
            ("workers = 0", "between 1 and"),
            ("gpus = 65", "stage.x.gpus"),
            ("memory = \"lots\"", "such as 16G"),
            ("memory = \"-5G\"", "stage.x.memory"),
            ("memory = \"0G\"", "stage.x.memory"),
            ("memory = \"1G\\ntouch y\"", "stage.x.memory"),
        ] {
            let error = Profile::parse(&format!("[stage.x]\n{wrong}\n")).unwrap_err();
            assert!(error.contains(said), "{wrong}: {error}");
        }
    }
}
