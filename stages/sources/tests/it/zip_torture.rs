//! Every file of zip-rs' collection of difficult archives has its expected outcome.

use crate::archive::{data, members};
use crate::in_house_data::folder;
use sources::SourceError;
use sources::zip::{Limits, Member};

/// What a file must give.
enum Expected {
    /// The archive's error, in part.
    Archive(&'static str),
    /// Per member its name as shown and its size or, in part, its error.
    Members(&'static [(&'static str, Outcome)]),
    /// So many members, all readable.
    AllOf(usize),
}

enum Outcome {
    Bytes(usize),
    Error(&'static str),
}

use Expected::{AllOf, Archive, Members};
use Outcome::{Bytes, Error};

const EXPECTED: &[(&str, Expected)] = &[
    (
        "aes_archive.zip",
        Members(&[
            ("secret_data_128", Error("encrypted")),
            ("secret_data_192", Error("encrypted")),
            ("secret_data_256", Error("encrypted")),
            ("secret_data_256_uncompressed", Error("encrypted")),
        ]),
    ),
    ("chinese.zip", Members(&[(r"\xc6\xdf\xb8\xf6\xb7\xbf\xbc\xe4.txt", Error("UTF-8"))])),
    ("comment_garbage.zip", AllOf(0)),
    ("data_descriptor.zip", Members(&[("hello.txt", Bytes(12))])),
    ("deflate64_issue_25.zip", Archive("damaged or spans")),
    ("extended_timestamp.zip", Members(&[("mimetype", Bytes(39)), ("test.txt", Bytes(0))])),
    // Python refuses it for the broken time stamp, which nobody needs here.
    ("extended_timestamp_bad.zip", Members(&[("mimetype", Bytes(39)), ("test.txt", Bytes(0))])),
    ("files_and_dirs.zip", Members(&[("file0.txt", Bytes(18))])),
    ("ignore_encryption_flag.zip", Members(&[("plaintext.txt", Error("encrypted"))])),
    ("implode.zip", Members(&[("first.txt", Error("method 6"))])),
    ("invalid_cde_number_of_files_allocation_greater_offset.zip", Archive("damaged or spans")),
    // Its end record declares an empty archive.
    ("invalid_cde_number_of_files_allocation_smaller_offset.zip", AllOf(0)),
    ("invalid_offset.zip", Archive("1406..2099, behind itself")),
    ("invalid_offset2.zip", Archive("damaged or spans")),
    ("lin-ub_iwd-v11.zip", AllOf(71)),
    ("linux-7z.zip", AllOf(1)),
    ("mimetype.zip", Members(&[("mimetype", Bytes(39))])),
    ("misaligned_comment.zip", AllOf(0)),
    ("non_utf8.zip", Members(&[(r"\xd6\xd0\xce\xc4", Error("UTF-8")), (r"\x93\xfa\x95\xb6", Error("UTF-8"))])),
    ("ntfs.zip", Members(&[("mimetype", Bytes(39)), ("test.txt", Bytes(0))])),
    ("ppmd.zip", Members(&[("ipsum.txt", Error("method 98"))])),
    ("raw_deflate64_index_out_of_bounds.zip", Members(&[("", Error("control character"))])),
    ("reduce.zip", Members(&[("first.txt", Error("method 5"))])),
    ("shrink.zip", Members(&[("FIRST.TXT", Error("method 1"))])),
    ("symlink.zip", Members(&[("bar", Bytes(3))])),
    ("windows-7zip.zip", Members(&[(r"\xa7A\xa6n.txt", Error("UTF-8"))])),
    ("xz.zip", Members(&[("hello.txt", Error("method 95"))])),
    ("zip64_demo.zip", Members(&[("-", Bytes(14))])),
    // Names that hold end records: one to six members, and never a Zip64 archive.
    ("zip64_magic_in_filename_1.zip", Members(&[("PK", Error("control character"))])),
    ("zip64_magic_in_filename_2.zip", Members(&[("PK", Error("control character"))])),
    ("zip64_magic_in_filename_3.zip", Members(&[("", Error("control character")), ("", Error("control character"))])),
    (
        "zip64_magic_in_filename_4.zip",
        Members(&[("PK", Error("control character")), ("PK", Error("control character"))]),
    ),
    (
        "zip64_magic_in_filename_5.zip",
        Members(&[
            ("PK", Error("control character")),
            ("", Error("control character")),
            ("", Error("control character")),
            ("", Error("empty")),
            ("", Error("control character")),
            ("", Error("control character")),
        ]),
    ),
];

#[test]
fn every_file_has_its_outcome() {
    let Some(folder) = folder("zip_torture") else {
        return;
    };
    let mut names: Vec<_> = ["", "legacy"]
        .iter()
        .flat_map(|sub| std::fs::read_dir(folder.join(sub)).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "zip"))
        .collect();
    names.sort_by_key(|path| path.file_name().unwrap().to_owned());
    assert_eq!(names.len(), EXPECTED.len());
    for (path, (name, expected)) in names.iter().zip(EXPECTED) {
        assert_eq!(path.file_name().unwrap().to_str().unwrap(), *name);
        let bytes = std::fs::read(path).unwrap();
        // Every chunk length must tell the same.
        for chunk in [1, 7, 1 << 20] {
            check(name, &bytes, chunk, expected);
        }
    }
}

fn check(name: &str, bytes: &[u8], chunk: usize, expected: &Expected) {
    let found = match (members(bytes, chunk), expected) {
        (Ok(found), Members(_) | AllOf(_)) => found,
        (Err(error @ SourceError::Archive { .. }), Archive(part)) => {
            assert!(error.to_string().contains(part), "{name}: {error}");
            return;
        }
        (other, _) => panic!("{name}: {other:?}"),
    };
    let outcome = |member: &Result<Member, SourceError>| match member {
        Ok(member) => {
            let data = data(bytes, member, &Limits::default());
            (member.name.clone(), data.map(|data| data.len()))
        }
        Err(SourceError::Member { member, problem }) => {
            let problem = problem.clone();
            let member = member.clone();
            (member.clone(), Err(SourceError::Member { member, problem }))
        }
        Err(other) => panic!("{name}: {other}"),
    };
    let outcomes: Vec<_> = found.iter().map(outcome).collect();
    let wanted = match expected {
        Members(wanted) => *wanted,
        AllOf(count) => {
            assert_eq!(outcomes.len(), *count, "{name}");
            assert!(outcomes.iter().all(|(_, data)| data.is_ok()), "{name}: {outcomes:?}");
            return;
        }
        Archive(_) => unreachable!("returned above"),
    };
    assert_eq!(outcomes.len(), wanted.len(), "{name}: {outcomes:?}");
    for ((member, data), (wanted_member, wanted)) in outcomes.iter().zip(wanted) {
        assert!(member.starts_with(wanted_member), "{name}: {member}");
        match (data, wanted) {
            (Ok(length), Bytes(wanted)) => assert_eq!(length, wanted, "{name}: {member}"),
            (Err(error), Error(part)) => {
                assert!(error.to_string().contains(part), "{name}: {error}");
            }
            _ => panic!("{name}, {member}: {data:?}"),
        }
    }
}
