//! Pickles of plain data, pickles with names and calls, and those that want more than to be read.

use pickle::{Pickle, PickleError, Rules, Value};
use proptest::prelude::*;

const PLAIN: Rules = Rules::plain(4 << 20);

/// Points may be made, of whatever a dict is.
const POINTS: Rules = Rules {
    max_bytes: 1 << 20,
    max_opcodes: 1 << 16,
    names: &[("collections", "OrderedDict"), ("shapes", "Point")],
    only: "points and plain data are read, and nothing was run",
};

fn read(bytes: &[u8]) -> Result<Pickle<'_>, PickleError> {
    Pickle::read(bytes, &PLAIN)
}

#[test]
fn opcodes_that_run_code_are_refused_by_name() {
    for (bytes, opcode) in [
        (&b"cos\nsystem\n(S'ls'\ntR."[..], "GLOBAL"),
        (b"(S'ls'\nios\nsystem\n.", "INST"),
        (b"(N)o.", "OBJ"),
        (b"N)R.", "REDUCE"),
        (b"}}b.", "BUILD"),
        (b"\x80\x02N)\x81.", "NEWOBJ"),
        (b"\x80\x04N)}\x92.", "NEWOBJ_EX"),
        (b"Pid\n.", "PERSID"),
        (b"NQ.", "BINPERSID"),
        (b"\x80\x02\x82\x01.", "EXT1"),
        (b"\x80\x02\x83\x01\x00.", "EXT2"),
        (b"\x80\x02\x84\x01\x00\x00\x00.", "EXT4"),
        (b"\x80\x05\x97.", "NEXT_BUFFER"),
        (b"\x80\x05N\x98.", "READONLY_BUFFER"),
        (b"\x80\x04(\x91.", "FROZENSET"),
        (b"N0.", "POP"),
        (b"N2.", "DUP"),
        (b"\xff.", "(unknown)"),
        (b"cos", "GLOBAL"),
        (b"\x80\x04N\x93.", "STACK_GLOBAL"),
    ] {
        match read(bytes) {
            Err(PickleError::Refused { opcode: refused, .. }) => assert_eq!(refused, opcode),
            other => panic!("{}: {other:?}", bytes.escape_ascii()),
        }
    }
    let error = read(b"cos\nsystem\n.").unwrap_err();
    assert!(error.to_string().contains("opcode GLOBAL (os.system) is refused"), "{error}");
}

#[test]
fn damaged_pickles_are_errors() {
    for bytes in [
        &b""[..],
        b".",
        b"N",
        b"NN.",
        b"(N.",
        b"N.N",
        b"e.",
        b"t.",
        b"(e.",
        b"Na.",
        b"N(Ne.",
        b"}Ns.",
        b"](Nu.",
        b"}(Nu.",
        b"(Nd.",
        b"(\x85.",
        b"N(\x85.",
        b"]N(a.",
        b"q\x00.",
        b"h\x00.",
        b"g7\n.",
        b"Np-1\n.",
        b"I1",
        b"Ix\n.",
        b"L99999999999999999999L\n.",
        b"Fx\n.",
        b"S'a\n.",
        b"S'\\q'\n.",
        b"S'\\x4'\n.",
        b"V\\u12\n.",
        b"V\\ud800\n.",
        b"V\\U00110000\n.",
        b"U\x02a.",
        b"U\x01\xff.",
        b"X\xff\xff\xff\xffabc.",
        b"T\xff\xff\xff\x7fabc.",
        b"\x8d\xff\xff\xff\xff\xff\xff\xff\xffabc.",
        b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7fabc.",
        b"\x96\x00\x00\x00\x00\x00\x00\x00\x80abc.",
        b"\x8b\xff\xff\xff\x7f.",
        b"\x8a\x09123456789.",
        b"\x80\x06N.",
        b"\x95\xff\xff\xff\xff\xff\xff\xff\xffN.",
    ] {
        match read(bytes) {
            Err(PickleError::Damaged { .. }) => {}
            other => panic!("{}: {other:?}", bytes.escape_ascii()),
        }
    }
    let long = vec![b'N'; PLAIN.max_bytes + 1];
    assert!(matches!(read(&long), Err(PickleError::Limit { what: "bytes", .. })));
}

#[test]
fn python_2_texts_and_small_numbers_are_read() {
    for (bytes, expected) in [
        (&b"S'a\\'\\\\\\x41\\n'\n."[..], Value::Text("a'\\A\n".into())),
        (b"S\"it's\"\n.", Value::Text("it's".into())),
        (b"U\x03abc.", Value::Text("abc".into())),
        (b"T\x03\0\0\0abc.", Value::Text("abc".into())),
        (b"C\x03abc.", Value::Text("abc".into())),
        (b"V\xdf\\u0041\\U0001f6b2\n.", Value::Text("ßA🚲".into())),
        (b"\x8a\x00.", Value::Int(0)),
        (b"\x8a\x01\xff.", Value::Int(-1)),
        (b"\x8a\x02\x00\x80.", Value::Int(-32768)),
        (b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f.", Value::Int(i64::MAX)),
        (b"\x8b\x01\0\0\0\x7f.", Value::Int(127)),
        (b"J\xfe\xff\xff\xff.", Value::Int(-2)),
        (b"I01\n.", Value::Bool(true)),
        (b"L-5L\n.", Value::Int(-5)),
        (b"G\x3f\xf8\0\0\0\0\0\0.", Value::Float(1.5)),
        (b"F1e3\n.", Value::Float(1000.0)),
    ] {
        let pickle = read(bytes).unwrap_or_else(|e| panic!("{}: {e}", bytes.escape_ascii()));
        assert_eq!(*pickle.root(), expected, "{}", bytes.escape_ascii());
    }
}

#[test]
fn depth_bombs_cost_no_stack() {
    let mut nested = b"]".repeat(1_000_000);
    nested.extend(b"a".repeat(999_999));
    nested.push(b'.');
    assert!(read(&nested).is_ok());
    let tuples = [b")".to_vec(), b"\x85".repeat(1_000_000), b".".to_vec()].concat();
    assert!(read(&tuples).is_ok());
    assert!(matches!(read(&b"(".repeat(1_000_000)), Err(PickleError::Damaged { .. })));
    // A list that holds itself.
    assert!(read(b"]q\0h\0a.").is_ok());
}

#[test]
fn memo_bombs_are_not_copied() {
    // Lists of lists, each naming the one before twice: 2^60 leaves if they were copied.
    let mut laughs = b"]q\0".to_vec();
    for level in 0u8..60 {
        laughs.extend([b']', b'q', level + 1, b'h', level, b'a', b'h', level, b'a']);
    }
    // Left on the stack: 61 lists; gather them.
    laughs.insert(0, b'(');
    laughs.extend(b"t.");
    assert!(read(&laughs).is_ok());
}

#[test]
fn calls_are_written_down_and_not_made() {
    // Point(1, 2) with attributes, twice in an OrderedDict: as GLOBAL and REDUCE, as STACK_GLOBAL and NEWOBJ.
    let pickle = b"\x80\x04ccollections\nOrderedDict\n)R(\x8c\x01acshapes\nPoint\nK\x01K\x02\x86R}b\
        \x8c\x01b\x8c\x06shapes\x8c\x05Point\x93)\x81u.";
    let pickle = Pickle::read(pickle, &POINTS).unwrap();
    let Value::Dict(pairs) = pickle.root() else { panic!("{:?}", pickle.root()) };
    let points: Vec<&Value> = pairs.iter().map(|(_, point)| pickle.value(*point)).collect();
    let [Value::Call(("shapes", "Point"), first), Value::Call(("shapes", "Point"), second)] = points[..] else {
        panic!("{points:?}")
    };
    let Value::Sequence(arguments) = pickle.value(*first) else { panic!("no arguments") };
    assert_eq!(arguments.iter().map(|id| pickle.value(*id)).collect::<Vec<_>>(), [&Value::Int(1), &Value::Int(2)]);
    assert_eq!(pickle.value(*second), &Value::Sequence(Vec::new()));
    let outside = Pickle::read(b"K\x07Q.", &POINTS).unwrap();
    let Value::Reference(what) = outside.root() else { panic!("{:?}", outside.root()) };
    assert_eq!(outside.value(*what), &Value::Int(7));
}

#[test]
fn names_that_the_rules_do_not_have_are_refused() {
    for (bytes, named) in [
        (&b"cos\nsystem\n(S'ls'\ntR."[..], "GLOBAL (os.system)"),
        (b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93.", "STACK_GLOBAL (builtins.eval)"),
        (b"cshapes\nPointer\n.", "shapes.Pointer"),
        (b"ccollections\nPoint\n.", "collections.Point"),
        (b"(S'ls'\nios\nsystem\n.", "INST"),
        (b"\x80\x04(\x91.", "FROZENSET"),
        (b"\x80\x02\x82\x01.", "EXT1"),
    ] {
        let error = Pickle::read(bytes, &POINTS).unwrap_err();
        assert!(matches!(error, PickleError::Refused { .. }), "{error}");
        assert!(error.to_string().contains(named) && error.to_string().contains("nothing was run"), "{error}");
    }
    for (bytes, problem) in [
        (&b"N)R."[..], "call of what has no name"),
        (b"cshapes\nPoint\nNR.", "without a tuple"),
        (b"N}b.", "attributes"),
        (b"R.", "shorter stack"),
        (b"(0.", "shorter stack"),
    ] {
        let error = Pickle::read(bytes, &POINTS).unwrap_err();
        assert!(matches!(error, PickleError::Damaged { .. }) && error.to_string().contains(problem), "{error}");
    }
    let endless = [b"N0".repeat(1 << 16), b"N.".to_vec()].concat();
    let error = Pickle::read(&endless, &POINTS).unwrap_err();
    assert!(error.to_string().contains("more than 65536 opcodes"), "{error}");
}

/// Pieces that a pickle is made of, so that random ones get further than their first byte.
fn pieces() -> impl Strategy<Value = Vec<u8>> {
    let known: Vec<Vec<u8>> = [
        &b"("[..],
        b"t",
        b")",
        b"}",
        b"]",
        b"Q",
        b"R",
        b"b",
        b"u",
        b"s",
        b"e",
        b"a",
        b"0",
        b"N",
        b"\x81",
        b"\x85",
        b"\x86",
        b"\x87",
        b"\x93",
        b"\x94",
        b"K\x05",
        b"q\x00",
        b"h\x00",
        b"J\xff\xff\xff\xff",
        b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f",
        b"ccollections\nOrderedDict\n",
        b"cshapes\nPoint\n",
        b"X\x06\x00\x00\x00shapes",
        b"X\xff\xff\xff\xff",
    ]
    .map(<[u8]>::to_vec)
    .into();
    let any = proptest::collection::vec(any::<u8>(), 0..4);
    proptest::collection::vec(prop_oneof![8 => proptest::sample::select(known), 1 => any], 0..60)
        .prop_map(|pieces| [pieces.concat(), b".".to_vec()].concat())
}

proptest! {
    #[test]
    fn random_pickles_are_answered(pickle in pieces()) {
        for rules in [PLAIN, POINTS] {
            let _ = Pickle::read(&pickle, &rules).map(|pickle| format!("{:?}", pickle.root()));
        }
    }
}
