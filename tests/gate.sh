#!/usr/bin/env bash
# The gate in parts:  gate.sh always | changed | suites [NAME…] | full
#   always   format, walls, licences, links, clippy, all tests
#   changed  the suites below whose folders hold something else than when they last passed, by tests/suites-passed
#   suites   these suites, or all; each that passes is written to tests/suites-passed, to be committed
#   full     everything, the long forms too
# Each suite says how long it took and what it may take; one that takes longer belongs into `full`.
set -euo pipefail
cd "$(dirname "$0")/.."
passed=tests/suites-passed
export CARGO_TERM_COLOR=never

# name, minutes that it may take, folders that it depends on
changed=(
    "chaos 4 manifests workers stages/src pipeline/src tests/src tests/chaos tests/examples/chaos.rs Cargo.lock"
    "slurm 8 manifests workers pipeline/src pipeline/engines tests/slurm tests/tests/slurm.rs Cargo.lock"
    "notebook 5 docs/guide/tour.ipynb tests/python.sh manifests workers stages/src pipeline/src Cargo.lock"
    "atlas 6 manifests workers pipeline/src pipeline/atlas tests/browser Cargo.lock"
    "cuda 15 stages/models stages/training workers/ranks pipeline/src tests/device tests/gpu-on-cpu tests/cuda.sh Cargo.lock"
)
only_full=(
    "elsewhere 15 stages workers/src/export pipeline/src tests/tests/results/exports.rs tests/peers/read_exports.py Cargo.lock"
    "wheel 30 deploy/python pyproject.toml pipeline Cargo.lock"
    "chaos_long 60 manifests workers stages/src pipeline/src tests/src tests/chaos tests/examples/chaos.rs Cargo.lock"
    "fuzz 60 stages manifests workers/src tests/fuzz Cargo.lock"
)

# a suite that lacks a program says so; it counts as run nowhere
skip() { skipped=yes; echo "$1"; }

# a command that ends with 77 lacks a program
unless_lacking() { # words, command…
    local words=$1 code=0; shift
    "$@" || code=$?
    case $code in 0) ;; 77) skip "$words" ;; *) return $code ;; esac
}

chaos() { disturb; }

chaos_long() { disturb --long; }

disturb() {
    make chaos-driver
    unless_lacking "nothing to disturb builds with: no trial was made" target/debug/examples/chaos --seed "${SEED:-1}" "$@"
}

slurm() {
    if (PATH=$PATH:/usr/sbin; type slurmctld slurmd sbatch munged) >/dev/null 2>&1; then
        make slurm-test
    else
        skip "slurmctld, slurmd, sbatch and munged are not all there: no build ran on Slurm"
    fi
}

notebook() { for_python notebook; }

wheel() { for_python wheel; }

for_python() { unless_lacking "no Python packages: the $1 was not looked at" tests/python.sh "$1"; }

# pages in a browser: where there is one, and what drives it
atlas() {
    if [ -x /usr/bin/chromium ] && python3 -c 'import axe_playwright_python, playwright' 2>/dev/null; then
        make atlas-test
    else
        skip "no chromium, or no playwright and axe for Python: the atlas was not looked at in a browser"
    fi
}

# what goes to GPUs compiles, and runs on a GPU that is the CPU: with NVIDIA's toolkit, where there is one. NCCL is loaded at
# run time: its side compiles without.
cuda() {
    # what NCCL's side makes of ranks that leave needs no NCCL
    cargo test --locked -p ranks --features ranks/nccl --lib -- nccl::
    if [ -n "${CUDA_HOME:-}" ] || command -v nvcc >/dev/null; then
        tests/cuda.sh
    elif [ -n "${URBANCROSS_CUDA_INSTALL:-}" ]; then
        local home; home=$(mktemp -d)
        if timeout 300 "$URBANCROSS_CUDA_INSTALL" "$home"; then (. "$home/env.sh" && tests/cuda.sh); else without_toolkit; fi
        rm -rf "$home"
    else
        without_toolkit
    fi
}

without_toolkit() {
    cargo clippy --locked --workspace --all-targets --features ranks/nccl -- -D warnings
    skip "no CUDA toolkit: of the GPU build only NCCL's side was checked"
}

# our models in PyTorch, open_clip and transformers: four gigabytes of wheels, so only in the full gate
elsewhere() {
    local home; home=$(mktemp -d)
    if python3 -m venv "$home" && "$home/bin/pip" install -q torch open_clip_torch transformers tensorboard datasets webdataset geopandas duckdb \
        duckdb-extension-spatial mlcroissant; then
        # all is there: nothing may be left out
        (. "$home/bin/activate" && export URBANCROSS_ELSEWHERE=yes &&
            cargo test --locked --workspace --test exports -- --nocapture &&
            cargo test --locked --workspace --test results -- exports --nocapture)
    else
        skip "no PyTorch to be had: models were not loaded elsewhere"
    fi
    rm -rf "$home"
}

always() {
    cargo fmt --all --check
    tests/walls.sh
    tests/licences.sh
    tests/links.sh
    cargo clippy --locked --workspace --all-targets -- -D warnings
    make test
}

fuzz() { make fuzz SECONDS=60; }

run() { # name minutes
    echo "== $1"
    local began=$SECONDS took
    skipped=no
    "$1"
    took=$((SECONDS - began))
    echo "== $1: $took s of $(($2 * 60)) s"
    [ "$took" -le $(($2 * 60)) ] || echo "== $1 is over its budget: it belongs into the full gate"
}

# what a suite depends on, as it is committed, and the suite itself; no commit, so that a shallow clone knows it too
digest() { # folders
    { git ls-files -s -- "$@"; declare -f; } | sha256sum | cut -c1-32
}

write_down() { # name folders
    local name=$1; shift
    [ "$skipped" = no ] || return 0
    git diff --quiet HEAD -- "$@" || { echo "== $name: not written down, since $* differ from the last commit"; return; }
    { grep -v "^$name " "$passed" 2>/dev/null || true; echo "$name $(digest "$@")"; } | sort > "$passed.new"
    mv "$passed.new" "$passed"
}

# runs those of the suites that are named, or all; `changed`: less those that passed with the same files, and nothing is written
each() { # changed | always, suites…, --, names…
    local how=$1 suite name minutes folders lines=(); shift
    while [ "$1" != -- ]; do lines+=("$1"); shift; done
    shift
    for suite in "${lines[@]}"; do
        read -r name minutes folders <<<"$suite"
        [ $# = 0 ] || [[ " $* " = *" $name "* ]] || continue
        # shellcheck disable=SC2086 # folders are words
        if [ "$how" = always ]; then
            run "$name" "$minutes"
            write_down "$name" $folders
        elif grep -qx "$name $(digest $folders)" "$passed" 2>/dev/null; then
            echo "== $name: nothing changed since it passed"
        else
            run "$name" "$minutes"
        fi
    done
}

case "${1:-}" in
always) run always 30 ;;
changed) each changed "${changed[@]}" -- ;;
suites)
    shift
    for name in "$@"; do
        printf '%s\n' "${changed[@]}" "${only_full[@]}" | grep -q "^$name " || { echo "no suite is called $name"; exit 2; }
    done
    each always "${changed[@]}" "${only_full[@]}" -- "$@"
    ;;
full)
    run always 30
    each always "${changed[@]}" "${only_full[@]}" --
    echo "everything passed; commit $passed"
    ;;
*) sed -n '2,8s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
