//! A disk that fills up: a clear error, nothing broken, and the same command ends well once there is room.

use std::process::{Command, Output};

use pipeline_tests::{World, column, open, run, urbancross};

/// Runs a build whose work store is a file system of `size`, then copies the store to `out`. `None`: this system lets
/// nobody make one.
fn run_on_small_disk(
    spec: &std::path::Path,
    disk: &std::path::Path,
    size: &str,
    out: &std::path::Path,
) -> Option<String> {
    let script = format!(
        "mount -t tmpfs -o size={size} tmpfs {disk} || exit 99; {program} run {spec}; code=$?; cp -a {disk}/. {out}; \
         exit $code",
        disk = disk.display(),
        program = urbancross().display(),
        spec = spec.display(),
        out = out.display()
    );
    let (output, said) = with_mounts(&script)?;
    assert_eq!(output.status.code(), Some(75), "{said}");
    Some(said)
}

/// Runs a script that makes file systems which only it sees, and ends with 99 where it cannot; what it came to, and what it
/// said on standard error. `None`: this system lets nobody make one.
fn with_mounts(script: &str) -> Option<(Output, String)> {
    let output = Command::new("unshare").args(["--map-root-user", "--mount", "sh", "-c", script]).output();
    let output = output.map_err(|error| pipeline_tests::skipped(format!("no unshare: {error}"))).ok()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.code() == Some(99) || said.starts_with("unshare:") {
        pipeline_tests::skipped(format!("no private mounts here: {said}"));
        return None;
    }
    Some((output, said))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_on_a_full_disk_says_so_and_goes_on_with_room() {
    let world = World::new(60);
    let set = ["score.clip=none", "pretrain.epochs=1", "pretrain.batch=4"];
    let (whole, _) = run(world.spec("whole", &set)).await.unwrap();
    // full among the tables, and full among the checkpoints
    for (name, size) in [("early", "200k"), ("late", "5m")] {
        let (disk, kept) = (world.path(&format!("{name}-disk")), world.path(name));
        std::fs::create_dir_all(&disk).unwrap();
        std::fs::create_dir_all(&kept).unwrap();
        let spec = world.spec(&format!("{name}-disk"), &set);
        let path = world.path(&format!("{name}.toml"));
        std::fs::write(&path, spec.to_toml()).unwrap();
        let Some(message) = run_on_small_disk(&path, &disk, size, &kept) else { return };
        assert!(message.contains("no space left") && message.contains("same command"), "{name}: {message}");
        let (build, quarantined) = run(world.spec(name, &set)).await.unwrap();
        assert!(quarantined.is_empty(), "{quarantined:?}");
        for (artifact, digest) in
            [(manifests::Artifact::Images, "bytes_digest"), (manifests::Artifact::SegmentScores, "scores_digest")]
        {
            assert_eq!(column(&build, artifact, digest).await, column(&whole, artifact, digest).await, "{name}");
        }
        assert!(open(build.spec.clone()).await.is_ok());
    }
}

/// A full disk says nothing of the shards that met it: no worker's attempt counts against one. Only the parts of one table
/// have too little room here, so that workers begin, and could write any marker.
#[tokio::test(flavor = "multi_thread")]
async fn workers_on_a_full_disk_close_no_shard() {
    let world = World::new(60);
    let set = ["score.clip=none", "work.shards=2"];
    let (store, path) = (world.path("store"), world.path("spec.toml"));
    let parts = store.join(manifests::paths::table(manifests::Artifact::Images)).join("country=finland");
    std::fs::create_dir_all(&parts).unwrap();
    std::fs::write(&path, world.spec("store", &set).to_toml()).unwrap();
    let script = format!(
        "mount -t tmpfs -o size=16k tmpfs {parts} || exit 99; timeout -s TERM 8 {program} drive {spec} --workers 2 --until \
         images",
        parts = parts.display(),
        program = urbancross().display(),
        spec = path.display()
    );
    let Some((_, said)) = with_mounts(&script) else { return };
    assert!(said.contains("no space left"), "{said}");
    let names: Vec<String> = std::fs::read_dir(store.join("markers/finland/images"))
        .into_iter()
        .flatten()
        .flatten()
        .map(|file| file.file_name().to_string_lossy().into_owned())
        .collect();
    assert!(names.iter().any(|name| name.contains(".claim.")), "no worker began: {names:?} {said}");
    assert!(!names.iter().any(|name| name.contains(".transient.") || name.contains(".failed.")), "{names:?}");
    // with room, the same build is made
    let (_, quarantined) = run(world.spec("store", &[&set[..], &["pretrain.epochs=1"]].concat())).await.unwrap();
    assert!(quarantined.is_empty(), "{quarantined:?}");
}

/// What a command writes where its user says: the page of before stays, and nothing half is left.
#[tokio::test(flavor = "multi_thread")]
async fn pages_and_exports_on_a_full_disk_leave_what_was_there() {
    let world = World::new(30);
    let (disk, path) = (world.path("disk"), world.path("spec.toml"));
    let spec = world.spec("work", &["score.clip=none", "pretrain.epochs=1", "pretrain.batch=4"]);
    std::fs::create_dir_all(&disk).unwrap();
    std::fs::write(&path, spec.to_toml()).unwrap();
    run(spec).await.unwrap();
    let init = "init --country finland --code FI --kind skyscript --source x --work w --scale light";
    let script = format!(
        "mount -t tmpfs -o size=4m tmpfs {disk} || exit 99; cd {disk}; u={program}; s={spec}
         $u report $s -o page.html && cp page.html good || exit 1
         head -c 16m /dev/zero > full 2> /dev/null
         $u report $s -o page.html; echo report $?
         $u search $s 'a pond' --html page.html > /dev/null; echo search $?
         $u export $s --model -o model; echo model $?
         $u export $s --format npy -o npy; echo npy $?
         $u {init} -o build.toml; echo init $?
         cmp page.html good && echo same; ls -A",
        disk = disk.display(),
        program = urbancross().display(),
        spec = path.display()
    );
    let Some((output, said)) = with_mounts(&script) else { return };
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    let wanted = "report 75\nsearch 75\nmodel 75\nnpy 75\ninit 75\nsame\nfull\ngood\npage.html\n";
    assert!(told.ends_with(wanted), "{told}\n{said}");
    assert_eq!(said.matches("no space left").count(), 5, "{said}");
}
