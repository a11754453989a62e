#!/usr/bin/env bash
# A Kubernetes control plane for tests: etcd, API server, controllers and scheduler, all of them processes of this machine, on
# loopback, with kubelets that kubelet.py stands in for.
#   cluster.sh up FOLDER NODES WORDS…   start it; FOLDER/admin is its kubeconfig. WORDS are for kubelet.py: --share, --env
#   cluster.sh stop FOLDER PROGRAM      end a program of it: etcd, server, controllers, scheduler or kubelet
#   cluster.sh start FOLDER PROGRAM     start it again
#   cluster.sh account FOLDER NAME TOKEN   a kubeconfig FOLDER/NAME of somebody whose token the server knows
#   cluster.sh down FOLDER              end everything
# Programs are those on the path, or that ETCD, KUBE_APISERVER, KUBE_CONTROLLER_MANAGER, KUBE_SCHEDULER and KUBECTL name. More
# words for the server are in KUBE_APISERVER_WORDS. Needs root, openssl and Python.
set -euo pipefail
action=${1:?}; folder=${2:?}; shift 2
here=$(cd "$(dirname "$0")" && pwd)
kubectl=${KUBECTL:-kubectl}

run() { # name, words: in the background, with a log
    local name=$1; shift
    "$@" > "$folder/$name.log" 2>&1 < /dev/null &
    echo $! > "$folder/$name.pid"
}

start() {
    # shellcheck disable=SC2086
    case $1 in
    etcd) run etcd "${ETCD:-etcd}" --data-dir "$folder/etcd" --listen-client-urls "http://127.0.0.1:$((port + 1))" \
        --advertise-client-urls "http://127.0.0.1:$((port + 1))" --listen-peer-urls "http://127.0.0.1:$((port + 2))" ;;
    server) run server "${KUBE_APISERVER:-kube-apiserver}" --etcd-servers "http://127.0.0.1:$((port + 1))" \
        --bind-address 127.0.0.1 --secure-port "$port" --cert-dir "$folder/certificates" --token-auth-file "$folder/tokens" \
        --authorization-mode RBAC --service-account-issuer https://kubernetes.default.svc \
        --service-account-signing-key-file "$folder/accounts.key" --service-account-key-file "$folder/accounts.key" \
        --service-cluster-ip-range 10.0.0.0/24 ${KUBE_APISERVER_WORDS:-} ;;
    controllers) run controllers "${KUBE_CONTROLLER_MANAGER:-kube-controller-manager}" --kubeconfig "$folder/admin" \
        --use-service-account-credentials --service-account-private-key-file "$folder/accounts.key" \
        --root-ca-file "$folder/certificates/apiserver.crt" --leader-elect=false --node-monitor-period 1s \
        --node-monitor-grace-period "${GRACE:-8s}" ${KUBE_CONTROLLER_MANAGER_WORDS:-} ;;
    scheduler) run scheduler "${KUBE_SCHEDULER:-kube-scheduler}" --kubeconfig "$folder/admin" --leader-elect=false ;;
    kubelet) mapfile -t words < "$folder/words"; run kubelet "$here/kubelet.py" "$folder" "${words[@]}" ;;
    esac
}

stop() {
    local process
    process=$(cat "$folder/$1.pid" 2>/dev/null) || return 0
    kill "$process" 2>/dev/null || return 0
    for _ in $(seq 100); do if ! kill -0 "$process" 2>/dev/null; then return 0; fi; sleep 0.1; done
    kill -KILL "$process"
}

account() { # name, token
    "$kubectl" --kubeconfig "$folder/$1" config set-cluster test --server "https://127.0.0.1:$port" \
        --certificate-authority "$folder/certificates/apiserver.crt" --embed-certs
    "$kubectl" --kubeconfig "$folder/$1" config set-credentials "$1" --token "$2"
    "$kubectl" --kubeconfig "$folder/$1" config set-context test --cluster test --user "$1" --namespace urbancross
    "$kubectl" --kubeconfig "$folder/$1" config use-context test
}

await() { # what, words of a command that comes to succeed
    local what=$1; shift
    for _ in $(seq 600); do if "$@" > "$folder/await.log" 2>&1; then return 0; fi; sleep 0.1; done
    echo "$what does not come: $(cat "$folder/await.log")" >&2; tail -n 5 "$folder"/*.log >&2; exit 1
}

if [ "$action" != up ]; then port=$(cat "$folder/port"); fi
case $action in
up)
    mkdir -p "$folder"
    port=$((20000 + $$ % 20000)); echo $port > "$folder/port"; echo "https://127.0.0.1:$port" > "$folder/server"
    printf '%s\n' "$@" > "$folder/words"
    openssl genrsa -out "$folder/accounts.key" 2048 2> "$folder/openssl.log"
    openssl req -x509 -newkey rsa:2048 -nodes -keyout "$folder/kubelet.key" -out "$folder/kubelet.crt" -days 2 -subj /CN=kubelet 2>> "$folder/openssl.log"
    head -c 24 /dev/urandom | base64 | tr -d '/+=\n' > "$folder/token"
    printf '%s,admin,1,"system:masters"\nalice,alice,2\n' "$(cat "$folder/token")" > "$folder/tokens"
    start etcd; start server
    await "the server" test -s "$folder/certificates/apiserver.crt"
    account admin "$(cat "$folder/token")" > /dev/null
    await "the server" "$kubectl" --kubeconfig "$folder/admin" get --raw /readyz
    start controllers; start scheduler
    await "an account" "$kubectl" --kubeconfig "$folder/admin" --namespace default get serviceaccount default
    start kubelet
    is_ready() { [ "$("$kubectl" --kubeconfig "$folder/admin" get nodes | grep -c ' Ready ')" = "$(head -n 1 "$folder/words")" ]; }
    await "a node" is_ready ;;
stop) stop "$1" ;;
start) start "$1" ;;
account) account "$1" "$2" > /dev/null ;;
down) for program in kubelet scheduler controllers server etcd; do stop $program; done ;;
*) sed -n '2,11s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
