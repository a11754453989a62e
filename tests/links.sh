#!/usr/bin/env bash
# Every relative link of a Markdown file leads to a file, and to a heading of it; so does every path in backticks that
# begins with one of our folders.
set -euo pipefail
cd "$(dirname "$0")/.."
broken=0
report() { echo "links: $1: $2"; broken=1; }
headings() { sed -n 's/^#\+ //p' "$1" | tr '[:upper:]' '[:lower:]' | sed 's/[^a-z0-9 _-]//g; s/ /-/g'; }
while IFS= read -r page; do
    while IFS= read -r link; do
        case $link in *://* | mailto:*) continue ;; esac
        file=${link%%#*} target=$page
        [ -z "$file" ] || target=$(dirname "$page")/$file
        if [ ! -e "$target" ]; then report "$page" "$link leads nowhere"
        elif [[ $link == *#* ]] && ! grep -qx -- "${link#*#}" <(headings "$target"); then
            report "$page" "$link: no such heading"
        fi
    done < <(grep -oP '\]\(\K[^)\s]+' "$page")
    while IFS= read -r path; do
        [ -e "$path" ] || report "$page" "\`$path\` is not there"
    done < <(grep -oP '`\K(docs|deploy|manifests|pipeline|stages|tests|workers|\.ci)/[A-Za-z0-9_./-]+(?=`)' "$page")
done < <(git ls-files --cached --others --exclude-standard '*.md')
[ "$broken" = 0 ] && echo "links lead somewhere"
exit "$broken"
