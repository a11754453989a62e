#!/usr/bin/env bash
# Adaptation over a real shift: a folder of captioned images by class (names like `beach_12.jpg`, captions.jsonl), cut
# into built-up and open scenes, each a build of its own; then the ablation between them. An hour on two cores.
#   real-shift.sh DATA OUT [JOBS]
set -euo pipefail
data=$(realpath "${1:?usage: real-shift.sh DATA OUT [JOBS]}") out=${2:?usage: real-shift.sh DATA OUT [JOBS]} jobs=${3:-2}
program=$(realpath "${URBANCROSS:-target/debug/urbancross}")
manifests=$(cd "$(dirname "$0")/../manifests" && pwd)
built=airport,bridge,center,church,commercial,denseresidential,industrial,mediumresidential,parking,railwaystation
built=$built,resort,school,square,stadium,storagetanks,viaduct
mkdir -p "$out" && out=$(realpath "$out")
python3 - "$data" "$out" "$built" <<'PY'
import json, pathlib, sys
data, out, built = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), set(sys.argv[3].split(","))
parts = {"built": [], "open": []}
for line in (data / "captions.jsonl").read_text().splitlines():
    parts["built" if json.loads(line)["file"].split("_")[0] in built else "open"].append(line)
for name, lines in parts.items():
    folder = out / f"{name}-images"
    folder.mkdir(exist_ok=True)
    (folder / "captions.jsonl").write_text("\n".join(lines) + "\n")
    if not (folder / "images").exists():
        (folder / "images").symlink_to(data / "images")
    print(f"{name}: {len(lines)} images")
PY
for name in built open; do
    sed -e "s|^country = .*|country = \"$name\"|" -e "s|^url = \"../captioned-images\"|url = \"$name-images\"|" \
        -e "s|^url = \"../captioned-work\"|url = \"work\"|" "$manifests/captioned.toml" > "$out/$name.toml"
    "$program" run "$out/$name.toml"
done
cat > "$out/built_to_open.toml" <<'TOML'
source = "built.toml"
target = "open.toml"
ratio = [2, 1, 7]

[adapt]
epochs = 20
batch = 32
learning_rate = 1e-3
schedule = "cosine"
warmup_share = 0.1
weight_decay = 0.3
ema_decay = 0.98

[adapt.method]
epochs_per_band = 4
beta = 0.1
source_weight = 0.1
hardest_from = 1.0
discriminator_hidden = 128
discriminator_learning_rate = 1e-4

[ablation]
seeds = [0, 1, 2]
TOML
"$program" ablate "$out/built_to_open.toml" --jobs "$jobs" --report "$out/ablation.html"
