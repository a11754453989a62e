#!/usr/bin/env bash
# The gate in parts:  gate.sh always | changed | full
#   always   format, walls, licences, links, clippy, all tests
#   changed  the suites below whose folders differ from the commit that tests/last-full-gate names; all of them where that
#            commit is not known (a shallow clone)
#   full     everything, the long forms too; then writes tests/last-full-gate, to be committed
# Each suite says how long it took and what it may take; one that takes longer belongs into `full`.
set -euo pipefail
cd "$(dirname "$0")/.."
passed=tests/last-full-gate
export CARGO_TERM_COLOR=never

# name, minutes that it may take, folders that it depends on
suites=(
    "chaos 4 manifests workers stages/src pipeline/src tests/src tests/chaos Cargo.lock"
    "slurm 8 manifests workers pipeline/src pipeline/engines tests/slurm tests/tests/slurm.rs Cargo.lock"
    "notebook 5 docs/guide/tour.ipynb tests/python.sh pipeline/src workers/src/export workers/src/search"
    "atlas 6 manifests workers pipeline/src pipeline/atlas tests/browser Cargo.lock"
    "cuda 15 stages/models stages/training workers/ranks pipeline/src tests/device tests/gpu-on-cpu tests/cuda.sh Cargo.lock"
)

chaos() { make chaos; }

slurm() { make slurm-test; }

notebook() { tests/python.sh notebook; }

wheel() { tests/python.sh wheel; }
# pages in a browser: where there is one, and what drives it
atlas() {
    if [ -x /usr/bin/chromium ] && python3 -c 'import axe_playwright_python, playwright' 2>/dev/null; then
        make atlas-test
    else
        echo "no chromium, or no playwright and axe for Python: the atlas was not looked at in a browser"
    fi
}

# what goes to GPUs compiles, and runs on a GPU that is the CPU: with NVIDIA's toolkit, where there is one
cuda() {
    if [ -n "${CUDA_HOME:-}" ] || command -v nvcc >/dev/null; then
        tests/cuda.sh
    elif [ -n "${URBANCROSS_CUDA_INSTALL:-}" ]; then
        local home; home=$(mktemp -d)
        if timeout 300 "$URBANCROSS_CUDA_INSTALL" "$home"; then (. "$home/env.sh" && tests/cuda.sh); else echo "no CUDA toolkit: not checked"; fi
        rm -rf "$home"
    else
        echo "no CUDA toolkit: the GPU build was not checked"
    fi
}

# our models in PyTorch, open_clip and transformers: four gigabytes of wheels, so only in the full gate
elsewhere() {
    local home; home=$(mktemp -d)
    if python3 -m venv "$home" && "$home/bin/pip" install -q torch open_clip_torch transformers tensorboard datasets webdataset geopandas duckdb \
        duckdb-extension-spatial mlcroissant; then
        (. "$home/bin/activate" && cargo test --locked --workspace --test results -- exports --nocapture)
    else
        echo "no PyTorch to be had: models were not loaded elsewhere"
    fi
    rm -rf "$home"
}

always() {
    cargo fmt --all --check
    tests/walls.sh
    tests/licences.sh
    tests/links.sh
    cargo clippy --locked --workspace --all-targets -- -D warnings
    # NCCL is loaded at run time: its side compiles without CUDA, with the features that the rest was just compiled with
    cargo clippy --locked --workspace --all-targets --features ranks/nccl -- -D warnings
    make test
}

run() { # name minutes
    echo "== $1"
    local began=$SECONDS took
    "$1"
    took=$((SECONDS - began))
    echo "== $1: $took s of $(($2 * 60)) s"
    [ "$took" -le $(($2 * 60)) ] || echo "== $1 is over its budget: it belongs into the full gate"
}

each_suite() { # changed | all
    local known=no name minutes folders
    if [ "$1" = changed ] && [ -s "$passed" ] && git cat-file -e "$(cat "$passed")^{commit}" 2>/dev/null; then known=yes; fi
    for suite in "${suites[@]}"; do
        read -r name minutes folders <<<"$suite"
        # shellcheck disable=SC2086 # folders are words
        if [ "$known" = yes ] && git diff --quiet "$(cat "$passed")" -- $folders; then
            echo "== $name: nothing changed since $(cut -c1-7 "$passed")"
        else
            run "$name" "$minutes"
        fi
    done
}

case "${1:-}" in
always) run always 30 ;;
changed) each_suite changed ;;
full)
    run always 30
    each_suite all
    run elsewhere 15
    run wheel 30
    make chaos-long
    make fuzz SECONDS=60
    git rev-parse HEAD > "$passed"
    echo "everything passed; commit $passed"
    ;;
*) sed -n '2,8s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
