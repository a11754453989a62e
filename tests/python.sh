#!/usr/bin/env bash
# What Python's users have of the program, in an environment of its own:  python.sh notebook | wheel
#   notebook  the tour runs from its first cell to its last, with the programs that `make binary` made
#             (77: what that takes cannot be had)
#   wheel     `pip install .` gives a program, as `urbancross` and as `python -m urbancross` (compiles for a quarter of an hour)
set -euo pipefail
cd "$(dirname "$0")/.."
home=$(mktemp -d); trap 'rm -rf "$home"' EXIT
python3 -m venv "$home/venv"

case "${1:-}" in
notebook)
    "$home/venv/bin/pip" install -q --disable-pip-version-check nbconvert ipykernel matplotlib numpy pillow pyarrow ||
        { echo "pip failed: the notebook was not run"; exit 77; }
    mkdir "$home/tour"
    PATH=$PWD/target/debug:$PATH URBANCROSS_TOUR=$home/tour "$home/venv/bin/jupyter" nbconvert --log-level ERROR --to notebook \
        --execute docs/guide/tour.ipynb --output-dir "$home"
    # the pictures are there: of times, three searches, one by likeness, and the space
    pictures=$(grep -c '"image/png"' "$home/tour.ipynb")
    [ "$pictures" = 6 ] || { echo "the notebook shows $pictures pictures, not 6"; exit 1; }
    if grep -q '"execution_count": [0-9]\|"image/png"' docs/guide/tour.ipynb; then
        echo "the notebook in the repository has outputs; clear them"; exit 1
    fi
    echo "notebook: all cells ran"
    ;;
wheel)
    "$home/venv/bin/pip" install -q --disable-pip-version-check . || { echo "the wheel cannot be made or installed"; exit 1; }
    wanted=$(cd "$home" && venv/bin/urbancross --version)
    [ "$(cd "$home" && venv/bin/python -m urbancross --version)" = "$wanted" ] || { echo "python -m urbancross differs"; exit 1; }
    (cd "$home" && venv/bin/python -m urbancross no-such-command >/dev/null 2>&1) && { echo "exit codes are lost"; exit 1; }
    [ "$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)" = \
        "$("$home/venv/bin/pip" show urbancross | sed -n 's/^Version: //p')" ] || { echo "the wheel has another version"; exit 1; }
    echo "wheel: $wanted"
    ;;
*) sed -n '2,5s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
