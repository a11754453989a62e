#!/usr/bin/env bash
# Two ranks over TCP with one thread each, with all of the optimiser's state and with half of it, beside one rank with
# two threads, alternately: samples per second.
#   ranks-bench.sh [PRESET] [GLOBAL_BATCH] [STEPS] [ROUNDS]
set -euo pipefail
cd "$(dirname "$0")/.."
program=${CARGO_TARGET_DIR:-target}/debug/device-check
preset=${1:-small} batch=${2:-64} steps=${3:-12} rounds=${4:-3}
for round in $(seq "$rounds"); do
    for in_parts in 0 1; do
        port=$((20000 + RANDOM % 20000))
        echo "$preset on two cores, two ranks$([ "$in_parts" = 0 ] || echo " with the optimiser in parts"):"
        for rank in 1 0; do
            IN_PARTS=$in_parts RANK=$rank WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=$port RAYON_NUM_THREADS=1 \
                taskset -c "$rank" "$program" train-rate "$preset" "$batch" "$steps" &
        done
        wait
    done
    echo "$preset on two cores, one rank:"
    RAYON_NUM_THREADS=2 "$program" train-rate "$preset" "$batch" "$steps"
done
