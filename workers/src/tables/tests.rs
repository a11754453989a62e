use std::time::Duration;

use super::*;
use manifests::commit::Replacement;
use manifests::spec::StoreOptions;
use serde_json::{Value, json};

const FINLAND: &str = "finland";

fn open(folder: &tempfile::TempDir) -> (WorkStore, Tables) {
    let work = WorkStore::open(folder.path().to_str().unwrap(), &StoreOptions::default()).unwrap();
    let tables = Tables::new(&work);
    (work, tables)
}

fn part(country: &str, shard: u32, attempt: &str) -> PartFile {
    PartFile { shard, path: paths::part(country, shard, attempt), size_bytes: 10, rows: 5 }
}

/// Replaces the part of each shard, `(shard, attempt of the base, attempt)`.
fn change(country: &str, shards: &[(u32, Option<&str>, &str)]) -> Change {
    let replacements = shards.iter().map(|&(shard, base, attempt)| Replacement {
        base: base.map(|base| paths::part(country, shard, base)),
        part: part(country, shard, attempt),
    });
    Change { artifact: Artifact::Splits, country: country.into(), replacements: replacements.collect() }
}

async fn live(tables: &Tables, country: &str) -> Vec<String> {
    tables.pin(Artifact::Splits, country, None).await.unwrap().parts.into_iter().map(|p| p.path).collect()
}

#[tokio::test]
async fn commits_are_idempotent_and_versions_stay_readable() {
    let folder = tempfile::tempdir().unwrap();
    let (_, tables) = open(&folder);
    assert_eq!(tables.pin(Artifact::Splits, FINLAND, None).await.unwrap().version, None);
    let first = tables.commit(change(FINLAND, &[(0, None, "a"), (1, None, "b")])).await.unwrap();
    let again = tables.commit(change(FINLAND, &[(0, None, "a"), (1, None, "b")])).await.unwrap();
    assert_eq!(first, again, "an answer that was lost changes nothing");
    let old = tables.pin(Artifact::Splits, FINLAND, None).await.unwrap();
    assert_eq!((old.parts.len(), old.rows()), (2, 10));
    tables.commit(change(FINLAND, &[(1, Some("b"), "c")])).await.unwrap();
    let new = tables.pin(Artifact::Splits, FINLAND, None).await.unwrap();
    assert_eq!(new.parts.len(), 2);
    assert!(new.part(1).unwrap().path.contains("-c."));
    assert_eq!(tables.pin(Artifact::Splits, FINLAND, old.version).await.unwrap(), old);
    assert!(tables.pin(Artifact::Splits, "spain", None).await.unwrap().parts.is_empty());
    assert_eq!(tables.countries(Artifact::Splits).await.unwrap(), [(FINLAND.to_owned(), 10)]);
}

/// A worker that was planned on older parts, or on none, replaces nobody's newer ones.
#[tokio::test]
async fn an_overtaken_commit_leaves_what_is_live() {
    let folder = tempfile::tempdir().unwrap();
    let (work, tables) = open(&folder);
    tables.commit(change(FINLAND, &[(0, None, "a"), (1, None, "b")])).await.unwrap();
    let late = Tables::new(&work).commit(change(FINLAND, &[(0, None, "late"), (2, None, "c")])).await.unwrap();
    assert_eq!(late.overtaken, [0]);
    tables.commit(change(FINLAND, &[(1, Some("b"), "newer")])).await.unwrap();
    let late = Tables::new(&work).commit(change(FINLAND, &[(1, Some("b"), "late")])).await.unwrap();
    assert_eq!(late.overtaken, [1]);
    let expected = [(0, "a"), (1, "newer"), (2, "c")].map(|(shard, attempt)| paths::part(FINLAND, shard, attempt));
    assert_eq!(live(&tables, FINLAND).await, expected);
}

/// A log is checkpointed on the way; nothing waits for ever.
#[tokio::test]
async fn forty_one_commits_of_a_table() {
    let folder = tempfile::tempdir().unwrap();
    let (work, tables) = open(&folder);
    for i in 0..41 {
        let base = (i > 0).then(|| format!("{}", i - 1));
        tables.commit(change(FINLAND, &[(0, base.as_deref(), &i.to_string())])).await.unwrap();
    }
    let fresh = Tables::new(&work);
    assert_eq!(live(&fresh, FINLAND).await, [paths::part(FINLAND, 0, "40")]);
    let log = work.list("tables/splits/_delta_log").await.unwrap();
    assert_eq!(log.iter().filter(|name| name.ends_with(".checkpoint.parquet")).count(), 4, "{log:?}");
}

/// Checkpoints are copies of what the log's entries say: a damaged one is named, and readers do as well without it.
#[tokio::test]
async fn damaged_checkpoints_are_found_and_can_go() {
    let folder = tempfile::tempdir().unwrap();
    let (work, tables) = open(&folder);
    for i in 0..25 {
        let base = (i > 0).then(|| format!("{}", i - 1));
        tables.commit(change(FINLAND, &[(0, base.as_deref(), &i.to_string())])).await.unwrap();
    }
    let log = "tables/splits/_delta_log";
    let expected = [paths::part(FINLAND, 0, "24")];
    let [older, newest] = [10, 20].map(|version: u64| format!("{version:020}.checkpoint.parquet"));
    let pointer = "_last_checkpoint".to_owned();
    let mut sound = Vec::new();
    for name in [&older, &newest, &pointer] {
        sound.push((name, work.get(&format!("{log}/{name}")).await.unwrap().unwrap()));
    }
    assert!(tables.damaged_checkpoints(Artifact::Splits).await.unwrap().is_empty());
    for (name, bytes, words) in [
        (&newest, sound[1].1.slice(..sound[1].1.len() / 2), "cannot be read"),
        (&newest, Default::default(), "cannot be read"),
        (&older, "PAR1".into(), "cannot be read"),
        // whole in itself, and of another time
        (&newest, sound[0].1.clone(), "other files"),
        (&pointer, "{\"vers".into(), "cannot be read"),
        (&pointer, "{\"version\":30,\"size\":3}".into(), "version 30"),
    ] {
        work.put(&format!("{log}/{name}"), bytes).await.unwrap();
        let damaged = tables.damaged_checkpoints(Artifact::Splits).await.unwrap();
        let [one] = &damaged[..] else { panic!("{name}, {words}: {damaged:?}") };
        assert!(one.name == *name && one.why.contains(words), "{words}: {one:?}");
        let read = Tables::new(&work).without_checkpoints(Artifact::Splits, &damaged);
        assert_eq!(live(&read, FINLAND).await, expected, "{name}, {words}");
        tables.remove_checkpoints(Artifact::Splits, &[name.as_str()]).await.unwrap();
        for tables in [&tables, &Tables::new(&work)] {
            assert_eq!(live(tables, FINLAND).await, expected, "{name}, {words}");
            assert!(tables.damaged_checkpoints(Artifact::Splits).await.unwrap().is_empty());
        }
        for (name, bytes) in &sound {
            work.put(&format!("{log}/{name}"), bytes.clone()).await.unwrap();
        }
    }
    // with the entries before it gone, it is all that tells
    for version in 0..15 {
        work.delete(&format!("{log}/{version:020}.json")).await.unwrap();
    }
    work.put(&format!("{log}/{newest}"), "no checkpoint at all".into()).await.unwrap();
    let error = Tables::new(&work).damaged_checkpoints(Artifact::Splits).await.unwrap_err();
    for words in ["table splits", &*newest, "from a copy"] {
        assert!(error.exit_code() == 65 && error.to_string().contains(words), "{words}: {error}");
    }
    let error = Tables::new(&work).pin(Artifact::Splits, FINLAND, None).await.unwrap_err().to_string();
    assert!(error.contains("urbancross verify"), "{error}");
    // one with all entries after it is enough
    for version in 11..15 {
        work.put(&format!("{log}/{version:020}.json"), "{}".into()).await.unwrap();
    }
    assert_eq!(tables.damaged_checkpoints(Artifact::Splits).await.unwrap().len(), 1);
}

#[tokio::test]
async fn thirty_two_countries_commit_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let (work, _) = open(&folder);
    let commits = (0..32).map(|i| Tables::new(&work).commit_of(i));
    futures::future::try_join_all(commits).await.unwrap();
    assert_eq!(Tables::new(&work).countries(Artifact::Splits).await.unwrap().len(), 32);
}

impl Tables {
    async fn commit_of(self, i: u32) -> Result<Committed, WorkerError> {
        self.commit(change(&format!("country{i}"), &[(0, None, "x")])).await
    }
}

/// A log that lost a version is no new table: computing everything again would only fail at the end.
#[tokio::test]
async fn a_gap_in_the_log_is_a_loss_and_no_new_table() {
    for gone in [0, 1, 2] {
        let folder = tempfile::tempdir().unwrap();
        let (work, tables) = open(&folder);
        tables.commit(change(FINLAND, &[(0, None, "a")])).await.unwrap();
        tables.commit(change(FINLAND, &[(0, Some("a"), "b")])).await.unwrap();
        tables.commit(change(FINLAND, &[(0, Some("b"), "c")])).await.unwrap();
        work.delete(&format!("tables/splits/_delta_log/{gone:020}.json")).await.unwrap();
        let error = Tables::new(&work).pin(Artifact::Splits, FINLAND, None).await.unwrap_err();
        assert_eq!(error.exit_code(), 65, "{error}");
        assert!(error.to_string().contains("splits"), "{error}");
    }
}

/// The same where the newest version's file is there but empty or torn.
#[tokio::test]
async fn a_torn_log_entry_is_an_error() {
    for torn in ["", "{\"commitInfo\":{\"oper"] {
        let folder = tempfile::tempdir().unwrap();
        let (work, tables) = open(&folder);
        tables.commit(change(FINLAND, &[(0, None, "a")])).await.unwrap();
        tables.commit(change(FINLAND, &[(0, Some("a"), "b")])).await.unwrap();
        work.put("tables/splits/_delta_log/00000000000000000002.json", torn.into()).await.unwrap();
        let refused = Tables::new(&work).pin(Artifact::Splits, FINLAND, None).await.unwrap_err();
        let words = refused.to_string();
        assert!(words.contains("is torn") && words.contains("delete it") && !words.contains("range"), "{words}");
        assert_eq!(refused.exit_code(), 65, "{words}");
    }
}

/// What a log says is checked where it comes in: no path leads out of the country's folder, no number is believed.
#[tokio::test]
async fn hostile_entries_of_a_log_are_refused() {
    let country = "country=finland";
    let huge = format!("{{\\\"numRecords\\\":{}}}", i64::MAX);
    let deleted =
        r#"{"storageType":"u","pathOrInlineDv":"ab^-aqEH.-t@S}K{vb[*k^","offset":4,"sizeInBytes":40,"cardinality":6}"#;
    for (path, stats, deletion) in [
        ("country=finland/../country=spain/part-00001-b.parquet", "", ""),
        ("../geotags/country=finland/part-00001-b.parquet", "", ""),
        ("file:///etc/part-00001-b.parquet", "", ""),
        ("s3://bucket/country=finland/part-00001-b.parquet", "", ""),
        ("country=spain/part-00001-b.parquet", "", ""),
        (&format!("{country}/part-4294967295-b.parquet"), "", ""),
        (&format!("{country}/part-00001-b.parquet"), huge.as_str(), ""),
        (&format!("{country}/part-00001-b.parquet"), "", deleted),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let (work, tables) = open(&folder);
        tables.commit(change(FINLAND, &[(0, None, "a")])).await.unwrap();
        let stats = if stats.is_empty() { String::new() } else { format!(",\"stats\":\"{stats}\"") };
        let deletion = if deletion.is_empty() { String::new() } else { format!(",\"deletionVector\":{deletion}") };
        let entry = format!(
            "{{\"add\":{{\"path\":\"{path}\",\"partitionValues\":{{\"country\":\"finland\"}},\"size\":1,\
             \"modificationTime\":0,\"dataChange\":true{stats}{deletion}}}}}"
        );
        work.put("tables/splits/_delta_log/00000000000000000002.json", entry.into()).await.unwrap();
        let error = Tables::new(&work).pin(Artifact::Splits, FINLAND, None).await.unwrap_err();
        assert!(error.exit_code() == 65 && error.to_string().contains("splits"), "{path}: {error}");
    }
}

/// OPTIMIZE by others leaves files that hold rows of many shards.
#[tokio::test]
async fn files_of_others_are_refused_with_a_way_back() {
    let folder = tempfile::tempdir().unwrap();
    let (_, tables) = open(&folder);
    tables.commit(change(FINLAND, &[(0, None, "a")])).await.unwrap();
    let mut foreign = change(FINLAND, &[(7, None, "b")]);
    let path = "country=finland/part-c000-zstd.parquet";
    foreign.replacements[0].part.path = path.into();
    tables.commit(foreign).await.unwrap();
    let error = tables.pin(Artifact::Splits, FINLAND, None).await.unwrap_err().to_string();
    assert!(error.contains("RESTORE") && error.contains("verify --repair"), "{error}");
    tables.take_out(Artifact::Splits, FINLAND, &[path.to_owned()].into(), &[]).await.unwrap();
    assert_eq!(live(&tables, FINLAND).await, [paths::part(FINLAND, 0, "a")]);
}

/// DELETE by programs that write deletion vectors leaves our file in place, some of its rows deleted by a bitmap in the
/// log. No Python library writes one, so the entry is made here, with the bitmap that Delta's protocol has as its example.
#[tokio::test]
async fn deletion_vectors_are_refused_with_a_way_back() {
    let folder = tempfile::tempdir().unwrap();
    let (work, tables) = open(&folder);
    tables.commit(change(FINLAND, &[(0, None, "a"), (1, None, "b")])).await.unwrap();
    let log = "tables/splits/_delta_log";
    let created = work.get(&format!("{log}/{:020}.json", 0)).await.unwrap().unwrap();
    let mut lines = created.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice::<Value>(line).ok());
    let mut protocol = lines.find(|line| line["protocol"].is_object()).unwrap();
    for (version, features, number) in
        [("minReaderVersion", "readerFeatures", 3), ("minWriterVersion", "writerFeatures", 7)]
    {
        protocol["protocol"][version] = number.into();
        let mut all = protocol["protocol"][features].as_array().cloned().unwrap_or_default();
        all.push("deletionVectors".into());
        protocol["protocol"][features] = all.into();
    }
    let path = paths::part(FINLAND, 0, "a");
    let delete = |vector: Value, stats: &str| {
        let file = json!({
            "path": path, "partitionValues": { "country": FINLAND }, "size": 10, "modificationTime": 1, "dataChange": true,
        });
        let mut add = file.clone();
        add["stats"] = stats.into();
        add["deletionVector"] = vector;
        let remove = json!({ "path": path, "deletionTimestamp": 1, "dataChange": true, "extendedFileMetadata": true,
            "partitionValues": { "country": FINLAND }, "size": 10 });
        [json!({ "remove": remove }), json!({ "add": add })]
    };
    let vector = json!({
        "storageType": "i", "pathOrInlineDv": "wi5b=000010000siXQKl0rr91000f55c8Xg0@@D72lkbi5=-{L", "sizeInBytes": 40,
        "cardinality": 6,
    });
    let [remove, add] = delete(vector, "{\"numRecords\":30}");
    let entry = [protocol, remove, add].map(|line| line.to_string()).join("\n");
    work.put(&format!("{log}/{:020}.json", 2), entry.into()).await.unwrap();

    let error = Tables::new(&work).pin(Artifact::Splits, FINLAND, None).await.unwrap_err();
    assert_eq!(error.exit_code(), 65, "{error}");
    for words in [&*path, "deletion vector", "RESTORE", "verify --repair"] {
        assert!(error.to_string().contains(words), "{words}: {error}");
    }
    // the version before it is as it was, and other countries have nothing to do with it
    assert_eq!(tables.pin(Artifact::Splits, FINLAND, Some(1)).await.unwrap().parts.len(), 2);
    assert!(tables.pin(Artifact::Splits, "spain", None).await.unwrap().parts.is_empty());
    // the way back leads back
    let faulty = tables.live_files(Artifact::Splits, FINLAND).await.unwrap().unwrap().foreign;
    let files = faulty.into_iter().map(|(path, _)| path).collect();
    tables.take_out(Artifact::Splits, FINLAND, &files, &[part(FINLAND, 0, "empty")]).await.unwrap();
    for tables in [&tables, &Tables::new(&work)] {
        let parts = [(0, "empty"), (1, "b")].map(|(shard, attempt)| paths::part(FINLAND, shard, attempt));
        assert_eq!(live(tables, FINLAND).await, parts);
    }
}

/// What others make of a table's columns, properties and features (ALTER TABLE, a write with another schema) is said when
/// the table is opened, not when a commit fails after hours; with the version to return to.
#[tokio::test]
async fn a_table_that_is_no_longer_ours_is_refused_with_a_way_back() {
    let column = |name: &str, kind: &str| json!({ "name": name, "type": kind, "nullable": true, "metadata": {} });
    let property = |name: &str, value: &str| {
        let (name, value) = (name.to_owned(), value.to_owned());
        move |lines: &mut [Value; 2]| lines[1]["metaData"]["configuration"][&name] = value.clone().into()
    };
    let feature = |name: &'static str, reads: bool| {
        move |lines: &mut [Value; 2]| {
            for list in if reads { &["readerFeatures", "writerFeatures"][..] } else { &["writerFeatures"] } {
                lines[0]["protocol"][list].as_array_mut().unwrap().push(name.into());
            }
        }
    };
    let columns = |change: fn(&mut Vec<Value>, Value), with: Value| {
        move |lines: &mut [Value; 2]| {
            let schema = &mut lines[1]["metaData"]["schemaString"];
            let mut parsed: Value = serde_json::from_str(schema.as_str().unwrap()).unwrap();
            change(parsed["fields"].as_array_mut().unwrap(), with.clone());
            *schema = parsed.to_string().into();
        }
    };
    type Alter = Box<dyn Fn(&mut [Value; 2])>;
    let cases: [(&str, Alter); 9] = [
        ("a column note", Box::new(columns(|all, new| all.push(new), column("note", "string")))),
        (
            "stage_version of type long, not integer",
            Box::new(columns(|all, new| all[4] = new, column("stage_version", "long"))),
        ),
        ("delta.appendOnly", Box::new(property("delta.appendOnly", "true"))),
        ("delta.enableChangeDataFeed", Box::new(property("delta.enableChangeDataFeed", "true"))),
        ("checkConstraints", Box::new(feature("checkConstraints", false))),
        ("rowTracking", Box::new(feature("rowTracking", false))),
        ("identityColumns", Box::new(feature("identityColumns", false))),
        ("delta.columnMapping", {
            let (mode, feature) = (property("delta.columnMapping.mode", "name"), feature("columnMapping", true));
            let name = |fields: &mut Vec<Value>, _: Value| {
                for (id, field) in fields.iter_mut().enumerate() {
                    let named =
                        json!({ "delta.columnMapping.id": id + 1, "delta.columnMapping.physicalName": field["name"] });
                    field["metadata"] = named;
                }
            };
            let names = columns(name, Value::Null);
            Box::new(move |lines| (mode(lines), feature(lines), names(lines)).0)
        }),
        ("featureOfTomorrow", Box::new(feature("featureOfTomorrow", true))),
    ];
    for (words, alter) in cases {
        let folder = tempfile::tempdir().unwrap();
        let (work, tables) = open(&folder);
        tables.commit(change(FINLAND, &[(0, None, "a")])).await.unwrap();
        let log = "tables/splits/_delta_log";
        let created = work.get(&format!("{log}/{:020}.json", 0)).await.unwrap().unwrap();
        let lines = created.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice::<Value>(line).ok());
        let lines: Vec<Value> = lines.collect();
        let mut lines =
            ["protocol", "metaData"].map(|of| lines.iter().find(|line| line[of].is_object()).unwrap().clone());
        alter(&mut lines);
        work.put(&format!("{log}/{:020}.json", 2), lines.map(|line| line.to_string()).join("\n").into()).await.unwrap();
        for tables in [&tables, &Tables::new(&work)] {
            let error = tables.pin(Artifact::Splits, FINLAND, None).await.unwrap_err();
            assert_eq!(error.exit_code(), 65, "{error}");
            for words in [words, "another program changed it", "RESTORE it to version 1 ", "tables/splits away"] {
                assert!(error.to_string().contains(words), "{words}: {error}");
            }
        }
    }
}

/// From the moment that `gc` commits, no part from before it becomes live: it may be deleted right then.
#[tokio::test]
async fn no_commit_brings_in_a_part_from_before_the_horizon() {
    let folder = tempfile::tempdir().unwrap();
    let (_, tables) = open(&folder);
    let old = crate::attempt::id();
    let now = crate::parts::written_millis(&paths::part(FINLAND, 0, &old)).unwrap();
    tables.raise_horizon(Artifact::Splits, FINLAND, now + 1).await.unwrap();
    tables.raise_horizon(Artifact::Splits, FINLAND, now).await.unwrap();
    std::thread::sleep(Duration::from_millis(5));
    let new = crate::attempt::id();
    let committed = tables.commit(change(FINLAND, &[(0, None, &old), (1, None, &new)])).await.unwrap();
    assert_eq!(committed.overtaken, [0]);
    assert_eq!(live(&tables, FINLAND).await, [paths::part(FINLAND, 1, &new)]);
    // other countries have theirs
    assert!(tables.commit(change("spain", &[(0, None, &old)])).await.unwrap().overtaken.is_empty());
    // nor does one as a repair takes a file out: what is to take its place may be cleared away at this moment
    let file = BTreeSet::from([paths::part(FINLAND, 1, &new)]);
    let refused = tables.take_out(Artifact::Splits, FINLAND, &file, &[part(FINLAND, 1, &old)]).await.unwrap_err();
    assert_eq!(refused.exit_code(), 75, "{refused}");
    assert_eq!(live(&tables, FINLAND).await, [paths::part(FINLAND, 1, &new)]);
    let newer = crate::attempt::id();
    tables.take_out(Artifact::Splits, FINLAND, &file, &[part(FINLAND, 1, &newer)]).await.unwrap();
    assert_eq!(live(&tables, FINLAND).await, [paths::part(FINLAND, 1, &newer)]);
}

/// By a clock that is behind, what is made again would be too old again, and so for ever.
#[tokio::test]
async fn a_clock_behind_the_horizon_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let (_, tables) = open(&folder);
    let first = crate::attempt::id();
    tables.commit(change(FINLAND, &[(0, None, &first)])).await.unwrap();
    let now = crate::parts::written_millis(&paths::part(FINLAND, 0, &first)).unwrap();
    tables.raise_horizon(Artifact::Splits, FINLAND, now + 3_600_000).await.unwrap();
    let second = crate::attempt::id();
    let late = || change(FINLAND, &[(0, Some(first.as_str()), &second)]);
    let mark = Mark { name: "x".into(), before: None, after: 1 };
    let refused = [
        tables.commit(late()).await.unwrap_err(),
        tables.commit_marked(late(), mark).await.unwrap_err(),
        tables.horizon_to_write(Artifact::Splits, FINLAND).await.unwrap_err(),
    ];
    for error in refused {
        assert_eq!(error.exit_code(), 75, "{error}");
        let words = error.to_string();
        assert!(words.contains("clock is 35") && words.contains("splits of finland"), "{words}");
    }
    assert_eq!(live(&tables, FINLAND).await, [paths::part(FINLAND, 0, &first)]);
    // others may go on
    assert_eq!(tables.horizon_to_write(Artifact::Splits, "spain").await.unwrap(), 0);
    // a little is waited for
    tables.raise_horizon(Artifact::Splits, "spain", crate::tables::clock::now_millis() as u64 + 200).await.unwrap();
    tables.horizon_to_write(Artifact::Splits, "spain").await.unwrap();
    let third = crate::attempt::id();
    assert!(tables.commit(change("spain", &[(0, None, &third)])).await.unwrap().overtaken.is_empty());
}

/// As our messages advise: the folder of a table is moved away, and the table is made anew.
#[tokio::test]
async fn a_table_that_was_made_anew_is_no_older_version_of_itself() {
    let folder = tempfile::tempdir().unwrap();
    let (work, tables) = open(&folder);
    let beside = Tables::new(&work);
    for i in 0..5 {
        let base = (i > 0).then(|| format!("{}", i - 1));
        tables.commit(change(FINLAND, &[(0, base.as_deref(), &i.to_string())])).await.unwrap();
    }
    assert_eq!(live(&tables, FINLAND).await, [paths::part(FINLAND, 0, "4")]);
    // with fewer versions, with more, and with a checkpoint that the old one had not
    for (round, commits) in [2, 8, 12, 1].into_iter().enumerate() {
        assert!(tables.pin(Artifact::Splits, FINLAND, None).await.unwrap().version.is_some());
        std::fs::remove_dir_all(folder.path().join("tables/splits")).unwrap();
        for i in 0..commits {
            let base = (i > 0).then(|| format!("anew{round}x{}", i - 1));
            let anew = format!("anew{round}x{i}");
            beside.commit(change(FINLAND, &[(0, base.as_deref(), &anew)])).await.unwrap();
        }
        let last = format!("anew{round}x{}", commits - 1);
        for tables in [&tables, &beside, &Tables::new(&work)] {
            assert_eq!(live(tables, FINLAND).await, [paths::part(FINLAND, 0, &last)], "{commits} commits");
        }
        let version = tables.pin(Artifact::Splits, FINLAND, None).await.unwrap().version;
        assert_eq!(version, Some(commits), "{commits} commits");
    }
}
