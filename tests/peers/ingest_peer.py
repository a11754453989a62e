"""The Python side of the ingest benchmark: what a PyTorch data loader does to one image, one thread.

    python ingest_peer.py ARCHIVE.zip [REPEATS]

Reads every JPEG of the archive with zipfile, decodes it with Pillow, resizes the short side to 224
pixels (bicubic), cuts out the middle, and makes a normalised float32 array [3, 224, 224] with NumPy.
Prints the rate of the fastest pass: `images_per_second X`.

Needs: pip install pillow numpy
"""

import io
import os
import sys
import time
import zipfile

# Before NumPy is imported: its threads would not be a fair comparison with one.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import numpy as np
from PIL import Image

SIDE = 224
MEAN = np.array([0.48145466, 0.4578275, 0.40821073], dtype=np.float32)
STD = np.array([0.26862954, 0.26130258, 0.27577711], dtype=np.float32)


def clip_view(image):
    """torchvision's Resize(SIDE, BICUBIC) and CenterCrop(SIDE)."""
    width, height = image.size
    short = min(width, height)
    width, height = SIDE * width // short, SIDE * height // short
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = round((width - SIDE) / 2), round((height - SIDE) / 2)
    return image.crop((left, top, left + SIDE, top + SIDE))


def pixel_values(encoded):
    """Encoded image to CLIP input, float32 [3, SIDE, SIDE]."""
    image = clip_view(Image.open(io.BytesIO(encoded)).convert("RGB"))
    values = np.asarray(image, dtype=np.float32) / np.float32(255)
    return np.ascontiguousarray(((values - MEAN) / STD).transpose(2, 0, 1))


def one_pass(path):
    """Number of images and seconds of one pass over the archive."""
    start = time.perf_counter()
    images = 0
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if entry.filename.lower().endswith((".jpg", ".jpeg")):
                values = pixel_values(archive.read(entry))
                assert values.shape == (3, SIDE, SIDE) and values.dtype == np.float32
                images += 1
    return images, time.perf_counter() - start


def main():
    path = sys.argv[1]
    repeats = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    best = max(images / seconds for images, seconds in (one_pass(path) for _ in range(repeats)))
    print(f"images_per_second {best:.1f}")


if __name__ == "__main__":
    main()
