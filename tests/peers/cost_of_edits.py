"""What was made again after an edit, beside what changed; and its seconds beside those of the whole build without its training.

    python3 tests/peers/cost_of_edits.py FOLDER [network]     (files of tests/update-bench.sh)

`network`: the captions are those of a network with random weights, which may write the same words for other tags.
"""

import json
import pathlib
import sys

folder = pathlib.Path(sys.argv[1])
first, refresh, moved = (json.loads((folder / name).read_text()) for name in ("first", "refresh", "diff"))
shown = {name: refresh[name] for name in ("images", "looked_at", "changed", "gone", "unclear", "objects", "state_bytes")}
print(shown, f"first extract: {first['changed']} changed")
counts = {}
for table in moved["tables"]:
    counts[table["step"]] = {name: table["changes"].get(name, 0) for name in ("added", "removed", "changed", "remade", "carried")}
    print(f"{table['step']:18} {counts[table['step']]}")
made = {step: c["added"] + c["changed"] + c["remade"] for step, c in counts.items()}
words = counts["captions"]["changed"]
is_network = "network" in sys.argv[2:]
print(f"captions made again {made['captions']}, words changed {words}: {made['captions'] / max(words, 1):.2f}; "
      f"kept, as their words are the same: {counts['captions']['carried']}; "
      f"rows with other tags {refresh['changed']} of {refresh['images']}; "
      f"masks {made['segments']}, image embeddings {made['image_embeddings']}")

events = [json.loads(line) for line in (folder / "run").read_text().splitlines()]
training = sum(event["seconds"] for event in events if event["event"] == "training")
began, built, before, refreshed, after = (
    float((folder / name).read_text()) for name in ("began", "built", "before", "refreshed", "after")
)
build = built - began - training
print(f"build without its training {build:.1f} s (training {training:.1f} s); refresh {refreshed - before:.2f} s, "
      f"run {after - refreshed:.2f} s: {100 * (after - before) / build:.1f} %, the refresh alone {100 * (refreshed - before) / build:.1f} %")
rows = refresh["images"]
print(f"the build takes {1e3 * build / rows:.1f} ms a row; 3 % is enough for this edit where it takes {1e3 * (after - before) / 0.03 / rows:.0f} ms")
if made["segments"] or made["image_embeddings"] or (made["captions"] > 1.05 * words and not is_network):
    sys.exit("more was made again than changed")
