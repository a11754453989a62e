"""Writes the numbers that tests/goldens.rs compares with, made by the libraries that users know.

    python goldens.py            # writes into the folder `goldens` beside this file

Needs: pip install pillow numpy scikit-image pycocotools
Last made with Pillow 13.0.0, NumPy 2.4.6, scikit-image 0.26.0, pycocotools 2.0.11.

Images and masks are drawn by integer formulas that goldens.rs repeats, so that only results lie here.
"""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as coco
from skimage.segmentation import felzenszwalb

FOLDER = Path(__file__).parent / "goldens"


def noise(count, seed):
    """`count` bytes of a linear congruential generator's top bits."""
    state, values = seed, []
    for _ in range(count):
        state = (state * 1664525 + 1013904223) & 0xFFFFFFFF
        values.append(state >> 24)
    return np.array(values, dtype=np.int64)


def picture(width, height, seed=1):
    """Waves, checks and noise, uint8 [height, width, 3]."""
    y, x, channel = np.mgrid[0:height, 0:width, 0:3]
    wave = np.abs((x * (3 + channel) + y * (5 - channel)) % 128 - 64) * 3
    check = (x // 13 + y // 9) % 2 * 40
    grain = noise(width * height * 3, seed).reshape(height, width, 3) // 8
    return np.minimum(wave + check + grain, 255).astype(np.uint8)


def regions(width, height, seed=1):
    """A disc and a bar on a ground of two halves, with noise, uint8 [height, width, 3]."""
    y, x = np.mgrid[0:height, 0:width]
    image = np.where((x < width // 2)[..., None], [60, 90, 40], [130, 125, 110])
    disc = (x - 20) ** 2 + (y - 24) ** 2 < 12**2
    bar = (y > 30) & (y < 40) & (x > 36)
    image[disc] = [30, 60, 160]
    image[bar] = [210, 200, 60]
    grain = noise(width * height * 3, seed).reshape(height, width, 3) // 16
    return (image + grain).astype(np.uint8)


def binary_mask(height, width, threshold, period, seed):
    """Noise below `threshold` on diagonal stripes, uint8 [height, width]."""
    y, x = np.mgrid[0:height, 0:width]
    grain = noise(width * height, seed).reshape(height, width)
    return ((grain < threshold) & ((x * 2 + y) % period * 3 < period * 2)).astype(np.uint8)


def samples(image, stride):
    """Every `stride`-th pixel in both directions, as hexadecimal."""
    return np.asarray(image)[::stride, ::stride].tobytes().hex()


def write(name, lines):
    (FOLDER / name).write_text("".join(line + "\n" for line in lines))


def resized():
    filters = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
    cases = [
        ("bicubic", 400, 400, 224, 224),
        ("bicubic", 150, 150, 224, 224),
        ("bicubic", 97, 61, 224, 224),
        ("bicubic", 1000, 700, 224, 224),
        ("bicubic", 50, 40, 20, 30),
        ("bilinear", 400, 400, 224, 224),
        ("bilinear", 97, 61, 224, 224),
    ]
    for name, width, height, to_width, to_height in cases:
        image = Image.fromarray(picture(width, height)).resize((to_width, to_height), filters[name])
        yield f"{name} {width} {height} {to_width} {to_height} {samples(image, 11)}"


def clip_views():
    """torchvision's Resize(224, BICUBIC) (`_compute_resized_output_size`) and CenterCrop(224)."""
    for width, height in [(400, 400), (97, 61), (61, 97), (150, 203), (224, 301), (227, 224), (600, 228)]:
        short = min(width, height)
        size = int(224 * width / short), int(224 * height / short)
        image = Image.fromarray(picture(width, height)).resize(size, Image.Resampling.BICUBIC)
        left, top = (int(round((side - 224) / 2.0)) for side in size)
        yield f"{width} {height} {samples(image.crop((left, top, left + 224, top + 224)), 11)}"


def png(width, height, bits, colour_type, rows):
    """A PNG that Pillow cannot write."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def encoded():
    """Small files of every kind that is read, and what Pillow makes of them over white."""
    colour = Image.fromarray(picture(45, 34))
    alpha = Image.fromarray(picture(45, 34, seed=2)).convert("L")

    def saved(image, **options):
        buffer = io.BytesIO()
        image.save(buffer, **options)
        return buffer.getvalue()

    rgba, grey_alpha = colour.copy(), colour.convert("L")
    rgba.putalpha(alpha)
    grey_alpha.putalpha(alpha)
    palette = colour.quantize(16)
    sixteen = (np.asarray(colour, dtype=np.uint16) * 251 + 100).astype(">u2")
    files = {
        "baseline_420.jpg": saved(colour, format="JPEG", quality=90, subsampling="4:2:0"),
        "baseline_422.jpg": saved(colour, format="JPEG", quality=90, subsampling="4:2:2"),
        "progressive_444.jpg": saved(colour, format="JPEG", quality=95, subsampling="4:4:4", progressive=True),
        "restarts.jpg": saved(colour, format="JPEG", quality=80, restart_marker_blocks=2),
        "rgb.jpg": saved(colour, format="JPEG", quality=90, keep_rgb=True),
        "grey.jpg": saved(colour.convert("L"), format="JPEG", quality=90),
        "cmyk.jpg": saved(colour.convert("CMYK"), format="JPEG", quality=90),
        "rgb.png": saved(colour, format="PNG"),
        "grey.png": saved(colour.convert("L"), format="PNG"),
        "rgba.png": saved(rgba, format="PNG"),
        "grey_alpha.png": saved(grey_alpha, format="PNG"),
        "palette_transparent.png": saved(palette, format="PNG", transparency=3),
        "sixteen_bit.png": png(45, 34, 16, 2, [row.tobytes() for row in sixteen]),
        "raw.tif": saved(colour, format="TIFF", compression="raw"),
        "lzw.tif": saved(colour, format="TIFF", compression="tiff_lzw"),
        "packbits.tif": saved(colour, format="TIFF", compression="packbits"),
        "deflate.tif": saved(colour, format="TIFF", compression="tiff_adobe_deflate"),
        "grey.tif": saved(colour.convert("L"), format="TIFF", compression="tiff_lzw"),
        "palette.bmp": saved(palette, format="BMP"),
        "rgb.bmp": saved(colour, format="BMP"),
        "lossless.webp": saved(colour, format="WEBP", lossless=True),
        "rgba.webp": saved(rgba, format="WEBP", lossless=True, exact=True),
    }
    (FOLDER / "four_bands.tif").write_bytes(saved(rgba, format="TIFF", compression="tiff_lzw"))
    for name, data in files.items():
        (FOLDER / name).write_bytes(data)
        image = Image.open(io.BytesIO(data))
        if name == "sixteen_bit.png":
            image = Image.fromarray(np.rint(sixteen / 257.0).astype(np.uint8))
        elif name.endswith(("png", "webp")):
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image.convert("RGBA"))
        yield f"{name} {samples(image.convert('RGB'), 1)}"


def run_lengths():
    cases = [
        (1, 1, 256, 1, 1), (7, 5, 0, 1, 1), (7, 5, 256, 1, 1), (48, 64, 128, 1, 2), (64, 48, 20, 1, 3),
        (150, 150, 256, 40, 4), (97, 203, 250, 60, 5), (400, 300, 255, 90, 6), (1, 300, 200, 1, 7),
        (300, 1, 200, 1, 8),
    ]  # fmt: skip
    for height, width, threshold, period, seed in cases:
        mask = coco.encode(np.asfortranarray(binary_mask(height, width, threshold, period, seed)))
        other = coco.encode(np.asfortranarray(binary_mask(height, width, 180, 7, seed + 100)))
        box = " ".join(str(int(value)) for value in coco.toBbox(mask))
        iou = float(coco.iou([mask], [other], [False])[0, 0])
        counts = mask["counts"].decode()
        yield f"{height} {width} {threshold} {period} {seed} {int(coco.area(mask))} {box} {iou!r} {counts}"


def felzenszwalb_labels():
    for scale, sigma, min_size in [(200.0, 0.8, 20), (60.0, 0.5, 5), (500.0, 1.2, 50)]:
        labels = felzenszwalb(regions(60, 48), scale=scale, sigma=sigma, min_size=min_size)
        yield f"{scale} {sigma} {min_size} {labels.astype(np.uint8).tobytes().hex()}"


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    write("resize.txt", resized())
    write("clip_view.txt", clip_views())
    write("decode.txt", encoded())
    write("run_lengths.txt", run_lengths())
    write("felzenszwalb.txt", felzenszwalb_labels())
