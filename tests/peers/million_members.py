"""Peak memory of an ingest from an archive with 1,000,000 members of which 1 % are wanted.

usage: million_members.py URBANCROSS FOLDER [MEMBERS]
"""
import io
import pathlib
import random
import resource
import subprocess
import sys
import zipfile

from PIL import Image

urbancross, folder = sys.argv[1], pathlib.Path(sys.argv[2]).resolve()
members = int(sys.argv[3]) if len(sys.argv) > 3 else 1_000_000
world = folder / "world"
(world / "dataframe").mkdir(parents=True, exist_ok=True)
dice = random.Random(0)


def jpeg():
    image = Image.new("RGB", (150, 150), tuple(dice.randrange(256) for _ in range(3)))
    image.paste(tuple(dice.randrange(256) for _ in range(3)), (20, 30, 90 + dice.randrange(40), 120))
    out = io.BytesIO()
    image.save(out, "JPEG")
    return out.getvalue()


pictures = [jpeg() for _ in range(64)]
if not (world / "images2.zip").exists():
    with zipfile.ZipFile(world / "images2.zip", "w", zipfile.ZIP_STORED, allowZip64=True) as archive, open(
        world / "dataframe" / "all.csv", "w"
    ) as table:
        table.write("filepath,title,title_multi_objects\n")
        for i in range(members):
            wanted = i % 100 == 0
            name = f"images2/w{100_000_000 + i}_{'FI' if wanted else 'US'}_19.jpg"
            archive.writestr(zipfile.ZipInfo(name), pictures[i // 100 % 64] if wanted else b"x")
            table.write(f"{name},a satellite image of building of house,a satellite image of building of house\n")
spec = folder / "spec.toml"
spec.write_text(
    f"""country = "finland"
[source]
kind = "skyscript"
url = "{world}"
tables = ["dataframe/all.csv"]
tokens = ["FI"]
meta = false
[work]
url = "{folder / 'work'}"
shards = 16
"""
)
if "--measure" not in sys.argv:
    # a process of its own: the peak of a child counts the memory of the parent that it was forked from
    sys.exit(subprocess.run([sys.executable, __file__, urbancross, str(folder), str(members), "--measure"]).returncode)
subprocess.run([urbancross, "run", str(spec), "--until", "images"], check=True)
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
print(f"peak_memory_mib {peak:.0f} members {members} wanted {members // 100}")
