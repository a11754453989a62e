#!/usr/bin/env python3
"""Texts per second of a sentence encoder by sentence-transformers on PyTorch. Peer of `device-check sentence-rate`.

    python3 tests/peers/sentence_peer.py FOLDER TEXTS [ROUNDS] [BATCH]
"""
import os
import sys
import time

import torch
from sentence_transformers import SentenceTransformer

folder, file = sys.argv[1:3]
rounds = int(sys.argv[3]) if len(sys.argv) > 3 else 3
batch = int(sys.argv[4]) if len(sys.argv) > 4 else 32
torch.set_num_threads(int(os.environ.get("RAYON_NUM_THREADS", os.cpu_count())))
model = SentenceTransformer(folder, device=os.environ.get("DEVICE", "cpu"))
texts = open(file).read().splitlines()
best = float("inf")
for round in range(rounds + 1):
    start = time.perf_counter()
    model.encode(texts, batch_size=batch, show_progress_bar=False)
    if round:
        best = min(best, time.perf_counter() - start)
print(f"{len(texts)} texts, batches of {batch}, {torch.get_num_threads()} threads: {len(texts) / best:.0f} texts/s")
