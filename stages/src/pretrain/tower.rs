//! The network and the vocabulary that a training starts with.

use std::path::Path;

use manifests::BuildSpec;
use manifests::weights::Weights;
use models::clip::{Clip, ClipConfig};
use models::tokenizer::Tokenizer;

use super::rows::TrainRows;
use crate::device::{device, dtype};
use crate::stage::StageError;
use crate::text_embeddings::{TOKENIZER_FILE, read_tokenizer};

/// Where a training starts from.
pub struct Start<'a> {
    pub spec: &'a BuildSpec,
    /// What `model.init` and `model.tokenizer` name, on this machine.
    pub weights: &'a Weights,
    /// Folder of the run: the vocabulary made at its start is kept there.
    pub folder: &'a Path,
    /// Result folder of an earlier run.
    pub warm_start: Option<&'a Path>,
}

/// Opens network and vocabulary: a warm start brings both; `model.init` brings weights; else the
/// weights are random from the seed, and the vocabulary is trained on the captions or read from
/// the file that the spec names.
pub fn open_tower(
    stage: &'static str,
    start: &Start<'_>,
    train: &mut dyn TrainRows,
) -> Result<(Clip, Tokenizer), StageError> {
    let configuration = |why: String| StageError::Configuration { stage, why };
    let (device, dtype) = (device(stage, start.spec)?, dtype(start.spec));
    let model = &start.spec.model;
    if let Some(folder) = start.warm_start {
        let clip = Clip::load(folder, &device, dtype)
            .map_err(|e| configuration(format!("warm start {}: {e}", folder.display())))?;
        let tokenizer = read_tokenizer(stage, &folder.join(TOKENIZER_FILE))?;
        return Ok((clip, tokenizer));
    }
    let tokenizer = vocabulary(stage, start, train)?;
    let preset = || -> Result<ClipConfig, StageError> {
        let mut config = ClipConfig::preset(&model.preset).ok_or_else(|| {
            configuration(format!(
                "model.preset = {:?} is not known; use vit-b-32, vit-b-16, vit-l-14, small or tiny",
                model.preset
            ))
        })?;
        if model.image_size_px > 0 {
            config.vision.image_size = model.image_size_px;
        }
        if model.context_length > 0 {
            config.text.context_length = model.context_length;
        }
        Ok(config)
    };
    let clip = match start.weights.path("model.init") {
        None if !model.init.is_empty() => return Err(configuration(not_here("model.init", &model.init))),
        None => {
            let mut config = preset()?;
            config.text.vocab_size = tokenizer.vocab_size();
            Clip::init(&config, start.spec.pretrain.seed, &device, dtype)
        }
        Some(folder) if folder.is_dir() => Clip::load(folder, &device, dtype),
        Some(file) => Clip::load_file(file, &preset()?, &device, dtype),
    }
    .map_err(|e| {
        configuration(format!("model {}: {e}", if model.init.is_empty() { &model.preset } else { &model.init }))
    })?;
    if clip.config().text.vocab_size < tokenizer.vocab_size() {
        return Err(configuration(format!(
            "the vocabulary has {} entries and the model {}: name the tokenizer that belongs to model.init",
            tokenizer.vocab_size(),
            clip.config().text.vocab_size
        )));
    }
    Ok((clip, tokenizer))
}

fn vocabulary(stage: &'static str, start: &Start<'_>, train: &mut dyn TrainRows) -> Result<Tokenizer, StageError> {
    let kept = start.folder.join(TOKENIZER_FILE);
    if kept.exists() {
        return read_tokenizer(stage, &kept);
    }
    let model = &start.spec.model;
    let tokenizer = if model.tokenizer == "train" {
        let captions = train.captions().map_err(|why| StageError::Compute { stage, why })?;
        Tokenizer::train(captions, model.vocabulary)
            .map_err(|e| StageError::Compute { stage, why: format!("vocabulary: {e}") })?
    } else {
        let path = start
            .weights
            .path("model.tokenizer")
            .ok_or_else(|| StageError::Configuration { stage, why: not_here("model.tokenizer", &model.tokenizer) })?;
        let file = if path.is_dir() { path.join(TOKENIZER_FILE) } else { path.to_owned() };
        read_tokenizer(stage, &file)?
    };
    tokenizer.save(&kept).map_err(|e| StageError::of(stage, &e))?;
    Ok(tokenizer)
}

fn not_here(field: &str, source: &str) -> String {
    format!("{field} = {source:?} is not on this machine: `urbancross weights SPEC --fetch` brings it")
}
