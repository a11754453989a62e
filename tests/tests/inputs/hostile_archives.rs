//! Worlds that are damaged on purpose: a clear error or a row status, never a panic, never silence.

use std::io::{Read, Write};

use manifests::Artifact;
use pipeline::preview::removals;
use pipeline::run_options::RunOptions;
use pipeline_tests::{World, column, open, run, run_with};
use workers::WorkerError;

const ARCHIVES: [&str; 2] = ["images2.zip", "images3.zip"];

/// Rewrites an archive of the world; `change` sees every member and gives what replaces it.
fn rewrite(world: &World, archive: &str, mut change: impl FnMut(&str, Vec<u8>) -> Option<Vec<u8>>) {
    let path = world.path("world").join(archive);
    let mut old = zip::ZipArchive::new(std::fs::File::open(&path).unwrap()).unwrap();
    let mut new = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for i in 0..old.len() {
        let mut member = old.by_index(i).unwrap();
        let name = member.name().expect("a readable name").into_owned();
        let mut bytes = Vec::new();
        member.read_to_end(&mut bytes).unwrap();
        if let Some(bytes) = change(&name, bytes) {
            new.start_file(&name, stored).unwrap();
            new.write_all(&bytes).unwrap();
        }
    }
    std::fs::write(&path, new.finish().unwrap().into_inner()).unwrap();
}

const QUICK: [&str; 3] = ["score.clip=none", "pretrain.epochs=1", "pretrain.batch=4"];

#[tokio::test(flavor = "multi_thread")]
async fn bad_rows_are_quarantined_and_the_rest_is_built() {
    let world = World::new(40);
    let (mut broken_image, mut evil_meta, mut missing_meta) = (None, None, None);
    for archive in ARCHIVES {
        rewrite(&world, archive, |name, bytes| {
            if broken_image.is_none() && name.contains("_FI_") {
                broken_image = Some(name.to_owned());
                return Some(bytes[..bytes.len() / 3].to_vec());
            }
            Some(bytes)
        });
    }
    for archive in ["meta2.zip", "meta3.zip"] {
        rewrite(&world, archive, |name, bytes| {
            if !name.contains("_FI_")
                || broken_image.as_ref().is_some_and(|b| b[7..b.len() - 4] == name[5..name.len() - 7])
            {
                return Some(bytes);
            }
            if evil_meta.is_none() {
                evil_meta = Some(name.to_owned());
                // cos\nsystem\n(S'touch /tmp/pwned'\ntR.
                return Some(b"cos\nsystem\n(S'true'\ntR.".to_vec());
            }
            if missing_meta.is_none() {
                missing_meta = Some(name.to_owned());
                return None;
            }
            Some(bytes)
        });
    }
    let (build, quarantined) = run(world.spec("work", &QUICK)).await.unwrap();
    let stem = |name: &Option<String>| {
        name.as_ref().unwrap().rsplit('/').next().unwrap().split('.').next().unwrap().to_owned()
    };
    let (image, evil, missing) = (stem(&broken_image), stem(&evil_meta), stem(&missing_meta));
    let geotags = column(&build, Artifact::Geotags, "error").await;
    assert!(geotags[&evil].contains("refused"), "{}", geotags[&evil]);
    assert!(geotags[&missing].contains("no meta record"), "{}", geotags[&missing]);
    let images = column(&build, Artifact::Images, "status").await;
    assert_eq!(images[&image], "error");
    assert_eq!(images.values().filter(|s| *s == "ok").count(), 37);
    assert!(!images.contains_key(&evil), "an image without geo-tags is not pulled");
    assert_eq!(quarantined.iter().map(|q| q.rows).sum::<u64>(), 3, "{quarantined:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_archive_stops_the_build_with_its_name() {
    let world = World::new(12);
    let path = world.path("world").join("images2.zip");
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 30]).unwrap();
    let error = open(world.spec("work", &QUICK)).await.err().unwrap();
    assert!(matches!(error, WorkerError::Broken(_)) && error.to_string().contains("images2.zip"), "{error}");
    assert_eq!(error.exit_code(), 65);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_archive_is_listed_and_the_others_are_read() {
    let world = World::new(24);
    std::fs::write(world.path("world/images2.zip"), b"").unwrap();
    std::fs::write(world.path("world/_SUCCESS"), b"").unwrap();
    let (build, quarantined) = run(world.spec("work", &[QUICK[0], QUICK[1], "pretrain.batch=2"])).await.unwrap();
    let listing = &build.virtual_inputs.listing;
    assert!(listing.rows() > 0 && listing.rows() < 24, "{}", listing.rows());
    assert!(listing.problems.iter().any(|p| p.what == "images2.zip" && p.why.contains("empty file")), "{listing:?}");
    assert_eq!(quarantined.iter().map(|q| q.rows).sum::<u64>(), listing.rows_left_out);
    // nothing else: a true cause, for good
    std::fs::write(world.path("world/images3.zip"), b"").unwrap();
    let error = open(world.spec("work", &QUICK)).await.err().unwrap();
    assert!(error.to_string().contains("empty file") && error.exit_code() == 65, "{error}");
}

/// A missing archive looks like an edit that removes all of its rows: it is named, and most rows never leave unasked.
#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_is_gone_is_named_before_its_rows_leave() {
    let world = World::new(24);
    let options = || RunOptions { until: Some("geotags".into()), ..RunOptions::default() };
    let built = || run_with(world.spec("work", &[]), options());
    let (build, _) = built().await.unwrap();
    let filepaths = column(&build, Artifact::Geotags, "filepath").await;
    let of = |archive: &str| filepaths.values().filter(|path| path.starts_with(&archive.replace(".zip", "/"))).count();
    let [few, most] = if of(ARCHIVES[0]) < of(ARCHIVES[1]) { ARCHIVES } else { [ARCHIVES[1], ARCHIVES[0]] };
    assert!(0 < of(few) && of(few) < of(most));
    let hide = |name: &str| std::fs::rename(world.path("world").join(name), world.path(name)).unwrap();
    let bring_back = |name: &str| std::fs::rename(world.path(name), world.path("world").join(name)).unwrap();
    // the archive of the images, or that of their geo-tags: without it they would all be errors
    for gone in [most.to_owned(), most.replace("images", "meta")] {
        hide(&gone);
        let words = removals(&mut open(world.spec("work", &[])).await.unwrap()).await.unwrap().in_words();
        assert_eq!(words, [format!("{gone} is no longer in the source: its {} rows leave the tables", of(most))]);
        let error = built().await.err().unwrap();
        assert_eq!(error.exit_code(), 65);
        let said = error.to_string();
        assert!(said.contains(&words[0]) && said.contains("--accept-removals"), "{said}");
        bring_back(&gone);
    }
    let (build, _) = built().await.unwrap();
    assert_eq!(column(&build, Artifact::Geotags, "filepath").await, filepaths);
    hide(few);
    let (build, quarantined) = built().await.unwrap();
    assert_eq!(column(&build, Artifact::Geotags, "status").await.len(), of(most));
    assert_eq!(quarantined[0].rows, of(few) as u64, "the archive itself is no row");
    bring_back(few);
    built().await.unwrap();
    hide(most);
    let accepted = RunOptions { accept_removals: true, ..options() };
    let (mut build, _) = run_with(world.spec("work", &[]), accepted).await.unwrap();
    assert_eq!(column(&build, Artifact::Geotags, "status").await.len(), of(few));
    assert!(removals(&mut build).await.unwrap().in_words().is_empty());
}

/// What is kept of archives' directories only saves reading them: another archive's list, or a damaged one, is none.
#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_members_that_is_anothers_is_read_anew() {
    let world = World::new(24);
    let spec = || world.spec("work", &[]);
    let options = || RunOptions { until: Some("images".into()), ..RunOptions::default() };
    let (build, _) = run_with(spec(), options()).await.unwrap();
    let before = column(&build, Artifact::Images, "recipe").await;
    assert_eq!(before.len(), 24);
    let lists: Vec<_> =
        std::fs::read_dir(world.path("work/members")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(lists.len() >= 2, "{lists:?}");
    let texts: Vec<String> = lists.iter().map(|path| std::fs::read_to_string(path).unwrap()).collect();
    for (at, path) in lists.iter().enumerate() {
        let other = &texts[(at + 1) % texts.len()];
        let moved = texts[at].replace("\"header_offset\": 0", "\"header_offset\": 7");
        for damaged in [other.clone(), moved, texts[at][..texts[at].len() / 2].to_owned()] {
            std::fs::write(path, damaged).unwrap();
            std::fs::remove_dir_all(world.path("work/settled")).unwrap();
            let (build, quarantined) = run_with(spec(), options()).await.unwrap();
            assert_eq!((column(&build, Artifact::Images, "recipe").await, quarantined), (before.clone(), Vec::new()));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unclosed_quote_in_a_table_swallows_nothing() {
    let world = World::new(12);
    let csv = world.path("world/dataframe/SkyScript_sandbox.csv");
    let text = std::fs::read_to_string(&csv).unwrap();
    std::fs::write(&csv, text.replacen('\n', "\nimages9/w1_FI_20.jpg,\"open,x,0.5\n", 1)).unwrap();
    let error = open(world.spec("work", &QUICK)).await.err().unwrap();
    assert!(
        error.to_string().contains("SkyScript_sandbox.csv") && error.to_string().contains("line 2 opens"),
        "{error}"
    );
    assert_eq!(error.exit_code(), 65);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_is_not_there_is_named() {
    let world = World::new(4);
    std::fs::rename(world.path("world"), world.path("moved")).unwrap();
    let error = open(world.spec("work", &QUICK)).await.err().unwrap();
    assert!(error.to_string().contains("there is no folder") && error.to_string().contains("world"), "{error}");
    assert_eq!(error.exit_code(), 65);
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_without_what_is_needed_say_so() {
    let world = World::new(12);
    let csv = world.path("world/dataframe/SkyScript_sandbox.csv");
    let good = std::fs::read_to_string(&csv).unwrap();
    std::fs::write(&csv, good.replacen("filepath", "file_path", 1)).unwrap();
    let error = open(world.spec("work", &QUICK)).await.err().unwrap().to_string();
    assert!(error.contains("filepath") && error.contains("file_path"), "{error}");
    // a byte order mark is no part of the first name
    std::fs::write(&csv, format!("\u{feff}{good}")).unwrap();
    assert_eq!(open(world.spec("work", &QUICK)).await.unwrap().virtual_inputs.listing.rows(), 12);
    // duplicate ids: the first counts, the second is listed
    let first = good.lines().find(|l| l.contains("_FI_")).unwrap();
    std::fs::write(&csv, format!("{good}{first}\n")).unwrap();
    let build = open(world.spec("work", &QUICK)).await.unwrap();
    assert_eq!((build.virtual_inputs.listing.rows(), build.virtual_inputs.listing.rows_left_out), (12, 1));
    // a country that is not there
    std::fs::write(&csv, &good).unwrap();
    let error = open(world.spec("work", &["source.tokens=[\"CH\"]", "source.country_code=CH"]))
        .await
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("no image is wanted") && error.contains("FI 12"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_a_newer_version_is_refused() {
    let world = World::new(12);
    let spec = world.spec("work", &["score.clip=none", "pretrain.epochs=1", "pretrain.batch=2"]);
    run(spec.clone()).await.unwrap();
    // as a later version would: another column in the table's schema
    let log = world.path("work/tables/captions/_delta_log/00000000000000000000.json");
    let text = std::fs::read_to_string(&log).unwrap();
    std::fs::write(&log, text.replace("\\\"name\\\":\\\"captioner\\\"", "\\\"name\\\":\\\"captioner_next\\\""))
        .unwrap();
    let error = run(spec).await.err().unwrap().to_string();
    assert!(error.contains("captioner_next") && error.contains("newer urbancross"), "{error}");
}
