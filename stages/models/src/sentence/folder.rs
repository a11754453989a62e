//! The folder of a sentence encoder, as sentence-transformers writes it, or of a plain BERT.

use super::config::BertConfig;
use super::pooling::Pooling;
use crate::checkpoint::{Checkpoint, read_json};
use crate::language::weights::FILES;
use crate::tokenizer::{BertNormalizer, TextTokenizer};
use crate::{ModelError, Result};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// More modules than any published encoder has.
const MAX_MODULES: usize = 16;

/// What the files of a folder say, without its weights.
pub(super) struct Folder {
    /// Where the Transformer lies.
    pub(super) transformer: PathBuf,
    pub(super) config: BertConfig,
    pub(super) pooling: Pooling,
    /// Folders of linear maps behind the pooling.
    pub(super) dense: Vec<PathBuf>,
    pub(super) max_tokens: usize,
    pub(super) lower_case: bool,
    pub(super) tokenizer: TextTokenizer,
}

#[derive(Deserialize)]
struct Module {
    #[serde(default)]
    path: String,
    r#type: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct SentenceBert {
    max_seq_length: Option<usize>,
    do_lower_case: bool,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct TokenizerConfig {
    model_max_length: Option<f64>,
    do_lower_case: Option<bool>,
    strip_accents: Option<bool>,
    tokenize_chinese_chars: Option<bool>,
}

impl Folder {
    pub(super) fn open(folder: &Path) -> Result<Self> {
        let list = folder.join("modules.json");
        let modules: Vec<Module> = if list.is_file() { read_json(&list)? } else { Vec::new() };
        if modules.len() > MAX_MODULES {
            return Err(ModelError::malformed(&list, format!("{} modules, more than {MAX_MODULES}", modules.len())));
        }
        let (mut transformer, mut pooling, mut dense) = (folder.to_owned(), Pooling::Mean, Vec::new());
        for module in &modules {
            let is_plain = module.path.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
            if !is_plain {
                return Err(ModelError::malformed(&list, format!("{:?} is no folder beside it", module.path)));
            }
            let at = folder.join(&module.path);
            match module.r#type.rsplit('.').next() {
                Some("Transformer") => transformer = at,
                Some("Pooling") => {
                    let path = at.join("config.json");
                    pooling = Pooling::from_json(&path, read_json(&path)?)?;
                }
                Some("Dense") => dense.push(at),
                // every vector is made one long in the end
                Some("Normalize") => {}
                _ => return Err(ModelError::malformed(&list, format!("a module of type {:?}", module.r#type))),
            }
        }
        let path = transformer.join("config.json");
        let config = BertConfig::from_json(&path, read_json(&path)?)?;
        let own = transformer.join("sentence_bert_config.json");
        let own: SentenceBert = if own.is_file() { read_json(&own)? } else { SentenceBert::default() };
        let vocabulary = transformer.join("tokenizer_config.json");
        let vocabulary: TokenizerConfig =
            if vocabulary.is_file() { read_json(&vocabulary)? } else { TokenizerConfig::default() };
        // the vocabulary's bound may be 10^30: none
        let bound = own.max_seq_length.or(vocabulary.model_max_length.map(|bound| bound as usize));
        let uncased = BertNormalizer::default();
        let normalizer = BertNormalizer {
            do_lower_case: vocabulary.do_lower_case.unwrap_or(uncased.do_lower_case),
            strip_accents: vocabulary.strip_accents,
            tokenize_chinese_chars: vocabulary.tokenize_chinese_chars.unwrap_or(uncased.tokenize_chinese_chars),
        };
        let tokenizer = tokenizer_of(&transformer, normalizer)?;
        let (has, knows) = (tokenizer.vocab_size(), config.vocab_size);
        if has > knows {
            let reason = format!("its vocabulary has {has} entries, its network {knows}");
            return Err(ModelError::malformed(folder, reason));
        }
        Ok(Self {
            max_tokens: bound.unwrap_or(usize::MAX).clamp(3, config.max_tokens()),
            lower_case: own.do_lower_case,
            transformer,
            config,
            pooling,
            dense,
            tokenizer,
        })
    }

    /// The Transformer's tensors without the name of the network around them, and in today's names.
    pub(super) fn checkpoint(&self) -> Result<Checkpoint> {
        Ok(Checkpoint::open_folder(&self.transformer, FILES)?.renamed(|name| {
            let inner = ["bert.", "roberta."].iter().find_map(|around| name.strip_prefix(around)).unwrap_or(name);
            let renamed = match inner.rsplit_once("LayerNorm.") {
                Some((before, "gamma")) => format!("{before}LayerNorm.weight"),
                Some((before, "beta")) => format!("{before}LayerNorm.bias"),
                _ => inner.to_owned(),
            };
            Some(renamed)
        }))
    }
}

fn tokenizer_of(folder: &Path, normalizer: BertNormalizer) -> Result<TextTokenizer> {
    let (json, vocabulary) = (folder.join("tokenizer.json"), folder.join("vocab.txt"));
    match (json.is_file(), vocabulary.is_file()) {
        (true, _) => TextTokenizer::from_file(&json),
        (false, true) => TextTokenizer::from_bert_vocabulary(&vocabulary, normalizer),
        (false, false) => Err(ModelError::malformed(folder, "holds neither tokenizer.json nor vocab.txt")),
    }
}
