"""Opens exports with the libraries that they are for, and compares them with each other.

usage: read_exports.py FOLDER        (with hf/, webdataset/, geoparquet/, npy/, model/ and curves/ in it)
"""
import glob
import importlib.util
import json
import pathlib
import sys

import duckdb
import geopandas
import mlcroissant
import numpy
import pandas
import webdataset
from datasets import Image, load_dataset
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

folder = pathlib.Path(sys.argv[1])

# Hugging Face: the folder with its card, and the bare files
hf = load_dataset(str(folder / "hf"), cache_dir=str(folder / "cache"))
assert set(hf) == {"train", "validation", "test"}, set(hf)
assert all(isinstance(split.features["image"], Image) for split in hf.values()), hf
captions, boxes, sizes, splits = {}, {}, {}, {}
for name, split in hf.items():
    for row in split:
        id = row["image_id"]
        assert row["image"].size == (row["width"], row["height"]), id
        captions[id], sizes[id], splits[id] = row["captions"], row["image"].size, row["split"]
        boxes[id] = [row[edge] for edge in ("west", "south", "east", "north")]
        assert row["country"] == "finland" and isinstance(json.loads(row["center_tags"]), dict), row
bare = load_dataset("parquet", data_files=glob.glob(str(folder / "hf/data/test-*")), cache_dir=str(folder / "cache"))
assert bare["train"][0]["image"].size and bare["train"].num_rows == hf["test"].num_rows
print(f"datasets: {len(captions)} images in {len(glob.glob(str(folder / 'hf/data/*')))} files")

# Croissant
described = mlcroissant.Dataset(jsonld=str(folder / "hf/croissant.json"))
assert not described.metadata.issues.errors, described.metadata.issues.report()
records = list(described.records("images"))
assert {record["images/image_id"].decode() for record in records} == set(captions)
assert all(record["images/image"].size == sizes[record["images/image_id"].decode()] for record in records)
print(f"mlcroissant: {len(records)} records")

# WebDataset
archives = sorted(glob.glob(str(folder / "webdataset/*.tar")))
samples = list(webdataset.WebDataset(archives, shardshuffle=False).decode("pil"))
assert {sample["json"]["image_id"] for sample in samples} == set(captions), len(samples)
for sample in samples:
    about = sample["json"]
    id = about["image_id"]
    assert sample["__key__"] == id and sample["txt"] == captions[id][0] and about["captions"] == captions[id]
    assert sample["jpg"].size == sizes[id] and about["box_wsen"] == boxes[id], id
print(f"webdataset: {len(samples)} samples in {len(archives)} archives")

# GeoParquet
ground = geopandas.read_parquet(folder / "geoparquet/images.parquet")
assert ground.crs is not None and ground.crs.equals("OGC:CRS84"), ground.crs
assert set(ground["image_id"]) == set(captions) and ground.geometry.is_valid.all()
for id, bounds in zip(ground["image_id"], ground.geometry.bounds.to_numpy().tolist()):
    assert bounds == boxes[id], (id, bounds)
some = geopandas.read_parquet(folder / "geoparquet/images.parquet", bbox=tuple(boxes[ground["image_id"][0]]))
assert 1 <= len(some) <= len(ground)
print(f"geopandas: {len(ground)} polygons, total bounds {ground.total_bounds.tolist()}")

path = str(folder / "geoparquet/images.parquet")
connection = duckdb.connect()
if importlib.util.find_spec("duckdb_extension_spatial"):
    # the extension as a package, for machines that cannot reach DuckDB's own server
    package = pathlib.Path(importlib.util.find_spec("duckdb_extension_spatial").origin).parent
    connection.sql(f"load '{next(package.glob('**/spatial.duckdb_extension'))}'")
    [(rows, kind, inside)] = connection.sql(
        f"select count(*), any_value(typeof(geometry)), count(*) filter (st_xmin(geometry) = bbox.xmin) from '{path}'"
    ).fetchall()
    assert rows == inside == len(captions) and kind.startswith("GEOMETRY"), (rows, kind, inside)
    print(f"DuckDB spatial: {rows} rows of {kind}")
else:
    [(rows,)] = connection.sql(f"select count(*) from '{path}' where bbox.xmin < bbox.xmax").fetchall()
    assert rows == len(captions)
    print("skipped: DuckDB's spatial extension is not there; it read the file as a table")

# NumPy
for name in ("images", "captions"):
    vectors, rows = numpy.load(folder / f"npy/{name}.npy", mmap_mode="r"), pandas.read_parquet(folder / f"npy/{name}.parquet")
    assert vectors.dtype == numpy.float32 and len(vectors) == len(rows), (vectors.shape, len(rows))
    assert numpy.allclose(numpy.linalg.norm(vectors, axis=1), 1, atol=1e-4)
    assert set(rows["image_id"]) == set(captions) and all(splits[id] == s for id, s in zip(rows["image_id"], rows["split"]))
    if name == "captions":
        assert all(caption in captions[id] for id, caption in zip(rows["image_id"], rows["caption"]))
    print(f"numpy: {name} {vectors.shape}")

# TensorBoard: a run for each training, with losses that are numbers
events = EventAccumulator(str(folder / "curves/pretrain")).Reload()
names = events.Tags()["scalars"]
assert "loss/total" in names and "validation/mean recall, percent" in names, names
losses = events.Scalars("loss/total")
assert losses and all(numpy.isfinite(point.value) and point.value > 0 for point in losses), losses
print(f"TensorBoard: {len(losses)} losses among {names}")

# the model, in PyTorch, gives the vectors that the tables hold
if all(importlib.util.find_spec(library) for library in ("torch", "safetensors", "tokenizers")):
    sys.path.insert(0, str(folder / "model"))
    import urbancross_clip

    model = urbancross_clip.load(folder / "model")
    for name in ("images", "captions"):
        vectors = numpy.load(folder / f"npy/{name}.npy")
        rows = pandas.read_parquet(folder / f"npy/{name}.parquet")
        if name == "images":
            pictures = {row["image_id"]: row["image"] for split in hf.values() for row in split}
            found = model.embed_images([pictures[id] for id in rows["image_id"]]).numpy()
        else:
            found = model.embed_texts(rows["caption"].tolist()).numpy()
        cosine = (found * vectors).sum(axis=1).min()
        assert cosine >= 0.9995, (name, cosine)
        print(f"PyTorch: {name}, cosine at least {cosine:.7f} with our own vectors")
else:
    print("skipped: no torch")
