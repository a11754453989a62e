//! Models from elsewhere on the rows of a build: nothing is trained, and no table is read or written for them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::DType;
use choices::{Activation, Preset};
use manifests::BuildSpec;
use models::clip::{Clip, ClipConfig, SeenPreset};
use models::tokenizer::Tokenizer;
use pixels::DecodeLimits;
use serde_json::{Value, json};
use wording::TextTreatment;

use crate::clip_scorer::tokenizer_of;
use crate::device::{arithmetic, device, dtype};
use crate::encoder::encode_images;
use crate::evaluate::EvaluatedRow;
use crate::images::limits;
use crate::stage::StageError;
use crate::text_embeddings::{encode_texts, folder_of, tokenizer_at};
use crate::train_rows::TrainRow;

/// Raised when the same model would give other vectors.
pub const VERSION: u32 = 1;
const STAGE: &str = "evaluate";

/// A model from elsewhere, on this machine.
#[derive(Debug, Clone)]
pub struct ForeignFiles {
    /// Its folder, or its file of weights.
    pub path: PathBuf,
    /// Digest of its files.
    pub digest: String,
    /// The vocabulary, where it does not lie beside the weights: a file or folder, and its digest.
    pub tokenizer: Option<(PathBuf, String)>,
    /// What its weights were trained with, where a bare file of them does not say.
    pub activation: Option<Activation>,
}

/// A model whose files describe a network with a vocabulary of its own. Its weights are not read yet.
pub struct ForeignClip {
    files: ForeignFiles,
    config: ClipConfig,
    tokenizer: Tokenizer,
}

impl ForeignClip {
    /// Looks at configuration, vocabulary, and names and shapes of tensors.
    ///
    /// # Errors
    /// What is wrong with them, or missing, and what to do.
    pub fn examine(files: ForeignFiles) -> Result<Self, String> {
        let config = config_of(&files.path, files.activation)?;
        let tokenizer = match &files.tokenizer {
            Some((path, _)) => tokenizer_at(path)?,
            None => tokenizer_of(folder_of(&files.path))
                .map_err(|why| format!("{why}: name the vocabulary that belongs to the weights with --tokenizer"))?,
        };
        match (tokenizer.vocab_size(), config.text.vocab_size) {
            (has, knows) if has > knows => {
                Err(format!("its vocabulary has {has} entries, its text tower {knows}: name its own with --tokenizer"))
            }
            _ => Ok(Self { files, config, tokenizer }),
        }
    }

    /// Its network.
    pub fn config(&self) -> &ClipConfig {
        &self.config
    }

    /// All that decides its vectors of a build's pictures and captions.
    pub fn identity(&self, spec: &BuildSpec, treatment: &TextTreatment) -> Value {
        let vocabulary = self.files.tokenizer.as_ref().map(|(_, digest)| digest);
        json!([VERSION, self.files.digest, vocabulary, self.config, treatment, arithmetic(spec)])
    }

    /// Reads the weights.
    ///
    /// # Errors
    /// [`StageError::Configuration`] for weights that cannot be read, or a device that is not there.
    pub fn open(self, spec: &BuildSpec, treatment: TextTreatment) -> Result<ZeroShot, StageError> {
        let (on, as_type): (_, DType) = (device(STAGE, spec)?, dtype(spec));
        let path = &self.files.path;
        let clip = match path.is_dir() {
            true => Clip::load(path, &on, as_type),
            false => Clip::load_file(path, &self.config, &on, as_type),
        };
        let clip = clip.and_then(|clip| clip.frozen());
        let clip = clip.map_err(|e| StageError::Configuration { stage: STAGE, why: e.to_string() })?;
        Ok(ZeroShot { clip, tokenizer: self.tokenizer, treatment, limits: limits(spec), known: BTreeMap::new() })
    }
}

/// The preset whose shapes a bare file of weights has; `None`: a configuration says more, or they fit none.
pub fn seen_preset(path: &Path) -> Option<Preset> {
    let is_bare = path.is_file() && matches!(ClipConfig::beside(path), Ok(None));
    is_bare.then(|| SeenPreset::of_file(path).ok())?.map(|seen| seen.preset)
}

/// Whether a configuration lies beside the weights, which then counts.
pub fn is_described(path: &Path) -> bool {
    path.is_dir() || !matches!(ClipConfig::beside(path), Ok(None))
}

/// The configuration of a folder or of a file of weights; the activation is what neither may contradict.
fn config_of(path: &Path, activation: Option<Activation>) -> Result<ClipConfig, String> {
    let said = |e: models::ModelError| e.to_string();
    let described = match path.is_dir() {
        true => Some(Clip::examine(path).map_err(said)?),
        false => ClipConfig::beside(path).map_err(said)?,
    };
    match (described, activation) {
        (Some(config), Some(named)) if config.activation != named => Err(format!(
            "its configuration says activation = {:?}, and {named:?} was named: leave it out, or mend the configuration",
            config.activation
        )),
        (Some(config), _) if path.is_dir() => Ok(config),
        (Some(_), _) => Clip::examine(path).map_err(said),
        (None, Some(named)) => ClipConfig::of_shapes(path, named).map_err(said),
        (None, None) => Err("the file does not say which activation its weights were trained with, and the wrong one \
             costs points without an error: put its open_clip_config.json beside it, or name it behind the file: \
             FILE#activation=quick_gelu (OpenAI's weights and those fine-tuned from them) or FILE#activation=gelu \
             (LAION-2B's and DataComp's; LAION-400M's ViT-B/32 is quick_gelu)"
            .to_owned()),
    }
}

/// A model from elsewhere, ready to embed.
pub struct ZeroShot {
    clip: Clip,
    tokenizer: Tokenizer,
    treatment: TextTreatment,
    limits: DecodeLimits,
    /// Vectors of texts that were met: data sets repeat themselves.
    known: BTreeMap<String, Vec<f32>>,
}

impl ZeroShot {
    /// Embeds images, each once and as it is, and their captions behind the treatment. The captions themselves stay what
    /// they were: they say which images belong together.
    ///
    /// # Errors
    /// [`StageError::Compute`] with the image that cannot be decoded, or if the network fails or gives what is not finite.
    pub fn encode(&mut self, rows: Vec<TrainRow>) -> Result<Vec<EvaluatedRow>, StageError> {
        let images = encode_images(STAGE, &self.clip, &self.limits, &rows, false)?;
        let treated: Vec<Vec<String>> =
            rows.iter().map(|row| row.captions.iter().map(|text| self.treatment.apply(text)).collect()).collect();
        let mut new: Vec<&str> = treated.iter().flatten().map(String::as_str).collect();
        new.sort_unstable();
        new.dedup();
        new.retain(|text| !self.known.contains_key(*text));
        // texts of a length share a batch, and none is computed for the padding of a longer one
        new.sort_by_key(|text| text.len());
        let vectors = encode_texts(STAGE, &self.clip, &self.tokenizer, &new)?;
        self.known.extend(new.into_iter().map(str::to_owned).zip(vectors));
        let of = |text: &String| self.known.get(text).cloned().unwrap_or_default();
        Ok(rows
            .into_iter()
            .zip(images)
            .zip(treated)
            .map(|((row, embedding), treated)| EvaluatedRow {
                embedding,
                captions: row.captions.into_iter().zip(treated.iter().map(of)).collect(),
                image_id: row.image_id,
                bytes_digest: row.bytes_digest,
            })
            .collect())
    }
}

#[cfg(test)]
mod tests;
