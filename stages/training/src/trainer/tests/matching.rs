//! An objective that reads tokens and learns with the towers: cross-attention of words with image positions in two
//! layers, behind it whether image and text belong together, and which word stands in a masked place (Li et al. 2021,
//! "Align before Fuse", section 3.2, in small).

use candle_core::{D, DType, Device, Tensor};
use models::parameters::{Declaration, Init, Parameters};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use crate::batch::PairBatch;
use crate::communicator::Communicator;
use crate::contrastive::{Contrastive, Loss};
use crate::error::Result;
use crate::gradients::Gradients;
use crate::objective::{Differentiated, Objective, StepInfo, TokenColumns};
use crate::objective::{Gathered, GatheredTokens};

const WIDTH: usize = 8;
const WORD_WIDTH: usize = 6;
const CHANNELS: usize = 5;
const VOCABULARY: usize = 12;
const MASK: u32 = 9;

pub(in crate::trainer) struct Matching {
    parameters: Parameters,
    contrast: Contrastive,
}

impl Matching {
    pub(in crate::trainer) fn new(seed: u64, dtype: DType) -> Self {
        let mut declared = Vec::new();
        let mut declare = |name: String, shape: [usize; 2]| {
            let init = Init::Normal { standard_deviation: (shape[0] as f64).powf(-0.5) };
            declared.push(Declaration { name, shape: shape.to_vec(), init });
        };
        declare("words".into(), [WORD_WIDTH, WIDTH]);
        for layer in 0..2 {
            for (part, inputs) in [("query", WIDTH), ("key", CHANNELS), ("value", CHANNELS), ("out", WIDTH)] {
                declare(format!("{layer}.{part}"), [inputs, WIDTH]);
            }
            declare(format!("{layer}.up"), [WIDTH, 2 * WIDTH]);
            declare(format!("{layer}.down"), [2 * WIDTH, WIDTH]);
        }
        declare("match".into(), [WIDTH, 2]);
        declare("word".into(), [WIDTH, VOCABULARY]);
        Self {
            parameters: Parameters::init(&declared, seed, &Device::Cpu, dtype).unwrap(),
            contrast: Contrastive::new(Loss::InfoNce { label_smoothing: 0.0 }).unwrap(),
        }
    }

    fn product(&self, x: &Tensor, name: &str) -> candle_core::Result<Tensor> {
        x.broadcast_matmul(self.parameters.get(name).unwrap().as_tensor())
    }

    /// Words `[R, L, D]` that look at positions `[R, P, C]`: `[R, L, H]`.
    fn fuse(&self, words: &Tensor, positions: &Tensor) -> candle_core::Result<Tensor> {
        let mut x = self.product(words, "words")?;
        for layer in 0..2 {
            let of = |x: &Tensor, part: &str| self.product(x, &format!("{layer}.{part}"));
            let scores = (of(&x, "query")?.matmul(&of(positions, "key")?.transpose(1, 2)?.contiguous()?)?
                * (WIDTH as f64).powf(-0.5))?;
            let attention = log_softmax(&scores)?.exp()?;
            x = (x + of(&attention.matmul(&of(positions, "value")?)?, "out")?)?;
            let inner = of(&x, "up")?.tanh()?;
            x = (x + of(&inner, "down")?)?;
        }
        Ok(x)
    }
}

fn log_softmax(x: &Tensor) -> candle_core::Result<Tensor> {
    let x = x.broadcast_sub(&x.detach().max_keepdim(D::Minus1)?)?;
    x.broadcast_sub(&x.exp()?.sum_keepdim(D::Minus1)?.log()?)
}

/// Minus the logarithm of the share of the class in each row, summed.
fn cross_entropy(logits: &Tensor, classes: &[u32]) -> candle_core::Result<Tensor> {
    let classes = Tensor::from_slice(classes, (classes.len(), 1), logits.device())?;
    log_softmax(logits)?.gather(&classes, 1)?.sum_all()?.neg()
}

/// What is drawn for a row follows from the step and the row itself.
fn rng_of(step: usize, image_key: u64, caption_key: u64, purpose: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(image_key ^ caption_key.rotate_left(20) ^ purpose.rotate_left(40));
    rng.set_stream(step as u64);
    rng
}

/// Places of a text whose words are to be guessed.
fn masked_places(step: usize, image_key: u64, caption_key: u64, ids: &[u32]) -> Vec<usize> {
    let mut rng = rng_of(step, image_key, caption_key, 1);
    let words = (1..ids.len()).filter(|&at| ids[at] != 0).collect::<Vec<_>>();
    words.into_iter().filter(|_| rng.random::<f64>() < 0.4).collect()
}

/// A row among `candidates`, the likelier the more alike; none where there is no candidate.
fn draw(rng: &mut ChaCha8Rng, similarities: &[f64], may: impl Fn(usize) -> bool) -> Option<usize> {
    let weights: Vec<f64> =
        (0..similarities.len()).map(|j| if may(j) { (5.0 * similarities[j]).exp() } else { 0.0 }).collect();
    let mut left = rng.random::<f64>() * weights.iter().sum::<f64>();
    let chosen = weights.iter().position(|&weight| {
        left -= weight;
        weight > 0.0 && left < 0.0
    });
    chosen.or_else(|| weights.iter().rposition(|&weight| weight > 0.0))
}

/// Triples of image row, text row and class for this rank's rows.
fn pairs(of: &Gathered, step: usize) -> candle_core::Result<Vec<(usize, usize, u32)>> {
    let rows = |tensor: &Tensor| tensor.detach().to_dtype(DType::F64)?.to_vec2::<f64>();
    let (images, texts) = (rows(of.image_nd.as_tensor())?, rows(of.text_nd.as_tensor())?);
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let mut pairs = Vec::new();
    for row in of.rows.clone().filter(|&row| of.valid_n[row]) {
        let may = |other: usize| {
            of.valid_n[other]
                && of.image_keys_n[other] != of.image_keys_n[row]
                && of.caption_keys_n[other] != of.caption_keys_n[row]
        };
        let mut rng = rng_of(step, of.image_keys_n[row], of.caption_keys_n[row], 2);
        pairs.push((row, row, 1));
        let of_image: Vec<f64> = texts.iter().map(|text| dot(&images[row], text)).collect();
        pairs.extend(draw(&mut rng, &of_image, may).map(|text| (row, text, 0)));
        let of_text: Vec<f64> = images.iter().map(|image| dot(image, &texts[row])).collect();
        pairs.extend(draw(&mut rng, &of_text, may).map(|image| (image, row, 0)));
    }
    Ok(pairs)
}

impl Matching {
    /// This rank's parts of both losses.
    fn parts(&self, of: &Gathered, tokens: &GatheredTokens, step: usize) -> Result<Vec<(&'static str, Tensor)>> {
        let length = tokens.input_ids_nl.len() / of.valid_n.len();
        // padding behind the longest text is left out, so that it changes nothing
        let longest = tokens.is_token_nl.chunks(length).filter_map(|row| row.iter().rposition(|&is| is)).max();
        let longest = longest.map_or(1, |last| last + 1);
        let cut = |tokens: &Option<candle_core::Var>| {
            tokens.as_ref().unwrap().as_tensor().narrow(1, 0, longest)?.contiguous()
        };
        let image_nld = tokens.image_nld.as_ref().unwrap().as_tensor();
        let (text_nld, masked_nld) = (cut(&tokens.text_nld)?, cut(&tokens.masked_nld)?);
        let select = |tensor: &Tensor, rows: Vec<u32>| {
            let rows = Tensor::from_slice(&rows, rows.len(), tensor.device())?;
            tensor.index_select(&rows, 0)
        };
        let valid = of.valid_n.iter().filter(|&&valid| valid).count() as f64;
        let mut parts = Vec::new();
        let pairs = pairs(of, step)?;
        if !pairs.is_empty() {
            let images = select(image_nld, pairs.iter().map(|pair| pair.0 as u32).collect())?;
            let texts = select(&text_nld, pairs.iter().map(|pair| pair.1 as u32).collect())?;
            // the mean over words, of which each text has its own number
            let is_token = |row: usize| tokens.is_token_nl[row * length..row * length + longest].iter();
            let flags = pairs.iter().flat_map(|pair| is_token(pair.1).map(|&is| f64::from(u8::from(is))));
            let flags = Tensor::from_vec(flags.collect::<Vec<f64>>(), (pairs.len(), longest, 1), &Device::Cpu)?;
            let flags = flags.to_dtype(texts.dtype())?;
            let fused = self.fuse(&texts, &images)?.broadcast_mul(&flags)?.sum(1)?.broadcast_div(&flags.sum(1)?)?;
            let classes: Vec<u32> = pairs.iter().map(|pair| pair.2).collect();
            let logits = self.product(&fused, "match")?;
            parts.push(("matching", (cross_entropy(&logits, &classes)? / (3.0 * valid))?));
        }
        let ids = |row: usize| &tokens.input_ids_nl[row * length..][..longest];
        let places = |row: usize| masked_places(step, of.image_keys_n[row], of.caption_keys_n[row], ids(row));
        let masked = |rows: &mut dyn Iterator<Item = usize>| -> Vec<(usize, usize)> {
            rows.filter(|&row| of.valid_n[row])
                .flat_map(|row| places(row).into_iter().map(move |at| (row, at)))
                .collect()
        };
        let all = masked(&mut (0..of.valid_n.len())).len() as f64;
        let own = masked(&mut of.rows.clone());
        if !own.is_empty() {
            let rows: Vec<u32> = own.iter().map(|&(row, _)| row as u32).collect();
            let fused = self.fuse(&select(&masked_nld, rows.clone())?, &select(image_nld, rows)?)?;
            let at: Vec<u32> = own.iter().enumerate().map(|(nth, &(_, at))| (nth * longest + at) as u32).collect();
            let logits = self.product(&select(&fused.flatten(0, 1)?, at)?, "word")?;
            let words: Vec<u32> = own.iter().map(|&(row, at)| ids(row)[at]).collect();
            parts.push(("masked_words", (cross_entropy(&logits, &words)? / all)?));
        }
        // every rank names the same parts
        for name in ["matching", "masked_words"] {
            if parts.iter().all(|(part, _)| *part != name) {
                parts.push((name, (image_nld.sum_all()? * 0.0)?));
            }
        }
        parts.sort_by_key(|(name, _)| *name);
        Ok(parts)
    }
}

impl Objective for Matching {
    fn identity(&self) -> Value {
        json!({ "matching": WIDTH })
    }

    fn parameters(&self) -> Option<&Parameters> {
        Some(&self.parameters)
    }

    fn tokens(&self) -> TokenColumns {
        TokenColumns { image: true, text: true }
    }

    fn masked_ids(&mut self, batch: &PairBatch, info: StepInfo) -> Result<Option<Vec<u32>>> {
        let mut ids = batch.input_ids_bl.clone();
        let length = ids.len() / batch.rows();
        for (row, ids) in ids.chunks_exact_mut(length).enumerate() {
            for at in masked_places(info.global_step, batch.image_keys[row], batch.caption_keys[row], ids) {
                ids[at] = MASK;
            }
        }
        Ok(Some(ids))
    }

    fn differentiate(&mut self, of: &Gathered, info: StepInfo, _: &mut dyn Communicator) -> Result<Differentiated> {
        let mut parts = self.contrast.parts(of)?;
        parts.extend(self.parts(of, of.tokens.as_ref().unwrap(), info.global_step)?);
        let mut differentiated = Differentiated::sum_of(&parts)?;
        let mut joint = Gradients::default();
        joint.collect(&differentiated.gradients, "", self.parameters.iter())?;
        joint.fill("", self.parameters.iter())?;
        differentiated.joint = joint;
        Ok(differentiated)
    }
}
