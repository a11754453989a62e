//! Meta records as Python writes them, and pickles that want more than to be read.

use pickle::PickleError;
use sources::SourceError;
use sources::meta::{MAX_PICKLE_BYTES, Meta, Time};

/// `name protocol hex`, written by `make_pickles.py`.
const PICKLES: &str = include_str!("pickles.txt");

/// All pickles of a name with their protocol.
pub fn pickles(name: &str) -> Vec<(u8, Vec<u8>)> {
    let lines = PICKLES.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let lines = lines.filter(|words| words[0] == name);
    let byte = |hex: &[u8]| u8::from_str_radix(std::str::from_utf8(hex).unwrap(), 16).unwrap();
    lines
        .map(|words| {
            let bytes = words[2].as_bytes().chunks(2).map(byte).collect();
            (words[1].parse().unwrap(), bytes)
        })
        .collect()
}

#[test]
fn records_of_all_protocols_are_read() {
    let full = pickles("full");
    assert_eq!(full.len(), 6);
    for (protocol, bytes) in full {
        let meta = Meta::from_pickle(&bytes).unwrap_or_else(|e| panic!("{protocol}: {e}"));
        assert_eq!(meta.box_wsen, [24.9384, 60.1699, 24.9392, 60.1703]);
        let time = Time { year: 2019, month: Some(7), day: Some(14), hour: Some(9), minute: Some(55) };
        assert_eq!(meta.time, Some(time));
        let center: Vec<_> = meta.center_tags.iter().collect();
        let expected = [("amenity", "school"), ("building", "yes")];
        assert_eq!(center, expected.map(|(k, v)| (k.to_owned(), v.to_owned())).each_ref().map(|(k, v)| (k, v)));
        let [road, same_road, mixed] = &meta.surrounding_tags[..] else {
            panic!("{protocol}: {} objects", meta.surrounding_tags.len());
        };
        assert_eq!(road, same_road);
        assert_eq!(road["name"], "Straße 🚲 \\u0041\nline 2", "{protocol}");
        for (key, value) in [
            ("lanes", "2"),
            ("width", "3.5"),
            ("bridge", "True"),
            ("tunnel", "False"),
            ("layer", "-1"),
            ("ref", "None"),
            ("id", "1099511627776"),
            ("height", "nan"),
            ("7", "key"),
        ] {
            assert_eq!(mixed[key], value, "{protocol}: {key}");
        }
    }
}

#[test]
fn bbox_and_the_other_shapes_of_time_are_read() {
    for (protocol, bytes) in pickles("bbox") {
        let meta = Meta::from_pickle(&bytes).unwrap();
        assert_eq!(meta.box_wsen, [-4.0, 40.0, -3.0, 41.0], "{protocol}");
        let time = meta.time.unwrap();
        assert_eq!((time.year, time.month, time.day), (2021, Some(12), Some(31)));
        assert_eq!((time.hour, time.minute), (None, None));
        assert!(meta.center_tags.is_empty() && meta.surrounding_tags.is_empty());
    }
    for (protocol, bytes) in pickles("year") {
        let meta = Meta::from_pickle(&bytes).unwrap();
        let time = meta.time.unwrap();
        assert_eq!((time.year, time.month), (2018, None), "{protocol}");
        assert_eq!(meta.surrounding_tags.len(), 300);
    }
}

#[test]
fn canonical_tags_do_not_depend_on_the_protocol() {
    let texts: Vec<_> =
        pickles("full").iter().map(|(_, bytes)| Meta::from_pickle(bytes).unwrap().canonical_tags()).collect();
    assert!(texts.iter().all(|text| *text == texts[0]));
}

fn refused(bytes: &[u8]) -> &'static str {
    match Meta::from_pickle(bytes) {
        Err(SourceError::Pickle(PickleError::Refused { opcode, .. })) => opcode,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

#[test]
fn pickles_that_run_code_are_refused_by_name() {
    for name in ["command", "object"] {
        for (protocol, bytes) in pickles(name) {
            let expected = if protocol < 4 { "GLOBAL" } else { "STACK_GLOBAL" };
            assert_eq!(refused(&bytes), expected, "{name} {protocol}");
        }
    }
    assert_eq!(refused(&pickles("set")[0].1), "EMPTY_SET");
    let error = Meta::from_pickle(b"cos\nsystem\n.").unwrap_err();
    assert!(error.to_string().contains("opcode GLOBAL (os.system) is refused"), "{error}");
    assert!(error.spoils_one_row());
}

#[test]
fn a_record_without_end_is_refused() {
    let long = vec![b'N'; MAX_PICKLE_BYTES + 1];
    match Meta::from_pickle(&long) {
        Err(SourceError::Limit { setting, .. }) => assert_eq!(setting, "MAX_PICKLE_BYTES"),
        other => panic!("{other:?}"),
    }
    // A dict that holds itself.
    assert!(matches!(Meta::from_pickle(b"}q\0X\x03\0\0\0boxh\0s."), Err(SourceError::Meta { .. })));
}

#[test]
fn tags_named_again_are_counted() {
    // One dict of many tags named 100,000 times as a surrounding object.
    let mut record = b"}(X\x03\0\0\0box(K\x01K\x01K\x02K\x02tX\x0b\0\0\0center_tags}q\0(".to_vec();
    for key in 0u16..1000 {
        record.push(b'M');
        record.extend(key.to_le_bytes());
        record.push(b'N');
    }
    record.extend(b"uX\x10\0\0\0surrounding_tags(");
    record.extend(b"h\0".repeat(100_000));
    record.extend(b"lu.");
    match Meta::from_pickle(&record) {
        Err(SourceError::Limit { setting, .. }) => assert_eq!(setting, "MAX_TAG_BYTES"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn records_of_another_shape_name_the_field() {
    let record = |fields: &str| {
        // Protocol 0 by hand: fields are opcodes.
        Meta::from_pickle(format!("(d{fields}.").as_bytes())
    };
    let bounds = "Vbox\n(I1\nI1\nI2\nI2\nts";
    let center = "Vcenter_tags\n(ds";
    assert!(record(&format!("{bounds}{center}")).is_ok());
    assert!(record(&format!("{bounds}{center}Vtime\nNsVsurrounding_tags\nNs")).is_ok());
    for (fields, name) in [
        (center.to_owned(), "box"),
        (format!("Vbox\nI1\ns{center}"), "box"),
        (format!("Vbox\n(I1\nI1\nI2\nts{center}"), "box"),
        (format!("Vbox\n(I1\nI1\nI2\nVx\nts{center}"), "box"),
        (format!("Vbox\n(I2\nI1\nI1\nI2\nts{center}"), "box"),
        (format!("Vbox\n(I1\nI1\nI2\nFnan\nts{center}"), "box"),
        (bounds.to_owned(), "center_tags"),
        (format!("{bounds}Vcenter_tags\n(ls"), "center_tags"),
        (format!("{bounds}Vcenter_tags\n(dVa\n(lss"), "center_tags"),
        (format!("{bounds}{center}Vsurrounding_tags\n(ds"), "surrounding_tags"),
        (format!("{bounds}{center}Vsurrounding_tags\n(NlsN."), "surrounding_tags"),
        (format!("{bounds}{center}Vtime\nVx\ns"), "time"),
        (format!("{bounds}{center}Vtime\n(ts"), "time"),
        (format!("{bounds}{center}Vtime\n(I2020\nI13\nts"), "time"),
        (format!("{bounds}{center}Vtime\n(I1\nI1\nI1\nI1\nI1\nI1\nts"), "time"),
    ] {
        match record(&fields) {
            Err(SourceError::Meta { field, .. }) => assert_eq!(field, name, "{fields}"),
            Err(SourceError::Pickle(PickleError::Damaged { .. })) if fields.ends_with("N.") => {}
            other => panic!("{fields}: {other:?}"),
        }
    }
    assert!(matches!(Meta::from_pickle(b"N."), Err(SourceError::Meta { .. })));
}
