#!/usr/bin/env python3
"""Seconds per image of Segment Anything on PyTorch, CPU, f32, part by part.

    pip install torch torchvision segment-anything transformers safetensors
    cargo run --release -p device-check -- sam-rate vit-b 32 2 encoder sam.safetensors
    python sam_peer.py --weights sam.safetensors [--library original|transformers] [--rounds 2] [--threads 2]

The counterpart of `device-check sam-rate`: the same weights, image, points and settings. `original` is the
released `segment_anything`; `transformers` is `SamModel` with the functions of its mask-generation pipeline. Decoder and
post-processing are measured on 64 points and multiplied by the number of batches. MobileSAM's encoder is in neither
library; its decoder and what lies behind are the same.
"""

import argparse
import resource
import time

import numpy as np
import torch

BATCH, SIDE = 64, 512


class Seconds:
    """Wall time, and the processor time of all threads, which says more where others are at work."""

    def __init__(self, wall, cpu):
        self.wall, self.cpu = wall, cpu

    def __mul__(self, factor):
        return Seconds(self.wall * factor, self.cpu * factor)

    def __add__(self, other):
        return Seconds(self.wall + other.wall, self.cpu + other.cpu)

    def __str__(self):
        return f"{self.wall:.3f} s ({self.cpu:.3f} s of processor time)"


def best_of(rounds, run):
    run()
    best = Seconds(float("inf"), float("inf"))
    for _ in range(rounds):
        wall, cpu = time.perf_counter(), time.process_time()
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        best = Seconds(min(best.wall, wall), min(best.cpu, cpu))
    return best


def image():
    index = np.arange(3 * SIDE * SIDE, dtype=np.int64)
    return ((index * 7919) % 251).astype(np.uint8).reshape(SIDE, SIDE, 3)


def blobs():
    """The masks of `Blobs` in the example: logits [64, 3, 256, 256] and predicted IoU [64, 3]."""
    y, x = np.mgrid[0:256, 0:256].astype(np.float32)
    masks, iou = [], []
    for i in range(3 * BATCH):
        cx, cy, radius = i * 37 % 256, i * 91 % 256, 10 + i % 60
        masks.append((radius - np.sqrt((x - cx) ** 2 + (y - cy) ** 2)) * 4)
        iou.append(0.8 + 0.002 * (i * 13 % 100))
    masks = torch.from_numpy(np.stack(masks).astype(np.float32)).reshape(BATCH, 3, 256, 256)
    return masks.to(torch.get_default_device()), torch.tensor(iou, dtype=torch.float32).reshape(BATCH, 3)


def load(path):
    from segment_anything import sam_model_registry
    from safetensors.torch import load_file

    sam = sam_model_registry["vit_b"]()
    if path:
        sam.load_state_dict(load_file(path))
    return sam.eval()


def original(args, batches):
    from segment_anything import SamAutomaticMaskGenerator

    sam = load(args.weights)
    generator = SamAutomaticMaskGenerator(sam, points_per_side=8, output_mode="uncompressed_rle")
    predictor = generator.predictor
    logits, iou = blobs()

    class Replay(type(predictor)):
        """Predicts nothing, so that only the work behind the network is measured."""

        def set_image(self, picture, image_format="RGB"):
            self.original_size, self.input_size, self.is_image_set = picture.shape[:2], (1024, 1024), True

        def predict_torch(self, *_, **__):
            return self.model.postprocess_masks(logits, self.input_size, self.original_size), iou, logits

    generator.predictor = Replay(sam)
    count = []
    seconds = best_of(args.rounds, lambda: count.append(len(generator.generate(image()))))
    post = seconds * batches
    print(f"post {post} per image ({count[-1]} records of {BATCH} points)")
    if args.parts == "post":
        return
    pixels = sam.preprocess(torch.as_tensor(predictor.transform.apply_image(image())).permute(2, 0, 1)[None].float())
    encoder = best_of(args.rounds, lambda: sam.image_encoder(pixels))
    print(f"encoder {encoder} per image")
    embedding = sam.image_encoder(pixels)
    places = (torch.arange(8) + 0.5) / 8 * 1024
    points = torch.stack(torch.meshgrid(places, places, indexing="xy"), -1).reshape(-1, 1, 2)

    def decode():
        sparse, dense = sam.prompt_encoder(points=(points, torch.ones(BATCH, 1)), boxes=None, masks=None)
        return sam.mask_decoder(
            image_embeddings=embedding, image_pe=sam.prompt_encoder.get_dense_pe(), sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense, multimask_output=True)

    seconds = best_of(args.rounds, decode)
    print(f"decoder {seconds * batches} per image")
    print(f"all {encoder + seconds * batches + post} per image")


def transformers(args, batches):
    from transformers import SamConfig, SamImageProcessor, SamModel

    processor = SamImageProcessor()
    logits, iou = blobs()

    def post():
        masks = processor.post_process_masks(
            logits[None], torch.tensor([[SIDE, SIDE]]), torch.tensor([[1024, 1024]]), binarize=False)
        found = processor.filter_masks(masks[0], iou, (SIDE, SIDE), [0, 0, SIDE, SIDE])
        return processor.post_process_for_mask_generation(found[0], found[1], found[2], 0.7)

    seconds = best_of(args.rounds, post)
    after = seconds * batches
    print(f"post {after} per image")
    if args.parts == "post":
        return
    # Random weights: the time does not depend on them.
    # The default configuration is ViT-B's.
    vit_h = {"hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 16, "mlp_dim": 5120,
             "global_attn_indexes": [7, 15, 23, 31]}
    model = SamModel(SamConfig(vision_config=vit_h if args.size == "vit-h" else {})).eval()
    pixels = torch.rand(1, 3, 1024, 1024) * 4 - 2
    encoder = best_of(args.rounds, lambda: model.get_image_embeddings(pixels))
    print(f"encoder {encoder} per image")
    embedding = model.get_image_embeddings(pixels)
    places = (torch.arange(8) + 0.5) / 8 * 1024
    points = torch.stack(torch.meshgrid(places, places, indexing="xy"), -1).reshape(1, BATCH, 1, 2)
    labels = torch.ones(1, BATCH, 1, dtype=torch.long)
    seconds = best_of(
        args.rounds, lambda: model(image_embeddings=embedding, input_points=points, input_labels=labels))
    print(f"decoder {seconds * batches} per image")
    print(f"all {encoder + seconds * batches + after} per image")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", choices=["original", "transformers"], default="original")
    parser.add_argument("--size", choices=["vit-b", "vit-h"], default="vit-b", help="of transformers")
    parser.add_argument("--weights", help="safetensors in the original names, as `device-check sam-rate` writes them")
    parser.add_argument("--points-per-side", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--parts", choices=["all", "post"], default="all")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=["f32", "bf16", "f16"], default="f32")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_default_device(args.device)
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}[args.dtype]
    torch.set_default_dtype(dtype)
    batches = args.points_per_side**2 / BATCH
    print(f"{args.library}: {args.points_per_side} points per side, {args.threads} threads")
    with torch.inference_mode():
        (original if args.library == "original" else transformers)(args, batches)
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()
