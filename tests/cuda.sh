#!/usr/bin/env bash
# What can be known of the GPU build without a GPU: our kernels compile to machine code, none spills registers or takes so
# many that a multiprocessor holds few warps, every target compiles with the features, without warnings, and the program
# computes what it should on a GPU that is the CPU (tests/gpu-on-cpu).
# Needs a CUDA toolkit: CUDA_HOME, or nvcc on the path.
set -euo pipefail
cd "$(dirname "$0")/.."
nvcc=${NVCC:-${CUDA_HOME:+$CUDA_HOME/bin/}nvcc}
# 1,024 threads of a multiprocessor's 65,536 registers
most=64
for cards in 80 90; do
    report=$(for source in stages/models/cuda/*.cu; do
        "$nvcc" -O3 -cubin "-arch=sm_$cards" -Xptxas -v "$source" -o /dev/null 2>&1
    done)
    awk -v most=$most -v cards=$cards '
        /Compiling entry function/ { name = $0; gsub(/^[^\047]*\047|\047.*$/, "", name); kernels++ }
        /bytes stack frame/ && !/ 0 bytes spill stores, 0 bytes spill loads/ { print "sm_" cards ": " name " spills:" $0; bad = 1 }
        match($0, /Used [0-9]+ registers/) {
            used = substr($0, RSTART + 5, RLENGTH - 15) + 0
            if (used > highest) highest = used
            if (used > most) { print "sm_" cards ": " name " takes " used " registers of " most; bad = 1 }
        }
        END {
            if (!kernels) { print "sm_" cards ": no report"; exit 1 }
            if (bad) exit 1
            print "sm_" cards ": " kernels " kernels, " highest " registers at most, none spills"
        }' <<<"$report"
done
cargo clippy --locked --workspace --all-targets --features pipeline/cuda,pipeline/nccl,pipeline/device-check -- -D warnings
cargo build --locked -p device-check --features device-check/cuda,device-check/nccl
emulated=$(mktemp -d); trap 'rm -rf "$emulated"' EXIT
tests/gpu-on-cpu/build.sh "$emulated"
check() {
    echo "== device-check $*"
    LD_LIBRARY_PATH=$emulated timeout 600 "${CARGO_TARGET_DIR:-target}/debug/device-check" "$@" --device cuda:0 2>&1 |
        { grep -v '^ok \|no version information' || true; }
}
check operations --seed "$RANDOM"
check trainings --times 1
check collectives --times 1
check masks
GPU_ON_CPU_LAUNCHES=300 check failing
