"""Puts real pictures into a sandbox world: each image of its archives becomes one of a folder's, as far as they reach.

    python3 tests/peers/real_pictures.py WORLD PICTURES
"""

import pathlib
import sys
import zipfile

world, pictures = map(pathlib.Path, sys.argv[1:3])
real = iter(sorted(pictures.glob("*.jpg")))
replaced = 0
for archive in sorted(world.glob("images*.zip")):
    written = archive.with_suffix(".new")
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(written, "w") as new:
        for entry in old.infolist():
            picture = next(real, None) if entry.filename.endswith(".jpg") else None
            replaced += picture is not None
            new.writestr(entry, old.read(entry) if picture is None else picture.read_bytes())
    written.replace(archive)
print(f"{replaced} images of {world} are real pictures")
