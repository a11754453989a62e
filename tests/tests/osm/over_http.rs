//! Diffs over HTTP, as publishers serve them, with the faults that such servers have.

use std::sync::atomic::Ordering;

use manifests::{Artifact, BuildSpec};
use pipeline::tags::Wanted;
use pipeline_tests::http::{Manner, serve};
use pipeline_tests::{World, column, run_with};
use workers::WorkerError;
use workers::tag_refreshes::{Until, moment_of, words_of};

use super::{extract, refresh, until};

async fn begun(world: &World, work: &str) -> BuildSpec {
    let spec = world.spec(work, &["source.options={ timeout_seconds = 1, retries = 4 }"]);
    run_with(spec.clone(), until("geotags")).await.unwrap();
    refresh(&spec, extract(&world.path("world/extract.osm.pbf")), None).await.unwrap();
    spec
}

fn at(address: &str) -> Wanted {
    Wanted::Diffs(address.to_owned(), Until(None))
}

#[tokio::test(flavor = "multi_thread")]
async fn diffs_are_read_over_http_through_passing_faults() {
    let world = World::new(20);
    let (here, there) = (begun(&world, "here").await, begun(&world, "there").await);
    for day in 0..2 {
        sandbox::edit_map(&world.path("world"), 0.3, day).unwrap();
    }
    let folder = world.path("world/replication");
    let (address, requests) = serve(folder.clone(), Manner::AfterFaults(3));
    let served = refresh(&there, at(&address), Some(1.0)).await.unwrap();
    let read = refresh(&here, at(&folder.display().to_string()), Some(1.0)).await.unwrap();
    assert_eq!((served.diffs, served.changed, &served.moment), (2, read.changed, &read.moment));
    assert!(served.written && served.changed > 0);
    // two state files and two diffs, each asked for and read; and the newest state first
    assert!(requests.load(Ordering::SeqCst) < 16, "{requests:?}");
    let (one, _) = run_with(here, until("geotags")).await.unwrap();
    let (other, _) = run_with(there, until("geotags")).await.unwrap();
    let of = "tags_digest";
    assert_eq!(column(&one, Artifact::Geotags, of).await, column(&other, Artifact::Geotags, of).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn gaps_cuts_and_servers_that_refuse_are_named_and_nothing_is_written() {
    let world = World::new(12);
    let spec = begun(&world, "work").await;
    for day in 0..3 {
        sandbox::edit_map(&world.path("world"), 0.1, day).unwrap();
    }
    let folder = world.path("world/replication");
    let (address, _) = serve(folder.clone(), Manner::AfterFaults(0));
    // up to a moment: what lies behind it waits, and that is said
    let early = Wanted::Diffs(address.clone(), Until(moment_of("2026-01-02T12:00:00Z")));
    let early = refresh(&spec, early, Some(1.0)).await.unwrap();
    assert_eq!((early.diffs, early.waiting), (1, 2), "{early:?}");

    let second = folder.join("000/000/102.osc.gz");
    let bytes = std::fs::read(&second).unwrap();
    std::fs::remove_file(&second).unwrap();
    let gap = refresh(&spec, at(&address), Some(1.0)).await.unwrap_err();
    assert!(gap.to_string().contains("102.osc.gz is not there") && gap.exit_code() == 65, "{gap}");
    std::fs::write(&second, &bytes[..bytes.len() - 9]).unwrap();
    let cut = refresh(&spec, at(&address), Some(1.0)).await.unwrap_err();
    assert!(cut.to_string().contains("102.osc.gz") && cut.to_string().contains("download it again"), "{cut}");
    std::fs::write(&second, &bytes).unwrap();

    let elsewhere = refresh(&spec, at(&format!("{address}nothing/")), None).await.unwrap_err();
    assert!(elsewhere.to_string().contains("state.txt is not there"), "{elsewhere}");
    for (manner, code, words) in
        [(Manner::Status(403), 65, "refuses access"), (Manner::Status(500), 75, "the tags are as they were")]
    {
        let (address, _) = serve(folder.clone(), manner);
        let impatient = BuildSpec {
            source: {
                let mut source = spec.source.clone();
                source.options.retries = 1;
                source
            },
            ..spec.clone()
        };
        let error = refresh(&impatient, at(&address), None).await.unwrap_err();
        assert!(error.to_string().contains(words) && error.exit_code() == code, "{error}");
    }
    let mut impatient = spec.clone();
    impatient.source.options.retries = 0;
    let silent = refresh(&impatient, at("http://127.0.0.1:9/"), None).await.unwrap_err();
    assert!(matches!(silent, WorkerError::Unanswered(_)) && silent.exit_code() == 75, "{silent:?}");
    assert!(silent.to_string().contains("127.0.0.1:9") && silent.to_string().len() < 250, "{silent}");
    assert!(silent.advice().unwrap().contains("nothing was written"));

    // after all that the rest is as good as ever
    let rest = refresh(&spec, at(&address), Some(1.0)).await.unwrap();
    assert_eq!((rest.diffs, rest.waiting), (2, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_diff_of_an_extract_is_found_by_its_moment_in_few_requests() {
    let world = World::new(12);
    let spec = world.spec("work", &[]);
    run_with(spec.clone(), until("geotags")).await.unwrap();
    let text = std::fs::read_to_string(world.path("world/extract.osm")).unwrap();
    let unnumbered = text.replacen("osmosis_replication_sequence_number=\"100\" ", "", 1);
    assert!(unnumbered.len() < text.len());
    std::fs::write(world.path("unnumbered.osm"), unnumbered).unwrap();
    refresh(&spec, extract(&world.path("unnumbered.osm")), None).await.unwrap();

    // five thousand hours of states, and no diff
    let folder = world.path("replication");
    (1..6).for_each(|thousand| std::fs::create_dir_all(folder.join(format!("000/{thousand:03}"))).unwrap());
    let shown = moment_of("2026-01-01T00:00:00Z").unwrap();
    for number in 1_000..6_000 {
        let moment = words_of(shown + (number - 3_210) * 3600).replace(':', "\\:");
        let text = format!("sequenceNumber={number}\ntimestamp={moment}\n");
        let path = format!("000/{:03}/{:03}.state.txt", number / 1000, number % 1000);
        std::fs::write(folder.join(path), &text).unwrap();
        std::fs::write(folder.join("state.txt"), &text).unwrap();
    }
    let (address, requests) = serve(folder.clone(), Manner::AfterFaults(0));
    let next = refresh(&spec, at(&address), None).await.unwrap_err().to_string();
    assert!(next.contains("000/003/211.osc.gz is not there"), "{next}");
    assert!(requests.load(Ordering::SeqCst) < 50, "{requests:?}");
    // those up to its moment are kept no longer
    (1..4).for_each(|thousand| std::fs::remove_dir_all(folder.join(format!("000/{thousand:03}"))).unwrap());
    let later = refresh(&spec, at(&address), None).await.unwrap_err().to_string();
    assert!(later.contains("begin later, with 4000"), "{later}");
}
