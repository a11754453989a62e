#!/usr/bin/env python3
"""Images per second and training samples per second of open_clip on PyTorch, CPU, f32.

    pip install torch open_clip_torch
    python clip_peer.py [--model ViT-B-32-quickgelu] [--batch 32] [--tokens 77] [--rounds 3] [--threads 2]
                        [--device cuda --dtype bf16]

The counterpart of `device-check clip-rate`: the same shapes, the best of several rounds, no optimiser.
"""

import argparse
import time

import torch
import torch.nn.functional as F


# Names of our presets
PRESETS = {"vit-b-32": "ViT-B-32-quickgelu", "vit-l-14": "ViT-L-14-quickgelu"}


def best_of(rounds, run):
    run()
    best = float("inf")
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return best


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="ViT-B-32-quickgelu")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=77)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=["f32", "bf16", "f16"], default="f32")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_default_device(args.device)
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}[args.dtype]

    import open_clip

    torch.manual_seed(0)
    model = open_clip.create_model(PRESETS.get(args.model, args.model), load_weights=False).to(args.device, dtype)
    model.train()
    side = model.visual.image_size[0]
    pixels = (torch.rand(args.batch, 3, side, side) * 2 - 1).to(dtype)
    ids = torch.randint(1, model.vocab_size - 2, (args.batch, model.context_length))
    ids[:, 0] = model.vocab_size - 2
    ids[:, args.tokens - 1] = model.vocab_size - 1
    ids[:, args.tokens :] = 0

    def embed(encode, batch):
        with torch.inference_mode():
            encode(batch)

    def train_step():
        model.zero_grad(set_to_none=True)
        image = F.normalize(model.encode_image(pixels), dim=-1)
        text = F.normalize(model.encode_text(ids), dim=-1)
        logits = (model.logit_scale.exp() * image @ text.t()).float()
        truth = torch.arange(args.batch)
        loss = (F.cross_entropy(logits, truth) + F.cross_entropy(logits.t(), truth)) / 2
        loss.backward()

    print(f"{args.model}: open_clip {open_clip.__version__}, torch {torch.__version__}, batch {args.batch}, "
          f"texts of {args.tokens} tokens, {args.threads} threads")
    seconds = best_of(args.rounds, lambda: embed(model.encode_image, pixels))
    print(f"encode_image {args.batch / seconds:.2f} images/s")
    seconds = best_of(args.rounds, lambda: embed(model.encode_text, ids))
    print(f"encode_text {args.batch / seconds:.2f} texts/s")
    seconds = best_of(args.rounds, train_step)
    print(f"train_step {args.batch / seconds:.2f} samples/s ({seconds:.3f} s)")


if __name__ == "__main__":
    main()
