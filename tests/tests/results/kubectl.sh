#!/bin/sh
# Stands in for kubectl and a cluster: objects are files of this folder, and pods are processes of this machine.
cd "$(dirname "$0")" || exit 1
start() { # name, index, words: what a pod runs
    name=$1 index=$2; shift 2
    # the pod of index 1 of the first job is killed at once, as if its node had been; nobody comes for it
    if [ "$index" = 1 ] && mkdir killed 2>/dev/null; then echo 137 > "exit.$name.$index"; return; fi
    export JOB_COMPLETION_INDEX=$index
    if [ -n "$URBANCROSS_RENDEZVOUS" ]; then export RANK=$index; fi
    { "$@" & echo $! > "pid.$name.$index"; wait $!; echo $? > "exit.$name.$index"; } > "log.$name.$index" 2>&1 < /dev/null &
}
# whether an object has all labels of a selector
is_selected() { # file, selector
    for label in $(printf '%s' "$2" | tr , ' '); do
        grep -qE "^    ${label%%=*}: \"?${label#*=}\"?\$" "$1" || return 1
    done
}
case $1 in
create | replace)
    object=$(cat)
    kind=$(printf '%s\n' "$object" | sed -n 's/^kind: //p')
    name=$(printf '%s\n' "$object" | sed -n 's/^  name: //p')
    if [ "$1" = create ] && [ -f "$kind.$name" ]; then
        echo "Error from server (AlreadyExists): \"$name\" already exists" >&2
        exit 1
    fi
    printf '%s\n' "$object" > "new.$$" && mv "new.$$" "$kind.$name"
    if [ "$kind" = ConfigMap ]; then
        mkdir -p "files.$name"
        awk -v folder="files.$name" '
            /^[a-z]/ { data = /^data:/; next }
            data && /^  [^ ].*: \|$/ { file = $1; gsub(/[":]/, "", file); next }
            data { sub(/^    /, ""); print > (folder "/" file) }' "ConfigMap.$name"
        exit
    fi
    value() { printf '%s\n' "$object" | sed -n "/name: $1\$/{n;s/.*value: //p;}" | tr -d '"'; }
    WORLD_SIZE=$(value WORLD_SIZE) URBANCROSS_RENDEZVOUS=$(value URBANCROSS_RENDEZVOUS)
    if [ -n "$WORLD_SIZE" ]; then export WORLD_SIZE URBANCROSS_RENDEZVOUS; else unset WORLD_SIZE URBANCROSS_RENDEZVOUS; fi
    files=$(printf '%s\n' "$object" | sed -n '/- configMap:/{n;s/.*name: //p;}' | tr -d '"')
    words=$(printf '%s\n' "$object" | sed '1,/- command:/d; /^ *env:/,$d; s/^ *- //' | tr -d '"')
    words=$(printf '%s\n' "$words" | sed "s#^urbancross\$#@URBANCROSS@#; s#^/run/urbancross#$PWD/files.$files#")
    completions=$(printf '%s\n' "$object" | sed -n 's/^  completions: //p')
    index=0
    while [ "$index" -lt "${completions:-1}" ]; do
        start "$name" "$index" $words
        index=$((index + 1))
    done ;;
get)
    comma=
    printf '{"items":['
    for job in Job.*; do
        if [ "$2" = pods ] || [ ! -f "$job" ] || ! is_selected "$job" "$4"; then continue; fi
        name=${job#Job.}
        stage=$(sed -n 's#^    urbancross.dev/stage: ##p' "$job" | head -n 1)
        count=$(sed -n 's/^  completions: //p' "$job")
        count=${count:-1}
        done=$(cat "exit.$name".* 2>/dev/null | grep -cx 0)
        wanted=$count
        if grep -q successPolicy "$job"; then wanted=1; fi
        condition=
        if [ "$(cat "exit.$name".* 2>/dev/null | wc -l)" -ge "$count" ]; then condition=Failed; fi
        if [ "$done" -ge "$wanted" ]; then condition=SuccessCriteriaMet; fi
        deleted=
        if [ -f "deleted.$name" ]; then deleted='"deletionTimestamp":"2026-11-28T00:00:00Z",'; fi
        printf '%s{"metadata":{"name":"%s",%s"labels":{"urbancross.dev/stage":"%s"}},' "$comma" "$name" "$deleted" "$stage"
        printf '"status":{"conditions":[{"type":"%s","status":"True"}]}}' "$condition"
        comma=,
    done
    printf ']}' ;;
delete)
    if [ "$2" = job ]; then rm -f "Job.$3" "exit.$3".*; exit; fi
    # all jobs of a label: their processes are told to end, and the objects go when they have
    for job in Job.*; do
        if [ ! -f "$job" ] || [ "$2" != jobs ] || ! is_selected "$job" "$5"; then continue; fi
        name=${job#Job.}
        touch "deleted.$name"
        {
            for pid in "pid.$name".*; do
                if [ -f "$pid" ]; then kill "$(cat "$pid")" 2>/dev/null; fi
            done
            sleep 2
            for pid in "pid.$name".*; do
                while [ -f "$pid" ] && kill -0 "$(cat "$pid")" 2>/dev/null; do sleep 0.1; done
            done
            rm -f "$job" "exit.$name".* "pid.$name".* "deleted.$name"
        } > /dev/null 2>&1 < /dev/null &
    done ;;
esac
