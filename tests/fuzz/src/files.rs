//! Readers of files: sources, weights, specs.

use candle_core::{DType, Device};
use manifests::{BuildSpec, PairSpec};
use models::clip::SeenPreset;
use models::language::Llama;
use models::parameters::Parameters;
use models::sam::Sam;
use pixels::mask::Rle;
use sources::captioned;
use sources::meta::Meta;
use sources::name::ImageName;
use sources::tar::{self, Archive};
use sources::webdataset::Samples;
use sources::zip::{self, Directory, DirectoryParser, Limits, TAIL_BYTES, Tail};

use crate::torch_writer;

pub(crate) fn pickle(bytes: &[u8]) {
    if let Ok(meta) = Meta::from_pickle(bytes) {
        meta.canonical_tags();
    }
}

/// The bytes of a range that are there, as a store gives them.
fn range(bytes: &[u8], start: u64, length: u64) -> &[u8] {
    let clamp = |at: u64| at.min(bytes.len() as u64) as usize;
    &bytes[clamp(start)..clamp(start.saturating_add(length))]
}

pub(crate) fn zip(bytes: &[u8]) {
    _ = members(bytes);
}

fn members(bytes: &[u8]) -> Result<(), sources::SourceError> {
    let (size, limits) = (bytes.len() as u64, Limits::default());
    let directory: Directory = match zip::find_directory(size, range(bytes, size.saturating_sub(TAIL_BYTES), size))? {
        Tail::Found(directory) => directory,
        Tail::NeedRange { offset, length } => zip::read_zip64_end(offset, range(bytes, offset, length))?,
    };
    let mut members = Vec::new();
    let mut parser = DirectoryParser::new(directory, &limits)?;
    for chunk in range(bytes, directory.offset, directory.length).chunks(61) {
        parser.feed(chunk, &mut |entry| {
            members.extend(entry.member());
            Ok(())
        })?;
    }
    parser.finish()?;
    for member in members {
        let wanted = zip::member_range(&member, None);
        let there = range(bytes, wanted.start, wanted.end.saturating_sub(wanted.start));
        _ = zip::extract(&member, there, &limits);
    }
    Ok(())
}

pub(crate) fn tar(bytes: &[u8]) {
    let mut samples = Samples::of("train.tar");
    let mut archive = Archive::new(tar::is_packed(bytes), &mut samples);
    let read = bytes.chunks(61).try_for_each(|chunk| archive.feed(chunk)).and_then(|()| archive.finish());
    _ = (read, samples.finish());
}

/// Two archives, plain and packed.
pub(crate) fn tars() -> Vec<Vec<u8>> {
    let add = |bytes: &mut Vec<u8>, name: &str, kind: u8, data: &[u8]| {
        let mut header = vec![0u8; 512];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[124..135].copy_from_slice(format!("{:011o}", data.len()).as_bytes());
        header[156] = kind;
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
        header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        bytes.extend(header);
        bytes.extend_from_slice(data);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    };
    let mut plain = Vec::new();
    add(&mut plain, "a.jpg", b'0', b"a picture");
    add(&mut plain, "a.json", b'0', br#"{"captions": ["a lake"], "split": "test"}"#);
    add(&mut plain, "PaxHeader", b'x', b"14 path=b.jpg\n");
    add(&mut plain, "x", b'0', b"another");
    add(&mut plain, "././@LongLink", b'L', b"b.txt\0");
    add(&mut plain, "y", b'0', b"a road");
    plain.resize(plain.len() + 1024, 0);
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let packed = std::io::Write::write_all(&mut encoder, &plain).and_then(|()| encoder.finish());
    [Some(plain), packed.ok()].into_iter().flatten().collect()
}

pub(crate) fn csv(bytes: &[u8]) {
    let read = sources::csv::read_csv(bytes, &mut |row| {
        _ = ImageName::parse(&row.filepath);
        Ok(())
    });
    _ = (read, captioned::read_csv(bytes), captioned::sniff("a.csv", bytes));
    _ = (captioned::read_metadata_csv(bytes, &Default::default()), captioned::sniff("test/metadata.csv", bytes));
}

pub(crate) fn json(bytes: &[u8]) {
    _ = (captioned::read_jsonl(bytes), captioned::read_karpathy(bytes), captioned::read_lines(b"a.jpg\n", bytes, None));
    _ = (captioned::sniff("a.json", bytes), captioned::sniff("a.jsonl", bytes));
    _ = (captioned::read_coco(bytes, None), captioned::read_metadata_jsonl(bytes, &Default::default()));
    _ = (sources::rsrt::read_structured(bytes), sources::rsrt::read_queries(bytes));
    _ = (captioned::read_nwpu(bytes), captioned::sniff("nwpu.json", bytes));
    _ = captioned::sniff("test/metadata.jsonl", bytes);
}

/// `HEIGHT WIDTH COUNTS`.
pub(crate) fn rle(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut words = text.splitn(3, ' ');
    let mut side = || words.next().and_then(|word| word.parse().ok()).unwrap_or(3);
    let (height, width) = (side(), side());
    let Ok(mask) = Rle::from_coco_string(words.next().unwrap_or_default(), height, width) else { return };
    let [left, top, across, down] = mask.bbox_xywh();
    assert!(left + across <= width && top + down <= height);
    assert!(mask.area_px() <= u64::from(height) * u64::from(width));
    assert_eq!(Rle::from_coco_string(&mask.to_coco_string(), height, width).as_ref(), Ok(&mask));
}

/// With the bytes in a file of this name.
fn in_file(name: &str, bytes: &[u8], read: impl FnOnce(&std::path::Path)) {
    let folder = tempfile::tempdir().expect("a folder for one file");
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).expect("room for one file");
    read(&path);
}

pub(crate) fn gguf(bytes: &[u8]) {
    in_file("model.gguf", bytes, |path| _ = Llama::load_gguf(path, &Device::Cpu, DType::F32));
}

pub(crate) fn safetensors(bytes: &[u8]) {
    in_file("model.safetensors", bytes, |path| {
        _ = Parameters::load_safetensors(path, &Device::Cpu, DType::F32);
        _ = Sam::load(path, &Device::Cpu, DType::F32);
        _ = SeenPreset::of_file(path);
    });
}

/// A file of `torch.save`.
pub(crate) fn torch(bytes: &[u8]) {
    in_file("model.pt", bytes, |path| {
        _ = Parameters::load_safetensors(path, &Device::Cpu, DType::F32);
        _ = Sam::load(path, &Device::Cpu, DType::F32);
        _ = SeenPreset::of_file(path);
    });
}

/// The pickle of such a file: as damaged as it is, the archive around it is sound.
pub(crate) fn state_dict(bytes: &[u8]) {
    torch(&torch_writer::archive(bytes, &[(0, vec![0; 32])]));
}

pub(crate) fn state_dicts() -> Vec<Vec<u8>> {
    let saved = |name: &str, shape: &[usize]| torch_writer::Saved {
        name: name.to_owned(),
        storage: "FloatStorage",
        key: 0,
        elements: 8,
        offset: 1,
        shape: shape.to_vec(),
        strides: torch_writer::contiguous(shape),
    };
    let tensors = [saved("positional_embedding", &[2, 3]), saved("logit_scale", &[])];
    vec![torch_writer::pickle(&tensors, None), torch_writer::pickle(&tensors, Some("state_dict"))]
}

/// Lines that begin with `--set ` are overrides, the others the spec.
pub(crate) fn spec(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (set, lines): (Vec<&str>, Vec<&str>) = text.lines().partition(|line| line.starts_with("--set "));
    let set: Vec<String> = set.iter().map(|line| line["--set ".len()..].to_owned()).collect();
    let text = lines.join("\n");
    if let Ok(spec) = BuildSpec::parse(&text, "spec", &set) {
        _ = BuildSpec::parse(&spec.to_toml(), "spec", &[]).expect("a spec that was read is written and read again");
    }
    _ = PairSpec::parse(&text, "pair", &set);
}
