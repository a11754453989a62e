//! The world as its readers find it: zips, pickles, tables, extract, and what a refresh changes.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use quick_xml::events::Event;
use sandbox::{SandboxError, Settings, Summary, edit_tags, generate};
use serde_pickle::{DeOptions, HashableValue, Value};
use zip::{CompressionMethod, ZipArchive};

type Outcome = Result<(), Box<dyn Error>>;
/// Members of an archive by name: how they are kept, and their bytes.
type Members = BTreeMap<String, (CompressionMethod, Vec<u8>)>;

const SETTINGS: Settings = Settings { tiles_per_country: 30, side_px: 64, seed: 5 };
const IMAGE_ZIPS: [&str; 2] = ["images2.zip", "images3.zip"];
const META_ZIPS: [&str; 2] = ["meta2.zip", "meta3.zip"];
const TABLES: [&str; 2] = ["dataframe/SkyScript_sandbox.csv", "dataframe/SkyScript_sandbox_polished.csv"];

fn world() -> Result<(tempfile::TempDir, Summary), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let summary = generate(folder.path(), &SETTINGS, &mut |_, _| {})?;
    Ok((folder, summary))
}

fn members(path: &Path) -> Result<Members, Box<dyn Error>> {
    let mut archive = ZipArchive::new(File::open(path)?)?;
    let mut members = BTreeMap::new();
    for index in 0..archive.len() {
        let mut member = archive.by_index(index)?;
        let mut bytes = Vec::new();
        member.read_to_end(&mut bytes)?;
        let name = member.name()?.into_owned();
        if member.is_file() {
            members.insert(name, (member.compression(), bytes));
        }
    }
    Ok(members)
}

fn all_members(folder: &Path, zips: [&str; 2]) -> Result<BTreeMap<String, Vec<u8>>, Box<dyn Error>> {
    let mut all = BTreeMap::new();
    for zip in zips {
        all.extend(members(&folder.join(zip))?.into_iter().map(|(name, (_, bytes))| (name, bytes)));
    }
    Ok(all)
}

/// Rows of a table by image id, with their columns by name.
fn rows(path: &Path) -> Result<BTreeMap<String, BTreeMap<String, String>>, Box<dyn Error>> {
    let mut reader = csv::Reader::from_path(path)?;
    let mut rows = BTreeMap::new();
    for row in reader.deserialize() {
        let row: BTreeMap<String, String> = row?;
        rows.insert(id_of(&row["filepath"]), row);
    }
    Ok(rows)
}

fn id_of(path: &str) -> String {
    let name = path.rsplit('/').next().unwrap_or(path);
    name.split('.').next().unwrap_or(name).to_owned()
}

fn source_of(id: &str) -> &str {
    id.split('_').nth(1).unwrap_or("")
}

fn dict(bytes: &[u8]) -> Result<BTreeMap<HashableValue, Value>, Box<dyn Error>> {
    match serde_pickle::value_from_slice(bytes, DeOptions::new())? {
        Value::Dict(entries) => Ok(entries),
        other => Err(format!("no dict: {other:?}").into()),
    }
}

fn key(text: &str) -> HashableValue {
    HashableValue::String(text.to_owned())
}

fn bounds(entries: &BTreeMap<HashableValue, Value>) -> Option<[f64; 4]> {
    match entries.get(&key("box")).or(entries.get(&key("bbox")))? {
        Value::Tuple(items) => {
            let numbers: Vec<f64> =
                items.iter().filter_map(|item| if let Value::F64(x) = item { Some(*x) } else { None }).collect();
            numbers.try_into().ok()
        }
        _ => None,
    }
}

#[test]
fn every_image_has_a_meta_record_and_one_row() -> Outcome {
    let (folder, summary) = world()?;
    let images = all_members(folder.path(), IMAGE_ZIPS)?;
    let metas = all_members(folder.path(), META_ZIPS)?;
    assert_eq!(images.len(), summary.images);
    let mut row_ids = BTreeSet::new();
    for table in TABLES {
        for (id, row) in rows(&folder.path().join(table))? {
            assert!(images.contains_key(&row["filepath"]), "{}", row["filepath"]);
            assert!(row_ids.insert(id.clone()), "{id} has two rows");
        }
    }
    assert_eq!(row_ids.len(), images.len());
    for name in images.keys() {
        let meta = name.replace("images", "meta").replace(".jpg", ".pickle");
        assert!(metas.contains_key(&meta), "{meta}");
        let id = id_of(name);
        let (kind, rest) = id.split_at(1);
        assert!(["a", "w", "n"].contains(&kind), "{name}");
        let parts: Vec<&str> = rest.split('_').collect();
        assert!(parts.len() == 3 && parts[0].parse::<u64>().is_ok() && parts[2].len() == 2, "{name}");
    }
    for (source, rows) in [("FI", 30), ("DE", 30), ("ES", 30), ("US", 2), ("S2", 3)] {
        assert_eq!(summary.rows_by_source.get(source), Some(&rows), "{source}");
    }
    Ok(())
}

#[test]
fn tables_have_skyscripts_layouts_and_each_country_is_in_one() -> Outcome {
    let (folder, _) = world()?;
    let sources = |table: &str| -> Result<BTreeSet<String>, Box<dyn Error>> {
        Ok(rows(&folder.path().join(table))?.keys().map(|id| source_of(id).to_owned()).collect())
    };
    let header = |table: &str| -> Result<String, Box<dyn Error>> {
        Ok(fs::read_to_string(folder.path().join(table))?.lines().next().unwrap_or("").to_owned())
    };
    assert_eq!(header(TABLES[0])?, "filepath,title,title_multi_objects,similarity_CLIP_openai");
    assert_eq!(header(TABLES[1])?, "title,filepath,title_raw");
    let (plain, polished) = (sources(TABLES[0])?, sources(TABLES[1])?);
    assert!(plain.contains("FI") && plain.contains("DE") && !plain.contains("ES"), "{plain:?}");
    assert!(polished.contains("ES") && !polished.contains("FI") && !polished.contains("DE"), "{polished:?}");
    for row in rows(&folder.path().join(TABLES[0]))?.values() {
        let multi = &row["title_multi_objects"];
        assert!(multi.starts_with("a satellite image of ") && multi.ends_with(' '), "{multi}");
        assert!(multi.starts_with(&row["title"]), "{multi}");
    }
    for row in rows(&folder.path().join(TABLES[1]))?.values() {
        assert_eq!(row["title"], format!("An aerial image. It shows: {}", row["title_raw"].trim_end()));
    }
    Ok(())
}

#[test]
fn texts_are_mostly_distinct() -> Outcome {
    let (folder, _) = world()?;
    let mut texts = Vec::new();
    for (table, column) in TABLES.iter().zip(["title_multi_objects", "title_raw"]) {
        texts.extend(rows(&folder.path().join(table))?.into_values().map(|row| row[column].clone()));
    }
    let distinct: BTreeSet<&String> = texts.iter().collect();
    assert!(distinct.len() * 100 >= texts.len() * 95, "{} of {}", distinct.len(), texts.len());
    Ok(())
}

#[test]
fn members_are_stored_and_deflated_and_one_archive_is_zip64() -> Outcome {
    let (folder, _) = world()?;
    for zips in [IMAGE_ZIPS, META_ZIPS] {
        let mut deflated = 0;
        let mut total = 0;
        for zip in zips {
            let top = zip.replace(".zip", "/");
            for (name, (method, _)) in members(&folder.path().join(zip))? {
                assert!(name.starts_with(&top), "{name}");
                assert!([CompressionMethod::Stored, CompressionMethod::Deflated].contains(&method));
                deflated += usize::from(method == CompressionMethod::Deflated);
                total += 1;
            }
        }
        assert!(deflated * 10 > total * 3 && deflated * 10 < total * 7, "{deflated} of {total} deflated");
    }
    let has_zip64_end = |zip: &str| -> Result<bool, Box<dyn Error>> {
        let bytes = fs::read(folder.path().join(zip))?;
        Ok(bytes.windows(4).any(|window| window == b"PK\x06\x06"))
    };
    assert!(!has_zip64_end("images2.zip")? && has_zip64_end("images3.zip")?);
    assert!(has_zip64_end("meta2.zip")? && !has_zip64_end("meta3.zip")?);
    Ok(())
}

#[test]
fn boxes_lie_in_their_country_and_fit_the_pixels() -> Outcome {
    let (folder, _) = world()?;
    let images = all_members(folder.path(), IMAGE_ZIPS)?;
    for (name, bytes) in all_members(folder.path(), META_ZIPS)? {
        let id = id_of(&name);
        let entries = dict(&bytes)?;
        let [west, south, east, north] = bounds(&entries).ok_or("no box")?;
        let rough = match source_of(&id) {
            "FI" => Some(([23.0, 61.0, 24.6, 62.0], 0.5)),
            "DE" => Some(([12.5, 52.0, 13.7, 52.8], 0.2)),
            "ES" => Some(([-1.4, 41.3, -0.4, 42.0], 0.1)),
            "US" => Some(([-99.0, 38.0, -98.0, 39.5], 0.6)),
            _ => None,
        };
        let image = image::load_from_memory(&images[&name.replace("meta", "images").replace(".pickle", ".jpg")])?;
        if let Some((limits, gsd_meters)) = rough {
            assert!(west > limits[0] && south > limits[1] && east < limits[2] && north < limits[3], "{id}");
            let latitude = ((south + north) / 2.0f64).to_radians();
            let across = (east - west) * 111_320.0 * latitude.cos() / f64::from(image.width());
            let down = (north - south) * 111_320.0 / f64::from(image.height());
            assert!((across - gsd_meters).abs() < 1e-4 && (down - gsd_meters).abs() < 1e-4, "{id}: {across} x {down}");
        }
        let time = entries.get(&key("time"));
        let year = match time {
            Some(Value::I64(year)) => *year,
            Some(Value::Tuple(parts)) if [3, 5].contains(&parts.len()) => match parts[0] {
                Value::I64(year) => year,
                _ => return Err("year is no int".into()),
            },
            other => return Err(format!("time is {other:?}").into()),
        };
        assert!(id.ends_with(&format!("_{:02}", year % 100)), "{id} in {year}");
    }
    Ok(())
}

#[test]
fn the_same_settings_give_the_same_bytes_on_one_thread_and_many() -> Outcome {
    let (first, summary) = world()?;
    let second = tempfile::tempdir()?;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build()?;
    let other = pool.install(|| generate(second.path(), &SETTINGS, &mut |_, _| {}))?;
    assert_eq!(summary, other);
    assert_eq!(summary.files.len(), 8);
    for file in &summary.files {
        assert!(fs::read(first.path().join(file))? == fs::read(second.path().join(file))?, "{}", file.display());
    }
    let third = tempfile::tempdir()?;
    generate(third.path(), &Settings { seed: 6, ..SETTINGS }, &mut |_, _| {})?;
    assert!(fs::read(first.path().join("images2.zip"))? != fs::read(third.path().join("images2.zip"))?);
    Ok(())
}

#[test]
fn progress_counts_up_to_all_tiles() -> Outcome {
    let folder = tempfile::tempdir()?;
    let mut seen = Vec::new();
    let settings = Settings { tiles_per_country: 25, side_px: 48, seed: 1 };
    let summary = generate(folder.path(), &settings, &mut |done, total| seen.push((done, total)))?;
    assert_eq!(seen.first(), Some(&(0, summary.images)));
    assert_eq!(seen.last(), Some(&(summary.images, summary.images)));
    assert!(seen.windows(2).all(|pair| pair[0].0 < pair[1].0), "{seen:?}");
    Ok(())
}

#[test]
fn extract_holds_the_focus_objects_at_the_place_of_their_tiles() -> Outcome {
    let (folder, summary) = world()?;
    let mut reader = quick_xml::Reader::from_file(folder.path().join("extract.osm"))?;
    let mut nodes: BTreeMap<u64, (f64, f64)> = BTreeMap::new();
    let mut ways: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    let mut tagged = BTreeSet::new();
    let mut current = ("", 0);
    let mut buffer = Vec::new();
    loop {
        match reader.read_event_into(&mut buffer)? {
            Event::Start(element) | Event::Empty(element) => {
                let attribute = |name: &str| -> Result<String, Box<dyn Error>> {
                    let value = element.try_get_attribute(name)?.ok_or("attribute is missing")?;
                    Ok(String::from_utf8(value.value.into_owned())?)
                };
                match element.name().as_ref() {
                    b"node" => {
                        current = ("n", attribute("id")?.parse()?);
                        nodes.insert(current.1, (attribute("lon")?.parse()?, attribute("lat")?.parse()?));
                    }
                    b"way" => {
                        current = ("w", attribute("id")?.parse()?);
                        ways.insert(current.1, Vec::new());
                    }
                    b"nd" => ways.entry(current.1).or_default().push(attribute("ref")?.parse()?),
                    b"tag" => {
                        tagged.insert(current);
                    }
                    _ => {}
                }
            }
            Event::Eof => break,
            _ => {}
        }
        buffer.clear();
    }
    assert_eq!(tagged.len(), summary.osm_objects);
    assert!(ways.values().flatten().all(|node| nodes.contains_key(node)));
    for (name, bytes) in all_members(folder.path(), META_ZIPS)? {
        let id = id_of(&name);
        let number: u64 = id[1..].split('_').next().unwrap_or("").parse()?;
        let places: Vec<(f64, f64)> = if id.starts_with('n') {
            vec![nodes[&number]]
        } else {
            let line = &ways[&number];
            assert_eq!(id.starts_with('a'), line.first() == line.last(), "{id}: areas are closed");
            line.iter().map(|node| nodes[node]).collect()
        };
        let [west, south, east, north] = bounds(&dict(&bytes)?).ok_or("no box")?;
        let spans = |low: f64, high: f64, values: Vec<f64>| {
            values.iter().any(|&value| value <= high) && values.iter().any(|&value| value >= low)
        };
        assert!(spans(west, east, places.iter().map(|place| place.0).collect()), "{id}");
        assert!(spans(south, north, places.iter().map(|place| place.1).collect()), "{id}");
    }
    Ok(())
}

/// Runs a Python script over a world; skips aloud where there is no Python.
fn python(script: &str, folder: &Path) -> Outcome {
    let mut file = tempfile::NamedTempFile::new()?;
    file.write_all(script.as_bytes())?;
    match Command::new("python3").arg(file.path()).arg(folder).output() {
        Err(error) => {
            println!("skipped: no python3 to read the archives with ({error})");
            Ok(())
        }
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).into_owned().into()),
    }
}

const READ_ALL: &str = r#"
import pathlib, pickle, sys, zipfile
folder = pathlib.Path(sys.argv[1])
protocols, boxes, times = set(), set(), set()
for part in "23":
    assert zipfile.ZipFile(folder / f"images{part}.zip").testzip() is None
    metas = zipfile.ZipFile(folder / f"meta{part}.zip")
    for name in metas.namelist():
        if name.endswith("/"):
            continue
        data = metas.read(name)
        protocols.add(data[1])
        meta = pickle.loads(data)
        key = "box" if "box" in meta else "bbox"
        boxes.add(key)
        assert set(meta) == {key, "time", "center_tags", "surrounding_tags"}, meta
        west, south, east, north = meta[key]
        assert west < east and south < north
        times.add("int" if isinstance(meta["time"], int) else len(meta["time"]))
        assert isinstance(meta["center_tags"], dict) and meta["center_tags"]
        assert all(isinstance(tags, dict) for tags in meta["surrounding_tags"])
assert protocols == {2, 3, 4}, protocols
assert boxes == {"box", "bbox"}, boxes
assert times == {"int", 3, 5}, times
"#;

#[test]
fn python_reads_zips_and_pickles_before_and_after_a_refresh() -> Outcome {
    let (folder, _) = world()?;
    python(READ_ALL, folder.path())?;
    edit_tags(folder.path(), 0.5, 2)?;
    python(READ_ALL, folder.path())
}

fn copy(from: &Path, files: &[PathBuf]) -> Result<tempfile::TempDir, Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    fs::create_dir(folder.path().join("dataframe"))?;
    for file in files {
        fs::copy(from.join(file), folder.path().join(file))?;
    }
    Ok(folder)
}

#[test]
fn a_refresh_changes_exactly_the_named_rows() -> Outcome {
    let (folder, summary) = world()?;
    let old = copy(folder.path(), &summary.files)?;
    let named: BTreeSet<String> = edit_tags(folder.path(), 0.1, 7)?.into_iter().collect();
    assert_eq!(named.len(), 9, "a tenth of 90");
    for file in IMAGE_ZIPS.iter().chain(&["extract.osm"]) {
        assert!(fs::read(old.path().join(file))? == fs::read(folder.path().join(file))?, "{file}");
    }
    let (before, after) = (all_members(old.path(), META_ZIPS)?, all_members(folder.path(), META_ZIPS)?);
    assert!(before.keys().eq(after.keys()));
    for (name, bytes) in &before {
        let (was, is) = (dict(bytes)?, dict(&after[name])?);
        assert_eq!(bytes != &after[name], named.contains(&id_of(name)), "{name}");
        assert_eq!(bounds(&was), bounds(&is), "{name}");
        assert_eq!(was.get(&key("time")), is.get(&key("time")), "{name}");
    }
    for table in TABLES {
        let (before, after) = (rows(&old.path().join(table))?, rows(&folder.path().join(table))?);
        assert!(before.keys().eq(after.keys()));
        for (id, row) in &before {
            for column in row.keys() {
                let changed = row[column] != after[id][column];
                let expected = named.contains(id) && column.starts_with("title");
                assert_eq!(changed, expected, "{id} {column}");
            }
        }
    }
    assert!(named.iter().all(|id| ["FI", "DE", "ES"].contains(&source_of(id))));
    Ok(())
}

#[test]
fn a_refresh_is_deterministic_and_leaves_no_partial_file() -> Outcome {
    let (first, summary) = world()?;
    let second = copy(first.path(), &summary.files)?;
    assert_eq!(edit_tags(first.path(), 0.2, 3)?, edit_tags(second.path(), 0.2, 3)?);
    for file in &summary.files {
        assert!(fs::read(first.path().join(file))? == fs::read(second.path().join(file))?, "{}", file.display());
    }
    for folder in [first.path().to_owned(), first.path().join("dataframe")] {
        for entry in fs::read_dir(folder)? {
            let name = entry?.file_name().into_string().unwrap_or_default();
            assert!(!name.ends_with(".partial"), "{name}");
        }
    }
    Ok(())
}

#[test]
fn a_share_of_nothing_changes_nothing_and_the_smallest_share_one_row() -> Outcome {
    let (folder, summary) = world()?;
    let old = copy(folder.path(), &summary.files)?;
    assert!(edit_tags(folder.path(), 0.0, 3)?.is_empty());
    for file in &summary.files {
        assert!(fs::read(old.path().join(file))? == fs::read(folder.path().join(file))?, "{}", file.display());
    }
    assert_eq!(edit_tags(folder.path(), 1e-6, 3)?.len(), 1);
    Ok(())
}

#[test]
fn wrong_settings_and_wrong_folders_are_refused_in_words() -> Outcome {
    let folder = tempfile::tempdir()?;
    for settings in [
        Settings { tiles_per_country: 0, ..SETTINGS },
        Settings { tiles_per_country: 100_001, ..SETTINGS },
        Settings { side_px: 47, ..SETTINGS },
        Settings { side_px: 1025, ..SETTINGS },
    ] {
        let refused = generate(folder.path(), &settings, &mut |_, _| {});
        assert!(matches!(refused, Err(SandboxError::Setting { .. })), "{refused:?}");
    }
    for share in [-0.1, 1.1, f64::NAN] {
        assert!(matches!(edit_tags(folder.path(), share, 0), Err(SandboxError::Setting { .. })));
    }
    assert!(matches!(edit_tags(folder.path(), 0.5, 0), Err(SandboxError::Storage { .. })));
    for zip in META_ZIPS {
        fs::write(folder.path().join(zip), b"no zip at all")?;
    }
    let Err(error) = edit_tags(folder.path(), 0.5, 0) else {
        return Err("a folder without zips was edited".into());
    };
    assert!(error.to_string().contains("is not a sandbox file"), "{error}");
    Ok(())
}

#[test]
fn edits_of_the_map_are_diffs_that_follow_each_other() -> Outcome {
    let folder = tempfile::tempdir()?;
    let settings = Settings { tiles_per_country: 20, side_px: 48, seed: 5 };
    sandbox::generate(folder.path(), &settings, &mut |_, _| {})?;
    let first = std::fs::read(folder.path().join("extract.osm"))?;
    let edit = |share, seed| sandbox::edit_map(folder.path(), share, seed);
    let (one, two) = (edit(0.2, 1)?, edit(0.2, 2)?);
    assert_eq!((one.sequence, two.sequence), (101, 102));
    assert_eq!(one.images.len(), 12);
    assert!(one.objects >= 12 && one.images != two.images);
    let state = std::fs::read_to_string(folder.path().join("replication/state.txt"))?;
    assert_eq!(state, "sequenceNumber=102\ntimestamp=2026-01-03T00\\:00\\:00Z\n");
    for name in ["replication/000/000/101.osc.gz", "replication/000/000/102.state.txt", "extract-102.osm.pbf"] {
        assert!(folder.path().join(name).is_file(), "{name}");
    }
    assert_eq!(std::fs::read(folder.path().join("extract.osm"))?, first, "the first extract stays");
    assert_ne!(std::fs::read(&one.extract)?, std::fs::read(&two.extract)?);
    assert!(edit(1.5, 1).is_err());

    // the same world and seed give the same diff
    let other = tempfile::tempdir()?;
    sandbox::generate(other.path(), &settings, &mut |_, _| {})?;
    assert_eq!(sandbox::edit_map(other.path(), 0.2, 1)?.images, one.images);
    let diff = "replication/000/000/101.osc.gz";
    assert_eq!(std::fs::read(other.path().join(diff))?, std::fs::read(folder.path().join(diff))?);
    Ok(())
}

#[test]
fn a_new_world_forgets_the_edits_of_the_one_before() -> Outcome {
    let folder = tempfile::tempdir()?;
    let settings = Settings { tiles_per_country: 20, side_px: 48, seed: 5 };
    generate(folder.path(), &settings, &mut |_, _| {})?;
    sandbox::edit_map(folder.path(), 0.2, 1)?;
    sandbox::edit_map(folder.path(), 0.2, 2)?;
    fs::write(folder.path().join("extract-of-mine.osm"), b"mine")?;
    generate(folder.path(), &Settings { seed: 6, ..settings }, &mut |_, _| {})?;
    for name in ["replication", "extract-101.osm", "extract-101.osm.pbf", "extract-102.osm", "extract-102.osm.pbf"] {
        assert!(!folder.path().join(name).exists(), "{name}");
    }
    assert!(folder.path().join("extract-of-mine.osm").exists());
    assert_eq!(sandbox::edit_map(folder.path(), 0.2, 1)?.sequence, 101);
    // what would be removed is there already
    let other = tempfile::tempdir()?;
    sandbox::check_absent(other.path())?;
    fs::write(other.path().join("extract-101.osm"), b"mine")?;
    assert!(matches!(sandbox::check_absent(other.path()), Err(SandboxError::Exists { .. })));
    Ok(())
}

#[test]
fn a_diff_without_its_extract_is_told_to_nobody() -> Outcome {
    let folder = tempfile::tempdir()?;
    let settings = Settings { tiles_per_country: 20, side_px: 48, seed: 5 };
    generate(folder.path(), &settings, &mut |_, _| {})?;
    // in the way of the extract
    let partial = folder.path().join("extract-101.osm.partial");
    fs::create_dir(&partial)?;
    let failed = sandbox::edit_map(folder.path(), 0.2, 1);
    assert!(matches!(failed, Err(SandboxError::Storage { .. })), "{failed:?}");
    for name in ["replication/state.txt", "replication/000/000/101.osc.gz"] {
        assert!(!folder.path().join(name).exists(), "{name}");
    }
    fs::remove_dir(&partial)?;
    assert_eq!(sandbox::edit_map(folder.path(), 0.2, 2)?.sequence, 101);
    Ok(())
}

#[cfg(target_os = "linux")]
#[test]
fn a_world_that_a_full_disk_has_stopped_is_made_when_there_is_room() -> Outcome {
    for file in ["images2.zip.partial", "dataframe/SkyScript_sandbox.csv.partial"] {
        let folder = tempfile::tempdir()?;
        let full = folder.path().join(file);
        fs::create_dir(folder.path().join("dataframe"))?;
        std::os::unix::fs::symlink("/dev/full", &full)?;
        let Err(error) = generate(folder.path(), &SETTINGS, &mut |_, _| {}) else {
            return Err(format!("{file} was written to a full disk").into());
        };
        assert_eq!(error.exit_code(), 75, "{file}: {error}");
        fs::remove_file(&full)?;
        sandbox::check_absent(folder.path())?;
        sandbox::check_replaceable(folder.path())?;
        generate(folder.path(), &SETTINGS, &mut |_, _| {})?;
    }
    Ok(())
}

#[test]
fn a_world_that_was_stopped_at_any_time_can_be_replaced_and_others_archives_cannot() -> Outcome {
    let (folder, summary) = world()?;
    // as it is before the last of its files has its name
    fs::rename(folder.path().join("extract.osm"), folder.path().join("extract.osm.partial"))?;
    assert_eq!(summary.files.last(), Some(&PathBuf::from("extract.osm")));
    assert!(matches!(sandbox::check_absent(folder.path()), Err(SandboxError::Exists { .. })));
    assert!(matches!(sandbox::edit_map(folder.path(), 0.5, 1), Err(SandboxError::Damaged { .. })));
    assert!(matches!(sandbox::edit_tags(folder.path(), 0.5, 1), Err(SandboxError::Damaged { .. })));
    sandbox::check_replaceable(folder.path())?;
    let theirs = tempfile::tempdir()?;
    fs::create_dir(theirs.path().join("dataframe"))?;
    for name in ["images2.zip", "meta2.zip", "dataframe/SkyScript_train.csv"] {
        fs::write(theirs.path().join(name), b"SkyScript's own")?;
    }
    assert!(matches!(sandbox::check_replaceable(theirs.path()), Err(SandboxError::Stranger { .. })));
    Ok(())
}
