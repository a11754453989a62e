//! The sandbox build with both stores behind an S3-compatible server (`moto`).

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use pipeline_tests::{World, python_with, run};

struct Server {
    child: Child,
    endpoint: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts the server on a free port, with two buckets and the world in one of them.
fn serve(python: &str, world: &std::path::Path) -> Server {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/peers/s3_server.py");
    let mut child =
        Command::new(python).arg(script).arg(world).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let endpoint = line.trim().to_owned();
    assert!(endpoint.starts_with("http://127.0.0.1:"), "the server said {line:?}");
    Server { child, endpoint }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_runs_against_an_s3_server() {
    let Some(python) = python_with(&["moto", "boto3", "flask", "flask_cors"]) else { return };
    let world = World::new(24);
    let server = serve(python, &world.path("world"));
    // the only environment of this test program's single test
    unsafe {
        std::env::set_var("AWS_ACCESS_KEY_ID", "testing");
        std::env::set_var("AWS_SECRET_ACCESS_KEY", "testing");
    }
    let options = format!(
        "{{ endpoint = \"{}\", region = \"us-east-1\", allow_http = true, path_style = true }}",
        server.endpoint
    );
    let set = |field: &str, value: &str| format!("{field}={value}");
    let set = [
        set("source.url", "s3://skyscript/SkyScript"),
        set("source.options", &options),
        set("work.url", "s3://work/build"),
        set("work.options", &options),
        set("score.clip", "none"),
        set("pretrain.epochs", "1"),
        set("pretrain.batch", "4"),
    ];
    let spec = world.spec("unused", &set.iter().map(String::as_str).collect::<Vec<_>>());
    let findings = pipeline::doctor::examine(Some(&spec)).await;
    assert!(findings.iter().all(|f| f.good), "{findings:?}");
    let (build, quarantined) = run(spec.clone()).await.unwrap();
    assert!(quarantined.is_empty());
    assert_eq!(pipeline_tests::column(&build, manifests::Artifact::Images, "status").await.len(), 24);
    // a second run finds everything in the bucket
    let (build, _) = run(spec).await.unwrap();
    assert!(pipeline::evaluate::stored(&build).await.unwrap().is_some());
    assert_eq!(pipeline_tests::version(&build, manifests::Artifact::Images).await, 1);
}
