#!/usr/bin/env bash
# Builds for NVIDIA GPUs and packs what a machine with a driver, but without Rust and a network, needs for
# tests/gpu-check.sh: DIR/bundle.tar.xz, at most 40 MiB. Needs a CUDA toolkit (CUDA_HOME, CUDA_COMPUTE_CAP).
#   tests/gpu-bundle.sh DIR        there: tar xf bundle.tar.xz && PROGRAM=$PWD/urbancross tests/gpu-check.sh
set -euo pipefail
dir=${1:?usage: gpu-bundle.sh DIR}; mkdir -p "$dir"; dir=$(realpath "$dir"); cd "$(dirname "$0")/.."
cargo build --locked --release --features pipeline/cuda,pipeline/nccl,pipeline/device-check -p pipeline -p sandbox
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
for program in urbancross urbancross-sandbox; do
    strip -o "$work/$program" "${CARGO_TARGET_DIR:-target}/release/$program"
done
mkdir -p "$work/tests" "$work/manifests"
cp -r tests/gpu-check.sh tests/peers "$work/tests/"; cp manifests/*.toml "$work/manifests/"
tar -C "$work" -cf - . | xz -6 -T0 > "$dir/bundle.tar.xz"
bytes=$(stat -c %s "$dir/bundle.tar.xz")
echo "$dir/bundle.tar.xz: $((bytes / 1048576)) MiB"
[ "$bytes" -le $((40 << 20)) ] || { echo "gpu-bundle.sh: more than 40 MiB" >&2; exit 1; }
