#!/usr/bin/env bash
# What a GPU computes and how fast, in a few minutes: every step a process of its own under a time limit, what can be
# wrong before what can be slow, none stopped by another's failure. Writes a log for each step, results.json and a
# table, and ends with 1 if a step has failed.
#   PROGRAM=./urbancross tests/gpu-check.sh [--only STEP,STEP] [--device cuda:0] [--out DIR]
# PROGRAM is built with --features cuda,nccl,device-check, and PROGRAM-sandbox lies beside it; tests/gpu-bundle.sh packs
# both for a machine without Rust.
# Peers (PyTorch, transformers) run where python3 has them.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
program=${PROGRAM:-$here/../target/release/urbancross} device=cuda:0 only= out=gpu-check
while [ $# -gt 0 ]; do
    case $1 in
        --only) only=,$2, ;; --device) device=$2 ;; --out) out=$2 ;;
        *) echo "gpu-check.sh: what is $1?" >&2; exit 64 ;;
    esac
    shift 2
done
mkdir -p "$out"
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
export DEVICE=$device RUST_BACKTRACE=0
# libraries of NVIDIA's wheels, where the system has none
wheels=$(python3 -c 'import nvidia, pathlib; print(":".join(str(p) for r in nvidia.__path__ for p in sorted(pathlib.Path(r).glob("**/lib"))))' 2>/dev/null)
export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$wheels
: > "$out/results.jsonl"; : > "$out/log"

step() { # name, limit in seconds, command ...
    local name=$1 limit=$2 start end rc; shift 2
    case $only in "" | *,"$name",*) ;; *) return 0 ;; esac
    echo "== $name" | tee -a "$out/log"
    start=$(date +%s.%N)
    timeout -k 5 "$limit" "$@" > "$out/$name.log" 2>&1; rc=$?
    end=$(date +%s.%N)
    cat "$out/$name.log" >> "$out/log"; grep -v '^ok ' "$out/$name.log" | tail -n 25; rm -f "$out/$name.log"
    python3 - "$name" "$rc" "$start" "$end" >> "$out/results.jsonl" <<'PY'
import json, sys
name, rc, start, end = sys.argv[1:]
print(json.dumps({"step": name, "exit": int(rc), "seconds": round(float(end) - float(start), 1)}))
PY
}
export program
has() { python3 -c "import $1" 2>/dev/null; }
peer() { # name, limit, module that it needs, command ...
    local name=$1 limit=$2 module=$3; shift 3
    if has "$module"; then step "$name" "$limit" "$@"; else echo "== $name: skipped, no python3 with $module"; fi
}

# what can be wrong
step device 60 "$program" device-check device
step operations 60 "$program" device-check operations --seed "$RANDOM"
step trainings 60 "$program" device-check trainings
step collectives 90 "$program" device-check collectives --times 10
step masks 60 "$program" device-check masks
step networks 90 "$program" device-check networks

# how fast
export PRECISION=bf16
step train-l14 60 "$program" device-check train-rate vit-l-14 40 10
step train-l14-phases 60 "$program" device-check train-rate vit-l-14 40 10 --phases
step train-l14-nccl 60 env RANK=0 WORLD_SIZE=1 BACKEND=nccl "$program" device-check train-rate vit-l-14 40 10
step train-l14-segments 90 "$program" device-check train-rate vit-l-14 40 6 --segments 6 --recompute
step clip-l14 60 "$program" device-check clip-rate vit-l-14 40 77 5
step sam-h 60 "$program" device-check sam-rate vit-h 32 2 encoder,decoder,post
if [ -z "$only" ] || [[ $only == *caption* ]]; then
    "$program" device-check caption-write "$work/vicuna" vicuna-7b --layers 4 > /dev/null
fi
for batch in 8 32 128; do
    step "caption-$batch" 60 "$program" device-check caption-rate "$work/vicuna" 1 "$batch" 48 1
done

profile() { # where the GPU's time goes in the part that the command shows a profiler
    ncu --csv --profile-from-start off --cache-control none --clock-control none --metrics gpu__time_duration.sum \
        "$program" device-check "$@" --profile 2> /dev/null | python3 "$here/peers/kernel_times.py"
}
export -f profile; export here
if command -v ncu > /dev/null; then
    step profile-l14 120 bash -o pipefail -c 'profile train-rate vit-l-14 40 3'
    step profile-sam 60 bash -o pipefail -c 'profile sam-rate vit-h 32 1 decoder'
fi

# a whole build; compare its recall with that of the same command on a CPU
build() {
    "$program-sandbox" "$work/world" --tiles 300 > /dev/null &&
        PRECISION=f32 "$program" run "$here/../manifests/sandbox.toml" --set "source.url=$work/world" \
            --set "work.url=$work/store" --set "model.device=$device" --set pretrain.epochs=15 | tail -n 12
}
export -f build; export work device
step build 120 bash -o pipefail -c build

# peers
peer peer-train-l14 90 transformers python3 "$here/peers/clip_train_peer.py" --batch 40
peer peer-train-l14-segments 90 transformers python3 "$here/peers/clip_train_peer.py" --batch 40 --segments 6 --steps 6
peer peer-sam 90 transformers python3 "$here/peers/sam_peer.py" --library transformers --size vit-h --device cuda --dtype bf16
for batch in 8 32 128; do
    peer "peer-caption-$batch" 60 transformers python3 "$here/peers/caption_peer.py" "$work/vicuna" --batch "$batch" \
        --rounds 1 --device cuda --dtype bf16
done

python3 - "$out" <<'PY'
import json, pathlib, sys
out = pathlib.Path(sys.argv[1])
rows = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
(out / "results.json").write_text(json.dumps(rows, indent=1)); (out / "results.jsonl").unlink()
for row in rows:
    print(f"{row['step']:24} {'ok' if row['exit'] == 0 else 'exit %d' % row['exit']:10} {row['seconds']:7.1f} s")
sys.exit(any(row["exit"] for row in rows))
PY
