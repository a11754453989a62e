#!/usr/bin/env bash
# The whole story once, in one folder: a sandbox world of three countries, a build of each, every model on every
# country's test images, one report. Run it again: what is done stays done.
set -euo pipefail
out=${1:?usage: demo.sh FOLDER}
urbancross=${URBANCROSS:-urbancross}
here=$(cd "$(dirname "$0")" && pwd)
manifests=$here/../manifests
began=$SECONDS
mkdir -p "$out"
# the extract is written last: without it the world is half made
[ -e "$out/world/extract.osm" ] || "$urbancross-sandbox" "$out/world" --force --tiles "${TILES:-420}"
specs=()
for country in finland:FI germany:DE spain:ES; do
    name=${country%:*} code=${country#*:}
    spec=$out/$name.toml
    sed -e "s|^country = .*|country = \"$name\"|" -e "s|^tokens = .*|tokens = [\"$code\"]|" \
        -e "s|^country_code = .*|country_code = \"$code\"|" -e "s|^url = \"../world\".*|url = \"world\"|" \
        -e "s|^url = \"../work-sandbox\"|url = \"work\"|" "$manifests/sandbox.toml" > "$spec"
    echo "== $name"
    "$urbancross" run "$spec"
    specs+=("$spec")
done
# pairs of them, for `urbancross adapt` and `urbancross ablate`
for pair in germany:spain finland:spain germany:finland; do
    source=${pair%:*} target=${pair#*:}
    sed -e "s|^source = .*|source = \"$source.toml\"|" -e "s|^target = .*|target = \"$target.toml\"|" \
        "$here/pair.toml" > "$out/${source}_to_$target.toml"
done
echo "== every model on every country"
"$urbancross" evaluate "${specs[@]}" --report "$out/report.html" --search "a lake" --search "a soccer pitch" \
    --search "a reservoir"
echo "== what it is for"
"$urbancross" search "$out/finland.toml" "a lake" --top 3
echo "search for what you like: $urbancross search $out/finland.toml \"…\" --html found.html"
echo "$((SECONDS - began)) seconds; everything is in $out, begin with $out/report.html"
