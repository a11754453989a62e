use bytes::Bytes;
use manifests::digest;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::*;

fn sight(source: &str, bytes: &str, object: Option<&str>, box_wsen: Option<[f64; 4]>) -> Sight {
    Sight { source: Some(source.into()), bytes: Some(digest::bits(bytes)), object: object.map(Box::from), box_wsen }
}

/// Rows by id, split, object and box, each with a picture of its own.
fn rows(rows: &[(&str, &str, &str, [f64; 4])]) -> RunRows {
    let row = |&(id, split, object, wsen): &(&str, &str, &str, [f64; 4])| {
        let sight = sight("here", &format!("bytes of {id}"), Some(object), Some(wsen));
        (
            id.into(),
            RunRow { digest: Some(digest::bits(&format!("{id} {split}"))), split: RowSplit::named(split), sight },
        )
    };
    RunRows { rows: rows.iter().map(row).collect(), ..RunRows::default() }
}

/// Images of a captioned folder, by id, split and bytes: no object, no box.
fn captioned(source: &str, rows: &[(&str, &str, &str)]) -> RunRows {
    let row = |&(id, split, bytes): &(&str, &str, &str)| {
        (id.into(), RunRow { digest: None, split: RowSplit::named(split), sight: sight(source, bytes, None, None) })
    };
    RunRows { rows: rows.iter().map(row).collect(), ..RunRows::default() }
}

fn how(seen: &RunRows, now: &RunRows) -> Option<String> {
    seen.leak(now).map(|leak| leak.how)
}

const HERE: [f64; 4] = [10.0, 50.0, 10.01, 50.01];
const NEAR: [f64; 4] = [10.005, 50.005, 10.015, 50.015];
const FAR: [f64; 4] = [20.0, 50.0, 20.01, 50.01];

#[test]
fn rows_survive_their_file() {
    let mut all = rows(&[("a", "train", "way/1", HERE), ("b", "test", "way/2", FAR)]);
    // an image of the name of one that is read, and one twice
    all.descend_from(&captioned("there", &[("a", "train", "1"), ("b", "train", "2"), ("c", "train", "3")]));
    all.descend_from(&captioned("there", &[("c", "train", "4")]));
    assert_eq!(RunRows::from_bytes(all.to_bytes().unwrap(), &RunRows::default()).unwrap(), all);
    assert!(RunRows::from_bytes(Bytes::from_static(b"PAR1 torn"), &RunRows::default()).is_err());
}

#[test]
fn weights_that_saw_a_held_out_image_object_or_place_are_found() {
    let before = rows(&[("a", "train", "way/1", HERE), ("b", "test", "way/2", FAR)]);
    let leak = |now: &[(&str, &str, &str, [f64; 4])]| how(&before, &rows(now));
    assert_eq!(leak(&[("a", "train", "way/1", HERE), ("b", "val", "way/2", FAR)]), None);
    assert_eq!(leak(&[("a", "test", "way/1", HERE)]).unwrap(), "the same image");
    assert!(leak(&[("c", "val", "way/1", FAR)]).unwrap().contains("object"));
    assert!(leak(&[("c", "test", "way/3", NEAR)]).unwrap().contains("box"));
    assert_eq!(leak(&[("c", "train", "way/1", NEAR)]), None, "what is trained on now is no leak");
    assert_eq!(leak(&[("c", "dropped", "way/1", NEAR)]), None);
}

#[test]
fn a_picture_under_another_name_is_found() {
    let before = captioned("here", &[("a", "train", "1"), ("b", "test", "2")]);
    for split in ["val", "test"] {
        let found = how(&before, &captioned("here", &[("c", split, "1")])).unwrap();
        assert!(found.contains("byte for byte"), "{found}");
    }
    assert_eq!(how(&before, &captioned("here", &[("c", "test", "2")])), None);
    // splits of now do not have it in training beside test, so a run that had is worse than a new one
    let before = captioned("here", &[("a", "train", "1"), ("b", "test", "1")]);
    assert!(how(&before, &captioned("here", &[("a", "dropped", "1"), ("b", "test", "1")])).is_some());
}

/// Two folders may both have a `1.jpg`; a name of SkyScript is one image wherever it lies.
#[test]
fn a_name_is_one_image_within_its_source() {
    let seen = captioned("here", &[("1", "train", "a picture")]);
    let elsewhere = |bytes| how(&seen, &captioned("there", &[("1", "test", bytes)]));
    assert_eq!(elsewhere("another picture"), None);
    assert!(elsewhere("a picture").unwrap().contains("byte for byte"));
    assert_eq!(how(&seen, &captioned("here", &[("1", "test", "encoded anew")])).unwrap(), "the same image");
    let mut unknown = seen.clone();
    unknown.rows.values_mut().for_each(|row| row.sight.source = None);
    assert!(how(&unknown, &captioned("there", &[("1", "test", "another picture")])).is_some(), "nobody knows");
    let mut other = rows(&[("w1_FI_20", "test", "way/1", HERE)]);
    let seen = rows(&[("w1_FI_20", "train", "way/1", HERE)]);
    other.rows.values_mut().for_each(|row| row.sight.source = Some("mirror".into()));
    assert_eq!(how(&seen, &other).unwrap(), "the same image");
}

#[test]
fn an_ancestors_rows_count() {
    let mut child = rows(&[("b", "train", "way/2", FAR)]);
    child.descend_from(&rows(&[("a", "train", "way/1", HERE), ("z", "test", "way/9", FAR)]));
    assert_eq!(child.trained(), 2);
    assert!(child.leak(&rows(&[("a", "test", "way/1", HERE)])).is_some());
    assert!(child.leak(&rows(&[("z", "test", "way/9", [30.0, 1.0, 30.1, 1.1])])).is_none());
}

/// Neither the child's own image of a name nor another ancestor's hides what an ancestor learnt from.
#[test]
fn an_ancestors_image_is_kept_beside_another_of_its_name() {
    let mut child = captioned("there", &[("1", "test", "b"), ("2", "train", "c")]);
    child.descend_from(&captioned("here", &[("1", "train", "a"), ("2", "train", "d")]));
    child.descend_from(&captioned("elsewhere", &[("1", "train", "e")]));
    for bytes in ["a", "c", "d", "e"] {
        assert!(child.leak(&captioned("anywhere", &[("x", "test", bytes)])).is_some(), "{bytes}");
    }
    assert_eq!(child.leak(&captioned("there", &[("1", "test", "b")])), None, "it was never learnt from");
    let once = child.clone();
    child.descend_from(&once);
    assert_eq!(child.ancestors["1"].len(), 2, "told twice, kept once");
}

/// A run of an older version recorded neither digests of pictures nor sources, and had one row for an image of its own
/// and of an ancestor.
#[test]
fn rows_of_an_older_version_are_completed() {
    let mut old = captioned("", &[("a", "train", ""), ("b", "val", ""), ("gone", "train", "")]);
    old.ancestors.insert("b".into(), vec![Sight::default()]);
    old.rows.values_mut().for_each(|row| row.sight = Sight::default());
    let file = ParquetRecordBatchReaderBuilder::try_new(old.to_bytes().unwrap()).unwrap().build().unwrap();
    let mut batch = file.map(Result::unwrap).next().unwrap();
    for column in ["source", "bytes_digest"] {
        batch.remove_column(batch.schema().index_of(column).unwrap());
    }
    let now = captioned("here", &[("a", "train", "1"), ("b", "dropped", "2"), ("c", "test", "1"), ("d", "test", "2")]);
    let mut read = RunRows::default();
    file::read_batch(&batch, &now, &mut read).unwrap();
    assert_eq!(read.trained(), 3);
    let leak = read.leak(&now).unwrap();
    assert_eq!((leak.images, leak.image_id.as_str()), (2, "c"), "{leak}");
    assert!(leak.how.contains("byte for byte"));
}

#[test]
fn pictures_that_are_learnt_and_held_out_are_counted() {
    let all = captioned("here", &[("a", "train", "1"), ("b", "test", "1"), ("c", "val", "1"), ("d", "test", "2")]);
    assert_eq!(all.learnt_and_held_out().map(|(pictures, _)| pictures), Some(1));
    assert_eq!(captioned("here", &[("a", "train", "1"), ("b", "dropped", "1")]).learnt_and_held_out(), None);
}

#[test]
fn a_share_counts_added_removed_and_changed_rows() {
    let before = rows(&[("a", "train", "x", HERE), ("b", "train", "x", HERE), ("c", "train", "x", HERE)]);
    let now = rows(&[("a", "train", "x", HERE), ("b", "test", "x", HERE), ("d", "train", "x", HERE)]);
    assert_eq!(before.changed(&now), ChangedShare { rows: 4, changed: 3 });
}
