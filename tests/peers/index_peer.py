#!/usr/bin/env python3
"""FAISS through the vectors that `index_rate` left: exact, in one byte a number, and by an inverted file. Peer of `index_rate`.

    python3 tests/peers/index_peer.py FOLDER [WIDTH]
"""
import pathlib
import sys
import time

import faiss
import numpy as np

K = 10
folder = pathlib.Path(sys.argv[1])
width = int(sys.argv[2]) if len(sys.argv) > 2 else 512
vectors = np.memmap(folder / "vectors.f32", dtype=np.float32, mode="r").reshape(-1, width)
queries = np.fromfile(folder / "queries.f32", dtype=np.float32).reshape(-1, width)
rows = len(vectors)
PIECE = 100_000


def fill(index):
    for start in range(0, rows, PIECE):
        index.add(np.ascontiguousarray(vectors[start : start + PIECE]))


def ask(name, index, seconds, truth):
    times, found = [], []
    for query in queries:
        start = time.perf_counter()
        found.append(index.search(query[None], K)[1][0])
        times.append(1e3 * (time.perf_counter() - start))
    truth = found if truth is None else truth
    recall = np.mean([len(set(a) & set(b)) / K for a, b in zip(truth, found)])
    print(
        f"FAISS {name}: made in {seconds:.1f} s, median {np.median(times):.1f} ms, slowest {max(times):.1f} ms, recall@{K} {recall:.4f}",
        flush=True,
    )
    return truth


def made(index, sample):
    start = time.perf_counter()
    if sample:
        index.train(np.ascontiguousarray(vectors[:: max(1, rows // sample)][:sample]))
    fill(index)
    return index, time.perf_counter() - start


inner = faiss.METRIC_INNER_PRODUCT
truth = ask("exact", *made(faiss.IndexFlatIP(width), 0), None)
ask("one byte a number", *made(faiss.IndexScalarQuantizer(width, faiss.ScalarQuantizer.QT_8bit, inner), 100_000), truth)
lists = int(4 * rows**0.5)
index, seconds = made(faiss.index_factory(width, f"IVF{lists},SQ8", inner), 40 * lists)
for probes in (16, 64):
    index.nprobe = probes
    ask(f"{lists} lists, {probes} looked at", index, seconds, truth)
