#!/usr/bin/env python3
"""Scores after reranking, by NumPy from the formulas, for the tests of `recall::rerank`.

    python3 stages/training/tests/goldens/make_rerank_goldens.py

Writes stages/training/tests/goldens/rerank.json: a matrix of 7 images and 35 captions with many ties, and what each method
makes of it in both directions. Needs NumPy alone.
"""
import json
from pathlib import Path

import numpy as np

IMAGES, CAPTIONS, CANDIDATES, NEIGHBOURS = 7, 35, 10, 5
random = np.random.default_rng(5)
# eighths between -0.5 and 1: most rows and columns hold equal scores
scores = random.integers(-4, 9, (IMAGES, CAPTIONS)) / 8


def best(row, most):
    """Those above the best that does not fit, best first."""
    order = np.argsort(-row, kind="stable")
    floor = row[order[most]] if len(row) > most else -np.inf
    return order[row[order] > floor]


def multivariate(s, share=0.3, reverse=1.1):
    """GaLR's rerank of the rows of s, equal ones at one place; NaN where a cell is no candidate."""
    new = np.full(s.shape, np.nan)
    positive = s.clip(min=0)
    for i in range(s.shape[0]):
        candidates = best(s[i], CANDIDATES)
        # seen from the candidate, then from the query
        places = [((s[:, c] > s[i, c]).sum(), (s[i, candidates] > s[i, c]).sum()) for c in candidates]
        for c, (place, j) in zip(candidates, places):
            o = sum(other < (place, j) for other in places)
            column = positive[:, c].sum()
            new[i, c] = (
                (share * positive[i, c] / column if column > 0 else 0)
                + np.exp(-0.05 * (j + 1))
                + reverse * np.exp(-0.05 * (o + 1))
            )
    return new


def softmax(x, axis):
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


def dual_softmax(s, images, captions):
    """s[i, c]: images are rows."""
    return s * softmax(s / images, 1) * softmax(s / captions, 0)


def reciprocal(s, own=0.3):
    """Between rows (queries) and columns (answers)."""
    found = [best(s[i], NEIGHBOURS) for i in range(s.shape[0])]
    found_by = [best(s[:, c], NEIGHBOURS) for c in range(s.shape[1])]
    v = np.zeros(s.shape)
    for i, answers in enumerate(found):
        mutual = [c for c in answers if i in found_by[c]]
        v[i, mutual] = np.exp(s[i, mutual])
        if mutual:
            v[i] /= v[i].sum()
    w = np.zeros((s.shape[1], s.shape[1]))
    for c, queries in enumerate(found_by):
        mutual = [i for i in queries if c in found[i]]
        if mutual:
            w[c] = v[mutual].mean(axis=0)
    least = np.minimum(v[:, None], w[None]).sum(-1)
    most = np.maximum(v[:, None], w[None]).sum(-1)
    return own * s + (1 - own) * np.divide(least, most, out=np.zeros_like(least), where=most > 0)


def rows(x):
    return [[None if np.isnan(v) else float(v) for v in row] for row in x]


golden = {
    "candidates": CANDIDATES,
    "neighbours": NEIGHBOURS,
    "temperatures": [0.5, 0.25],
    "scores": rows(scores),
    "multivariate": {"images": rows(multivariate(scores)), "captions": rows(multivariate(scores.T).T)},
    "dual_softmax": rows(dual_softmax(scores, 0.5, 0.25)),
    "reciprocal": {"images": rows(reciprocal(scores)), "captions": rows(reciprocal(scores.T).T)},
}
path = Path(__file__).parent / "rerank.json"
path.write_text(json.dumps(golden, separators=(",", ":")) + "\n")
print(path, path.stat().st_size, "bytes")
