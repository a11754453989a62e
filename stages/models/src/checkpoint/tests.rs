//! Every layout, and what is wrong with files.

use super::torch_writer::{Saved, archive, contiguous, pickle, stored_zip};
use super::*;
use crate::parameters::save_tensors;
use candle_core::DType;

const MODEL: &[&str] = &["model.safetensors", "pytorch_model.bin"];

fn counted(shape: &[usize]) -> Tensor {
    let count = shape.iter().product::<usize>() as u32;
    Tensor::arange(0u32, count, &Device::Cpu).unwrap().to_dtype(DType::F32).unwrap().reshape(shape).unwrap()
}

fn save(folder: &Path, file: &str, tensors: &[(&str, &[usize])]) {
    let tensors = tensors.iter().map(|(name, shape)| ((*name).to_owned(), counted(shape)));
    save_tensors(&folder.join(file), tensors).unwrap();
}

fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// A tensor in the storage 0 of six floats.
fn saved(name: &str, offset: usize, shape: &[usize], strides: &[usize]) -> Saved<'static> {
    let (name, shape, strides) = (name.to_owned(), shape.to_vec(), strides.to_vec());
    Saved { name, storage: "FloatStorage", key: 0, elements: 6, offset, shape, strides }
}

#[test]
fn shards_are_one_checkpoint_and_errors_name_both_shapes() {
    let folder = tempfile::tempdir().unwrap();
    save(folder.path(), "a.safetensors", &[("x.weight", &[2, 3])]);
    let six = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0].map(|value: f32| value * 2.0);
    let torch = archive(&pickle(&[saved("y.weight", 0, &[6], &[1])], None), &[(0, floats(&six))]);
    std::fs::write(folder.path().join("b.bin"), torch).unwrap();
    let index = r#"{"weight_map": {"x.weight": "a.safetensors", "y.weight": "b.bin"}}"#;
    for name in MODEL {
        let index_file = folder.path().join(format!("{name}.index.json"));
        std::fs::write(&index_file, index).unwrap();
        let checkpoint = Checkpoint::open_folder(folder.path(), MODEL).unwrap();
        assert_eq!(flat(&checkpoint.tensor("x.weight", &[2, 3]).unwrap()), flat(&counted(&[6])));
        assert_eq!(flat(&checkpoint.tensor("y.weight", &[6]).unwrap()), six);
        let wrong = checkpoint.tensor("x.weight", &[3, 2]).unwrap_err().to_string();
        assert!(wrong.contains("x.weight") && wrong.contains("[3, 2]") && wrong.contains("[2, 3]"), "{wrong}");
        let missing = checkpoint.tensor("z.weight", &[5]).unwrap_err().to_string();
        assert!(missing.contains("z.weight") && missing.contains("[5]"), "{missing}");
        std::fs::remove_file(index_file).unwrap();
    }
}

#[test]
fn safetensors_that_contradict_themselves_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let open = || Checkpoint::open_folder(folder.path(), MODEL).map(|_| ()).unwrap_err().to_string();
    assert!(open().contains("holds no weights"));
    let index = folder.path().join("model.safetensors.index.json");
    std::fs::write(&index, r#"{"weight_map": {"x": "../../etc/passwd"}}"#).unwrap();
    assert!(open().contains("passwd"));
    let path = folder.path().join("model.safetensors");
    let write = |length: u64, header: &str| {
        std::fs::write(&path, [&length.to_le_bytes(), header.as_bytes()].concat()).unwrap();
    };
    write(u64::MAX, "{}");
    assert!(open().contains("header of"));
    let header = r#"{"x":{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,16]}}"#;
    write(header.len() as u64, header);
    assert!(!open().is_empty());
    let header = r#"{"x":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}"#;
    write(header.len() as u64, header);
    assert!(open().contains("0..16"), "{}", open());
    let length = header.len() as u64;
    std::fs::write(&path, [&length.to_le_bytes(), header.as_bytes(), &[0; 20]].concat()).unwrap();
    assert!(open().contains("speaks of 16 bytes of tensors, it has 20"), "{}", open());
    std::fs::write(&path, "short").unwrap();
    assert!(open().contains("no safetensors"));
}

#[test]
fn tensors_that_share_a_storage_are_read_by_their_strides() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.pt");
    let six = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0];
    let tensors = [
        saved("module.whole", 0, &[2, 3], &[3, 1]),
        saved("module.turned", 0, &[3, 2], &[1, 3]),
        saved("module.end", 4, &[2], &[1]),
        saved("module.column", 1, &[2], &[3]),
        saved("module.same", 5, &[2, 3], &[0, 0]),
        saved("one", 3, &[], &[]),
    ];
    std::fs::write(&path, archive(&pickle(&tensors, Some("state_dict")), &[(0, floats(&six))])).unwrap();
    let checkpoint = Checkpoint::open(&path).unwrap().unwrapped();
    let read = |name: &str| flat(&checkpoint.load(name).unwrap());
    assert_eq!(read("whole"), six);
    assert_eq!(read("turned"), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
    assert_eq!((read("end"), read("column")), (vec![4.0, 5.0], vec![1.0, 4.0]));
    assert_eq!((read("same"), read("one")), (vec![5.0; 6], vec![3.0]));
    // errors speak of what is in the file
    let wrong = checkpoint.check("whole", &[6]).unwrap_err().to_string();
    assert!(wrong.contains("tensor module.whole"), "{wrong}");
}

#[test]
fn a_wrapper_is_taken_off_unless_the_name_is_taken() {
    let tensors = ["a", "module.a", "module.b", "modules.c"].map(|name| (name.to_owned(), counted(&[1])));
    let unwrapped = Checkpoint::from_tensors(tensors.into(), Path::new("w")).unwrapped();
    assert_eq!(unwrapped.shapes().map(|(name, _)| name).collect::<Vec<_>>(), ["a", "b", "module.a", "modules.c"]);
}

#[test]
fn state_dictionaries_that_are_damaged_or_ask_for_code_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.pt");
    let why = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        let read = Checkpoint::open(&path).and_then(|checkpoint| checkpoint.load("w"));
        let error = read.map(|_| ()).unwrap_err();
        assert!(matches!(error, ModelError::Malformed { .. }), "{error}");
        error.to_string()
    };
    let six = floats(&[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    let sound = |storage: &[u8]| {
        let pickle = pickle(&[saved("w", 0, &[2, 3], &[3, 1])], None);
        archive(&pickle, &[(0, storage.to_vec())])
    };
    for length in [3, 40, 200, sound(&six).len() - 1] {
        let message = why(&sound(&six)[..length]);
        assert!(message.contains("cut off") && message.contains("w.pt"), "{length}: {message}");
    }
    let message = why(&sound(&six[..20]));
    assert!(message.contains("tensor w has 20 bytes, 6 elements of 4 are wanted"), "{message}");
    let mut flipped = sound(&six);
    let place = flipped.windows(six.len()).position(|window| window == six).unwrap();
    flipped[place + 5] ^= 1;
    let message = why(&flipped);
    assert!(message.contains("tensor w is damaged") && message.contains("set_crc32_options(True)"), "{message}");
    let message = why(&archive(&pickle(&[saved("w", 0, &[2, 3], &[3, 1])], None), &[]));
    assert!(message.contains("archive/data/0"), "{message}");
    // a storage that says it is larger than the file, in both of the archive's records
    let mut larger = sound(&six);
    let sizes: Vec<usize> =
        (0..larger.len() - 8).filter(|at| larger[*at..].starts_with(&[24, 0, 0, 0, 24, 0, 0, 0])).collect();
    for at in sizes {
        larger[at..at + 8].copy_from_slice(&[24, 0, 0, 1, 24, 0, 0, 1]);
    }
    let message = why(&larger);
    assert!(message.contains("archive/data/0"), "{message}");
    let message = why(&archive(b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00ls\x85R.", &[]));
    assert!(message.contains("os.system") && message.contains("refused"), "{message}");
    assert!(why(b"\x80\x02}.").contains("1.6"));
    let script = [("m/data.pkl".to_owned(), &b"N."[..]), ("m/constants.pkl".to_owned(), b"N.")];
    assert!(why(&stored_zip(&script)).contains("TorchScript"));
    let big = [("m/data.pkl".to_owned(), &b"}."[..]), ("m/byteorder".to_owned(), b"big")];
    assert!(why(&stored_zip(&big)).contains("little-endian"));
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(Checkpoint::open(&path), Err(ModelError::Io { .. })));
}

#[test]
fn a_file_is_known_by_its_content_and_else_by_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let six = floats(&[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    let tensor = saved("w", 0, &[2, 3], &contiguous(&[2, 3]));
    std::fs::write(folder.path().join("epoch_3.ckpt"), archive(&pickle(&[tensor], None), &[(0, six)])).unwrap();
    save(folder.path(), "weights", &[("w", &[2, 3])]);
    for name in ["epoch_3.ckpt", "weights"] {
        let checkpoint = Checkpoint::open(&folder.path().join(name)).unwrap();
        assert_eq!(flat(&checkpoint.load("w").unwrap()), flat(&counted(&[6])), "{name}");
    }
}
