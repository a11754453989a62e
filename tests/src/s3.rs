//! An S3-compatible server on loopback (`moto`).

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// What the server needs of Python.
pub const MODULES: [&str; 4] = ["moto", "boto3", "flask", "flask_cors"];

pub struct Server {
    child: Child,
    pub endpoint: String,
}

impl Server {
    /// Starts it on a free port, with two buckets, `work` and `skyscript`, and the world in the latter. Requests are
    /// logged beside the world, in `requests.log`.
    pub fn start(python: &str, world: &Path) -> Server {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/peers/s3_server.py");
        let mut child = Command::new(python)
            .args([script.as_ref(), world, &world.with_file_name("requests.log")])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("python starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("its output")).read_line(&mut line).expect("its first line");
        let endpoint = line.trim().to_owned();
        assert!(endpoint.starts_with("http://127.0.0.1:"), "the server said {line:?}");
        Server { child, endpoint }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Options of a store at an endpoint, as a spec has them.
pub fn options(endpoint: &str) -> String {
    format!("{{ endpoint = \"{endpoint}\", region = \"us-east-1\", allow_http = true, path_style = true }}")
}
