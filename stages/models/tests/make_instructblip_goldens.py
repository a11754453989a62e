#!/usr/bin/env python3
"""Writes the InstructBLIP golden folders beside this file from transformers.

    pip install torch transformers==4.40.2
    python make_instructblip_goldens.py

Small random networks, synthetic pixels, seeded: widths, numbers of heads and queries, grouped-query attention,
cross-attention frequencies and lengths that differ from the published ones. Every folder holds a checkpoint,
`io.safetensors` (inputs, hidden states, logits, ids) and `generation.json`, which says by which settings the ids named
`ids.*` were generated. Seeds are tried until some texts end early and others do not.

The version matters: since 4.50 the image stands as tokens in the prompt and beam search stops by another rule.
"""

import itertools
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import InstructBlipConfig, InstructBlipForConditionalGeneration, LlamaConfig, T5Config
from transformers import InstructBlipQFormerConfig, InstructBlipVisionConfig, logging

HERE = Path(__file__).parent / "goldens"
NEW_TOKENS = 14
CASES = {
    "greedy": {},
    "greedy_penalty": {"repetition_penalty": 1.4},
    "greedy_min": {"min_new_tokens": 9},
    "beam3": {"num_beams": 3},
    "beam5_card": {"num_beams": 5, "repetition_penalty": 1.5, "length_penalty": 1.0},
    "beam4_long": {"num_beams": 4, "length_penalty": 2.0},
    "beam4_short": {"num_beams": 4, "length_penalty": -1.0},
    "beam3_early": {"num_beams": 3, "early_stopping": True},
    "beam3_never": {"num_beams": 3, "early_stopping": "never"},
    "beam2_min": {"num_beams": 2, "min_new_tokens": 6, "repetition_penalty": 1.2},
}


def randomise(model, seed, head_scale):
    """Seeded values in every parameter, also where the library starts with zeros and ones."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            is_norm = "norm" in name.lower() and name.endswith("weight")
            scale = head_scale if "lm_head" in name or "shared" in name else 0.25
            parameter.copy_(1 + 0.2 * noise if is_norm else scale * noise)


def inputs(config, seed, left_padding):
    generator = torch.Generator().manual_seed(seed)
    side = config.vision_config.image_size
    y, x = torch.meshgrid(torch.linspace(-1, 1, side), torch.linspace(-1, 1, side), indexing="ij")
    rows = 4
    pixels = torch.stack([
        torch.stack([torch.sin((2 + b) * x + c) + torch.cos((3 + c) * y - b) for c in range(3)]) for b in range(rows)
    ])

    def padded(vocabulary, lengths, left):
        ids = torch.zeros(rows, max(lengths), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, length in enumerate(lengths):
            place = slice(max(lengths) - length, None) if left else slice(0, length)
            ids[row, place] = torch.randint(3, vocabulary, (length,), generator=generator)
            mask[row, place] = 1
        return ids, mask

    qformer_ids, qformer_mask = padded(config.qformer_config.vocab_size, [4, 6, 1, 3], False)
    ids, mask = padded(config.text_config.vocab_size, [2, 5, 7, 3], left_padding)
    return {
        "pixel_values": pixels,
        "qformer_input_ids": qformer_ids,
        "qformer_attention_mask": qformer_mask,
        "input_ids": ids,
        "attention_mask": mask,
    }


def write(name, vision, qformer, text, queries, head_scale):
    config = InstructBlipConfig.from_vision_qformer_text_configs(
        InstructBlipVisionConfig(**vision), InstructBlipQFormerConfig(**qformer), text, num_query_tokens=queries
    )
    config.text_config.architectures = [type(text).__name__]
    is_decoder = config.use_decoder_only_language_model
    for seed in itertools.count(1):
        torch.manual_seed(seed)
        model = InstructBlipForConditionalGeneration(config).eval()
        randomise(model, seed, head_scale)
        io = inputs(config, seed, is_decoder)
        ids = {}
        for case, settings in CASES.items():
            settings = {"num_beams": 1, "max_new_tokens": NEW_TOKENS, **settings}
            ids[f"ids.{case}"] = model.generate(**io, do_sample=False, **settings)
        ended = [(row[1:] == config.text_config.eos_token_id).any() for case in ids.values() for row in case]
        if len(ended) / 4 <= sum(ended) <= 3 * len(ended) / 4:
            break
    extra = {} if is_decoder else {"decoder_input_ids": torch.tensor([[0, 5, 9, 4, 2], [0, 3, 3, 8, 6]] * 2)}
    out = model(**io, **extra, output_hidden_states=False)
    io |= {
        **extra,
        "vision_last_hidden": out.vision_outputs.last_hidden_state,
        "qformer_last_hidden": out.qformer_outputs.last_hidden_state,
        "logits": out.logits,
        **ids,
    }
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    model.config.save_pretrained(folder)
    copies = ("embed_tokens.weight", "lm_head.weight") if not is_decoder and text.tie_word_embeddings else ()
    copies = copies or (("encoder.embed_tokens.weight", "decoder.embed_tokens.weight") if not is_decoder else ())
    weights = {n: t.detach().contiguous() for n, t in model.state_dict().items() if not n.endswith(copies or ("-",))}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    save_file({n: t.detach().contiguous().clone() for n, t in io.items()}, folder / "io.safetensors")
    cases = {case: {"max_new_tokens": NEW_TOKENS, **settings} for case, settings in CASES.items()}
    (folder / "generation.json").write_text(json.dumps(cases, indent=2) + "\n")
    print(f"{name}: seed {seed}, {int(sum(ended))} of {len(ended)} texts end early")


if __name__ == "__main__":
    logging.set_verbosity_error()
    write(
        "instructblip_llama_grouped",
        {"hidden_size": 18, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 28,
         "image_size": 24, "patch_size": 8},
        {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 24,
         "vocab_size": 30, "max_position_embeddings": 12, "encoder_hidden_size": 18, "cross_attention_frequency": 3},
        LlamaConfig(vocab_size=48, hidden_size=24, intermediate_size=36, num_hidden_layers=3, num_attention_heads=6,
                    num_key_value_heads=2, max_position_embeddings=64, rope_theta=5000.0, pad_token_id=0),
        queries=5, head_scale=0.5,
    )
    write(
        "instructblip_llama_single_key",
        {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 20,
         "image_size": 21, "patch_size": 7, "qkv_bias": False},
        {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 18,
         "vocab_size": 25, "max_position_embeddings": 9, "encoder_hidden_size": 16, "cross_attention_frequency": 1},
        LlamaConfig(vocab_size=70, hidden_size=16, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
                    num_key_value_heads=1, max_position_embeddings=64, rms_norm_eps=1e-5, attention_bias=True,
                    pad_token_id=0),
        queries=3, head_scale=0.6,
    )
    t5 = {"feed_forward_proj": "gated-gelu", "dropout_rate": 0.0, "decoder_start_token_id": 0}
    write(
        "instructblip_t5_untied",
        {"hidden_size": 20, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24,
         "image_size": 16, "patch_size": 8},
        {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 20,
         "vocab_size": 30, "max_position_embeddings": 12, "encoder_hidden_size": 20, "cross_attention_frequency": 2},
        T5Config(vocab_size=44, d_model=20, d_kv=6, d_ff=30, num_layers=2, num_decoder_layers=3, num_heads=3,
                 relative_attention_num_buckets=8, relative_attention_max_distance=12, tie_word_embeddings=False, **t5),
        queries=6, head_scale=0.4,
    )
    write(
        "instructblip_t5_tied",
        {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 16,
         "image_size": 12, "patch_size": 4},
        {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16,
         "vocab_size": 30, "max_position_embeddings": 12, "encoder_hidden_size": 12, "cross_attention_frequency": 2},
        T5Config(vocab_size=40, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_decoder_layers=2, num_heads=2,
                 relative_attention_num_buckets=32, relative_attention_max_distance=128, tie_word_embeddings=True, **t5),
        queries=4, head_scale=1.0,
    )
