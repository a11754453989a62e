#!/usr/bin/env python3
"""Captions per second of an InstructBLIP in transformers on PyTorch, CPU, f32.

    pip install torch transformers
    python caption_peer.py DIR [--beams 1] [--batch 8] [--tokens 48] [--rounds 2] [--threads 2]

The counterpart of `stages/models/examples/caption_rate.rs`, which writes the checkpoint DIR: the same weights, inputs
and settings, the best of several rounds; both print the first ids. Works with transformers before and after images
became tokens of the prompt (4.50).
"""

import argparse
import resource
import time

import torch
import transformers
from transformers import InstructBlipForConditionalGeneration


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--beams", type=int, default=1)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    transformers.logging.set_verbosity_error()

    model = InstructBlipForConditionalGeneration.from_pretrained(args.folder, torch_dtype=torch.float32).eval()
    config = model.config
    side = config.vision_config.image_size
    index = torch.arange(args.batch * 3 * side * side)
    pixels = ((index * 7919) % 1013).float() / 506.5 - 1.0
    prompt = 1000 + 37 * torch.arange(16)
    if tuple(map(int, transformers.__version__.split(".")[:2])) >= (4, 50):
        prompt = torch.cat([torch.full((config.num_query_tokens,), config.image_token_index), prompt])
    inputs = {
        "pixel_values": pixels.reshape(args.batch, 3, side, side),
        "qformer_input_ids": (1000 + 31 * torch.arange(12)).expand(args.batch, -1),
        "input_ids": prompt.expand(args.batch, -1),
        "attention_mask": torch.ones(args.batch, len(prompt), dtype=torch.long),
    }

    def caption(tokens):
        start = time.perf_counter()
        with torch.inference_mode():
            ids = model.generate(**inputs, do_sample=False, num_beams=args.beams, max_new_tokens=tokens)
        return time.perf_counter() - start, ids

    everything, first = float("inf"), float("inf")
    for _ in range(args.rounds):
        first = min(first, caption(1)[0])
        seconds, ids = caption(args.tokens)
        everything = min(everything, seconds)
        print(f"first ids {ids[0, -args.tokens :][:12].tolist()}")
    print(f"transformers {transformers.__version__}, torch {torch.__version__}, {args.threads} threads")
    written = args.batch * args.tokens
    print(f"{args.beams} beams, batch {args.batch}, {args.tokens} tokens: {written / everything:.1f} tokens/s "
          f"({everything:.2f} s)")
    step = (everything - first) * 1e3 / (args.tokens - 1)
    print(f"image, prompt and first token {first:.2f} s; then {step:.1f} ms per step")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss} kB")


if __name__ == "__main__":
    main()
