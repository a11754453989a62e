#!/usr/bin/env bash
# GPU figures beside PyTorch's on the same card: correctness first, then rates. Needs the CUDA toolkit at build time
# (CUDA_HOME, CUDA_COMPUTE_CAP), the driver, and Python with torch, transformers, open_clip_torch.
#   DEVICE=cuda:0 PRECISION=bf16 tests/gpu-bench.sh
set -euo pipefail
cd "$(dirname "$0")/.."
export DEVICE=${DEVICE:-cuda:0} PRECISION=${PRECISION:-bf16}
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
has() { python3 -c "import $1" 2>/dev/null || { echo "skipped: no python3 with $1"; return 1; }; }
cargo build --locked --release -p models -p pipeline --features models/cuda,pipeline/cuda --examples --bins
rate=target/release/examples

echo "one build on the CPU and on the GPU, whose figures must be close:"
target/release/urbancross sandbox "$work/world" --tiles 60
run() { target/release/urbancross run manifests/sandbox.toml --set "source.url=$work/world" --set "work.url=$work/$1" \
    --set "model.device=$2" --set pretrain.epochs=2; }
run cpu cpu | tail -3
run gpu "$DEVICE" | tail -3

for preset in vit-b-32 vit-l-14; do
    for batch in 32 128; do
        echo "$preset, batch $batch, ours:"; "$rate/clip_rate" "$preset" "$batch" 77 5
        if has open_clip; then
            echo "$preset, batch $batch, PyTorch:"
            python3 tests/peers/clip_peer.py --model "$preset" --batch "$batch" --device "${DEVICE%:*}" --dtype "$PRECISION"
        fi
    done
done
# the training loop as it runs on a node, alone and with NCCL between its one rank and itself
cargo build --locked --release -p ranks --features ranks/cuda,ranks/nccl --examples
echo "training of vit-l-14, batch 32, alone:"; "$rate/train_rate" vit-l-14 32 12
echo "training of vit-l-14, batch 32, one rank over NCCL:"
RANK=0 WORLD_SIZE=1 BACKEND=nccl "$rate/train_rate" vit-l-14 32 12

for preset in mobile vit-h; do
    echo "Segment Anything $preset, ours:"; "$rate/sam_rate" "$preset" 32 3 encoder,decoder,post,whole
done
if has transformers; then
    echo "Segment Anything, PyTorch:"
    python3 tests/peers/sam_peer.py --library transformers --device "${DEVICE%:*}" --dtype "$PRECISION"
fi
"$rate/caption_rate" write "$work/blip"
for beams in 1 5; do
    echo "InstructBLIP, $beams beams, ours:"; "$rate/caption_rate" run "$work/blip" "$beams" 32 48 3
    if has transformers; then
        echo "InstructBLIP, $beams beams, PyTorch:"
        python3 tests/peers/caption_peer.py "$work/blip" --beams "$beams" --batch 32 --device "${DEVICE%:*}" --dtype "$PRECISION"
    fi
done
# the true shape with random weights: 15 GB on disk and on the card
"$rate/caption_rate" write "$work/vicuna" vicuna-7b
echo "InstructBLIP vicuna-7b, batch 32, ours:"
BANDWIDTH_GB_S=${BANDWIDTH_GB_S:-4800} "$rate/caption_rate" run "$work/vicuna" 1 32 48 2
if has transformers; then
    echo "InstructBLIP vicuna-7b, batch 32, PyTorch:"
    python3 tests/peers/caption_peer.py "$work/vicuna" --beams 1 --batch 32 --device "${DEVICE%:*}" --dtype "$PRECISION"
fi
