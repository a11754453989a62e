#!/bin/sh
# Becomes a pod's process: pod.sh FOLDER USER SOURCE:PLACE:MODE… -- WORDS. This machine's files are its image, which it can
# only read; each MODE says whether it may write (rw) or not (ro) to what is mounted. Its number stays that of this script.
set -e
[ -n "$APART" ] || APART=yes exec unshare --mount --propagation private "$0" "$@"
unset APART
root=$1/root user=$2; shift 2
mkdir -p "$root"
mount -t tmpfs -o mode=755 tmpfs "$root"
for entry in /*; do
    if [ -L "$entry" ]; then cp -P "$entry" "$root/"; continue; fi
    if [ ! -d "$entry" ]; then continue; fi
    mkdir "$root$entry"
    case $entry in
    /tmp | /run | /cache) ;;
    /proc | /dev) mount --rbind "$entry" "$root$entry" ;;
    *) mount -o bind,ro "$entry" "$root$entry" ;;
    esac
done
mounts=
while [ "$1" != -- ]; do mounts="$mounts $1"; shift; done
shift
for mount in $mounts; do
    source=${mount%%:*} place=${mount#*:}
    mode=${place#*:} place=${place%:*}
    # in an image /var/run leads to /run
    case $place in /var/run/*) place=${place#/var} ;; esac
    mkdir -p "$root$place" 2>/dev/null || { echo "pod.sh: $place cannot be mounted" >&2; exit 128; }
    mount -o "bind,$mode" "$source" "$root$place"
done
mount -o remount,ro "$root"
cd /
exec /usr/sbin/chroot "$root" setpriv --reuid "$user" --regid "$user" --clear-groups --no-new-privs --inh-caps=-all --bounding-set=-all "$@"
