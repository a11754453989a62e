#!/usr/bin/env bash
# Builds the GPU that is the CPU into OUT: put that folder on LD_LIBRARY_PATH, and a program built for GPUs runs on it.
#   tests/gpu-on-cpu/build.sh OUT
set -euo pipefail
out=${1:?usage: build.sh OUT}; mkdir -p "$out"; out=$(realpath "$out"); cd "$(dirname "$0")"
candle=$(cargo metadata --locked --format-version 1 --features pipeline/cuda |
    python3 -c 'import json, sys; print(next(p["manifest_path"] for p in json.load(sys.stdin)["packages"] if p["name"] == "candle-kernels"))')
candle=$(dirname "$candle")/src
g++ -std=c++20 -O2 -shared -fPIC -Wl,-soname,libcuda.so.1 driver.cpp -o "$out/libcuda.so.1" -ldl
for library in libcublas.so.13 libcurand.so.10 libcudart.so.13 libnccl.so.2; do ln -sf libcuda.so.1 "$out/$library"; done
python3 kernels.py "$out" ../../stages/models/cuda/*.cu \
    "$candle"/{affine,binary,cast,conv,fill,indexing,reduce,sort,ternary,unary}.cu
