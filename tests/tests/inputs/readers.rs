//! Others read our tables without us: `deltalake` and DuckDB in Python.

use pipeline_tests::{World, python_with, run};

#[tokio::test(flavor = "multi_thread")]
async fn deltalake_and_duckdb_open_the_tables() {
    let Some(python) = python_with(&["deltalake", "duckdb", "pyarrow"]) else { return };
    let world = World::new(24);
    run(world.spec("work", &["score.clip=none", "pretrain.epochs=1", "pretrain.batch=4"])).await.unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/peers/read_tables.py");
    let output =
        std::process::Command::new(python).arg(script).arg(world.path("work/tables")).arg("24").output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}");
    println!("{text}");
}
