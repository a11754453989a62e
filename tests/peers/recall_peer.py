#!/usr/bin/env python3
"""NumPy's way to recall at 10, both ways: blocked matmul and argpartition. Peer of `recall_rate`.

    python3 tests/peers/recall_peer.py [ROWS] [DIM]
"""
import resource
import sys
import time

import numpy as np

BLOCK = 1024
K = 10


def unit_rows(rng, rows, dim):
    values = rng.random((rows, dim), dtype=np.float32) - np.float32(0.5)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def hits(queries, gallery):
    """Hits at 1, 5, 10 where row q's own answer is row q."""
    found = np.zeros(3)
    for start in range(0, len(queries), BLOCK):
        scores = queries[start : start + BLOCK] @ gallery.T
        top = np.argpartition(scores, -K, axis=1)[:, -K:]
        order = np.argsort(-np.take_along_axis(scores, top, axis=1), axis=1)
        top = np.take_along_axis(top, order, axis=1)
        right = top == np.arange(start, start + len(scores))[:, None]
        found += [right[:, :k].any(axis=1).sum() for k in (1, 5, K)]
    return found


def peak_mib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


rows = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
dim = int(sys.argv[2]) if len(sys.argv) > 2 else 512
rng = np.random.default_rng(0)
image, text = unit_rows(rng, rows, dim), unit_rows(rng, rows, dim)
before = peak_mib()
start = time.perf_counter()
recalls = 100 * np.concatenate([hits(image, text), hits(text, image)]) / rows
seconds = time.perf_counter() - start
print(
    f"numpy: {rows} x {rows} x {dim}: {seconds:.2f} s, {peak_mib() - before:.0f} MiB beyond the embeddings, "
    f"mR {recalls.mean():.4f}"
)
