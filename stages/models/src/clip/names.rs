//! The names that others have for the variables of a CLIP.

use crate::checkpoint::Checkpoint;

/// How a variable of ours is stored elsewhere.
pub(super) enum Stored {
    AsIs(String),
    /// `[O, I]` instead of `[I, O]`.
    Transposed(String),
    /// Equal parts of the first dimension, one behind the other.
    Parts(Vec<String>),
    /// Two tensors of one shape: the first rows are those of `head`, the others those of `rest`.
    Spliced {
        head: String,
        rest: String,
        rows: usize,
    },
}

impl Stored {
    pub(super) fn names(&self) -> Vec<&str> {
        match self {
            Stored::AsIs(name) | Stored::Transposed(name) => vec![name],
            Stored::Parts(names) => names.iter().map(String::as_str).collect(),
            Stored::Spliced { head, rest, .. } => vec![head, rest],
        }
    }

    /// Shape of each of its tensors, where ours has `shape`.
    pub(super) fn shape(&self, shape: &[usize]) -> Vec<usize> {
        let mut stored = shape.to_vec();
        match self {
            Stored::AsIs(_) | Stored::Spliced { .. } => {}
            Stored::Transposed(_) => stored.reverse(),
            Stored::Parts(names) => stored[0] /= names.len(),
        }
        stored
    }
}

/// Whose names a checkpoint uses.
#[derive(Clone, Copy)]
pub(super) enum Naming {
    /// OpenAI's, which are open_clip's and ours.
    OpenClip,
    HuggingFace,
}

/// The positions of Long-CLIP that were trained; those before them are CLIP's.
const LONG_POSITIONS: &str = "positional_embedding_res";

/// So many positions Long-CLIP keeps (Zhang et al., "Long-CLIP", 2024, section 3.2).
const KEPT_POSITIONS: usize = 20;

impl Naming {
    pub(super) fn recognise(checkpoint: &Checkpoint) -> Self {
        let mut names = checkpoint.shapes().map(|(name, _)| name);
        if names.any(|name| name.starts_with("vision_model.") || name.starts_with("text_model.")) {
            Naming::HuggingFace
        } else {
            Naming::OpenClip
        }
    }

    /// Where a checkpoint keeps a variable of ours.
    pub(super) fn stored(self, name: &str, checkpoint: &Checkpoint) -> Stored {
        match self {
            Naming::HuggingFace => in_hugging_face(name),
            Naming::OpenClip => {
                // `text.` is left behind by open_clip's CustomTextCLIP.
                let inner = format!("text.{name}");
                let name = if checkpoint.shape(name).is_none() && checkpoint.shape(&inner).is_some() {
                    inner
                } else {
                    name.to_owned()
                };
                if name == "positional_embedding" && checkpoint.shape(LONG_POSITIONS).is_some() {
                    return Stored::Spliced { head: name, rest: LONG_POSITIONS.to_owned(), rows: KEPT_POSITIONS };
                }
                Stored::AsIs(name)
            }
        }
    }
}

/// Constants that checkpoints carry along: masks, position numbers, counts of batch norms, and the sizes in OpenAI's files.
pub(super) fn is_no_weight(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or(name);
    matches!(
        last,
        "attn_mask" | "position_ids" | "num_batches_tracked" | "input_resolution" | "context_length" | "vocab_size"
    )
}

/// Where transformers keeps a variable of ours.
pub(super) fn in_hugging_face(name: &str) -> Stored {
    let fixed = match name {
        "visual.conv1.weight" => "vision_model.embeddings.patch_embedding.weight",
        "visual.class_embedding" => "vision_model.embeddings.class_embedding",
        "visual.positional_embedding" => "vision_model.embeddings.position_embedding.weight",
        "token_embedding.weight" => "text_model.embeddings.token_embedding.weight",
        "positional_embedding" => "text_model.embeddings.position_embedding.weight",
        "visual.proj" => return Stored::Transposed("visual_projection.weight".to_owned()),
        "text_projection" => return Stored::Transposed("text_projection.weight".to_owned()),
        other => other,
    };
    if fixed != name {
        return Stored::AsIs(fixed.to_owned());
    }
    for (ours, theirs) in [
        ("visual.ln_pre.", "vision_model.pre_layrnorm."),
        ("visual.ln_post.", "vision_model.post_layernorm."),
        ("ln_final.", "text_model.final_layer_norm."),
    ] {
        if let Some(rest) = name.strip_prefix(ours) {
            return Stored::AsIs(format!("{theirs}{rest}"));
        }
    }
    for (ours, theirs) in [
        ("visual.transformer.resblocks.", "vision_model.encoder.layers."),
        ("transformer.resblocks.", "text_model.encoder.layers."),
    ] {
        if let Some((layer, part)) = name.strip_prefix(ours).and_then(|rest| rest.split_once('.')) {
            return stored_in_block(&format!("{theirs}{layer}"), part);
        }
    }
    Stored::AsIs(name.to_owned())
}

fn stored_in_block(block: &str, part: &str) -> Stored {
    if let Some(kind) = part.strip_prefix("attn.in_proj_") {
        let names = ["q", "k", "v"].map(|part| format!("{block}.self_attn.{part}_proj.{kind}"));
        return Stored::Parts(names.to_vec());
    }
    for (ours, theirs) in [
        ("ln_1.", "layer_norm1."),
        ("ln_2.", "layer_norm2."),
        ("attn.out_proj.", "self_attn.out_proj."),
        ("mlp.c_fc.", "mlp.fc1."),
        ("mlp.c_proj.", "mlp.fc2."),
    ] {
        if let Some(rest) = part.strip_prefix(ours) {
            return Stored::AsIs(format!("{block}.{theirs}{rest}"));
        }
    }
    Stored::AsIs(format!("{block}.{part}"))
}
