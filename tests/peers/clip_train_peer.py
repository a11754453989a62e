#!/usr/bin/env python3
"""Training pairs per second of a ViT-L/14 CLIP in transformers on PyTorch, optimiser included.

    pip install torch transformers
    python clip_train_peer.py [--batch 40] [--segments 0] [--steps 10] [--device cuda] [--dtype bf16]

The counterpart of `device-check train-rate vit-l-14`: both towers, the contrastive loss, backward, AdamW; with segments,
that many more images through the image tower for each pair, with activation checkpointing. The median step counts.
"""

import argparse
import statistics
import time

import torch
import torch.nn.functional as F
import transformers
from transformers import CLIPConfig, CLIPModel


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=40)
    parser.add_argument("--segments", type=int, default=0)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", choices=["f32", "bf16"], default="bf16")
    args = parser.parse_args()
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[args.dtype]
    config = CLIPConfig(
        projection_dim=768,
        text_config={"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12},
        vision_config={"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
                       "num_attention_heads": 16, "patch_size": 14, "image_size": 224},
    )
    config._attn_implementation = "sdpa"
    torch.manual_seed(0)
    model = CLIPModel(config).to(args.device, dtype).train()
    if args.segments:
        model.gradient_checkpointing_enable()
    # as ours: f32 masters of half-precision weights
    masters = [p.detach().float().requires_grad_() for p in model.parameters()]
    optimiser = torch.optim.AdamW(masters, lr=1e-5, fused=args.device.startswith("cuda"))
    pixels = torch.rand(args.batch, 3, 224, 224, device=args.device, dtype=dtype) * 2 - 1
    segments = torch.rand(args.batch * args.segments, 3, 224, 224, device=args.device, dtype=dtype) * 2 - 1
    ids = torch.randint(1, 49400, (args.batch, 77), device=args.device)
    ids[:, -1] = 49407

    def embed_image(x):
        return F.normalize(model.visual_projection(model.vision_model(pixel_values=x).pooler_output).float(), dim=-1)

    def contrast(a, b):
        logits = model.logit_scale.exp().float() * a @ b.t()
        truth = torch.arange(len(a), device=a.device)
        return (F.cross_entropy(logits, truth) + F.cross_entropy(logits.t(), truth)) / 2

    def step():
        text = model.text_projection(model.text_model(input_ids=ids).pooler_output)
        text = F.normalize(text.float(), dim=-1)
        loss = contrast(embed_image(pixels), text)
        if args.segments:
            pooled = F.normalize(embed_image(segments).reshape(args.batch, args.segments, -1).mean(1), dim=-1)
            loss = loss + contrast(pooled, text)
        loss.backward()
        for master, parameter in zip(masters, model.parameters()):
            if parameter.grad is not None:
                master.grad = parameter.grad.float()
                parameter.grad = None
        torch.nn.utils.clip_grad_norm_(masters, 1.0)
        optimiser.step()
        with torch.no_grad():
            torch._foreach_copy_(list(model.parameters()), masters)
        return loss

    seconds = []
    for _ in range(args.steps):
        start = time.perf_counter()
        step().item()
        seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds)
    peak = torch.cuda.max_memory_allocated() / 2**30 if args.device.startswith("cuda") else 0
    print(f"transformers {transformers.__version__}, torch {torch.__version__}: vit-l-14, batch {args.batch}, "
          f"{args.segments} segments each: {args.batch / median:.2f} samples/s, {median:.4f} s a step, "
          f"peak {peak:.1f} GiB")


if __name__ == "__main__":
    main()
