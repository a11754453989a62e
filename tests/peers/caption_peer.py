#!/usr/bin/env python3
"""Captions per second of an InstructBLIP in transformers on PyTorch, CPU, f32.

    pip install torch transformers
    python caption_peer.py DIR [--beams 1] [--batch 8] [--tokens 48] [--rounds 2] [--threads 2]
                           [--device cuda --dtype bf16]

The counterpart of `device-check caption-rate`; `device-check caption-write` makes the checkpoint DIR: the same weights, inputs
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
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=["f32", "bf16", "f16"], default="f32")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_default_device(args.device)
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}[args.dtype]
    transformers.logging.set_verbosity_error()

    model = InstructBlipForConditionalGeneration.from_pretrained(args.folder, torch_dtype=dtype).to(args.device).eval()
    config = model.config
    side = config.vision_config.image_size
    index = torch.arange(args.batch * 3 * side * side)
    pixels = ((index * 7919) % 1013).float() / 506.5 - 1.0
    prompt = 1000 + 37 * torch.arange(16)
    if tuple(map(int, transformers.__version__.split(".")[:2])) >= (4, 50):
        prompt = torch.cat([torch.full((config.num_query_tokens,), config.image_token_index), prompt])
    inputs = {
        "pixel_values": pixels.reshape(args.batch, 3, side, side).to(dtype),
        "qformer_input_ids": (1000 + 31 * torch.arange(12)).expand(args.batch, -1),
        "input_ids": prompt.expand(args.batch, -1),
        "attention_mask": torch.ones(args.batch, len(prompt), dtype=torch.long),
    }

    def caption(tokens):
        start = time.perf_counter(), time.process_time()
        with torch.inference_mode():
            ids = model.generate(**inputs, do_sample=False, num_beams=args.beams, max_new_tokens=tokens)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return (time.perf_counter() - start[0], time.process_time() - start[1]), ids

    everything, first = [float("inf")] * 2, [float("inf")] * 2
    for _ in range(args.rounds):
        first = list(map(min, first, caption(1)[0]))
        seconds, ids = caption(args.tokens)
        everything = list(map(min, everything, seconds))
        print(f"first ids {ids[0, -args.tokens :][:12].tolist()}")
    print(f"transformers {transformers.__version__}, torch {torch.__version__}, {args.threads} threads")
    written = args.batch * args.tokens
    print(f"{args.beams} beams, batch {args.batch}, {args.tokens} tokens: {written / everything[0]:.1f} tokens/s "
          f"({everything[0]:.2f} s)")
    step = [(a - b) * 1e3 / max(args.tokens - 1, 1) for a, b in zip(everything, first)]
    print(f"image, prompt and first token {first[0]:.2f} s; then {step[0]:.1f} ms per step")
    print(f"processor time: {everything[1]:.2f} s, {first[1]:.2f} s, {step[1]:.1f} ms")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss} kB")


if __name__ == "__main__":
    main()
