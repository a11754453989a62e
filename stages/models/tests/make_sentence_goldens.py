#!/usr/bin/env python3
"""Writes the golden folders of sentence encoders beside this file from sentence-transformers.

    pip install torch 'transformers>=5' 'sentence-transformers>=5'
    python make_sentence_goldens.py [MINILM]

Small random networks, seeded: a BERT with word pieces, pooled by the mean and cut at twelve tokens, and an XLM-RoBERTa
with sentence pieces, pooled by its first token, with a linear map behind it. Each folder is what sentence-transformers
saves, with `io.safetensors`: ids with padding, their mask, the vectors of the tokens, the three poolings of them, and
the vectors of `texts.json` by the whole encoder. With MINILM, the folder of a real all-MiniLM-L6-v2, the first values of
its vectors are printed as Rust: they stand in `src/sentence/goldens.rs`.
"""

import json
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.models import Dense, Normalize, Pooling, Transformer
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast, XLMRobertaConfig, XLMRobertaModel

HERE = Path(__file__).parent / "goldens"
TEXTS = [
    "Many planes are parked beside a long building.",
    "a road",
    "",
    "two bridges over a wide river near the port and many ships and boats in it at all the piers",
    "Ünïcode: 漢字, naïve café!",
]
SENTENCES = [
    "Many planes are parked next to a long building in an airport.",
    "a green lawn is between the road and the port .",
    "",
    "Two storage tanks; three more, smaller ones are under construction?",
    "ONE_SENTENCE: A playground.\nFEATURE: red track, green lawn\nCAPTION: A playground is surrounded by trees.",
    "it is a piece of yellow desert .",
    "naïve café: 漢字 1024px",
    "the " * 300,
]


def randomise(model, seed):
    """Seeded values in every parameter, also where the library starts with zeros and ones."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            is_norm = "norm" in name.lower() and name.endswith("weight")
            parameter.copy_(1 + 0.2 * noise if is_norm else 0.25 * noise)


def word_pieces():
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "many", "planes", "are", "road", "a", "river", "##s", "two"]
    pieces += ["building", "long", ".", ",", "bridge", "park", "##ed", "the", "in", "and", "ship", "boat", "port", "at"]
    pieces += [chr(c) for c in range(ord("b"), ord("z") + 1)] + ["##" + chr(c) for c in range(ord("a"), ord("z") + 1)]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def sentence_pieces():
    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -3.0)]
    words = ["many", "planes", "road", "a", "river", "two", "the", "and", "port", "ship", "building", "bridge"]
    pieces += [("▁" + word, -2.0 - 0.1 * number) for number, word in enumerate(words)]
    pieces += [(chr(c), -5.0 - 0.01 * c) for c in range(ord("a"), ord("z") + 1)] + [("s", -4.0), (".", -4.5)]
    pieces = list(dict(pieces).items())
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=3, byte_fallback=False))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    special = {"pad_token": "<pad>", "unk_token": "<unk>", "cls_token": "<s>", "sep_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", **special)


def write(name, network, tokenizer, seed, max_tokens, pooling, dense):
    folder, plain = HERE / name, HERE / f"{name}.plain"
    shutil.rmtree(folder, ignore_errors=True)
    randomise(network, seed)
    network.eval()
    network.save_pretrained(plain)
    tokenizer.save_pretrained(plain)
    width = network.config.hidden_size
    modules = [Transformer(str(plain), max_seq_length=max_tokens), Pooling(width, pooling_mode=pooling)]
    if dense:
        modules.append(Dense(width, dense, activation_function=torch.nn.Tanh()))
        randomise(modules[-1], seed + 1)
    modules.append(Normalize())
    whole = SentenceTransformer(modules=modules, device="cpu")
    whole.save(str(folder), create_model_card=False)
    shutil.rmtree(plain)
    for file in folder.rglob("*.safetensors"):
        file.chmod(0o644)

    batch = tokenizer(TEXTS, padding=True, truncation=True, max_length=max_tokens, return_tensors="pt")
    ids, mask = batch["input_ids"], batch["attention_mask"]
    with torch.no_grad():
        tokens = network(input_ids=ids, attention_mask=mask).last_hidden_state
        weights = mask.unsqueeze(-1).float()
        tensors = {
            "ids": ids,
            "mask": mask,
            "tokens": tokens,
            "mean": (tokens * weights).sum(1) / weights.sum(1),
            "cls": tokens[:, 0].contiguous(),
            "max": tokens.masked_fill(weights == 0, -1e9).max(1).values,
            "vectors": torch.from_numpy(whole.encode(TEXTS, batch_size=2)),
        }
    save_file({key: value.contiguous() for key, value in tensors.items()}, str(folder / "io.safetensors"))
    (folder / "texts.json").write_text(json.dumps(TEXTS, ensure_ascii=False, indent=1) + "\n")
    print(name, tuple(tokens.shape), sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()), "bytes")


def main():
    pieces = word_pieces()
    bert = BertConfig(
        vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
        max_position_embeddings=24, type_vocab_size=2,
    )
    write("sentence_bert_mean", BertModel(bert, add_pooling_layer=False), pieces, 1, 12, "mean", None)
    pieces = sentence_pieces()
    xlm = XLMRobertaConfig(
        vocab_size=60, hidden_size=24, num_hidden_layers=3, num_attention_heads=3, intermediate_size=40,
        max_position_embeddings=34, type_vocab_size=1, pad_token_id=1, layer_norm_eps=1e-5,
    )
    write("sentence_xlmr_cls_dense", XLMRobertaModel(xlm, add_pooling_layer=False), pieces, 2, 32, "cls", 16)
    if len(sys.argv) > 1:
        vectors = SentenceTransformer(sys.argv[1], device="cpu").encode(SENTENCES, batch_size=1)
        for sentence, vector in zip(SENTENCES, vectors):
            print(f"// {sentence[:40]!r}\n&[{', '.join(f'{value:.6}' for value in vector[::24])}],")


if __name__ == "__main__":
    main()
