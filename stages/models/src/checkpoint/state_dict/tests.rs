use super::*;
use crate::checkpoint::torch_writer::{self, Saved, contiguous};
use proptest::prelude::*;

/// A tensor as [`Described`], with a storage name of its own.
type Owned = (String, DType, usize, usize, Vec<usize>, Vec<usize>);

fn read(bytes: &[u8]) -> Result<BTreeMap<String, Owned>, String> {
    let pickle = Pickle::read(bytes, &RULES).map_err(|error| error.to_string())?;
    let owned = |(name, t): (&str, Described<'_>)| {
        (name.to_owned(), (t.storage.to_owned(), t.dtype, t.storage_elements, t.offset, t.shape, t.strides))
    };
    Ok(tensors(&pickle)?.into_iter().map(owned).collect())
}

/// `{"w": tensor of [2, 3] at 1 in a storage of 8 floats}` as torch.save writes it, protocol 2.
fn state_dict() -> Vec<u8> {
    let mut pickle = b"\x80\x02ccollections\nOrderedDict\nq\x00)Rq\x01(X\x01\x00\x00\x00w".to_vec();
    pickle.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\n");
    pickle.extend(b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x08tQK\x01K\x02K\x03\x86K\x03K\x01\x86\x89h\x00)RtR");
    pickle.extend(b"u}X\x09\x00\x00\x00_metadataNsb.");
    pickle
}

#[test]
fn a_state_dictionary_is_read() {
    let tensors = read(&state_dict()).unwrap();
    let expected = ("0".to_owned(), DType::F32, 8, 1, vec![2, 3], vec![3, 1]);
    assert_eq!(tensors, BTreeMap::from([("w".to_owned(), expected)]));
}

#[test]
fn code_is_refused_by_name() {
    let message = read(b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R.").unwrap_err();
    assert!(message.contains("os.system") && message.contains("refused"), "{message}");
    let message = read(b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93.").unwrap_err();
    assert!(message.contains("builtins.eval"), "{message}");
}

#[test]
fn every_truncation_and_every_flipped_byte_is_survived() {
    let pickle = state_dict();
    for length in 0..pickle.len() {
        assert!(read(&pickle[..length]).is_err(), "{length}");
    }
    for place in 0..pickle.len() {
        for value in [0, 1, b'.', b'(', b'R', b'h', b't', 0x7f, 0xff] {
            let mut broken = pickle.clone();
            broken[place] = value;
            let _ = read(&broken);
        }
    }
}

#[test]
fn a_tensor_beyond_its_storage_is_refused() {
    let mut pickle = state_dict();
    let elements = pickle.windows(3).position(|window| window == b"K\x08t").unwrap() + 1;
    pickle[elements] = 6;
    let message = read(&pickle).unwrap_err();
    assert!(message.contains("[2, 3]") && message.contains("6 elements"), "{message}");
}

/// Buffers that a network never filled.
#[test]
fn a_tensor_without_elements_is_left_out() {
    let saved = |name: &str, elements: usize, shape: &[usize]| Saved {
        name: name.to_owned(),
        storage: "FloatStorage",
        key: elements,
        elements,
        offset: 0,
        shape: shape.to_vec(),
        strides: contiguous(shape),
    };
    let all = [saved("cache", 0, &[0, 3]), saved("view", 6, &[2, 0]), saved("w", 6, &[2, 3])];
    let found = read(&torch_writer::pickle(&all, None)).unwrap();
    assert_eq!(found.keys().collect::<Vec<_>>(), ["w"]);
}

#[test]
fn deep_nesting_and_repetition_cost_nothing() {
    // A million tuples around each other, and thirty that hold the one before twice.
    let deep = [b"\x80\x02)".to_vec(), vec![0x85; 1_000_000], b".".to_vec()].concat();
    assert!(read(&deep).unwrap_err().contains("no dictionary"));
    let wide = [b"\x80\x02)".to_vec(), b"q\x00h\x00\x86".repeat(30), b".".to_vec()].concat();
    assert!(read(&wide).is_err());
    let endless = [b"\x80\x02".to_vec(), b"N0".repeat(1 << 20), b".".to_vec()].concat();
    assert!(read(&endless).unwrap_err().contains("more than"));
}

/// A storage's name of a kilobyte, or a shape of a thousand ones, that is recalled for each of many tensors.
#[test]
fn what_is_recalled_is_not_copied() {
    let name = "n".repeat(1000);
    let mut pickle = [b"\x80\x02}(X\xe8\x03\x00\x00".to_vec(), name.into_bytes(), b"q\x00".to_vec()].concat();
    pickle.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\n");
    pickle.extend(b"h\x00h\x00K\x08tQK\x00K\x02\x85K\x01\x85\x89NtRX\x01\x00\x00\x00bh\x00u.");
    let tensors = read(&pickle).unwrap();
    let (key, (storage, .., shape, _)) = tensors.iter().next().unwrap();
    assert_eq!((key.len(), storage.len(), shape), (1000, 1000, &vec![2]));
    let shape = |dims: usize| {
        let sizes = [b"(".to_vec(), b"K\x01".repeat(dims), b"t".to_vec()].concat();
        let head = b"\x80\x02}(X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n(".to_vec();
        let storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000NK\x08tQK\x00".to_vec();
        [head, storage, sizes.clone(), sizes, b"\x89NtRu.".to_vec()].concat()
    };
    assert_eq!(read(&shape(8)).unwrap()["w"].4, [1; 8]);
    assert!(read(&shape(9)).unwrap_err().contains("at most 8"));
}

#[test]
fn dictionaries_around_it_and_parameters_are_looked_into() {
    let saved = |name: &str, storage| Saved {
        name: name.to_owned(),
        storage,
        key: 4,
        elements: 6,
        offset: 0,
        shape: vec![2, 3],
        strides: contiguous(&[2, 3]),
    };
    let all = [saved("a", "HalfStorage"), saved("b", "LongStorage"), saved("mask", "BoolStorage")];
    for nested in [None, Some("state_dict"), Some("model")] {
        let found = read(&torch_writer::pickle(&all, nested)).unwrap();
        let types: Vec<(&str, DType)> = found.iter().map(|(name, tensor)| (name.as_str(), tensor.1)).collect();
        assert_eq!(types, [("a", DType::F16), ("b", DType::I64)], "{nested:?}");
    }
    let elsewhere = read(&torch_writer::pickle(&all, Some("optimizer"))).unwrap();
    assert!(elsewhere.is_empty(), "{elsewhere:?}");
    // nn.Parameter around the tensor of `state_dict`
    let mut pickle = state_dict();
    let begin = pickle.windows(14).position(|window| window == b"ctorch._utils\n").unwrap();
    let end = pickle.windows(4).position(|window| window == b")RtR").unwrap() + 4;
    pickle.splice(end..end, *b"\x89N\x87R");
    pickle.splice(begin..begin, *b"ctorch._utils\n_rebuild_parameter\n");
    assert_eq!(read(&pickle), read(&state_dict()));
}

#[test]
fn a_name_without_end_is_refused() {
    let saved = Saved {
        name: "n".repeat(2000),
        storage: "FloatStorage",
        key: 0,
        elements: 1,
        offset: 0,
        shape: vec![],
        strides: vec![],
    };
    assert!(read(&torch_writer::pickle(&[saved], None)).unwrap_err().contains("2000 bytes"));
}

#[test]
fn a_stride_of_zero_makes_no_large_tensor_of_a_small_storage() {
    let mut pickle = state_dict();
    // shape [2, 3] with strides [0, 0], then [2, 9] with [0, 0]
    let strides = pickle.windows(5).position(|window| window == b"K\x03K\x01\x86").unwrap();
    (pickle[strides + 1], pickle[strides + 3]) = (0, 0);
    assert!(read(&pickle).is_ok());
    let shape = pickle.windows(5).position(|window| window == b"K\x02K\x03\x86").unwrap();
    pickle[shape + 3] = 9;
    let message = read(&pickle).unwrap_err();
    assert!(message.contains("[2, 9]") && message.contains("8 elements"), "{message}");
}

proptest! {
    #[test]
    fn what_a_damaged_pickle_describes_lies_within_its_storage(
        damage in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..6)
    ) {
        let mut pickle = state_dict();
        for (place, value) in damage {
            let place = place.index(pickle.len());
            pickle[place] = value;
        }
        let described = read(&pickle).into_iter().flat_map(|tensors| tensors.into_values());
        for (_, _, elements, offset, shape, strides) in described {
            let last = shape.iter().zip(&strides).map(|(size, stride)| (size - 1) * stride).sum::<usize>();
            prop_assert!(offset + last < elements && shape.iter().product::<usize>() <= elements);
        }
    }
}
