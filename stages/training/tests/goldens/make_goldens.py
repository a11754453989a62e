#!/usr/bin/env python3
"""Plain transcriptions of the losses and of AdamW in NumPy; writes `losses.json` and `adamw.json` beside this file.

Gradients by the complex step, f'(x) = Im f(x + ih) / h: exact to rounding, and no formula of ours enters.

    python3 stages/training/tests/goldens/make_goldens.py
"""
import json
import pathlib

import numpy as np

HERE = pathlib.Path(__file__).parent
STEP = 1e-30


def relu(x):
    return np.where(x.real > 0, x, 0)


def compared(image_keys, caption_keys, valid):
    n = len(valid)
    mask = np.zeros((n, n), dtype=bool)
    for r in range(n):
        for c in range(n):
            equal = image_keys[r] == image_keys[c] or caption_keys[r] == caption_keys[c]
            mask[r, c] = valid[r] and valid[c] and (r == c or not equal)
    return mask


def info_nce(image, text, logit_scale, mask, valid, smoothing):
    total = 0
    for scores in (image @ text.T, text @ image.T):
        logits = np.exp(logit_scale) * scores
        for r in np.flatnonzero(valid):
            row = logits[r][mask[r]]
            own = np.flatnonzero(mask[r]).tolist().index(r)
            target = np.full(len(row), smoothing / len(row))
            target[own] += 1 - smoothing
            log_p = row - np.log(np.exp(row).sum())
            total = total - (target * log_p).sum()
    return total / (2 * valid.sum())


def hinge(image, text, margin, mask):
    total = 0
    for scores in (image @ text.T, text @ image.T):
        for r in range(len(scores)):
            for c in np.flatnonzero(mask[r]):
                if c != r:
                    total = total + relu(margin + scores[r, c] - scores[r, r])
    return total


def normalise(x):
    return x / np.sqrt((x * x).sum(-1, keepdims=True))


def segment_embedding(phi, row_of_segment, weights, rows):
    phi = normalise(phi)
    weights = [max(weight, 0.0) for weight in weights]
    out = np.zeros((rows, phi.shape[1]), dtype=phi.dtype)
    present = []
    for r in range(rows):
        mine = [s for s, row in enumerate(row_of_segment) if row == r]
        total = sum(weights[s] for s in mine)
        present.append(bool(mine) and bool(total > 0))
        if present[-1]:
            out[r] = normalise(sum(weights[s] * phi[s] for s in mine) / total)
    return out, present


def gradient(f, x):
    x = np.asarray(x, dtype=np.complex128)
    out = np.zeros(x.shape)
    for index in np.ndindex(x.shape):
        moved = x.copy()
        moved[index] += 1j * STEP
        out[index] = f(moved).imag / STEP
    return out


def losses():
    rng = np.random.default_rng(7)
    n, d = 6, 5
    image, text = normalise(rng.normal(size=(n, d))), normalise(rng.normal(size=(n, d)))
    image_keys, caption_keys = [1, 2, 1, 4, 5, 6], [1, 2, 3, 4, 2, 6]
    valid = np.array([True, True, True, True, True, False])
    mask = compared(image_keys, caption_keys, valid)
    logit_scale, margin, smoothing = np.log(20.0), 0.2, 0.1
    cases = {}
    for name, share in (("info_nce", 0.0), ("info_nce_smoothed", smoothing)):
        cases[name] = {
            "loss": info_nce(image, text, logit_scale, mask, valid, share),
            "image_gradient": gradient(lambda x: info_nce(x, text, logit_scale, mask, valid, share), image),
            "text_gradient": gradient(lambda x: info_nce(image, x, logit_scale, mask, valid, share), text),
            "logit_scale_gradient": gradient(lambda x: info_nce(image, text, x, mask, valid, share), logit_scale),
        }
    cases["hinge"] = {
        "loss": hinge(image, text, margin, mask),
        "image_gradient": gradient(lambda x: hinge(x, text, margin, mask), image),
        "text_gradient": gradient(lambda x: hinge(image, x, margin, mask), text),
    }
    # Row 1 has no segment, row 3 weights of which none is above 0.
    phi = rng.normal(size=(8, d)) * 3
    row_of_segment = [0, 0, 2, 2, 2, 3, 4, 5]
    weights = [0.5, 0.25, 1.0, -0.25, 0.5, -0.5, 2.0, 0.75]
    embedding, present = segment_embedding(phi, row_of_segment, weights, n)
    kept = valid & np.array(present)
    kept_mask = compared(image_keys, caption_keys, kept)

    def segment_text(x):
        return info_nce(segment_embedding(x, row_of_segment, weights, n)[0], text, logit_scale, kept_mask, kept, 0.0)

    cases["segment_text"] = {
        "loss": segment_text(phi),
        "embedding": embedding,
        "present": present,
        "phi_gradient": gradient(segment_text, phi),
    }
    inputs = {
        "image": image, "text": text, "image_keys": image_keys, "caption_keys": caption_keys, "valid": valid,
        "logit_scale": logit_scale, "margin": margin, "label_smoothing": smoothing,
        "phi": phi, "row_of_segment": row_of_segment, "weights": weights,
    }
    return {"inputs": inputs, **cases}


def adamw():
    """Five steps of torch.optim.AdamW's formula behind torch.nn.utils.clip_grad_norm_, decay on `weight` only."""
    rng = np.random.default_rng(8)
    settings = {"beta1": 0.9, "beta2": 0.98, "epsilon": 1e-6, "weight_decay": 0.3, "max_grad_norm": 1.5}
    values = {"weight": rng.normal(size=(3, 2)), "bias": rng.normal(size=(2,))}
    start = {name: value.copy() for name, value in values.items()}
    first = {name: np.zeros_like(value) for name, value in values.items()}
    second = {name: np.zeros_like(value) for name, value in values.items()}
    rates, gradients, norms = [], [], []
    for step in range(1, 6):
        gradient = {name: rng.normal(size=value.shape) * step / 3 for name, value in values.items()}
        norm = np.sqrt(sum((g * g).sum() for g in gradient.values()))
        clip = min(1.0, settings["max_grad_norm"] / norm)
        rate = 0.1 / step
        for name, value in values.items():
            g = gradient[name] * clip
            value *= 1 - rate * (settings["weight_decay"] if name == "weight" else 0)
            first[name] = settings["beta1"] * first[name] + (1 - settings["beta1"]) * g
            second[name] = settings["beta2"] * second[name] + (1 - settings["beta2"]) * g * g
            m = first[name] / (1 - settings["beta1"] ** step)
            v = second[name] / (1 - settings["beta2"] ** step)
            value -= rate * m / (np.sqrt(v) + settings["epsilon"])
        rates.append(rate), norms.append(norm), gradients.append(gradient)
    return {"settings": settings, "start": start, "rates": rates, "gradients": gradients, "norms": norms, "end": values}


def plain(value):
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value


for name, golden in (("losses", losses()), ("adamw", adamw())):
    (HERE / f"{name}.json").write_text(json.dumps(plain(golden)) + "\n")
