//! A vocabulary as transformers (`AutoTokenizer`) and open_clip (`get_tokenizer`) read it.

use super::{END, START, Tokenizer};
use crate::checkpoint::write_json;
use crate::{ModelError, Result};
use serde_json::{Value, json};
use std::path::Path;

impl Tokenizer {
    /// Writes `tokenizer.json` and `tokenizer_config.json`, with which `AutoTokenizer` gives the ids of
    /// [`encode`](Self::encode).
    ///
    /// The class is named, since transformers would otherwise build OpenAI's byte pairs from whatever vocabulary lies
    /// beside a CLIP, and special tokens in a text are split as any other words: a caption cannot end itself there
    /// either.
    ///
    /// # Errors
    /// [`ModelError::Io`] with the file that could not be written.
    pub fn save_hugging_face(&self, folder: &Path, context_length: usize) -> Result<()> {
        std::fs::create_dir_all(folder).map_err(ModelError::io(folder))?;
        let mut tokenizer: Value =
            serde_json::from_str(&self.json(false)?).map_err(|error| ModelError::Tokenizer(error.to_string()))?;
        // the frame; length and padding are said where the tokenizer is called
        tokenizer["post_processor"] = self.frame();
        tokenizer["padding"] = Value::Null;
        tokenizer["truncation"] = Value::Null;
        write_json(&folder.join("tokenizer.json"), &tokenizer)?;
        let mut config = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": START,
            "eos_token": END,
            "pad_token": self.inner.id_to_token(self.pad).unwrap_or_else(|| END.to_owned()),
            "padding_side": "right",
            "truncation_side": "right",
            "model_max_length": context_length,
            "model_input_names": ["input_ids", "attention_mask"],
            "split_special_tokens": true,
            "clean_up_tokenization_spaces": false,
        });
        if let Some(unknown) = tokenizer["model"]["unk_token"].as_str() {
            config["unk_token"] = unknown.into();
        }
        write_json(&folder.join("tokenizer_config.json"), &config)
    }

    /// Start, text, end, as a post-processor of the tokenizers library.
    fn frame(&self) -> Value {
        let special = |token: &str, id: u32| json!({ "id": token, "ids": [id], "tokens": [token] });
        let place = |token: &str| json!({ "SpecialToken": { "id": token, "type_id": 0 } });
        let text = |name: &str| json!({ "Sequence": { "id": name, "type_id": 0 } });
        json!({
            "type": "TemplateProcessing",
            "single": [place(START), text("A"), place(END)],
            "pair": [place(START), text("A"), text("B"), place(END)],
            "special_tokens": { START: special(START, self.start), END: special(END, self.end) },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_read_gives_our_ids() {
        let captions = ["Many planes are parked near the airport.", "planes near a port, and the airport"];
        let ours = Tokenizer::train(captions, 200).unwrap();
        let folder = tempfile::tempdir().unwrap();
        ours.save_hugging_face(folder.path(), 12).unwrap();
        let mut theirs = tokenizers::Tokenizer::from_file(folder.path().join("tokenizer.json")).unwrap();
        theirs.set_encode_special_tokens(true);
        for text in [captions[0], "", "<|endoftext|> planes", "PLANES fly; ports don't"] {
            let expected = ours.encode(text, 64).unwrap();
            let ids = theirs.encode(text, true).unwrap().get_ids().to_vec();
            assert_eq!(ids, expected[..ids.len()], "{text}");
            assert_eq!(ids.last(), Some(&ours.end_id()), "{text}");
        }
        // and we read it back
        let again = Tokenizer::from_file(&folder.path().join("tokenizer.json")).unwrap();
        assert_eq!(again.encode(captions[1], 12).unwrap(), ours.encode(captions[1], 12).unwrap());
    }
}
