#!/usr/bin/env python3
"""Writes the golden folders beside this file from transformers and open_clip.

    pip install torch transformers open_clip_torch
    python make_goldens.py

Small random networks, synthetic pixels, seeded. Every folder holds a checkpoint, `io.safetensors` (inputs, embeddings
of length one, logits, loss) and, of networks that are trained here, `grads.safetensors` (gradients of the symmetric
contrastive loss).
"""

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

HERE = Path(__file__).parent / "goldens"
BATCH, LENGTH, VOCABULARY, SIDE, PATCH = 4, 10, 24, 16, 4


def inputs(side=SIDE, length=LENGTH, counts=(2, 5, 8, 3)):
    """Pixels of four sine patterns; texts of different lengths: start 22, tokens, end 23, padding 0."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, side), torch.linspace(-1, 1, side), indexing="ij")
    pixels = torch.stack([
        torch.stack([torch.sin((2 + b) * x + c) + torch.cos((3 + c) * y - b) for c in range(3)]) for b in range(BATCH)
    ])
    ids = torch.zeros(BATCH, length, dtype=torch.long)
    generator = torch.Generator().manual_seed(7)
    for row, count in enumerate(counts):
        ids[row, 0] = VOCABULARY - 2
        ids[row, 1 : 1 + count] = torch.randint(1, VOCABULARY - 2, (count,), generator=generator)
        ids[row, 1 + count] = VOCABULARY - 1
    return pixels, ids


def randomise(model, seed):
    """Seeded values in every parameter, also where libraries start with zeros and ones."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if name == "logit_scale":
                parameter.fill_(1.5)
                continue
            noise = torch.randn(parameter.shape, generator=generator)
            is_norm = "ln_" in name or "norm" in name or "layrnorm" in name
            parameter.copy_(1 + 0.2 * noise if is_norm and name.endswith("weight") else 0.2 * noise)


def finish(folder, model, image, text, pixels, ids, gradients=True):
    image, text = F.normalize(image, dim=-1), F.normalize(text, dim=-1)
    logits = model.logit_scale.exp() * image @ text.t()
    truth = torch.arange(BATCH)
    loss = (F.cross_entropy(logits, truth) + F.cross_entropy(logits.t(), truth)) / 2
    io = {
        "pixel_values": pixels,
        "input_ids": ids,
        "image_embeds": image,
        "text_embeds": text,
        "logits_per_image": logits,
        "loss": loss.reshape(1),
    }
    save_file({name: value.detach().contiguous() for name, value in io.items()}, folder / "io.safetensors")
    if not gradients:
        return
    loss.backward()
    grads = {name: p.grad.contiguous() for name, p in model.named_parameters()}
    save_file(grads, folder / "grads.safetensors")


def hugging_face(name, seed, hidden_act, eos_token_id):
    from transformers import CLIPConfig, CLIPModel

    common = {"hidden_act": hidden_act, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={
            **common, "vocab_size": VOCABULARY, "hidden_size": 8, "intermediate_size": 16,
            "max_position_embeddings": LENGTH, "eos_token_id": eos_token_id, "bos_token_id": None, "pad_token_id": 0,
        },
        vision_config={
            **common, "hidden_size": 8, "intermediate_size": 20, "image_size": SIDE, "patch_size": PATCH,
        },
        projection_dim=6,
    )
    model = CLIPModel(config).eval()
    randomise(model, seed)
    folder = HERE / name
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    pixels, ids = inputs()
    out = model(input_ids=ids, pixel_values=pixels)
    finish(folder, model, out.image_embeds, out.text_embeds, pixels, ids)


def open_clip_model(name, seed, quick_gelu):
    import open_clip

    config = {
        "embed_dim": 6,
        "quick_gelu": quick_gelu,
        "vision_cfg": {
            "image_size": SIDE, "layers": 2, "width": 8, "head_width": 4, "patch_size": PATCH, "mlp_ratio": 2.5,
        },
        "text_cfg": {"context_length": LENGTH, "vocab_size": VOCABULARY, "width": 8, "heads": 2, "layers": 2},
    }
    model = open_clip.CLIP(**config).eval()
    randomise(model, seed)
    folder = HERE / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}, indent=2) + "\n")
    weights = {name: p.detach().contiguous() for name, p in model.named_parameters()}
    save_file(weights, folder / "open_clip_model.safetensors")
    pixels, ids = inputs()
    finish(folder, model, model.encode_image(pixels), model.encode_text(ids), pixels, ids)


def open_clip_resnet(name, seed):
    """A small ResNet with running statistics, in the layout of RemoteCLIP's RN50: a state dictionary by torch.save."""
    import open_clip

    config = {
        "embed_dim": 6,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 64, "layers": [1, 2, 1, 1], "width": 4, "patch_size": None},
        "text_cfg": {"context_length": LENGTH, "vocab_size": VOCABULARY, "width": 8, "heads": 2, "layers": 2},
    }
    model = open_clip.CLIP(**config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name_of, tensor in sorted(model.state_dict().items()):
            noise = torch.randn(tensor.shape, generator=generator)
            if name_of.endswith("num_batches_tracked") or name_of in ("logit_scale", "attn_mask"):
                continue
            if name_of.endswith("running_var"):
                values = 0.5 + noise.abs()
            elif tensor.dim() == 4:
                values = noise * (2 / tensor[0].numel()) ** 0.5
            elif tensor.dim() == 1 and name_of.endswith("weight"):
                values = 1 + 0.2 * noise
            else:
                values = 0.2 * noise
            tensor.copy_(values.half().float())
        model.logit_scale.fill_(1.5)
    folder = HERE / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}, indent=2) + "\n")
    state = {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items() if k != "attn_mask"}
    torch.save(state, folder / "open_clip_pytorch_model.bin")
    _, ids = inputs()
    # what is smooth looks alike to a random ResNet
    pixels = 2 * torch.randn(BATCH, 3, 64, 64, generator=generator)
    finish(folder, model, model.encode_image(pixels), model.encode_text(ids), pixels, ids, gradients=False)


def open_clip_long(name, seed):
    """248 positions, stored as Long-CLIP does: the first 20 rows of one table and the others of a second one."""
    import open_clip

    length, kept = 248, 20
    config = {
        "embed_dim": 6,
        "quick_gelu": True,
        "vision_cfg": {"image_size": SIDE, "layers": 1, "width": 8, "head_width": 4, "patch_size": PATCH},
        "text_cfg": {"context_length": length, "vocab_size": VOCABULARY, "width": 8, "heads": 2, "layers": 2},
    }
    model = open_clip.CLIP(**config).eval()
    randomise(model, seed)
    folder = HERE / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}, indent=2) + "\n")
    state = {k: p.detach().clone() for k, p in model.named_parameters()}
    rest = state["positional_embedding"].clone()
    state["positional_embedding"][kept:] = 7.0
    rest[:kept] = -7.0
    state["positional_embedding_res"] = rest
    torch.save(state, folder / "open_clip_pytorch_model.bin")
    pixels, ids = inputs(length=length, counts=(3, 18, 100, 246))
    finish(folder, model, model.encode_image(pixels), model.encode_text(ids), pixels, ids, gradients=False)


if __name__ == "__main__":
    hugging_face("hf_quick_gelu", 1, "quick_gelu", VOCABULARY - 1)
    hugging_face("hf_gelu_argmax", 2, "gelu", 2)
    open_clip_model("open_clip_gelu", 3, False)
    open_clip_model("open_clip_quick_gelu", 4, True)
    open_clip_resnet("open_clip_resnet", 5)
    open_clip_long("open_clip_long_text", 6)
