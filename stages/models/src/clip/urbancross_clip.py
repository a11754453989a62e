"""A CLIP that urbancross has trained, in PyTorch: reads `config.json`, `model.safetensors` and `tokenizer.json`.

    import sys; sys.path.insert(0, "FOLDER")            # the folder of this file
    import urbancross_clip
    from PIL import Image

    model = urbancross_clip.load("FOLDER")
    images = model.embed_images([Image.open("a.jpg")])  # [1, E], of length one
    texts = model.embed_texts(["a lake beside a road", "an airport"])
    print(images @ texts.T)                             # cosines

Needs torch, safetensors, tokenizers, numpy and Pillow.
"""

import json
from pathlib import Path

import numpy
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from tokenizers import Tokenizer

START, END = "<|startoftext|>", "<|endoftext|>"
EPSILON = 1e-5


def load(folder, device="cpu"):
    """The model in a folder."""
    return Clip(folder).to(device).eval()


class Clip(torch.nn.Module):
    def __init__(self, folder):
        super().__init__()
        folder = Path(folder)
        self.config = json.loads((folder / "config.json").read_text(encoding="utf-8"))["clip"]
        # a name of a module has no dots
        weights = load_file(folder / "model.safetensors").items()
        self.weights = torch.nn.ParameterDict({name.replace(".", "/"): tensor.float() for name, tensor in weights})
        tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        self.pad = (tokenizer.get("padding") or {}).get("pad_id", 0)
        self.tokenizer = Tokenizer.from_str(json.dumps(tokenizer))
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        # a caption that spells out an end token does not end there
        self.tokenizer.encode_special_tokens = True
        self.ends = tuple(self.tokenizer.token_to_id(token) for token in (START, END))

    # --- from files and texts

    def preprocess(self, images):
        """Pictures of Pillow to pixel values [B, 3, S, S]: the middle square, resized and normalised."""
        side = self.config["vision"]["image_size"]
        return torch.stack([self._pixels(image, side) for image in images]).to(self.device)

    def _pixels(self, image, side):
        image = image.convert("RGB")
        width, height = image.size
        short = min(width, height)
        width, height = width * side // short, height * side // short
        image = image.resize((width, height), Image.Resampling.BICUBIC)
        left, top = round((width - side) / 2), round((height - side) / 2)
        image = image.crop((left, top, left + side, top + side))
        pixels = torch.from_numpy(numpy.asarray(image, dtype=numpy.float32).copy()) / 255
        mean, std = (torch.tensor(self.config[key]) for key in ("image_mean", "image_std"))
        return ((pixels - mean) / std).permute(2, 0, 1)

    def tokenize(self, texts):
        """Texts to ids [B, L]: start, text, end, padding."""
        length = self.config["text"]["context_length"]
        rows = []
        for text in texts:
            ids = self.tokenizer.encode(text, add_special_tokens=False).ids
            ids = [id for id in ids if id not in self.ends][: length - 2]
            ids = [self.ends[0], *ids, self.ends[1]]
            rows.append(ids + [self.pad] * (length - len(ids)))
        return torch.tensor(rows, device=self.device)

    @torch.no_grad()
    def embed_images(self, images):
        """Pictures to vectors of length one [B, E]."""
        return F.normalize(self.encode_image(self.preprocess(images)), dim=-1)

    @torch.no_grad()
    def embed_texts(self, texts):
        """Texts to vectors of length one [B, E]."""
        return F.normalize(self.encode_text(self.tokenize(texts)), dim=-1)

    # --- the network

    @property
    def device(self):
        return self["logit_scale"].device

    def __getitem__(self, name):
        return self.weights[name.replace(".", "/")]

    def encode_image(self, pixels):
        """Pixel values [B, 3, S, S] to vectors [B, E], not normalised in length."""
        vision = self.config["vision"]
        x = self._stem(pixels)
        if vision["pool"] == "cls":
            x = torch.cat([self["visual.class_embedding"].expand(len(x), 1, -1), x], dim=1)
        x = self._norm(x + self["visual.positional_embedding"], "visual.ln_pre")
        for layer in range(vision["layers"]):
            x = self._block(x, f"visual.transformer.resblocks.{layer}", vision["heads"], causal=False)
        x = x[:, 0] if vision["pool"] == "cls" else x.mean(dim=1)
        return self._norm(x, "visual.ln_post") @ self["visual.proj"]

    def encode_text(self, ids):
        """Ids [B, L] to vectors [B, E], not normalised in length."""
        text = self.config["text"]
        x = self["token_embedding.weight"][ids] + self["positional_embedding"][: ids.shape[1]]
        for layer in range(text["layers"]):
            x = self._block(x, f"transformer.resblocks.{layer}", text["heads"], causal=True)
        x = x[torch.arange(len(ids)), self._end_of_text(ids)]
        return self._norm(x, "ln_final") @ self["text_projection"]

    def _end_of_text(self, ids):
        rule = self.config["text"]["eot"]
        if rule == "argmax":
            return ids.argmax(dim=-1)
        (kind, id), = rule.items()
        if kind == "id":
            return (ids == id).int().argmax(dim=-1)
        behind = (ids != id).flip(-1).int().argmax(dim=-1)
        return torch.where((ids != id).any(dim=-1), ids.shape[1] - 1 - behind, 0)

    def _stem(self, pixels):
        """Pixel values [B, 3, S, S] to tokens [B, L, D]."""
        vision = self.config["vision"]
        if vision["stem"] == "patch":
            x = F.conv2d(pixels, self["visual.conv1.weight"], stride=vision["patch_size"])
            return x.flatten(2).transpose(1, 2)
        stem = vision["stem"]["conv"]
        residual = stem.get("residual") or [0] * len(stem["channels"])
        x = pixels
        for stage, extra in enumerate(residual):
            x = self._normed(x, f"visual.stem.{stage}", stride=2)
            for index in range(extra):
                x = x + self._normed(x, f"visual.stem.{stage}.residual.{index}", stride=1)
        x = self._convolution(x, f"visual.stem.{len(residual)}", stride=2)
        return x.flatten(2).transpose(1, 2)

    def _convolution(self, x, name, stride):
        # kept as [outputs, 3, 3, inputs]
        weight = self[f"{name}.conv.weight"].permute(0, 3, 1, 2)
        return F.conv2d(x, weight, self[f"{name}.conv.bias"], stride=stride, padding=1)

    def _normed(self, x, name, stride):
        x = self._convolution(x, name, stride).permute(0, 2, 3, 1)
        return self._activation(self._norm(x, f"{name}.ln")).permute(0, 3, 1, 2)

    def _block(self, x, name, heads, causal):
        batch, length, width = x.shape
        weight, bias = self[f"{name}.attn.in_proj_weight"], self[f"{name}.attn.in_proj_bias"]
        qkv = F.linear(self._norm(x, f"{name}.ln_1"), weight, bias)
        q, k, v = qkv.view(batch, length, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
        x_heads = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        x = x + self._linear(x_heads.transpose(1, 2).reshape(batch, length, width), f"{name}.attn.out_proj")
        hidden = self._activation(self._linear(self._norm(x, f"{name}.ln_2"), f"{name}.mlp.c_fc"))
        return x + self._linear(hidden, f"{name}.mlp.c_proj")

    def _linear(self, x, name):
        return F.linear(x, self[f"{name}.weight"], self[f"{name}.bias"])

    def _norm(self, x, name):
        weight = self[f"{name}.weight"]
        return F.layer_norm(x, weight.shape, weight, self[f"{name}.bias"], EPSILON)

    def _activation(self, x):
        return x * torch.sigmoid(1.702 * x) if self.config["activation"] == "quick_gelu" else F.gelu(x)
