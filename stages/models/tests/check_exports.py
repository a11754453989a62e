#!/usr/bin/env python3
"""Loads what `exports.rs` has written with open_clip, transformers and plain PyTorch, and compares ids and numbers.

    python check_exports.py FOLDER

FOLDER holds one folder for each network, with `io.safetensors`, `tokens.json` and `picture.png` in it. Without PyTorch
only the ids of transformers are compared; exits with 77 if that is missing too. With URBANCROSS_ELSEWHERE set nothing may
be missing.
"""

import importlib.util
import json
import os
import sys
from pathlib import Path

SKIPPED = 77
ALL_IS_THERE = "URBANCROSS_ELSEWHERE" in os.environ

try:
    from transformers import AutoTokenizer
except ImportError as error:
    if ALL_IS_THERE:
        raise
    print(f"skipped: {error}")
    sys.exit(SKIPPED)
try:
    import open_clip
    import torch
    from open_clip.tokenizer import get_clean_fn
    from PIL import Image
    from safetensors.torch import load_file
    from transformers import AutoImageProcessor, AutoModel
except ImportError as error:
    if ALL_IS_THERE:
        raise
    print(f"skipped: all but the ids: {error}")
    torch = None


def compare(what, theirs, ours):
    error = (theirs - ours).abs().max().item() / ours.abs().max().item()
    assert error < 1e-5, f"{what}: off by {error:e}"
    print(f"{what}: relative error {error:.1e}")


def compare_file(what, theirs, ours):
    cosine = torch.nn.functional.cosine_similarity(theirs, ours).min().item()
    assert cosine >= 0.9995, f"{what}: from the file the cosine is {cosine}"
    print(f"{what}: cosine {cosine:.7f} from the file")


def same_ids(what, texts, theirs, ours):
    different = [(text, a, b) for text, a, b in zip(texts, theirs, ours, strict=True) if a != b]
    assert not different, f"{what}: {len(different)} of {len(texts)} texts have other ids, such as {different[0]}"
    print(f"{what}: equal ids of {len(texts)} texts")


class Case:
    def __init__(self, folder):
        self.folder = folder
        tokens = json.loads((folder / "tokens.json").read_text(encoding="utf-8"))
        self.texts, self.ids = [text for text, _ in tokens], [ids for _, ids in tokens]
        if torch is None:
            return
        self.io = load_file(folder / "io.safetensors")
        self.some = torch.tensor(self.ids[:4])
        self.picture = Image.open(folder / "picture.png")

    def vectors(self, what, image, text, file):
        compare(f"{self.folder.name}: {what}, images", image, self.io["image_embeds"])
        compare(f"{self.folder.name}: {what}, texts", text, self.io["text_embeds"])
        compare_file(f"{self.folder.name}: {what}", file, self.io["file_embeds"])

    def with_pytorch(self):
        spec = importlib.util.spec_from_file_location("urbancross_clip", self.folder / "urbancross_clip.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        model = module.load(self.folder)
        same_ids(f"{self.folder.name}: PyTorch", self.texts, model.tokenize(self.texts).tolist(), self.ids)
        file = model.encode_image(model.preprocess([self.picture]))
        self.vectors("PyTorch", model.encode_image(self.io["pixel_values"]), model.encode_text(self.some), file)
        assert abs(model.embed_texts(["a lake"]).norm().item() - 1) < 1e-5

    def with_open_clip(self):
        name = f"local-dir:{self.folder / 'open_clip'}"
        model, _, preprocess = open_clip.create_model_and_transforms(name, require_pretrained=True)
        model.eval().load_state_dict(load_file(self.folder / "open_clip/open_clip_model.safetensors"), strict=True)
        tokenizer = open_clip.get_tokenizer(name)
        # it mends entities and wrongly decoded letters before any tokenizer sees a text
        clean = get_clean_fn("whitespace")
        untouched = [at for at, text in enumerate(self.texts) if clean(text) == text]
        assert len(untouched) > 1000, len(untouched)
        texts = [self.texts[at] for at in untouched]
        same_ids(f"{self.folder.name}: open_clip", texts, tokenizer(texts).tolist(), [self.ids[at] for at in untouched])
        file = model.encode_image(preprocess(self.picture)[None])
        image, text = model.encode_image(self.io["pixel_values"]), model.encode_text(self.some)
        self.vectors("open_clip", image, text, file)
        return tokenizer, clean

    def ids_of_transformers(self):
        tokenizer = AutoTokenizer.from_pretrained(self.folder / "hugging_face")
        length = len(self.ids[0])
        assert tokenizer.model_max_length == length, tokenizer.model_max_length

        def ids(texts):
            return tokenizer(texts, padding="max_length", truncation=True)["input_ids"]

        same_ids(f"{self.folder.name}: transformers", self.texts, ids(self.texts), self.ids)
        return tokenizer, ids

    def with_transformers(self, tokenizer):
        folder = self.folder / "hugging_face"
        model, info = AutoModel.from_pretrained(folder, output_loading_info=True)
        for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
            assert not info[kind], f"transformers: {kind} {info[kind]}"
        processor = AutoImageProcessor.from_pretrained(folder)

        # embeddings before normalisation, whatever the release of transformers returns around them
        def image(pixels):
            return model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output)

        some = tokenizer(self.texts[:4], padding=True, truncation=True, return_tensors="pt")
        text = model.text_projection(model.text_model(**some).pooler_output)
        file = image(processor(self.picture, return_tensors="pt")["pixel_values"])
        self.vectors("transformers", image(self.io["pixel_values"]), text, file)


def main(folder):
    for path in sorted(path for path in folder.iterdir() if path.is_dir()):
        case = Case(path)
        is_plain = (path / "open_clip").is_dir()
        if torch is not None:
            case.with_pytorch()
        if is_plain:
            theirs, ids = case.ids_of_transformers()
        if is_plain and torch is not None:
            tokenizer, clean = case.with_open_clip()
            case.with_transformers(theirs)
            # of texts that open_clip mends: the ids of what it made of them
            mended = [clean(text) for text in case.texts]
            same_ids(f"{path.name}: open_clip, mended", case.texts, tokenizer(case.texts).tolist(), ids(mended))


if __name__ == "__main__":
    if torch is not None:
        torch.set_grad_enabled(False)
    main(Path(sys.argv[1]))
