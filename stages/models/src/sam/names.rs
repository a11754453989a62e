//! The names that tensors have in the original checkpoints and in transformers' `SamModel`.

/// Beginnings of names, the original ones first.
const PREFIXES: [(&str, &str); 4] = [
    ("image_encoder.blocks.", "vision_encoder.layers."),
    ("image_encoder.", "vision_encoder."),
    ("prompt_encoder.point_embeddings.", "prompt_encoder.point_embed."),
    ("prompt_encoder.mask_downscaling.", "prompt_encoder.mask_embed."),
];

/// Parts of names, each within one of the networks.
const PARTS: [(&str, &str, &str); 14] = [
    ("vision_encoder.patch_embed", ".proj.", ".projection."),
    ("vision_encoder.layers", ".norm", ".layer_norm"),
    ("vision_encoder.neck", "neck.0.", "neck.conv1."),
    ("vision_encoder.neck", "neck.1.", "neck.layer_norm1."),
    ("vision_encoder.neck", "neck.2.", "neck.conv2."),
    ("vision_encoder.neck", "neck.3.", "neck.layer_norm2."),
    ("prompt_encoder.mask_embed", "embed.0.", "embed.conv1."),
    ("prompt_encoder.mask_embed", "embed.1.", "embed.layer_norm1."),
    ("prompt_encoder.mask_embed", "embed.3.", "embed.conv2."),
    ("prompt_encoder.mask_embed", "embed.4.", "embed.layer_norm2."),
    ("prompt_encoder.mask_embed", "embed.6.", "embed.conv3."),
    ("mask_decoder.transformer.layers", ".norm", ".layer_norm"),
    ("mask_decoder.transformer.", "er.norm_final", "er.layer_norm_final"),
    ("mask_decoder.output_upscaling.1", "output_upscaling.1.", "upscale_layer_norm."),
];

pub(super) const PLACES: (&str, &str) =
    ("prompt_encoder.pe_layer.positional_encoding_gaussian_matrix", "shared_image_embedding.positional_embedding");

/// The prompt encoder's copy of the same.
pub(super) const PLACES_COPY: &str = "prompt_encoder.shared_embedding.positional_embedding";

const UPSCALINGS: [(&str, &str); 2] = [
    ("mask_decoder.output_upscaling.0.", "mask_decoder.upscale_conv1."),
    ("mask_decoder.output_upscaling.3.", "mask_decoder.upscale_conv2."),
];

/// The name that the original checkpoints have for a tensor of transformers; `None` for copies of others. Of the heads'
/// last layers the number is unknown, since transformers names them by their role: `proj_out` becomes the layer behind
/// the two others of every published model.
pub(super) fn original_name(name: &str) -> Option<String> {
    if name == PLACES_COPY {
        return None;
    }
    if name == PLACES.1 {
        return Some(PLACES.0.to_owned());
    }
    for (ours, theirs) in UPSCALINGS {
        if let Some(rest) = name.strip_prefix(theirs) {
            return Some(format!("{ours}{rest}"));
        }
    }
    if name.starts_with("mask_decoder.upscale_layer_norm.") {
        return Some(name.replace("upscale_layer_norm.", "output_upscaling.1."));
    }
    if name.contains("hypernetworks_mlps.") || name.contains("iou_prediction_head.") {
        return Some(head_to_original(name));
    }
    let mut original = name.to_owned();
    for (network, ours, theirs) in PARTS {
        if name.starts_with(network) {
            original = original.replacen(theirs, ours, 1);
        }
    }
    for (ours, theirs) in PREFIXES {
        if let Some(rest) = original.strip_prefix(theirs) {
            return Some(format!("{ours}{rest}"));
        }
    }
    Some(original)
}

/// `proj_in`, `layers.0`, `proj_out` to `layers.0`, `layers.1`, `layers.2`.
fn head_to_original(name: &str) -> String {
    let Some((head, index)) = name.split_once(".layers.") else {
        return name.replace(".proj_in.", ".layers.0.").replace(".proj_out.", ".layers.2.");
    };
    match index.split_once('.').map(|(index, rest)| (index.parse::<usize>(), rest)) {
        Some((Ok(index), rest)) => format!("{head}.layers.{}.{rest}", index.saturating_add(1)),
        _ => name.to_owned(),
    }
}

/// The name that transformers has for a tensor of the original checkpoints.
pub(super) fn hugging_face_name(name: &str) -> String {
    if name == PLACES.0 {
        return PLACES.1.to_owned();
    }
    for (ours, theirs) in UPSCALINGS {
        if let Some(rest) = name.strip_prefix(ours) {
            return format!("{theirs}{rest}");
        }
    }
    if name.contains("hypernetworks_mlps.") || name.contains("iou_prediction_head.") {
        let renamed = name.replace(".layers.0.", ".proj_in.").replace(".layers.2.", ".proj_out.");
        return renamed.replace(".layers.1.", ".layers.0.");
    }
    let mut renamed = name.to_owned();
    for (ours, theirs) in PREFIXES {
        if let Some(rest) = name.strip_prefix(ours) {
            renamed = format!("{theirs}{rest}");
            break;
        }
    }
    for (network, ours, theirs) in PARTS {
        if renamed.starts_with(network) && renamed.contains(ours) {
            return renamed.replacen(ours, theirs, 1);
        }
    }
    renamed
}

#[cfg(test)]
mod tests {
    use super::super::{EncoderConfig, Sam, SamConfig};
    use super::*;

    #[test]
    fn names_go_there_and_back() {
        let mut config = SamConfig::preset("vit-b").unwrap();
        config.image_size = 64;
        if let EncoderConfig::Vit(vit) = &mut config.encoder {
            (vit.width, vit.depth, vit.heads, vit.mlp_width) = (8, 2, 2, 16);
            vit.global_blocks = vec![1];
        }
        let names: Vec<String> = Sam::random_tensors(&config, 1).unwrap().into_keys().collect();
        for name in &names {
            let theirs = hugging_face_name(name);
            assert_eq!(original_name(&theirs).as_ref(), Some(name), "{theirs}");
        }
        let theirs = |name: &str| hugging_face_name(name);
        assert_eq!(theirs("image_encoder.blocks.1.norm2.weight"), "vision_encoder.layers.1.layer_norm2.weight");
        assert_eq!(theirs("image_encoder.neck.3.bias"), "vision_encoder.neck.layer_norm2.bias");
        assert_eq!(
            theirs("mask_decoder.output_hypernetworks_mlps.3.layers.1.bias"),
            "mask_decoder.output_hypernetworks_mlps.3.layers.0.bias"
        );
        assert_eq!(theirs("prompt_encoder.mask_downscaling.6.weight"), "prompt_encoder.mask_embed.conv3.weight");
        assert_eq!(original_name(PLACES_COPY), None);
    }
}
