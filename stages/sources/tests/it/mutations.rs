//! Valid inputs, damaged at random by a fixed seed: no panic, no hang, whatever comes out.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sources::captioned::{read_csv, read_jsonl, read_karpathy, read_lines, sniff};
use sources::csv;
use sources::meta::Meta;
use sources::name::ImageName;
use sources::zip::Limits;

use crate::archive::{File, data, members, zip};
use crate::pickles::pickles;

/// Bytes that mean something in one of the formats.
const SPECIAL: &[u8] = b"\"\n,PK\\/.{[(]\0\xff";

/// Damages a copy: flipped bytes, extreme numbers, cut, doubled or inserted pieces.
fn damaged(original: &[u8], rng: &mut ChaCha8Rng) -> Vec<u8> {
    let mut bytes = original.to_vec();
    for _ in 0..rng.random_range(1..5) {
        if bytes.is_empty() {
            bytes.push(rng.random());
        }
        let at = rng.random_range(0..bytes.len());
        let upto = rng.random_range(at..=bytes.len().min(at + 40));
        match rng.random_range(0..7) {
            0 => bytes[at] = rng.random(),
            1 => bytes[at] ^= 1 << rng.random_range(0..8),
            2 => bytes.truncate(at),
            3 => {
                bytes.drain(at..upto);
            }
            4 => {
                let piece = bytes[at..upto].to_vec();
                bytes.splice(at..at, piece);
            }
            5 => {
                let extreme = [0u32, 1, 0x7fff_ffff, 0xffff_ffff, 0xffff][rng.random_range(0..5)];
                for (byte, new) in bytes[at..].iter_mut().zip(extreme.to_le_bytes()) {
                    *byte = new;
                }
            }
            _ => bytes.insert(at, SPECIAL[rng.random_range(0..SPECIAL.len())]),
        }
    }
    bytes
}

/// Runs `read` on the original, which must be accepted, and on `count` damaged copies; some of
/// those must be refused, or the damage proves nothing.
fn survive(seed: u64, count: usize, original: &[u8], read: impl Fn(&[u8]) -> bool) {
    assert!(read(original), "the undamaged input is refused");
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let refused = (0..count).filter(|_| !read(&damaged(original, &mut rng))).count();
    assert!(refused > count / 20, "{refused} of {count} refused");
}

#[test]
fn archives() {
    let files = [
        File::stored("images2/a1_CH_19.jpg", b"\xff\xd8 a picture"),
        File::deflated("meta2/a1_CH_19.pickle", &b"tags ".repeat(50)),
        File::deflated("meta2/a2_CH_19.pickle", b"x"),
    ];
    for zip64 in [false, true] {
        survive(1, 4000, &zip(&files, zip64), |bytes| {
            members(bytes, 33).is_ok_and(|members| {
                members
                    .iter()
                    .all(|member| member.as_ref().is_ok_and(|member| data(bytes, member, &Limits::default()).is_ok()))
            })
        });
    }
}

#[test]
fn meta_pickles() {
    for name in ["full", "bbox", "year"] {
        for (protocol, bytes) in pickles(name) {
            survive(protocol.into(), 1000, &bytes, |bytes| {
                Meta::from_pickle(bytes).is_ok_and(|meta| !meta.canonical_tags().is_empty())
            });
        }
    }
}

#[test]
fn tables() {
    let text = "filepath,title,title_multi_objects,similarity_CLIP_openai\r\n\
                images2/a1_CH_19.jpg,\"a, \"\"b\"\"\",c,0.5\r\nimages3/w2_US_20.jpg,d,\"e\nf\",0.25\r\n";
    survive(3, 4000, text.as_bytes(), |bytes| {
        csv::read_csv(bytes, &mut |row| {
            let _ = ImageName::parse(&row.filepath);
            Ok(())
        })
        .is_ok_and(|summary| summary.row_errors == 0)
    });
    let text = b"image_name,description\na.jpg,\"a road, two\"\na.jpg,b\nd/c.jpg,c\n";
    survive(4, 4000, text, |bytes| sniff("a.csv", bytes).is_some() && read_csv(bytes).is_ok());
}

#[test]
fn caption_files() {
    let text = b"{\"file\": \"a.jpg\", \"split\": \"train\", \"captions\": [\"x\", \"y\"]}\n\
                 {\"file\": \"b.jpg\", \"split\": \"test\", \"captions\": [\"z\"]}\n";
    survive(5, 3000, text, |bytes| sniff("a.jsonl", bytes).is_some() && read_jsonl(bytes).is_ok());
    let text = b"{\"images\": [{\"filename\": \"a.jpg\", \"split\": \"val\", \
                 \"sentences\": [{\"raw\": \"x\"}, {\"raw\": \"y\"}]}]}";
    survive(6, 3000, text, |bytes| sniff("a.json", bytes).is_some() && read_karpathy(bytes).is_ok());
    let captions = b"1\n2\n3\n4\n5\n6\n7\n8\n9\n10\n";
    survive(7, 2000, captions, |bytes| read_lines(b"a\nb\n", bytes, None).is_ok());
    survive(8, 2000, b"a.jpg\nb.jpg\n", |bytes| read_lines(bytes, captions, None).is_ok());
}

#[test]
fn image_names() {
    survive(9, 3000, b"images2/a198234555_CH_19.jpg", |bytes| {
        ImageName::parse(&String::from_utf8_lossy(bytes)).is_ok()
    });
}
