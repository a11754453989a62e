#!/usr/bin/env python3
"""A plain transcription of UrbanCross, Eq. 9 to 12, in PyTorch (float64, loops, autograd); writes `adapt.json` beside
this file.

    python3 stages/training/tests/goldens/make_adapt_goldens.py
"""
import itertools
import json
import pathlib

import numpy as np
import torch

HERE = pathlib.Path(__file__).parent
torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)


def normalise(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def aggregate(image, text):
    return normalise((normalise(image) + normalise(text)) / 2)


def cosines(target, source):
    """Eq. 9."""
    return [[float(np.sum(t * s)) for s in source] for t in target]


def chosen(w1, curriculum, epoch):
    targets, sources = len(w1), len(w1[0])
    mean = [np.mean([w1[j][i] for j in range(targets)]) for i in range(sources)]
    ranked = sorted(range(sources), key=lambda i: (-mean[i], i))
    k = min(epoch, sources // targets - 1)
    if curriculum == "bands":
        return sorted(ranked[k * targets : (k + 1) * targets])
    if curriculum == "cumulative":
        return sorted(ranked[: (k + 1) * targets])
    if curriculum == "easiest":
        return sorted(ranked[:targets])
    return list(range(targets))


def weights(w2, of):
    """Eq. 10."""
    targets, sources = len(w2), len(w2[0])
    if of == "uniform":
        return [1.0] * sources
    if of == "source":
        v = np.array([sum(w2[j][i] for j in range(targets)) for i in range(sources)])
    else:
        v = np.array([sum(w2[j][i] for i in range(sources)) for j in range(targets)])
    v = (v - v.min()) / (v.max() - v.min()) if v.max() > v.min() else np.ones(len(v))
    return (v * (sources if of == "source" else 1) / v.sum()).tolist()


def distance(a, b, kind):
    return 1 - (a * b).sum() if kind == "cosine" else ((a - b) ** 2).sum().sqrt()


def triplet(image, text, keys, valid, row_weights, margin, kind, directions, of="hardest"):
    """Eq. 11, or with the mean over all negatives in place of the hardest."""
    total = torch.zeros(())
    sides = [(image, text)] if directions == "image_to_text" else [(image, text), (text, image)]
    for rows, columns in sides:
        for r in range(len(rows)):
            negatives = [
                c
                for c in range(len(rows))
                if valid[r] and valid[c] and keys[0][r] != keys[0][c] and keys[1][r] != keys[1][c]
            ]
            if not negatives:
                continue
            between = torch.stack([distance(rows[r], columns[c], kind) for c in negatives])
            between = between.min() if of == "hardest" else between
            cost = torch.relu(margin + distance(rows[r], columns[r], kind) - between).mean()
            total = total + row_weights[r] * cost
    return total / sum(valid)


def logits(d, image, text):
    x = torch.cat([text, image], dim=1)
    for layer in range(3):
        x = x @ d[f"discriminator.{layer}.weight"].T + d[f"discriminator.{layer}.bias"]
        if layer < 2:
            x = x * 0.5 * (1 + torch.erf(x / np.sqrt(2)))
    return x[:, 0]


def cross_entropy(source, target, source_valid, target_valid, source_weights, target_weights):
    """Eq. 12 with the sign of a cost."""
    total = torch.zeros(())
    for r in range(len(source)):
        if source_valid[r]:
            total = total - source_weights[r] * torch.log(torch.sigmoid(source[r])) / sum(source_valid)
    for r in range(len(target)):
        if target_valid[r]:
            total = total - target_weights[r] * torch.log(1 - torch.sigmoid(target[r])) / sum(target_valid)
    return total


def case(seed, n_s, n_t, dim, hidden, curriculum, margin, duplicates):
    rng = np.random.default_rng(seed)

    def draw(*shape, scale=1.0, shift=0.0):
        # Few decimals: a short file, and the same numbers in single precision.
        return np.float32(np.round(rng.normal(size=shape) * scale + shift, 2)).astype(np.float64)

    frozen = {name: draw(rows, dim) for name, rows in (("source_image", n_s), ("source_text", n_s))}
    frozen |= {name: draw(rows, dim, shift=0.5) for name, rows in (("target_image", n_t), ("target_text", n_t))}
    w1 = cosines(
        aggregate(frozen["target_image"], frozen["target_text"]),
        aggregate(frozen["source_image"], frozen["source_text"]),
    )
    bands = n_s // n_t
    curricula = {
        name: [chosen(w1, name, epoch) for epoch in range(bands + 2)]
        for name in ("bands", "cumulative", "easiest", "none")
    }
    second_epoch = curricula[curriculum][1]
    w2 = [[row[i] for i in second_epoch] for row in w1]
    w_vec = {of: weights(w2, of) for of in ("source", "target", "uniform")}

    n = len(second_epoch)
    features = {name: draw(n, dim, scale=0.6) for name in ("source_image", "source_text")}
    features |= {name: draw(n_t, dim, scale=0.6, shift=0.3) for name in ("target_image", "target_text")}
    leaves = {name: torch.tensor(value, requires_grad=True) for name, value in features.items()}
    keys = {"source": duplicates, "target": [list(range(n_t)), list(range(n_t))]}
    valid = {"source": [n < 4 or r != 2 for r in range(n)], "target": [r != n_t - 1 for r in range(n_t)]}
    factor = 0.7
    shapes = [(hidden, 2 * dim), (hidden,), (hidden, hidden), (hidden,), (1, hidden), (1,)]
    names = [f"discriminator.{layer}.{part}" for layer in range(3) for part in ("weight", "bias")]
    d = {name: torch.tensor(draw(*shape), requires_grad=True) for name, shape in zip(names, shapes)}

    def gradients(loss, of):
        """Only of what the loss depends on; the rest is zero."""
        if not loss.requires_grad:
            return {}
        found = torch.autograd.grad(loss, list(of.values()), allow_unused=True, retain_graph=True)
        return {name: g.tolist() for name, g in zip(of, found) if g is not None}

    def triplets(domain, row_weights, kind, directions, of="hardest"):
        pair = (leaves[f"{domain}_image"], leaves[f"{domain}_text"])
        return triplet(*pair, keys[domain], valid[domain], row_weights, margin, kind, directions, of)

    out = {"triplet": [], "adversarial": []}
    for of, kind, directions in itertools.product(
        ("hardest", "mean"), ("cosine", "euclidean"), ("both", "image_to_text")
    ):
        loss = triplets("source", w_vec["source"], kind, directions, of)
        gradient = gradients(loss, leaves)
        setting = {"distance": kind, "directions": directions, "negatives": of}
        out["triplet"].append(setting | {"loss": loss.item(), "gradient": gradient})
    source = logits(d, leaves["source_image"], leaves["source_text"])
    target = logits(d, leaves["target_image"], leaves["target_text"])
    ones = [1.0] * max(n, n_t)
    plain = cross_entropy(source, target, valid["source"], valid["target"], ones, ones)
    w = w_vec["source"]
    weighted = {}
    for kind, pair in (("source", (w, ones)), ("both", (w, w)), ("none", (ones, ones))):
        if kind == "both" and n != n_t:
            continue
        weighted[kind] = cross_entropy(source, target, valid["source"], valid["target"], *pair)
        gradient = gradients(weighted[kind], leaves)
        out["adversarial"].append({"weighted": kind, "loss": weighted[kind].item(), "gradient": gradient})
    eq_11 = triplets("source", w, "cosine", "both") + triplets("target", ones, "cosine", "both")
    encoders = eq_11 - factor * weighted["source"]
    return {
        "frozen": frozen,
        "dim": dim,
        "curriculum": curriculum,
        "w1": w1,
        "curricula": curricula,
        "w_vec": w_vec,
        "features": features,
        "keys": keys,
        "valid": valid,
        "margin": margin,
        "factor": factor,
        "discriminator": {name: value.tolist() for name, value in d.items()},
        "source_logits": source.tolist(),
        "target_logits": target.tolist(),
        **out,
        "plain": {"loss": plain.item(), "gradient": gradients(plain, d)},
        "encoders": {"gradient": gradients(encoders, leaves)},
    }


def short(value):
    """12 decimals are 2 more than the tests look at."""
    if isinstance(value, dict):
        return {key: short(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return short(value.tolist())
    if isinstance(value, list):
        return [short(item) for item in value]
    return round(value, 12) if isinstance(value, float) else value


cases = [
    # Sources 0 and 1 share an image, 1 and 3 a caption; source 2 and the last target are not valid.
    case(4, 12, 4, 3, 3, "bands", 0.5, [[1, 1, 3, 4], [1, 2, 3, 2]]),
    # Nobody has a negative among the sources.
    case(2, 10, 2, 2, 2, "bands", 0.2, [[1, 1], [1, 2]]),
    # More sources than targets.
    case(3, 9, 3, 2, 3, "cumulative", 0.2, [[1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 1, 6]]),
]
(HERE / "adapt.json").write_text(json.dumps(short(cases), separators=(",", ":")) + "\n")
