#!/usr/bin/env bash
# The atlas in a real browser:  atlas.sh [FOLDER]   (FOLDER has a demo already, and keeps it; otherwise a small one is made)
# Needs chromium (apt), and a Python with playwright and axe-playwright-python (pip).
set -euo pipefail
cd "$(dirname "$0")/../.."
urbancross=${URBANCROSS:-$PWD/target/debug/urbancross}
python3 -c 'import axe_playwright_python, playwright' || { echo "needs: pip install playwright axe-playwright-python"; exit 2; }
[ -x /usr/bin/chromium ] || { echo "needs: apt-get install chromium"; exit 2; }
folder=${1:-}
if [ -z "$folder" ]; then
    folder=$(mktemp -d)
    trap 'rm -rf "$folder"' EXIT
fi
if [ ! -e "$folder/report.html" ]; then URBANCROSS=$urbancross TILES=${TILES:-160} deploy/demo.sh "$folder"; fi
# a short adaptation: that the models differ is enough
sed -i -e 's/^epochs = .*/epochs = 5/' -e 's/^epochs_per_band = .*/epochs_per_band = 1/' "$folder/germany_to_spain.toml"
"$urbancross" adapt "$folder/germany_to_spain.toml"
python3 tests/browser/atlas.py "$urbancross" "$folder" --seconds "${CROWD_SECONDS:-60}" ${PICTURES:+--pictures "$PICTURES"}
python3 tests/browser/desk.py "$urbancross" ${PICTURES:+--pictures "$PICTURES"}
