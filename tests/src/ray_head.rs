//! A stand-in for the head of a Ray cluster: its Jobs API on loopback, with drivers that are processes of this machine and a module
//! that stands in for Ray. It answers as Ray 2.60 did.

use std::collections::BTreeMap;
use std::io::{BufReader, Cursor, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::http_request::Request;

/// The head, while it is kept.
pub struct RayHead {
    pub address: String,
    state: Arc<Mutex<State>>,
}

struct State {
    folder: PathBuf,
    /// Whether jobs are run; otherwise they stay as a test says.
    runs: bool,
    packages: BTreeMap<String, Vec<u8>>,
    jobs: BTreeMap<String, Job>,
    /// What is answered in place of everything else, by the method and path that it is asked by.
    says: Option<Says>,
    asked: Vec<Asked>,
}

type Says = Box<dyn FnMut(&Asked) -> Option<(u16, String)> + Send>;

/// A request.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Such as `POST /api/jobs/`.
    pub what: String,
    pub authorization: Option<String>,
    pub body: Vec<u8>,
}

struct Job {
    submission: Value,
    status: &'static str,
    code: Option<i32>,
    error_type: Option<&'static str>,
    process: Option<Child>,
    is_stopped: bool,
}

impl RayHead {
    /// One that runs jobs, with a folder of its own and the program at this path.
    pub fn begin(folder: &Path) -> RayHead {
        Self::with(folder, true)
    }

    /// One whose jobs begin and stay as they are told.
    pub fn begin_still(folder: &Path) -> RayHead {
        Self::with(folder, false)
    }

    fn with(folder: &Path, runs: bool) -> RayHead {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let state = State {
            folder: folder.to_owned(),
            runs,
            packages: BTreeMap::new(),
            jobs: BTreeMap::new(),
            says: None,
            asked: Vec::new(),
        };
        let state = Arc::new(Mutex::new(state));
        let of_thread = Arc::downgrade(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // nobody listens there any more once its test has let it go: this connection is cut, and the next ones are refused
                let Some(state) = of_thread.upgrade() else { break };
                std::thread::spawn(move || _ = serve(stream, &state));
            }
        });
        RayHead { address, state }
    }

    /// Answers so from now on, where it is something.
    pub fn says(&self, says: impl FnMut(&Asked) -> Option<(u16, String)> + Send + 'static) {
        self.state.lock().unwrap().says = Some(Box::new(says));
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.state.lock().unwrap().asked.clone()
    }

    /// Names of all jobs with their states.
    pub fn jobs(&self) -> Vec<(String, &'static str)> {
        let mut state = self.state.lock().unwrap();
        state.look();
        state.jobs.iter().map(|(name, job)| (name.clone(), job.status)).collect()
    }

    /// Ends a job so.
    pub fn end(&self, name: &str, status: &'static str, code: Option<i32>, error_type: Option<&'static str>) {
        let mut state = self.state.lock().unwrap();
        let job = state.jobs.get_mut(name).unwrap();
        (job.status, job.code, job.error_type) = (status, code, error_type);
    }

    /// What the driver of a job has said.
    pub fn log(&self, name: &str) -> String {
        self.state.lock().unwrap().log(name)
    }
}

impl Drop for RayHead {
    fn drop(&mut self) {
        for job in self.state.lock().unwrap().jobs.values_mut() {
            job.process.iter_mut().for_each(|process| _ = process.kill());
        }
    }
}

impl State {
    fn log(&self, name: &str) -> String {
        let bytes = std::fs::read(self.folder.join(format!("{name}.log"))).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Notices which drivers have ended.
    fn look(&mut self) {
        for job in self.jobs.values_mut() {
            let Some(process) = &mut job.process else { continue };
            let Some(status) = process.try_wait().unwrap() else { continue };
            job.process = None;
            job.code = status.code();
            job.status = match status.code() {
                _ if job.is_stopped => "STOPPED",
                Some(0) => "SUCCEEDED",
                _ => "FAILED",
            };
        }
    }

    fn start(&self, name: &str, submission: &Value) -> Option<Child> {
        let package = submission["runtime_env"]["working_dir"].as_str().unwrap().strip_prefix("gcs://").unwrap();
        let folder = self.folder.join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let bytes = self.packages.get(package)?.clone();
        zip::ZipArchive::new(Cursor::new(bytes)).unwrap().extract(&folder).unwrap();
        let log = std::fs::File::create(self.folder.join(format!("{name}.log"))).unwrap();
        let stand_in = Path::new(env!("CARGO_MANIFEST_DIR")).join("../pipeline/engines/tests/ray_stand_in");
        let mut command = Command::new("sh");
        command.arg("-c").arg(submission["entrypoint"].as_str().unwrap()).current_dir(&folder);
        command.env("PYTHONPATH", stand_in).env("PYTHONDONTWRITEBYTECODE", "1").env("RAY_ADDRESS", "127.0.0.1:1");
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).process_group(0);
        Some(command.spawn().unwrap())
    }

    fn answer(&mut self, asked: &Asked) -> (u16, String) {
        if let Some(said) = self.says.as_mut().and_then(|says| says(asked)) {
            return said;
        }
        self.look();
        let (method, path) = asked.what.split_once(' ').unwrap();
        let path = path.split('?').next().unwrap();
        let parts: Vec<&str> = path.trim_matches('/').split('/').skip(1).collect();
        let absent = |name: &str| (404, format!("Job {name} does not exist"));
        match (method, &parts[..]) {
            ("GET", ["version"]) => (200, json!({ "version": "4", "ray_version": "2.60.0" }).to_string()),
            ("GET", ["v0", "nodes"]) => {
                let has = json!({ "CPU": 4.0, "memory": 8e9, "node:127.0.0.1": 1.0 });
                let node = json!({ "state": "ALIVE", "resources_total": has });
                (200, json!({ "result": true, "data": { "result": { "result": [node] } } }).to_string())
            }
            ("PUT", ["packages", "gcs", name]) => {
                self.packages.insert((*name).to_owned(), asked.body.clone());
                (200, String::new())
            }
            ("POST", ["jobs"]) => {
                let Ok(submission) = serde_json::from_slice::<Value>(&asked.body) else {
                    return (500, "trouble".into());
                };
                let name = submission["submission_id"].as_str().unwrap().to_owned();
                if self.jobs.contains_key(&name) {
                    let why =
                        format!("Job with submission_id {name} already exists. Please use a different submission_id.");
                    return (500, format!("Traceback (most recent call last):\n  File \"a\"\nValueError: {why}\n.\n"));
                }
                let process = if self.runs { self.start(&name, &submission) } else { None };
                let status = if self.runs && process.is_none() { "FAILED" } else { "RUNNING" };
                let error_type = (status == "FAILED").then_some("RUNTIME_ENV_SETUP_FAILURE");
                let job = Job { submission, status, code: None, error_type, process, is_stopped: false };
                self.jobs.insert(name.clone(), job);
                (200, json!({ "job_id": name, "submission_id": name }).to_string())
            }
            ("GET", ["jobs", name]) => match self.jobs.get(*name) {
                Some(job) => {
                    let message = match (job.status, job.code) {
                        ("FAILED", Some(code)) => {
                            let log = self.log(name);
                            format!("Job entrypoint command failed with exit code {code}, last available logs:\n{log}")
                        }
                        ("FAILED", None) => "runtime_env setup failed: no package".to_owned(),
                        _ => "Job is fine.".to_owned(),
                    };
                    let told = json!({
                        "submission_id": name, "status": job.status, "message": message, "driver_exit_code": job.code,
                        "error_type": job.error_type, "entrypoint": job.submission["entrypoint"],
                    });
                    (200, told.to_string())
                }
                None => absent(name),
            },
            ("GET", ["jobs", name, "logs"]) if self.jobs.contains_key(*name) => {
                (200, json!({ "logs": self.log(name) }).to_string())
            }
            ("POST", ["jobs", name, "stop"]) => match self.jobs.get_mut(*name) {
                Some(job) => {
                    job.is_stopped = true;
                    if let Some(process) = &job.process {
                        // as Ray does: all processes of the job are told
                        let all = format!("-TERM -- -{}", process.id());
                        _ = Command::new("sh").arg("-c").arg(format!("kill {all}")).status();
                    } else if job.status == "RUNNING" {
                        job.status = "STOPPED";
                    }
                    (200, json!({ "stopped": true }).to_string())
                }
                None => absent(name),
            },
            (_, ["jobs", name, ..]) => absent(name),
            _ => (404, "404: Not Found".to_owned()),
        }
    }
}

fn serve(mut stream: TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let Some(Request { line: request, authorization, body }) = Request::read(&mut reader)? else { return Ok(()) };
        let what = request.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
        let asked = Asked { what, authorization, body };
        let (status, said) = {
            let mut state = state.lock().unwrap();
            state.asked.push(asked.clone());
            state.answer(&asked)
        };
        write!(stream, "HTTP/1.1 {status} Said\r\ncontent-length: {}\r\n\r\n{said}", said.len())?;
    }
}
