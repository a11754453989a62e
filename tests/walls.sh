#!/usr/bin/env bash
# The walls between the rooms: what a crate must never depend on directly.
set -euo pipefail
cd "$(dirname "$0")/.."
failed=0
direct() { cargo tree --locked -p "$1" -e normal --prefix none --depth 1 | awk -v own="$1" '$1 != own { print $1 }' | sort -u; }
wall() {
    local crate=$1; shift
    local tree; tree=$(direct "$crate")
    for forbidden in "$@"; do
        if grep -qx "$forbidden" <<<"$tree"; then echo "wall: $crate must not depend on $forbidden"; failed=1; fi
    done
}
# what a crate that sees nothing else may have
only() {
    local crate=$1; shift
    local tree; tree=$(direct "$crate")
    for found in $tree; do
        if [[ " $* " != *" $found "* ]]; then echo "wall: $crate must not depend on $found"; failed=1; fi
    done
}
# the crates of ARCHITECTURE.md's table
ours="manifests choices pixels chat wording pickle sources osm models training stages ranks workers pipeline engines atlas plane"
ours="$ours report sandbox"
wall manifests candle-core candle-nn clap object_store delta_kernel tokio arrow
only choices   serde schemars
wall chat      candle-core arrow object_store tokio reqwest
only pickle    thiserror
wall pixels    candle-core arrow object_store tokio
only wording   icu_normalizer serde
wall sources   candle-core arrow object_store tokio
wall osm       candle-core arrow object_store tokio sources manifests
wall models    arrow object_store tokio training stages ranks
wall training  arrow object_store tokio cudarc stages ranks
wall stages    object_store tokio reqwest cudarc parquet delta_kernel
wall workers   clap indicatif pipeline
wall ranks     arrow object_store tokio clap stages workers
wall pipeline  candle-core candle-nn object_store parquet delta_kernel sandbox k8s-openapi
wall engines   stages workers training models object_store arrow clap
wall atlas     $ours arrow candle-core object_store clap
wall plane     stages workers pipeline atlas report candle-core arrow object_store tokio
wall report    $ours
wall sandbox   $ours
# one arrow in the whole tree
if [ "$(cargo tree --locked -i arrow --depth 0 2>&1 | grep -c '^arrow v')" != 1 ]; then echo "wall: more than one arrow"; failed=1; fi
# what programs are made of has the same features in tests: it would compile twice, with everything that depends on it
made_of() { cargo tree --locked --workspace -e "$1" -f '{p} [{f}]' --prefix none | sed 's/ (\*)$//' | sort -u; }
twice=$(comm -23 <(made_of normal,build) <(made_of normal,build,dev))
if [ -n "$twice" ]; then echo "wall: other features in tests: $twice"; failed=1; fi
# files that take from each other cannot be read, or moved, one by one
if command -v python3 >/dev/null; then python3 tests/circles.py || failed=1; else echo "skipped: circles of files, no python3"; fi
# what a test or a run has left behind is large; fixtures are small
large=$(git ls-files -z | xargs -0 -r stat -c '%s %n' 2>/dev/null | awk '$1 > 524288 { print $2 }')
if [ -n "$large" ]; then echo "wall: more than half a MiB each: $large"; failed=1; fi
# what a stranger reads first is short
if [ "$(wc -l < README.md)" -gt 90 ]; then echo "wall: README.md has more than 90 lines: what is more belongs into docs"; failed=1; fi
[ "$failed" = 0 ] && echo "walls stand"
exit "$failed"
