#!/usr/bin/env python3
"""Writes the LLaVA golden folders beside this file from transformers.

    pip install torch pillow transformers==4.53.3
    python make_llava_goldens.py

Small random networks, synthetic pixels, seeded; folders as llava-hf publishes them, with a vocabulary of LLaMA's kind. Every
folder holds `io.safetensors`: a picture and what the processor makes of it, ids of prompts with one `<image>` for each token
of the picture, hidden states, logits and generated ids; and `generation.json`: the prompts, and by which settings the ids
named `ids.CASE.ROW` were generated. One folder has the names of transformers up to 4.51 in two shards and leaves the class
token out, the other those of later ones and keeps it. Seeds are tried until some texts end early and others do not.
"""

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import torch
from make_instructblip_goldens import randomise
from PIL import Image
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors
from transformers import CLIPImageProcessor, CLIPVisionConfig, LlamaConfig, LlamaTokenizerFast, LlavaConfig
from transformers import LlavaForConditionalGeneration, LlavaProcessor, logging

HERE = Path(__file__).parent / "goldens"
NEW_TOKENS = 12
WORDS = "▁a ▁road ▁image ▁satellite ▁describe ▁this ▁USER ▁ASS IST ANT".split()
PROMPTS = ["describe this satellite image", "a road", "this Road: café, 3 px!"]
CASES = {
    "greedy": {},
    "greedy_penalty": {"repetition_penalty": 1.4},
    "beam3": {"num_beams": 3},
}


def vocabulary():
    """LLaMA's: bytes for what is not spelt, a mark for spaces, `<s>` before a text."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *map(chr, range(33, 127)), "▁"]
    merges = []
    for word in WORDS:
        for end in range(2, len(word) + 1):
            left, right = word[: end - 1], word[end - 1]
            if left + right not in pieces:
                pieces.append(left + right)
                merges.append((left, right))
    table = {piece: number for number, piece in enumerate(pieces)}
    inner = Tokenizer(models.BPE(table, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    inner.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer = LlamaTokenizerFast(tokenizer_object=inner, pad_token="<pad>", legacy=True)
    tokenizer.add_special_tokens({"additional_special_tokens": [AddedToken("<image>", special=True, normalized=False)]})
    return tokenizer


def picture():
    """Wider than high, so that its sides are cut off."""
    y, x = np.mgrid[0:37, 0:52]
    channels = [np.sin(x / (3 + c)) * np.cos(y / (5 - c)) for c in range(3)]
    return (127.5 + 127 * np.stack(channels, -1)).round().astype(np.uint8)


def write(name, vision, text, llava, shard_size, new_names, head_scale):
    tokenizer = vocabulary()
    text = LlamaConfig(vocab_size=len(tokenizer) + 5, **text)
    config = LlavaConfig(
        CLIPVisionConfig(**vision), text, image_token_index=tokenizer.convert_tokens_to_ids("<image>"), **llava
    )
    side = vision["image_size"]
    processor = LlavaProcessor(
        CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side}),
        tokenizer,
        patch_size=vision["patch_size"],
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        num_additional_image_tokens=1,
    )
    seen = processor.image_processor(Image.fromarray(picture()), return_tensors="pt")["pixel_values"]
    generator = torch.Generator().manual_seed(1)
    pixels = torch.cat([seen, torch.randn(len(PROMPTS) - 1, 3, side, side, generator=generator)])
    texts = [f"USER: <image>\n{prompt} ASSISTANT:" for prompt in PROMPTS]
    images = [Image.fromarray(picture())] * len(PROMPTS)
    ids = [processor(images=i, text=t, return_tensors="pt")["input_ids"] for i, t in zip(images, texts)]
    for seed in itertools.count(1):
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(config).eval()
        randomise(model, seed, head_scale)
        io = {}
        for row, prompt in enumerate(ids):
            image = {"pixel_values": pixels[row : row + 1], "attention_mask": torch.ones_like(prompt)}
            for case, settings in CASES.items():
                settings = {"num_beams": 1, "max_new_tokens": NEW_TOKENS, "eos_token_id": 2, "pad_token_id": 0, **settings}
                written = model.generate(input_ids=prompt, **image, do_sample=False, **settings)
                io[f"ids.{case}.{row}"] = written[:, prompt.shape[1] :]
            io[f"input_ids.{row}"] = prompt
            io[f"logits.{row}"] = model(input_ids=prompt, **image).logits
        ended = [bool((ids == 2).any()) for name, ids in io.items() if name.startswith("ids.")]
        if 3 <= sum(ended) <= len(ended) - 3:
            break
    features = model.get_image_features(
        pixel_values=pixels,
        vision_feature_layer=config.vision_feature_layer,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
    )
    io |= {
        "picture": torch.from_numpy(picture()),
        "pixel_values": pixels,
        "image_features": features if torch.is_tensor(features) else torch.stack(list(features)),
    }
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    # the names of transformers up to 4.51, into which later ones turn theirs when they write
    model.save_pretrained(folder, max_shard_size=shard_size)
    if new_names:
        weights = {n: t.detach().contiguous() for n, t in model.state_dict().items()}
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    processor.image_processor.save_pretrained(folder)
    save_file({n: t.detach().contiguous().clone() for n, t in io.items()}, folder / "io.safetensors")
    cases = {case: {"max_new_tokens": NEW_TOKENS, **settings} for case, settings in CASES.items()}
    (folder / "generation.json").write_text(json.dumps({"prompts": PROMPTS, "cases": cases}, indent=2) + "\n")
    print(f"{name}: seed {seed}, {sum(ended)} of {len(ended)} texts end early, {sorted(p.name for p in folder.iterdir())}")


if __name__ == "__main__":
    logging.set_verbosity_error()
    write(
        "llava_default",
        {"hidden_size": 18, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 28,
         "image_size": 24, "patch_size": 8, "hidden_act": "quick_gelu"},
        {"hidden_size": 24, "intermediate_size": 36, "num_hidden_layers": 2, "num_attention_heads": 6,
         "num_key_value_heads": 2, "max_position_embeddings": 128, "rope_theta": 5000.0, "pad_token_id": 0},
        {"vision_feature_layer": -2, "vision_feature_select_strategy": "default"},
        shard_size="60KB", new_names=False, head_scale=0.5,
    )
    write(
        "llava_full",
        {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 20,
         "image_size": 21, "patch_size": 7, "hidden_act": "gelu"},
        {"hidden_size": 16, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
         "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "pad_token_id": 0},
        {"vision_feature_layer": -1, "vision_feature_select_strategy": "full", "multimodal_projector_bias": False},
        shard_size="10MB", new_names=True, head_scale=0.6,
    )
