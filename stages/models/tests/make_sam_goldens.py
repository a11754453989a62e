#!/usr/bin/env python3
"""Writes the golden files of Segment Anything beside this file.

    pip install torch torchvision transformers segment-anything opencv-python-headless pycocotools
    python make_sam_goldens.py

- `goldens/sam_hf`: a small random `SamModel` of transformers with inputs and outputs,
- `goldens/sam_generator/*.json`: records of the original `SamAutomaticMaskGenerator` over a predictor that is a formula
  (the one of `src/sam/generator/goldens.rs`), read back by pycocotools where it is installed,
- `goldens/sam_torch`: a random TinyViT in the names of `mobile_sam.pt`, as torch.save and as safetensors, with an image
  and its embedding, and a checkpoint that wants to run a command.

Everything is seeded and small.
"""

import json
import math
import os
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

HERE = Path(__file__).parent / "goldens"


def hugging_face():
    from transformers import SamConfig, SamModel

    # 9 x 9 patches in windows of 4: the last windows are filled up.
    config = SamConfig(
        vision_config={
            "hidden_size": 16, "output_channels": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
            "image_size": 72, "patch_size": 8, "window_size": 4, "global_attn_indexes": [1], "mlp_dim": 24,
            "num_pos_feats": 8,
        },
        prompt_encoder_config={
            "hidden_size": 16, "image_size": 72, "patch_size": 8, "mask_input_channels": 8,
        },
        mask_decoder_config={
            "hidden_size": 16, "mlp_dim": 24, "num_attention_heads": 2, "iou_head_hidden_dim": 12,
        },
    )
    config._attn_implementation = "eager"
    model = SamModel(config).eval()
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            is_norm = "norm" in name and name.endswith("weight")
            scale = 1.0 if "positional_embedding" in name else 0.2
            parameter.copy_(1 + 0.2 * noise if is_norm else scale * noise)
        shared = model.shared_image_embedding.positional_embedding
        model.prompt_encoder.shared_embedding.positional_embedding.copy_(shared)
    folder = HERE / "sam_hf"
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)

    y, x = torch.meshgrid(torch.linspace(-1, 1, 72), torch.linspace(-1, 1, 72), indexing="ij")
    pixels = torch.stack([torch.stack([torch.sin((2 + b) * x + c) + torch.cos((3 + c) * y - b) for c in range(3)])
                          for b in range(2)])
    points = torch.tensor([[[10.0, 20.0], [50.0, 61.0]], [[71.0, 0.0], [33.5, 12.25]]])
    labels = torch.tensor([[1, 0], [1, 1]])
    boxes = torch.tensor([[5.0, 6.0, 40.0, 50.0], [0.0, 30.0, 72.0, 60.0], [10.0, 10.0, 11.0, 12.0]])
    mask = torch.sin(torch.arange(36 * 36) * 0.37).reshape(1, 1, 36, 36) * 5
    io = {"pixel_values": pixels, "points": points, "labels": labels.float(), "boxes": boxes, "mask": mask[0, 0]}
    with torch.no_grad():
        embeddings = model.get_image_embeddings(pixels)
        io["image_embeddings"] = embeddings

        def run(name, multimask, **prompt):
            out = model(image_embeddings=embeddings[:1], multimask_output=multimask, **prompt)
            io[f"{name}_iou"] = out.iou_scores[0]
            io[f"{name}_logits"] = out.pred_masks[0]

        prompt = {"input_points": points[None], "input_labels": labels[None]}
        run("points_multi", True, **prompt)
        run("points_single", False, **prompt)
        run("boxes_multi", True, input_boxes=boxes[None])
        # One mask for all prompts of the image.
        run("masked_multi", True, input_masks=mask, **prompt)
    save_file({name: value.contiguous() for name, value in io.items()}, folder / "io.safetensors")


def mix(*args):
    h = 0x811C9DC5
    for arg in args:
        for byte in int(arg).to_bytes(4, "little"):
            h = ((h ^ byte) * 0x01000193) & 0xFFFFFFFF
    h ^= h >> 16
    h = (h * 0x85EBCA6B) & 0xFFFFFFFF
    h ^= h >> 13
    h = (h * 0xC2B2AE35) & 0xFFFFFFFF
    h ^= h >> 16
    return (h >> 8) / 2**24


def formula(seed, crop, number, output, x, y):
    """Low-resolution logits and predicted IoU for a point in model coordinates."""
    u = [mix(seed, crop, number, output, t) for t in range(9)]
    cx, cy = x / 4 + (u[0] - 0.5) * 24, y / 4 + (u[1] - 0.5) * 24
    rx, ry = 4 + u[2] ** 2 * 50, 4 + u[3] ** 2 * 50
    theta, k = math.pi * u[4], 10 * 60 ** u[5]
    gy, gx = np.mgrid[0:256, 0:256].astype(np.float64)
    dx, dy = gx - cx, gy - cy
    a = (math.cos(theta) * dx + math.sin(theta) * dy) / rx
    b = (-math.sin(theta) * dx + math.cos(theta) * dy) / ry
    wave = 0.12 * np.sin(0.35 * gx + 6 * u[6]) * np.sin(0.27 * gy + 6 * u[7])
    logits = np.clip(k * (1 - np.sqrt(a * a + b * b) + wave), -32, 32)
    return logits.astype(np.float32), np.float32(0.7 + 0.35 * u[8])


def generator_over_formula(seed, height, width, settings):
    from segment_anything import SamAutomaticMaskGenerator
    from segment_anything.modeling import Sam
    from segment_anything.utils.transforms import ResizeLongestSide

    class Network:
        """What the generator and `Sam.postprocess_masks` ask of a model."""

        mask_threshold = 0.0
        device = torch.device("cpu")

        class image_encoder:
            img_size = 1024

    class Predictor:
        def __init__(self):
            self.model, self.transform, self.device = Network(), ResizeLongestSide(1024), torch.device("cpu")
            self.crop = -1

        def set_image(self, image):
            self.crop, self.number, self.size = self.crop + 1, 0, image.shape[:2]

        def reset_image(self):
            pass

        def predict_torch(self, points, labels, multimask_output, return_logits):
            assert multimask_output and return_logits
            made = [[formula(seed, self.crop, self.number + i, m, *point[0].tolist()) for m in range(3)]
                    for i, point in enumerate(points)]
            self.number += len(points)
            logits = torch.from_numpy(np.stack([[mask for mask, _ in row] for row in made]))
            iou = torch.from_numpy(np.stack([[value for _, value in row] for row in made]))
            resized = self.transform.get_preprocess_shape(*self.size, 1024)
            return Sam.postprocess_masks(self.model, logits, resized, self.size), iou, logits

    settings = dict(settings)
    grids = settings.pop("point_grids", None)
    if grids is not None:
        settings["point_grids"] = [np.array(grid) for grid in grids]
    generator = SamAutomaticMaskGenerator.__new__(SamAutomaticMaskGenerator)

    def init(self, points_per_side=32, points_per_batch=64, pred_iou_thresh=0.88, stability_score_thresh=0.95,
             stability_score_offset=1.0, box_nms_thresh=0.7, crop_n_layers=0, crop_nms_thresh=0.7,
             crop_overlap_ratio=512 / 1500, crop_n_points_downscale_factor=1, point_grids=None, min_mask_region_area=0):
        from segment_anything.utils.amg import build_all_layer_point_grids

        values = {name: value for name, value in locals().items() if name != "self"}
        if point_grids is None:
            values["point_grids"] = build_all_layer_point_grids(
                points_per_side, crop_n_layers, crop_n_points_downscale_factor)
        self.__dict__.update(values, output_mode="uncompressed_rle", predictor=Predictor())

    init(generator, **settings)
    return generator.generate(np.zeros((height, width, 3), np.uint8))


def coco_string(counts):
    """rleToString of pycocotools."""
    text = ""
    for i, count in enumerate(counts):
        x = count - (counts[i - 2] if i > 2 else 0)
        more = True
        while more:
            c = x & 0x1F
            x >>= 5
            more = (x != -1) if c & 0x10 else (x != 0)
            text += chr(48 + (c | 0x20 if more else c))
    return text


def read_back(record, uncompressed):
    """The counts are those that pycocotools makes and reads."""
    try:
        from pycocotools import mask
    except ImportError:
        print("skipped: no pycocotools to read the counts back with")
        return
    height, width = uncompressed["size"]
    theirs = mask.frPyObjects(uncompressed, height, width)
    assert theirs["counts"].decode() == record["segmentation"]["counts"]
    assert int(mask.area(theirs)) == record["area"]


def generator():
    cases = {
        "tiny_image": (21, 7, 11, {"points_per_side": 4, "crop_n_layers": 1, "stability_score_thresh": 0.7}),
        "own_points": (22, 120, 77, {
            "points_per_side": None,
            "point_grids": [[[0.1, 0.2], [0.9, 0.95], [0.5, 0.5], [0.0, 1.0]], [[0.3, 0.6]]],
            "crop_n_layers": 1, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0, "box_nms_thresh": 0.5,
            "crop_nms_thresh": 0.4, "crop_overlap_ratio": 0.25,
        }),
        "all_settings": (23, 90, 160, {
            "points_per_side": 9, "points_per_batch": 10, "pred_iou_thresh": 0.75, "stability_score_thresh": 0.8,
            "stability_score_offset": 2.5, "box_nms_thresh": 0.8, "crop_n_layers": 2, "crop_nms_thresh": 0.6,
            "crop_overlap_ratio": 0.2, "crop_n_points_downscale_factor": 2, "min_mask_region_area": 60,
        }),
    }
    folder = HERE / "sam_generator"
    folder.mkdir(parents=True, exist_ok=True)
    for name, (seed, height, width, settings) in cases.items():
        records = []
        for record in generator_over_formula(seed, height, width, settings):
            uncompressed = record["segmentation"]
            counts = coco_string(uncompressed["counts"])
            record["segmentation"] = {"size": uncompressed["size"], "counts": counts}
            read_back(record, uncompressed)
            records.append(json.loads(json.dumps(record, default=float)))
        print(name, len(records), "records")
        golden = {"seed": seed, "image_hw": [height, width], "settings": settings, "records": records}
        (folder / f"{name}.json").write_text(json.dumps(golden) + "\n")


def tiny_vit(weights, x, heads, windows, strides):
    """TinyViT as MobileSAM has it, with its attention biases: `[1, 3, S, S]` to `[1, D, H, W]`."""
    w = {name.removeprefix("image_encoder."): value for name, value in weights.items()}
    gelu = F.gelu

    def convolution(x, name, **options):
        x = F.conv2d(x, w[f"{name}.c.weight"], **options)
        part = [w[f"{name}.bn.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(x, *part, eps=1e-5)

    def bottleneck(x, name, stride):
        groups = w[f"{name}.conv2.c.weight"].shape[0]
        x = gelu(convolution(gelu(convolution(x, f"{name}.conv1")), f"{name}.conv2",
                             stride=stride, padding=1, groups=groups))
        return convolution(x, f"{name}.conv3")

    def norm(x, name, eps=1e-5):
        return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], eps)

    def linear(x, name):
        return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

    def attention(x, name, heads, window):
        batch, length, width = x.shape
        qkv = linear(norm(x, f"{name}.norm"), f"{name}.qkv").view(batch, length, heads, -1)
        q, k, v = (part.permute(0, 2, 1, 3) for part in qkv.split(width // heads, 3))
        i = torch.arange(length)
        down = (i[:, None] // window - i[None] // window).abs()
        across = (i[:, None] % window - i[None] % window).abs()
        scores = q @ k.transpose(-2, -1) * (width // heads) ** -0.5
        scores = scores + w[f"{name}.attention_biases"][:, down * window + across]
        return linear((scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, length, width), f"{name}.proj")

    def block(x, name, heads, window):
        width, side = x.shape[1:3]
        missing = -side % window
        across = (side + missing) // window
        y = F.pad(x.permute(0, 2, 3, 1), (0, 0, 0, missing, 0, missing))
        y = y.view(1, across, window, across, window, width).transpose(2, 3).reshape(-1, window * window, width)
        y = attention(y, f"{name}.attn", heads, window).view(1, across, across, window, window, width)
        y = y.transpose(2, 3).reshape(1, across * window, across * window, width)[:, :side, :side]
        x = x + y.permute(0, 3, 1, 2)
        x = convolution(x, f"{name}.local_conv", padding=1, groups=width)
        y = linear(norm(x.permute(0, 2, 3, 1), f"{name}.mlp.norm"), f"{name}.mlp.fc1")
        return x + linear(gelu(y), f"{name}.mlp.fc2").permute(0, 3, 1, 2)

    x = gelu(convolution(x, "patch_embed.seq.0", stride=2, padding=1))
    x = convolution(x, "patch_embed.seq.2", stride=2, padding=1)
    x = gelu(x + bottleneck(x, "layers.0.blocks.0", 1))
    for stage in range(3):
        x = bottleneck(x, f"layers.{stage}.downsample", strides[stage])
        x = block(x, f"layers.{stage + 1}.blocks.0", heads[stage], windows[stage])
    for index in (0, 2):
        x = F.conv2d(x, w[f"neck.{index}.weight"], padding=index // 2)
        x = norm(x.permute(0, 2, 3, 1), f"neck.{index + 1}", 1e-6).permute(0, 3, 1, 2)
    return x


def torch_checkpoints():
    widths, depths, heads, windows, width = [8, 16, 16, 24], [1, 1, 1, 1], [2, 2, 3], [2, 3, 2], 16
    shapes = {}

    def convolution(name, *shape):
        shapes[f"{name}.c.weight"] = shape
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.bn.{part}"] = (shape[0],)
        shapes[f"{name}.bn.num_batches_tracked"] = ()

    def bottleneck(name, inputs, middle, outputs):
        convolution(f"{name}.conv1", middle, inputs, 1, 1)
        convolution(f"{name}.conv2", middle, 1, 3, 3)
        convolution(f"{name}.conv3", outputs, middle, 1, 1)

    def pair(name, *weight):
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = weight, (weight[0],)

    encoder = "image_encoder"
    convolution(f"{encoder}.patch_embed.seq.0", widths[0] // 2, 3, 3, 3)
    convolution(f"{encoder}.patch_embed.seq.2", widths[0], widths[0] // 2, 3, 3)
    bottleneck(f"{encoder}.layers.0.blocks.0", widths[0], 2 * widths[0], widths[0])
    for stage in range(3):
        here, after = widths[stage], widths[stage + 1]
        bottleneck(f"{encoder}.layers.{stage}.downsample", here, after, after)
        block = f"{encoder}.layers.{stage + 1}.blocks.0"
        shapes[f"{block}.attn.attention_biases"] = (heads[stage], windows[stage] ** 2)
        pair(f"{block}.attn.norm", after)
        pair(f"{block}.attn.qkv", 3 * after, after)
        pair(f"{block}.attn.proj", after, after)
        pair(f"{block}.mlp.norm", after)
        pair(f"{block}.mlp.fc1", 2 * after, after)
        pair(f"{block}.mlp.fc2", after, 2 * after)
        convolution(f"{block}.local_conv", after, 1, 3, 3)
    pair(f"{encoder}.norm_head", widths[3])
    pair(f"{encoder}.head", 5, widths[3])
    shapes[f"{encoder}.neck.0.weight"], shapes[f"{encoder}.neck.2.weight"] = (width, 24, 1, 1), (width, width, 3, 3)
    pair(f"{encoder}.neck.1", width)
    pair(f"{encoder}.neck.3", width)
    prompt = "prompt_encoder"
    shapes[f"{prompt}.pe_layer.positional_encoding_gaussian_matrix"] = (2, width // 2)
    for name in [f"point_embeddings.{i}" for i in range(4)] + ["not_a_point_embed", "no_mask_embed"]:
        shapes[f"{prompt}.{name}.weight"] = (1, width)
    pair(f"{prompt}.mask_downscaling.0", 1, 1, 2, 2)
    pair(f"{prompt}.mask_downscaling.1", 1)
    pair(f"{prompt}.mask_downscaling.3", 4, 1, 2, 2)
    pair(f"{prompt}.mask_downscaling.4", 4)
    pair(f"{prompt}.mask_downscaling.6", width, 4, 1, 1)
    decoder = "mask_decoder"

    def attention(name, inner):
        for part in "qkv":
            pair(f"{decoder}.transformer.{name}.{part}_proj", inner, width)
        pair(f"{decoder}.transformer.{name}.out_proj", width, inner)

    attention("layers.0.self_attn", width)
    attention("layers.0.cross_attn_token_to_image", width // 2)
    attention("layers.0.cross_attn_image_to_token", width // 2)
    attention("final_attn_token_to_image", width // 2)
    for norm in range(1, 5):
        pair(f"{decoder}.transformer.layers.0.norm{norm}", width)
    pair(f"{decoder}.transformer.norm_final_attn", width)
    pair(f"{decoder}.transformer.layers.0.mlp.lin1", 12, width)
    pair(f"{decoder}.transformer.layers.0.mlp.lin2", width, 12)
    shapes[f"{decoder}.iou_token.weight"], shapes[f"{decoder}.mask_tokens.weight"] = (1, width), (4, width)
    shapes[f"{decoder}.output_upscaling.0.weight"] = (width, width // 4, 2, 2)
    shapes[f"{decoder}.output_upscaling.0.bias"] = (width // 4,)
    pair(f"{decoder}.output_upscaling.1", width // 4)
    shapes[f"{decoder}.output_upscaling.3.weight"] = (width // 4, width // 8, 2, 2)
    shapes[f"{decoder}.output_upscaling.3.bias"] = (width // 8,)
    for head, last in [(f"output_hypernetworks_mlps.{i}", width // 8) for i in range(4)] + [("iou_prediction_head", 4)]:
        for layer, outputs in enumerate([width, width, last]):
            pair(f"{decoder}.{head}.layers.{layer}", outputs, width)

    noise = torch.Generator().manual_seed(17)
    weights = {}
    for name, shape in shapes.items():
        if name.endswith("num_batches_tracked"):
            weights[name] = torch.tensor(3)
        elif name.endswith("running_var"):
            weights[name] = 0.5 + torch.rand(shape, generator=noise)
        else:
            weights[name] = 0.3 * torch.randn(shape, generator=noise)
    # Half precision, a parameter and a transposed tensor are what checkpoints have, too.
    name = f"{encoder}.layers.1.blocks.0.attn.proj.weight"
    weights[name] = weights[name].t().contiguous().t()
    name = f"{encoder}.layers.1.blocks.0.mlp.fc1.weight"
    weights[name] = weights[name].half()
    folder = HERE / "sam_torch"
    folder.mkdir(parents=True, exist_ok=True)
    stored = {name: value.contiguous().float() for name, value in weights.items() if value.is_floating_point()}
    save_file(stored, folder / "tiny_vit.safetensors")
    y, x = torch.meshgrid(torch.linspace(-1, 1, 64), torch.linspace(-1, 1, 64), indexing="ij")
    pixels = torch.stack([torch.sin(3 * x + c) + torch.cos((3 + c) * y) for c in range(3)])[None]
    embedding = tiny_vit(stored, pixels, heads, windows, [2, 2, 2])
    save_file({"pixel_values": pixels, "image_embeddings": embedding.contiguous()}, folder / "tiny_vit_io.safetensors")
    name = f"{decoder}.iou_token.weight"
    weights[name] = torch.nn.Parameter(weights[name])
    torch.save(weights, folder / "tiny_vit.pt")

    class Command:
        def __reduce__(self):
            return os.system, ("true",)

    torch.save({"image_encoder.pos_embed": Command()}, folder / "malicious.pth")


if __name__ == "__main__":
    torch.set_num_threads(1)
    hugging_face()
    generator()
    torch_checkpoints()
