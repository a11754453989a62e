//! `kubectl` as the client of a Kubernetes server: address, certificates and accounts are its own business.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;
use workers::WorkerError;

use super::fault::Fault;

/// Names the program, where it is not on the path.
const PROGRAM: &str = "KUBECTL";
/// How long the program may take for all of its requests. `--request-timeout` would say so to itself, but with it kubectl does
/// not take the account of the pod that it runs in, and asks localhost:8080.
const TIME_OUT: Duration = Duration::from_secs(60);
/// What a server may list: 100,000 pods are less.
const MOST_BYTES: u64 = 1 << 30;

/// The program, and the namespace that it works in.
#[derive(Debug, Clone)]
pub struct Kubectl {
    program: PathBuf,
    namespace: String,
}

impl Kubectl {
    /// The program that `KUBECTL` names, or else the one on the path.
    pub fn find(namespace: &str) -> Self {
        Self::at(std::env::var_os(PROGRAM).unwrap_or("kubectl".into()).as_ref(), namespace)
    }

    /// The program at a path.
    pub fn at(program: &Path, namespace: &str) -> Self {
        Self { program: program.to_owned(), namespace: namespace.to_owned() }
    }

    /// Runs it; returns what it printed.
    pub(super) async fn call(&self, arguments: &[&str], input: Option<&str>) -> Result<String, Fault> {
        let run = async {
            let mut child = self.spawn(arguments)?;
            let mut stdin = child.stdin.take();
            let stdout = child.stdout.take();
            let stderr = child.stderr.take();
            let write = async {
                if let (Some(stdin), Some(input)) = (&mut stdin, input) {
                    // whoever stops reading says why on its way out
                    _ = stdin.write_all(input.as_bytes()).await;
                }
                stdin.take();
            };
            let ((), printed, complained) = tokio::join!(write, read(stdout), read(stderr));
            let status = child.wait().await.map_err(|error| self.cannot_run(&error))?;
            let (printed, complained) = (printed?, complained?);
            if status.success() { Ok(printed) } else { Err(self.fault(&complained)) }
        };
        match tokio::time::timeout(TIME_OUT, run).await {
            Ok(result) => result,
            Err(_) => Err(Fault::Other(WorkerError::Transient(format!(
                "kubectl {}: no answer within {} s",
                arguments.first().unwrap_or(&""),
                TIME_OUT.as_secs()
            )))),
        }
    }

    /// Runs it for as long as it prints, and gives on each line.
    pub(super) async fn lines(&self, arguments: &[&str], mut line: impl FnMut(&str)) -> Result<(), Fault> {
        let mut child = self.spawn(arguments)?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let print = async {
            let Some(stdout) = stdout else { return };
            let mut lines = BufReader::new(stdout).split(b'\n');
            while let Ok(Some(text)) = lines.next_segment().await {
                line(&String::from_utf8_lossy(&text));
            }
        };
        let ((), complained) = tokio::join!(print, read(stderr));
        let status = child.wait().await.map_err(|error| self.cannot_run(&error))?;
        if status.success() { Ok(()) } else { Err(self.fault(&complained?)) }
    }

    fn spawn(&self, arguments: &[&str]) -> Result<tokio::process::Child, Fault> {
        let mut command = Command::new(&self.program);
        command.args(arguments).arg("--namespace").arg(&self.namespace);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command.spawn().map_err(|error| self.cannot_run(&error))
    }

    fn cannot_run(&self, error: &std::io::Error) -> Fault {
        let program = self.program.display();
        Fault::Other(match error.kind() {
            std::io::ErrorKind::NotFound => WorkerError::Configuration(format!(
                "{program}: no such program: install kubectl, or name it by {PROGRAM}"
            )),
            _ => WorkerError::of_io(&self.program, error),
        })
    }

    fn fault(&self, complained: &str) -> Fault {
        fault(complained, &self.namespace)
    }
}

async fn read(stream: Option<impl tokio::io::AsyncRead + Unpin>) -> Result<String, Fault> {
    let mut bytes = Vec::new();
    if let Some(stream) = stream {
        let broken = |error| Fault::Other(WorkerError::Transient(format!("kubectl: {error}")));
        stream.take(MOST_BYTES + 1).read_to_end(&mut bytes).await.map_err(broken)?;
    }
    if bytes.len() as u64 > MOST_BYTES {
        return Err(Fault::Other(WorkerError::Broken(format!("kubectl printed more than {MOST_BYTES} bytes"))));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// What a complaint means: the reasons in brackets are the server's, the rest is kubectl's own.
fn fault(complained: &str, namespace: &str) -> Fault {
    // its client's log, such as `E1127 19:39:39.473646   12667 memcache.go:265] …`, comes before what it says
    let is_log = |line: &&str| {
        let (first, rest) = line.split_at_checked(1).unwrap_or_default();
        "EWIF".contains(first) && rest.bytes().take(4).filter(u8::is_ascii_digit).count() == 4
    };
    let lines: Vec<&str> = complained.lines().filter(|line| !line.trim().is_empty() && !is_log(line)).collect();
    let has = |words: &[&str]| words.iter().any(|word| lines.iter().any(|line| line.contains(word)));
    let all = |word: &str| !lines.is_empty() && lines.iter().all(|line| line.contains(word));
    let said = if lines.is_empty() { "it gives no reason".to_owned() } else { lines.join("; ") };
    let said = format!("kubectl, namespace {namespace}: {said}");
    if all("(AlreadyExists)") {
        return Fault::AlreadyExists(said);
    }
    if all("(NotFound)") && !has(&["namespaces \""]) {
        return Fault::NotFound(said);
    }
    // the address of a request says how long it may take: that is no complaint
    let passes = |line: &&str| PASSING.iter().any(|word| line.replace("timeout=", "").contains(word));
    Fault::Other(if has(&["exceeded quota"]) {
        WorkerError::Transient(format!("{said}; wait for room in the namespace's quota, or have it raised"))
    } else if has(&["(Forbidden)", "(Unauthorized)", "must be logged in", "provide credentials"]) {
        WorkerError::Refused(format!("{said}; deploy/kubernetes has the rights that are needed"))
    } else if lines.iter().any(passes) && !has(&["x509:"]) {
        WorkerError::Transient(said)
    } else {
        WorkerError::Configuration(said)
    })
}

/// What is said of servers that do not answer now.
const PASSING: &[&str] = &[
    "was refused",
    "connection refused",
    "Unable to connect",
    "dial tcp",
    "no such host",
    "timeout",
    "Timeout exceeded",
    "timed out",
    "EOF",
    "connection reset",
    "deadline exceeded",
    "currently unable",
    "(ServiceUnavailable)",
    "(InternalError)",
    "(TooManyRequests)",
    "(Timeout)",
    "(ServerTimeout)",
    "(Conflict)",
    // a gateway before it, or itself while it starts: kubectl asks what there is before it asks for what it wants
    "an error on the server",
    // what its store says has no reason in brackets: `etcdserver: leader changed`
    "Error from server: ",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaints_are_known_by_what_can_be_done() {
        let exists =
            "Error from server (AlreadyExists): error when creating \"STDIN\": jobs.batch \"a\" already exists\n";
        assert!(matches!(fault(exists, "n"), Fault::AlreadyExists(_)));
        let absent = "Error from server (NotFound): jobs.batch \"a\" not found\n";
        assert!(matches!(fault(absent, "n"), Fault::NotFound(_)));
        let other = |text: &str| match fault(text, "urban") {
            Fault::Other(error) => (error.exit_code(), error.to_string()),
            known => panic!("{text}: {known:?}"),
        };
        for (text, code) in [
            (
                "E1127 19:39:39.473646   12667 memcache.go:265] \"Unhandled\" err=\"connection refused\"\nThe connection to the \
              server 127.0.0.1:1 was refused - did you specify the right host or port?",
                75,
            ),
            ("Unable to connect to the server: dial tcp: lookup api.example.org: no such host", 75),
            (
                "error: error validating \"STDIN\": error validating data: failed to download openapi: Get \"http://127.0.0.1:1/\
              openapi/v2?timeout=32s\": dial tcp 127.0.0.1:1: connect: connection refused; if you choose to ignore",
                75,
            ),
            ("Error from server (TooManyRequests): the server is busy", 75),
            // what kubectl 1.32 printed before servers that failed in these ways
            ("Error from server: etcdserver: leader changed", 75),
            (
                "Error from server: error when creating \"STDIN\": rpc error: code = Unavailable desc = transport is closing",
                75,
            ),
            (
                "error: unable to recognize \"STDIN\": an error on the server (\"<html>bad gateway</html>\") has prevented the \
                 request from succeeding",
                75,
            ),
            (
                "error: unable to recognize \"STDIN\": client rate limiter Wait returned an error: context deadline exceeded - \
                 error from a previous attempt: EOF",
                75,
            ),
            ("error: unexpected error when reading response body. Please retry. Original error: unexpected EOF", 75),
            (
                "error: error when creating \"STDIN\": Post \"https://127.0.0.1:1/apis/batch/v1/namespaces/n/jobs?timeout=30s\": \
                 net/http: request canceled (Client.Timeout exceeded while awaiting headers)",
                75,
            ),
            (
                "error: error when creating \"STDIN\": Post \"https://127.0.0.1:1/apis/batch/v1/namespaces/n/jobs?timeout=30s\": \
                 dial tcp 127.0.0.1:1: connect: no route to host",
                75,
            ),
            (
                "error: error when creating \"STDIN\": Post \"https://127.0.0.1:1/apis/batch/v1/namespaces/n/jobs?timeout=30s\": \
                 http: server gave HTTP response to HTTPS client",
                65,
            ),
            ("error: unable to recognize \"STDIN\": the server has asked for the client to provide credentials", 65),
            ("Error from server (Forbidden): pods \"a\" is forbidden: exceeded quota: gpus", 75),
            ("Error from server (Forbidden): jobs.batch is forbidden: User \"u\" cannot list resource \"jobs\"", 65),
            ("error: You must be logged in to the server (Unauthorized)", 65),
            ("Unable to connect to the server: x509: certificate signed by unknown authority", 65),
            ("The Job \"a\" is invalid: spec.completions: Required value", 65),
            ("Error from server (NotFound): namespaces \"urban\" not found", 65),
            ("error: context \"x\" does not exist", 65),
            ("", 65),
        ] {
            let (found, said) = other(text);
            assert_eq!(found, code, "{said}");
            assert!(said.contains("urban") && !said.contains("memcache"), "{said}");
        }
        // one of several is there: the others are what counts
        assert_eq!(other(&format!("{exists}Error from server (Forbidden): no")).0, 65);
    }
}
