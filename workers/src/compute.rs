//! Threads that compute: one for each device, with a copy of the stage's network of its own.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use manifests::plan::Usage;
use manifests::spec::{DeviceKind, DeviceName};
use manifests::{BuildSpec, Digest};
use stages::stage::{InputRows, MapOutput, ModelUse, Stage, StageContext, StageError, Transform};
use tokio::sync::{mpsc, oneshot};

use crate::error::WorkerError;
use crate::metrics::{self, Metric};

type Job = (InputRows, oneshot::Sender<Result<Computed, StageError>>);

/// What a stage made of rows.
pub(crate) struct Computed {
    pub(crate) output: MapOutput,
    /// What it took its device.
    pub(crate) seconds: f64,
    /// What a server was asked for.
    pub(crate) usage: Usage,
    /// What computed it.
    pub(crate) device: DeviceKind,
}

/// The threads that own a stage's function, its networks and their devices. Whoever is free takes the next rows.
pub(crate) struct ComputeThreads {
    jobs: mpsc::Sender<Job>,
    /// How much of a shard is computed, and may be lost, at a time.
    pub(crate) portions: Portions,
    /// Digest of what decides how fast it is ([`Stage::pace`]).
    pub(crate) settings: Digest,
}

/// How a shard's work is cut.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Portions {
    /// Rows that are handed to the stage at once, at most.
    pub(crate) rows: usize,
    /// Rows after which what was made is put aside, should the worker die.
    pub(crate) kept_after_rows: usize,
    /// Seconds after which it is, too.
    pub(crate) kept_after: Duration,
}

impl Portions {
    /// Answers of a server are paid for: few of them are under way, and few may be lost. Other rows are computed again
    /// for nothing but time.
    fn of(stage: &Stage, spec: &BuildSpec) -> Portions {
        let kept_after = Duration::from_secs(600);
        match stage.model {
            ModelUse::Served => {
                let rows = (2 * spec.caption.server.requests_at_once).min(CHUNK_ROWS);
                Portions { rows, kept_after_rows: 8 * rows, kept_after }
            }
            _ => Portions { rows: CHUNK_ROWS, kept_after_rows: usize::MAX, kept_after },
        }
    }
}

/// Rows handed to a stage at once.
pub(crate) const CHUNK_ROWS: usize = 128;

impl ComputeThreads {
    /// Opens the stage on every device, all at once.
    pub(crate) fn start(
        stage: &Stage,
        stage_context: &StageContext<'_>,
        devices: &[DeviceName],
    ) -> Result<Self, WorkerError> {
        let maps = open_all(stage, stage_context, devices)?;
        let (jobs, queue) = mpsc::channel::<Job>(maps.len().max(1));
        let queue = Arc::new(Mutex::new(queue));
        for (map, device) in maps.into_iter().zip(devices) {
            let queue = queue.clone();
            let kind = if stage.asks_network() { device.kind() } else { DeviceKind::Cpu };
            std::thread::Builder::new()
                .name(format!("{} {device}", stage.name))
                .spawn({
                    let device = device.to_string();
                    move || compute(map, (&device, kind), &queue)
                })
                .map_err(|e| WorkerError::Transient(format!("no thread for {}: {e}", stage.name)))?;
        }
        let settings = stage.pace(stage_context.spec, stage_context.weights);
        Ok(Self { jobs, portions: Portions::of(stage, stage_context.spec), settings })
    }

    pub(crate) async fn map(&self, rows: InputRows) -> Result<Computed, WorkerError> {
        let gone = || WorkerError::Panicked("a compute thread ended; its message is above".into());
        let (reply, answer) = oneshot::channel();
        self.jobs.send((rows, reply)).await.map_err(|_| gone())?;
        Ok(answer.await.map_err(|_| gone())??)
    }
}

/// Loading is mostly reading files: networks of several devices are loaded side by side.
fn open_all(
    stage: &Stage,
    stage_context: &StageContext<'_>,
    devices: &[DeviceName],
) -> Result<Vec<Box<dyn Transform>>, StageError> {
    std::thread::scope(|scope| {
        let openings: Vec<_> = devices
            .iter()
            .map(|&device| scope.spawn(move || (stage.open)(&StageContext { device, ..stage_context.clone() })))
            .collect();
        let panicked = || StageError::Compute { stage: stage.name, why: "it panicked; see above".into() };
        openings.into_iter().map(|opened| opened.join().unwrap_or_else(|_| Err(panicked()))).collect()
    })
}

fn compute(mut transform: Box<dyn Transform>, (name, device): (&str, DeviceKind), queue: &Mutex<mpsc::Receiver<Job>>) {
    let (began, mut busy) = (Instant::now(), 0.0);
    loop {
        let waits = Instant::now();
        // the lock is held while waiting, never while computing: the others wait for it instead of the queue
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).blocking_recv();
        let Some((rows, reply)) = job else { return };
        metrics::add(Metric::WorkerIdle, &[("reason", "input")], waits.elapsed().as_secs_f64());
        let computes = Instant::now();
        let output = transform.transform(&rows);
        let usage = transform.usage();
        let seconds = computes.elapsed().as_secs_f64();
        busy += seconds;
        metrics::set(Metric::DeviceBusy, &[("device", name)], busy / began.elapsed().as_secs_f64());
        // the asker may be gone after a stop: then nobody wants the answer
        let _ = reply.send(output.map(|output| Computed { output, seconds, usage, device }));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::atomic::AtomicBool;
    use std::sync::{Barrier, LazyLock};

    use manifests::Artifact;
    use stages::stage::Outcome;

    use super::*;

    /// Both threads have to be here at once.
    static TOGETHER: LazyLock<Barrier> = LazyLock::new(|| Barrier::new(2));

    struct Meets;

    impl Transform for Meets {
        fn transform(&mut self, rows: &InputRows) -> Result<MapOutput, StageError> {
            TOGETHER.wait();
            let content = arrow::record_batch::RecordBatch::new_empty(stages::table::content_schema(Artifact::Splits));
            Ok(MapOutput { outcomes: vec![Outcome::Good; rows.len()], content })
        }
    }

    fn stage(open: fn(&StageContext<'_>) -> Result<Box<dyn Transform>, StageError>) -> Stage {
        Stage {
            name: "meets",
            version: 1,
            inputs: &[],
            output: Artifact::Splits,
            source: None,
            model: ModelUse::Retrieval,
            told: None,
            recipe_digest: None,
            parameters: |_| serde_json::Value::Null,
            open,
        }
    }

    fn start(stage: &Stage, devices: &[DeviceName]) -> Result<ComputeThreads, WorkerError> {
        let spec = "country = \"x\"\n[source]\nkind = \"skyscript\"\nurl = \"x\"\n";
        let spec = BuildSpec::parse(spec, "test", &[]).unwrap();
        let stage_context = StageContext {
            spec: &spec,
            device: DeviceName::Cpu,
            model_folder: None,
            weights: &Default::default(),
            server: None,
            stop: Arc::new(AtomicBool::new(false)),
        };
        ComputeThreads::start(stage, &stage_context, devices)
    }

    #[tokio::test]
    async fn two_devices_compute_at_the_same_time() {
        let threads = start(&stage(|_| Ok(Box::new(Meets))), &[DeviceName::Cpu, DeviceName::Cpu]).unwrap();
        let rows =
            |n: usize| InputRows { image_ids: vec![String::new(); n], tables: BTreeMap::new(), source: Vec::new() };
        // one thread alone would wait at the barrier for ever
        let (one, two) = tokio::join!(threads.map(rows(1)), threads.map(rows(2)));
        assert_eq!((one.unwrap().output.outcomes.len(), two.unwrap().output.outcomes.len()), (1, 2));
    }

    #[test]
    fn a_device_that_cannot_be_opened_is_named() {
        let opens = stage(|stage_context| stage_context.device("meets").map(|_| Box::new(Meets) as Box<dyn Transform>));
        let error = start(&opens, &[DeviceName::Cpu, DeviceName::Cuda(77)]).err().unwrap().to_string();
        assert!(error.contains("model.device = cuda:77"), "{error}");
    }
}
