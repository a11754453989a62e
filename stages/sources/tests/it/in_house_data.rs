//! The crate against the in-house data folder; skipped where there is none.

use std::collections::HashSet;
use std::path::PathBuf;

use sources::captioned::{CaptionFormat, read_csv, read_jsonl, read_lines, sniff};
use sources::country::CountryPolygons;
use sources::csv;
use sources::name::ImageName;
use sources::split::Split;

/// `data/{folder}` of the in-house data; prints why when it is not there.
pub fn folder(name: &str) -> Option<PathBuf> {
    let Some(root) = std::env::var_os("URBANCROSS_TEST_DATA") else {
        println!("skipped: URBANCROSS_TEST_DATA is not set");
        return None;
    };
    Some(PathBuf::from(root).join("data").join(name))
}

#[test]
fn the_skyscript_sample_is_read() {
    let Some(folder) = folder("skyscript_format") else {
        return;
    };
    let path = folder.join("SkyScript_train_top30pct_filtered_by_CLIP_openai.sample.csv");
    let mut rows = Vec::new();
    let summary = csv::read_csv(std::fs::File::open(path).unwrap(), &mut |row| {
        rows.push(row);
        Ok(())
    })
    .unwrap();
    assert_eq!((summary.rows, summary.row_errors), (2, 0));
    assert_eq!(rows[1].similarity, Some(0.2));
    let name = ImageName::parse(&rows[0].filepath).unwrap();
    assert_eq!(name.meta_path(), "meta2/w779523169_CH_18.pickle");
}

#[test]
fn aid_with_rsicd_captions_is_read_from_both_formats() {
    let Some(folder) = folder("aid_rsicd_subset") else {
        return;
    };
    let bytes = std::fs::read(folder.join("captions.jsonl")).unwrap();
    assert_eq!(sniff("captions.jsonl", &bytes[..300]), Some(CaptionFormat::Jsonl));
    let images = read_jsonl(&bytes).unwrap();
    assert_eq!(images.len(), 3599);
    let count = |split| images.iter().filter(|i| i.split == Some(split)).count();
    assert_eq!((count(Split::Train), count(Split::Test)), (2850, 749));
    assert!(images.iter().all(|image| image.captions.len() == 5));

    let bytes = std::fs::read(folder.join("urbancross_style.csv")).unwrap();
    assert_eq!(sniff("urbancross_style.csv", &bytes[..300]), Some(CaptionFormat::Csv));
    let from_csv = read_csv(&bytes).unwrap();
    assert_eq!(from_csv.len(), images.len());
    for (a, b) in images.iter().zip(&from_csv) {
        assert_eq!((&a.file, &a.captions), (&b.file, &b.captions));
    }
}

#[test]
fn rsicd_and_rsitmd_lines_are_read() {
    let Some(folder) = folder("urbancross_text") else {
        return;
    };
    for (captions, images, without_caption, split) in [
        ("rsicd_train_caps.txt", 9828, 0, Split::Train),
        ("rsicd_train_caps_verify.txt", 7862, 0, Split::Train),
        ("rsicd_val_caps_verify.txt", 1966, 0, Split::Val),
        ("rsicd_test_caps.txt", 1093, 0, Split::Test),
        ("rsitmd_train_caps.txt", 4291, 4, Split::Train),
        ("rsitmd_train_caps_verify.txt", 3432, 3, Split::Train),
        ("rsitmd_val_caps_verify.txt", 859, 1, Split::Val),
        ("rsitmd_test_caps.txt", 452, 0, Split::Test),
    ] {
        let bytes = std::fs::read(folder.join(captions)).unwrap();
        let Some(CaptionFormat::Lines { filenames, split: sniffed }) = sniff(captions, &bytes) else {
            panic!("{captions} was not recognised");
        };
        assert_eq!(sniffed, Some(split));
        let filenames = std::fs::read(folder.join(filenames)).unwrap();
        let read = read_lines(&filenames, &bytes, sniffed).unwrap();
        assert_eq!(read.len(), images, "{captions}");
        let bare = read.iter().filter(|image| image.captions.is_empty()).count();
        assert_eq!(bare, without_caption, "{captions}");
    }
}

#[test]
fn polygons_agree_with_an_independent_copy() {
    let Some(folder) = folder("countries") else {
        return;
    };
    let text = std::fs::read(folder.join("countries.geojson")).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let polygons = CountryPolygons::new().unwrap();
    let mut seen = HashSet::new();
    for feature in json["features"].as_array().unwrap() {
        let code = feature["properties"]["id"].as_str().unwrap();
        if !["FI", "DE", "ES", "CH"].contains(&code) {
            continue;
        }
        seen.insert(code);
        let parts: Vec<Vec<Vec<[f64; 2]>>> = match feature["geometry"]["type"].as_str() {
            Some("Polygon") => {
                vec![serde_json::from_value(feature["geometry"]["coordinates"].clone()).unwrap()]
            }
            _ => serde_json::from_value(feature["geometry"]["coordinates"].clone()).unwrap(),
        };
        // A lattice over all of western Europe and the Canaries.
        let (mut inside, mut different, mut points) = (0, 0, 0);
        for x in 0..210 {
            for y in 0..180 {
                let (lon, lat) = (-19.0 + f64::from(x) * 0.251, 27.0 + f64::from(y) * 0.251);
                let expected = parts.iter().any(|rings| even_odd(rings, lon, lat));
                points += 1;
                inside += u32::from(expected);
                different += u32::from(expected != polygons.contains(code, lon, lat));
            }
        }
        assert!(inside > 60, "{code}: {inside} of {points} inside");
        assert!(different <= inside / 50, "{code}: {different} differ, {inside} inside");
    }
    assert_eq!(seen.len(), 4);
}

/// Whether a point lies in a polygon with holes.
fn even_odd(rings: &[Vec<[f64; 2]>], lon: f64, lat: f64) -> bool {
    let crossings = rings.iter().flat_map(|ring| ring.windows(2)).filter(|edge| {
        let ([x0, y0], [x1, y1]) = (edge[0], edge[1]);
        (y0 > lat) != (y1 > lat) && lon < x0 + (lat - y0) / (y1 - y0) * (x1 - x0)
    });
    crossings.count() % 2 == 1
}
