#!/usr/bin/env bash
# What an edit of 1 % of the map costs: rows made again beside rows that changed, on a world of 3,000 images; and how long a
# day of diffs takes for 5.2 million boxes. TILES=N per country (default 1000).
set -euo pipefail
cd "$(dirname "$0")/.."
command -v python3 >/dev/null || { echo "skipped: no python3"; exit 0; }
cargo build --locked --workspace --bins
cargo build --locked --release -p osm --example diff_rate
bin=$PWD/target/debug; work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
"$bin/urbancross-sandbox" "$work/world" --tiles "${TILES:-1000}" --seed 11 > /dev/null
spec() { # country token
    cat > "$work/$1.toml" <<TOML
country = "$1"
[source]
kind = "skyscript"
url = "world"
tables = ["dataframe/SkyScript_sandbox.csv", "dataframe/SkyScript_sandbox_polished.csv"]
tokens = ["$2"]
country_code = "$2"
[work]
url = "work"
shards = 8
[score]
clip = "none"
[model]
preset = "tiny"
vocabulary = 500
[pretrain]
epochs = 1
batch = 32
segments_per_image = 1
retrain_above = 1.0
TOML
}
spec finland FI; spec germany DE; spec spain ES
for country in finland germany spain; do
    began=$(date +%s.%N)
    "$bin/urbancross" -q run "$work/$country.toml" > "$work/said"
    "$bin/urbancross" -q tags refresh "$work/$country.toml" --osm "$work/world/extract.osm.pbf" --json > "$work/$country.first"
    "$bin/urbancross" -q run "$work/$country.toml" > "$work/said"
    echo "$country: built in $(python3 -c "import sys; print(f'{float(sys.argv[2]) - float(sys.argv[1]):.0f} s')" "$began" "$(date +%s.%N)")"
done
"$bin/urbancross-sandbox" "$work/world" --edit-map 0.01 --seed 12 > "$work/edited"
head -1 "$work/edited"
# `diff` knows moments to the minute
sleep $((61 - 10#$(date +%S)))
since=$(date -u +%Y-%m-%dT%H:%M)
sleep 1
for country in finland germany spain; do
    began=$(date +%s.%N)
    "$bin/urbancross" -q tags refresh "$work/$country.toml" --diffs "$work/world/replication" --json > "$work/$country.refresh"
    "$bin/urbancross" -q run "$work/$country.toml" > "$work/said"
    echo "$country: refreshed and run in $(python3 -c "import sys; print(f'{float(sys.argv[2]) - float(sys.argv[1]):.1f} s')" "$began" "$(date +%s.%N)")"
    "$bin/urbancross" diff "$work/$country.toml" --since "$since" --examples 0 --json > "$work/$country.diff"
done
python3 - "$work" <<'PY'
import collections, json, sys
total = collections.defaultdict(collections.Counter)
for country in ("finland", "germany", "spain"):
    first, refresh = (json.load(open(f"{sys.argv[1]}/{country}.{name}")) for name in ("first", "refresh"))
    print(country, {name: refresh[name] for name in ("images", "looked_at", "changed", "gone", "unclear", "objects", "state_bytes")},
          f"first extract: {first['changed']} changed")
    total["tags"].update(changed=refresh["changed"])
    for table in json.load(open(f"{sys.argv[1]}/{country}.diff"))["tables"]:
        total[table["step"]].update({name: table["changes"].get(name, 0) for name in ("added", "removed", "changed", "remade", "carried")})
for table, counts in total.items():
    print(f"{table:18} {dict(counts)}")
made = {table: c["added"] + c["changed"] + c["remade"] for table, c in total.items()}
words = total["captions"]["changed"]
print(f"captions made again {made['captions']}, words changed {words}: {made['captions'] / max(words, 1):.2f}; "
      f"kept, as their words are the same: {total['captions']['carried']}; "
      f"rows with other tags {total['tags']['changed']}; masks {made['segments']}, image embeddings {made['image_embeddings']}")
bad = made["segments"] or made["image_embeddings"] or made["captions"] > 1.05 * words
sys.exit("more was made again than changed" if bad else 0)
PY
target/release/examples/diff_rate diffs 5200000 3000000
