"""What was made again after an edit, beside what changed; and its seconds beside those of the whole build without its training.

    python3 tests/peers/cost_of_edits.py FOLDER COUNTRY…      (files of tests/update-bench.sh)
"""

import collections
import json
import pathlib
import sys

folder, countries = pathlib.Path(sys.argv[1]), sys.argv[2:]
total = collections.defaultdict(collections.Counter)
seconds = collections.Counter()


def read(name):
    return (folder / name).read_text()


for country in countries:
    first, refresh = (json.loads(read(f"{country}.{name}")) for name in ("first", "refresh"))
    shown = {name: refresh[name] for name in ("images", "looked_at", "changed", "gone", "unclear", "objects", "state_bytes")}
    print(country, shown, f"first extract: {first['changed']} changed")
    total["tags"].update(changed=refresh["changed"], images=refresh["images"])
    for table in json.loads(read(f"{country}.diff"))["tables"]:
        total[table["step"]].update({name: table["changes"].get(name, 0) for name in ("added", "removed", "changed", "remade", "carried")})
    events = [json.loads(line) for line in read(f"{country}.run").splitlines()]
    training = sum(event["seconds"] for event in events if event["event"] == "training")
    moments = {name: float(read(f"{country}.{name}")) for name in ("began", "built", "edited", "refreshed")}
    seconds.update(build=moments["built"] - moments["began"] - training, training=training, edit=moments["refreshed"] - moments["edited"])
for table, counts in total.items():
    print(f"{table:18} {dict(counts)}")
made = {table: c["added"] + c["changed"] + c["remade"] for table, c in total.items()}
words = total["captions"]["changed"]
print(f"captions made again {made['captions']}, words changed {words}: {made['captions'] / max(words, 1):.2f}; "
      f"kept, as their words are the same: {total['captions']['carried']}; "
      f"rows with other tags {total['tags']['changed']} of {total['tags']['images']}; "
      f"masks {made['segments']}, image embeddings {made['image_embeddings']}")
print(f"build without its training {seconds['build']:.1f} s (training {seconds['training']:.1f} s), "
      f"refresh and run {seconds['edit']:.2f} s: {100 * seconds['edit'] / seconds['build']:.1f} %")
if made["segments"] or made["image_embeddings"] or made["captions"] > 1.05 * words:
    sys.exit("more was made again than changed")
