use super::*;
use crate::tar::{Archive, is_packed};

/// An archive of members.
fn tar(members: &[(&str, &[u8])]) -> Vec<u8> {
    let named = members.iter().map(|(name, data)| (name.as_bytes(), *data));
    tar_of(&named.collect::<Vec<_>>())
}

fn tar_of(members: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, data) in members {
        let mut block = vec![0; 512];
        block[..name.len()].copy_from_slice(name);
        block[124..135].copy_from_slice(format!("{:011o}", data.len()).as_bytes());
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
        block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        bytes.extend(block);
        bytes.extend_from_slice(data);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

fn read(archive: &str, bytes: &[u8]) -> Result<(Vec<Sample>, u64), SourceError> {
    let mut samples = Samples::of(archive);
    let mut reader = Archive::new(is_packed(bytes), &mut samples);
    bytes.chunks(1000).try_for_each(|chunk| reader.feed(chunk))?;
    reader.finish()?;
    samples.finish()
}

#[test]
fn neighbours_of_one_key_are_a_sample() {
    let bytes = tar(&[
        ("./0001.jpg", b"picture"),
        ("./0001.txt", b" a lake\n"),
        ("./0001.json", b"{\"caption\": \"not this\"}"),
        ("sub/a.b/0002.JPG", b"x"),
        (
            "sub/a.b/0002.json",
            b"{\"captions\": [\"a road\", \" \", \"two roads\"], \"split\": \"val\", \"image_id\": 7}",
        ),
        ("sub/a.b/0002.txt", b"a road"),
        ("0003.cls", b"7"),
        (".hidden.jpg", b"x"),
        ("noending", b"x"),
        ("a%2Eb.png", b"y"),
        ("a%2Eb.json", b"{\"text\": [\"a field\"], \"image_id\": \"a.b\", \"split\": \"nothing\"}"),
    ]);
    let (samples, others) = read("data/train-00000.tar", &bytes).unwrap();
    let rows: Vec<_> =
        samples.iter().map(|s| (s.id.as_str(), s.captions.join("|"), s.split, s.problem.as_ref())).collect();
    let wanted = [
        ("0001", "a lake", Some(Split::Train)),
        ("sub/a.b/0002", "a road|two roads", Some(Split::Val)),
        ("a.b", "a field", Some(Split::Train)),
    ];
    assert_eq!(rows, wanted.map(|(id, captions, split)| (id, captions.to_owned(), split, None)));
    assert_eq!(others, 1);
    let first = &samples[0].picture;
    assert_eq!(&bytes[first.offset as usize..][..first.size as usize], b"picture");
    assert_eq!((first.crc32, first.name.as_str()), (crc32fast::hash(b"picture"), "0001.jpg"));
    assert_eq!(read("shard.tar", &bytes).unwrap().0[0].split, None);
}

#[test]
fn a_sample_that_is_wrong_says_why() {
    let long = vec![b'a'; MAX_TEXT_BYTES as usize + 1];
    let bytes = tar(&[
        ("a.jpg", b"x"),
        ("b.jpg", b"x"),
        ("b.json", b"{\"captions\": 5"),
        ("c.jpg", b"x"),
        ("c.png", b"x"),
        ("c.txt", b"a lake"),
        ("d.jpg", b"x"),
        ("d.txt", b"\xff\xfe"),
        ("e.jpg", b"x"),
        ("e.txt", &long),
        ("../f.jpg", b"x"),
        ("../f.txt", b"a lake"),
        ("g.jpg", b"x"),
        ("g.txt", b" \n"),
        ("h.txt", b"a lake"),
        ("i.jpg", b""),
        ("i.txt", b"a lake"),
        ("%2E%2E%2Fj.jpg", b"x"),
        ("%2E%2E%2Fj.json", b"{\"image_id\": \"../j\", \"text\": \"a lake\"}"),
    ]);
    let (samples, others) = read("x.tar", &bytes).unwrap();
    let last = samples.last().unwrap();
    assert_eq!((last.id.as_str(), &last.problem), ("%2E%2E%2Fj", &None), "an id leads nowhere else");
    let samples = &samples[..samples.len() - 1];
    let why: Vec<&str> = samples.iter().map(|sample| sample.problem.as_deref().unwrap()).collect();
    for (why, word) in
        why.iter().zip(["no a.txt", ".json", "two images", "UTF-8", "over the limit", "..", "no g.txt", "is empty"])
    {
        assert!(why.contains(word), "{why} is not {word}");
    }
    assert_eq!((why.len(), others), (8, 1));
}

#[test]
fn what_is_kept_is_bounded() {
    let bytes = tar(&[("a.jpg", b"x"), ("b.jpg", b"x"), ("b.txt", b"a lake")]);
    let mut samples = Samples { most: 600, ..Samples::of("a.tar") };
    let mut reader = Archive::new(false, &mut samples);
    reader.feed(&bytes[..2500]).unwrap();
    let mut samples = Samples { most: 300, ..Samples::of("a.tar") };
    let error = Archive::new(false, &mut samples).feed(&bytes).unwrap_err();
    assert!(error.to_string().contains("MAX_KEPT_BYTES"), "{error}");
}

#[test]
fn a_key_has_no_dots_and_no_folders() {
    assert_eq!(key_of("a123_FI_20"), "a123_FI_20");
    assert_eq!(key_of("../a.b/c%\n"), "%2E%2E%2Fa%2Eb%2Fc%25%0A");
    assert_eq!(key_of("Süd"), "Süd");
}

/// Archives of WebDataset's own tests.
#[test]
fn archives_that_others_wrote_are_read() {
    let Some(data) = std::env::var_os("URBANCROSS_TEST_DATA") else {
        println!("skipped: URBANCROSS_TEST_DATA names no folder with test data");
        return;
    };
    let folder = std::path::Path::new(&data).join("data/webdataset_testdata");
    let of = |name: &str| read(name, &std::fs::read(folder.join(name)).unwrap()).unwrap();
    let (samples, others) = of("sample.tgz");
    assert!(samples.len() > 50 && others == 0, "{}, {others}", samples.len());
    assert!(samples.iter().all(|sample| sample.problem.is_some()), "classes are no captions");
    for (name, samples) in [("mpdata.tar", 100), ("tendata.tar", 100), ("compressed.tar", 3), ("testgz.tar", 1000)] {
        let (images, others) = of(name);
        assert!(images.is_empty() && others >= samples.min(3), "{name}: {others}");
    }
}

/// An archive of old names is not an archive with fewer pictures.
#[test]
fn a_name_in_another_encoding_is_a_sample_with_a_problem() {
    let bytes =
        tar_of(&[(b"caf\xe9.jpg", b"picture"), (b"caf\xe9.txt", b"a lake"), (b"a.jpg", b"x"), (b"a.txt", b"a road")]);
    let (samples, others) = read("x.tar", &bytes).unwrap();
    let rows: Vec<_> = samples.iter().map(|s| (s.id.as_str(), s.problem.as_deref())).collect();
    assert_eq!(rows.len(), 2, "{rows:?}");
    assert!(rows[0].0.contains("caf\\xe9") && rows[0].1.is_some_and(|why| why.contains("no UTF-8")), "{rows:?}");
    assert_eq!((rows[1], others), (("a", None), 0));
}
