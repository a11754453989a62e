#!/usr/bin/env python3
"""Loads what `exports.rs` has written with open_clip, transformers and tokenizers, and compares the numbers.

    python check_exports.py FOLDER

FOLDER holds `open_clip/`, `hugging_face/`, `io.safetensors`, `tokenizer.json` and `tokens.json`. Exits with 77 if a
library is missing.
"""

import json
import sys
from pathlib import Path

SKIPPED = 77

try:
    import open_clip
    import torch
    from safetensors.torch import load_file
    from tokenizers import Tokenizer
    from transformers import CLIPModel
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(SKIPPED)


def compare(what, theirs, ours):
    error = (theirs - ours).abs().max().item() / ours.abs().max().item()
    assert error < 2e-5, f"{what}: off by {error:e}"
    print(f"{what}: relative error {error:.1e}")


def main(folder):
    io = load_file(folder / "io.safetensors")
    pixels, ids = io["pixel_values"], io["input_ids"].long()

    model = open_clip.create_model(f"local-dir:{folder / 'open_clip'}", require_pretrained=True).eval()
    weights = load_file(folder / "open_clip/open_clip_model.safetensors")
    model.load_state_dict(weights, strict=True)
    with torch.no_grad():
        compare("open_clip images", model.encode_image(pixels), io["image_embeds"])
        compare("open_clip texts", model.encode_text(ids), io["text_embeds"])

    model, info = CLIPModel.from_pretrained(folder / "hugging_face", output_loading_info=True)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not info[kind], f"transformers: {kind} {info[kind]}"
    with torch.no_grad():
        # Embeddings before normalisation, whatever the release of transformers returns around them.
        image = model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output)
        text = model.text_projection(model.text_model(input_ids=ids).pooler_output)
    compare("transformers images", image, io["image_embeds"])
    compare("transformers texts", text, io["text_embeds"])

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    for text, ours in json.loads((folder / "tokens.json").read_text()):
        theirs = tokenizer.encode(text, add_special_tokens=False).ids
        assert theirs == ours, f"tokenizers: {text!r} gives {theirs}, ours are {ours}"
    print("tokenizers: equal ids")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
