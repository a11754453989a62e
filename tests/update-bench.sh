#!/usr/bin/env bash
# What an edit of 1 % of the map costs: rows made again beside rows that changed, and seconds beside those of the whole build
# without its training; on a sandbox world of 3,000 images without and with a network that captions, and where
# URBANCROSS_TEST_DATA names real ones on a world that shows those. Then how long a day of diffs takes for 5.2 million boxes,
# and what memory an extract does. TILES=N per country (default 1000).
set -euo pipefail
cd "$(dirname "$0")/.."
command -v python3 >/dev/null || { echo "skipped: no python3"; exit 0; }
cargo build --locked --workspace --bins --example small_captioner
# as it is installed
cargo build --locked --release --package pipeline
cargo build --locked --release -p osm --examples
bin=$PWD/target/debug; urbancross=$PWD/target/release/urbancross; all=$(mktemp -d); trap 'rm -rf "$all"' EXIT
now() { date +%s.%N; }
edit_of_a_world() { # name tiles-per-country folder-of-pictures-or-none folder-of-a-captioner-or-none
    work=$all/$1; mkdir "$work"
    echo "== $1"
    "$bin/urbancross-sandbox" "$work/world" --tiles "$2" --seed 11 > /dev/null
    [ "$3" = none ] || python3 tests/peers/real_pictures.py "$work/world" "$3"
    # the three countries as one build, as large as a small one of SkyScript
    cat > "$work/spec.toml" <<'TOML'
country = "europe"
[source]
kind = "skyscript"
url = "world"
tables = ["dataframe/SkyScript_sandbox.csv", "dataframe/SkyScript_sandbox_polished.csv"]
tokens = ["FI", "DE", "ES"]
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
    [ "$4" = none ] || cat >> "$work/spec.toml" <<TOML
[caption]
captioner = "instructblip"
[caption.instructblip]
weights = "$4"
max_new_tokens = 24
num_beams = 1
[caption.instructblip.quality]
min_words = 0
max_repetition = 1.0
TOML
    now > "$work/began"
    "$urbancross" run "$work/spec.toml" --json > "$work/run"
    now > "$work/built"
    "$urbancross" -q tags refresh "$work/spec.toml" --osm "$work/world/extract.osm.pbf" --json > "$work/first"
    "$urbancross" -q run "$work/spec.toml" > "$work/said"
    "$bin/urbancross-sandbox" "$work/world" --edit-map 0.01 --seed 12 > "$work/edited"
    head -1 "$work/edited"
    # `diff` knows moments to the minute
    sleep $((61 - 10#$(date +%S)))
    since=$(date -u +%Y-%m-%dT%H:%M)
    sleep 1
    now > "$work/before"
    "$urbancross" -q tags refresh "$work/spec.toml" --diffs "$work/world/replication" --json > "$work/refresh"
    now > "$work/refreshed"
    "$urbancross" -q run "$work/spec.toml" > "$work/said"
    now > "$work/after"
    "$urbancross" diff "$work/spec.toml" --since "$since" --examples 0 --json > "$work/diff"
    python3 tests/peers/cost_of_edits.py "$work" $([ "$4" = none ] || echo network)
    rm -rf "$work"
}
edit_of_a_world sandbox "${TILES:-1000}" none none
"$bin/examples/small_captioner" "$all/captioner"
edit_of_a_world "with a captioner" "${TILES:-1000}" none "$all/captioner"
if [ -d "${URBANCROSS_TEST_DATA:-}/data/aid_rsicd_subset/images" ]; then
    edit_of_a_world "real pictures" "${TILES:-1150}" "$URBANCROSS_TEST_DATA/data/aid_rsicd_subset/images" none
else
    echo "skipped: real pictures, as URBANCROSS_TEST_DATA names none"
fi
target/release/examples/diff_rate 5200000 3000000
# 450000000 is a country of 4 GB
target/release/examples/extract_memory "${NODES:-20000000}"
