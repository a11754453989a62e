//! The card of a model: what it is, what it was trained on, what it finds beside chance, and how it is loaded.

use std::collections::BTreeMap;

use manifests::BuildSpec;
use manifests::words::count;
use stages::evaluate::Evaluation;
use workers::train::TrainingRecord;

use super::licence;
use crate::page::capitalised;

/// What a card says.
pub(super) struct Facts<'a> {
    pub spec: &'a BuildSpec,
    pub record: &'a TrainingRecord,
    /// Of this very model.
    pub evaluation: Option<Evaluation>,
    /// Whether open_clip and transformers have such a network.
    pub has_layouts: bool,
}

const ALONE: &str = "```python
import sys; sys.path.insert(0, \"FOLDER\")
import urbancross_clip                        # torch, safetensors, tokenizers, numpy, Pillow
from PIL import Image

model = urbancross_clip.load(\"FOLDER\")
images = model.embed_images([Image.open(\"a.jpg\")])
texts = model.embed_texts([\"a lake beside a road\", \"an airport\"])
images @ texts.T                              # cosines
```
";

const LAYOUTS: &str = "
Or with open_clip (3.0 and newer), which mends HTML entities and wrongly decoded letters in a text before it is split:

```python
import open_clip

model, _, preprocess = open_clip.create_model_and_transforms(\"local-dir:FOLDER/open_clip\")
tokenizer = open_clip.get_tokenizer(\"local-dir:FOLDER/open_clip\")
```

Or with transformers:

```python
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

model = AutoModel.from_pretrained(\"FOLDER/hugging_face\")
processor = AutoImageProcessor.from_pretrained(\"FOLDER/hugging_face\")
tokenizer = AutoTokenizer.from_pretrained(\"FOLDER/hugging_face\")
ids = tokenizer(texts, padding=True, truncation=True, return_tensors=\"pt\")
```

On the hub put the content of one of these folders at the top of a repository; for open_clip set
`text_cfg.hf_tokenizer_name` in `open_clip_config.json` to the name of the repository.
";

impl Facts<'_> {
    /// Markdown, with the header that the hub reads.
    pub(super) fn card(&self) -> String {
        let country = capitalised(&self.spec.country);
        let library = if self.has_layouts { "open_clip" } else { "pytorch" };
        format!(
            "---\nlibrary_name: {library}\npipeline_tag: zero-shot-image-classification\n{}tags:\n- clip\n- remote-sensing\n\
             - image-text-retrieval\n---\n\n# A CLIP of satellite images of {country}\n\n{}\n\n## Figures\n\n{}\n\
             ## How it is loaded\n\n{ALONE}{}\n## Versions\n\n{}\n{}",
            licence::header(self.spec),
            self.what(),
            self.figures(),
            if self.has_layouts { LAYOUTS } else { "" },
            self.versions(),
            licence::section(self.spec, &BTreeMap::new()),
        )
    }

    fn what(&self) -> String {
        let trained = &self.record.trained;
        let network = match self.spec.model.init.as_str() {
            "" => format!("Network: {}, from random weights.", self.spec.model.preset),
            // a path of the machine that trained it is nobody's business
            init => {
                let name = if std::path::Path::new(init).is_absolute() { last_component(init) } else { init };
                format!("It started from the weights `{name}`, whose terms count for it too.")
            }
        };
        format!(
            "It puts images and captions into one space: trained on {} (validated on {}) of {}, {} of which the one kept is \
             number {}; {}. {network}",
            count(trained.train_rows, "image"),
            trained.validation_rows,
            capitalised(&self.spec.country),
            count(trained.epochs, "epoch"),
            trained.best_epoch + 1,
            count(trained.parameters, "parameter"),
        )
    }

    fn figures(&self) -> String {
        let mut text = String::new();
        match &self.evaluation {
            None => text += "This model has not been evaluated on its test split.\n",
            Some(evaluation) => {
                let both = evaluation.quoted();
                let [i1, i5, i10, t1, t5, t10, _] = both.figures();
                text += &format!(
                    "Test split of {}, {} and {}: {}. Exact pairs, ties lost, in percent; chance is what guessing over the \
                     same queries reaches.\n\n\
                     | | R@1 | R@5 | R@10 |\n|---|---:|---:|---:|\n| images find captions | {i1:.2} | {i5:.2} | {i10:.2} |\n\
                     | captions find images | {t1:.2} | {t5:.2} | {t10:.2} |\n\n",
                    capitalised(&evaluation.country),
                    count(evaluation.recall.image_gallery, "image"),
                    count(evaluation.recall.caption_gallery, "caption"),
                    both.in_words(),
                );
                if !both.exceeds_chance() {
                    text += "**This is no better than guessing.**\n\n";
                }
                if evaluation.average_over_turns {
                    text += "Vectors of images are means over their eight flips and turns.\n\n";
                }
            }
        }
        text + &format!("{}.\n", capitalised(&self.record.trained.best_validation()))
    }

    fn versions(&self) -> String {
        let tables: Vec<String> = self
            .record
            .inputs
            .iter()
            .filter_map(|table| Some(format!("{} {}", table.artifact.name(), table.version?)))
            .collect();
        format!(
            "| what | |\n|---|---|\n| urbancross | {} |\n| training | version {}, run `{}` |\n| model | `{}` |\n| tables | {} |\n",
            env!("CARGO_PKG_VERSION"),
            self.record.stage_version,
            self.record.key,
            self.record.trained.model_digest,
            tables.join(", "),
        )
    }
}

fn last_component(path: &str) -> &str {
    path.trim_end_matches('/').rsplit('/').next().unwrap_or(path)
}
