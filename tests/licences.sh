#!/usr/bin/env bash
# Every dependency has a licence that deny.toml allows and comes from crates.io. cargo-deny checks more, where it is installed.
set -euo pipefail
cd "$(dirname "$0")/.."
if command -v cargo-deny >/dev/null; then exec cargo deny --locked check licenses bans sources; fi
command -v python3 >/dev/null || { echo "skipped: neither cargo-deny nor python3"; exit 0; }
metadata=$(mktemp); trap 'rm -f "$metadata"' EXIT
cargo metadata --quiet --locked --format-version 1 --all-features > "$metadata"
python3 - "$metadata" <<'PY'
import json, pathlib, re, sys

config = pathlib.Path("deny.toml").read_text()

def listed(field):
    return set(re.findall(r'"([^"]+)"', re.search(rf"^{field} = \[(.*?)\]", config, re.M | re.S)[1]))

allowed, registries = listed("allow"), {"registry+" + url for url in listed("allow-registry")}

def permitted(expression):
    # older crates write a slash for "or"
    tokens = re.findall(r"[()]|[^\s()]+(?: WITH [^\s()]+)?", expression.replace("/", " OR "))
    known = {"AND": "and", "OR": "or", "(": "(", ")": ")"}
    return eval(" ".join(known.get(token, str(token in allowed)) for token in tokens))

packages = json.load(open(sys.argv[1]))["packages"]
bad = []
for package in packages:
    name, licence, source = f"{package['name']} {package['version']}", package["license"], package["source"]
    if not licence or not permitted(licence):
        bad.append(f"{name}: deny.toml does not allow its licence, {licence or 'which it does not name'}")
    if source and source not in registries:
        bad.append(f"{name}: comes from {source}, not from crates.io")
print("\n".join(bad) or f"licences: all {len(packages)} packages may be used")
sys.exit(bool(bad))
PY
