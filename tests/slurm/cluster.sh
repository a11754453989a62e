#!/usr/bin/env bash
# A Slurm cluster for tests: a controller and three nodes, all of them processes of this machine, on loopback.
#   cluster.sh up FOLDER [KEY=VALUE…]   start it; KEY=VALUE are lines of slurm.conf that take the place of the defaults
#   cluster.sh kill FOLDER NODE         all processes of a node end at once, as when its power fails
#   cluster.sh start FOLDER NODE        start a node again
#   cluster.sh restart FOLDER           end the controller and start it again
#   cluster.sh down FOLDER              end everything
# Whoever uses it sets SLURM_CONF=FOLDER/etc/slurm.conf. Needs Debian's slurmctld, slurmd, slurm-client and munge; no root,
# no systemd, no cgroups, no database.
set -euo pipefail
action=${1:?}; folder=${2:?}; shift 2
nodes=3
export SLURM_CONF=$folder/etc/slurm.conf PATH=$PATH:/usr/sbin

descendants() { local child; for child in $(pgrep -P "$1" || true); do echo "$child"; descendants "$child"; done; }

# a step's processes hang on their slurmstepd, which has left slurmd: it is known by the log of its node
processes_of() {
    local node=$1 step
    cat "$folder/slurmd.$node.pid" 2>/dev/null || true
    for step in $(pgrep -x slurmstepd || true); do
        if readlink "/proc/$step/fd/"* 2>/dev/null | grep -q "$folder/log/slurmd.$node.log"; then echo "$step"; descendants "$step"; fi
    done
}

settings() {
    cat <<CONF
ClusterName=test
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmctldPort=$port
SlurmdPort=$((port + 1))
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$folder/munge.sock
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool/%n
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.%n.pid
SlurmctldLogFile=$folder/log/slurmctld.log
SlurmdLogFile=$folder/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SwitchType=switch/none
MpiDefault=none
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=100
GresTypes=gpu
SlurmdTimeout=100
SlurmctldTimeout=10
KillWait=5
ReturnToService=1
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
MaxArraySize=1001
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=1,sched_min_interval=0,batch_sched_delay=0
AccountingStorageType=accounting_storage/none
CONF
}

await_idle() {
    for _ in $(seq 200); do
        if [ "$(sinfo --noheader --Node --format='%N %T' 2>/dev/null | sort -u | grep -c ' idle$')" = $nodes ]; then return; fi
        sleep 0.1
    done
    echo "not all nodes are idle:" >&2; sinfo --Node >&2; exit 1
}

end() {
    local process
    for process in "$@"; do kill "$process" 2>/dev/null || true; done
    for _ in $(seq 30); do
        local alive=0
        for process in "$@"; do if kill -0 "$process" 2>/dev/null; then alive=1; fi; done
        if [ $alive = 0 ]; then return; fi
        sleep 0.1
    done
    for process in "$@"; do kill -KILL "$process" 2>/dev/null || true; done
}

case $action in
up)
    mkdir -p "$folder"/{etc,state,log,spool}
    port=$((20000 + $$ % 20000))
    {
        # a line that is given takes the place of the one of its name
        settings | while read -r line; do
            for given in "$@"; do if [ "${given%%=*}" = "${line%%=*}" ]; then line=$given; fi; done
            echo "$line"
        done
        for node in $(seq $nodes); do
            echo "NodeName=node$node NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 Port=$((port + 10 + node)) CPUs=4 Sockets=1 CoresPerSocket=4 ThreadsPerCore=1 RealMemory=4000 Gres=gpu:fake:2"
        done
        echo "PartitionName=gpu Nodes=node[1-$nodes] Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=15 PreemptMode=REQUEUE"
        echo "PartitionName=urgent Nodes=node[1-$nodes] MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF"
    } > "$SLURM_CONF"
    printf 'Name=gpu Type=fake File=/dev/null\nName=gpu Type=fake File=/dev/zero\n' > "$folder/etc/gres.conf"
    echo CgroupPlugin=cgroup/v1 > "$folder/etc/cgroup.conf"
    head -c 128 /dev/urandom > "$folder/etc/munge.key"; chmod 600 "$folder/etc/munge.key"
    munged --key-file="$folder/etc/munge.key" --socket="$folder/munge.sock" --pid-file="$folder/munged.pid" \
        --log-file="$folder/log/munged.log" --seed-file="$folder/munge.seed"
    slurmctld -c
    for node in $(seq $nodes); do slurmd -N "node$node"; done
    await_idle ;;
kill)
    mapfile -t doomed < <(processes_of "$1")
    kill -KILL "${doomed[@]}"; rm -f "$folder/slurmd.$1.pid"
    echo "$1: ${#doomed[@]} processes" ;;
start) slurmd -N "$1" ;;
restart) end "$(cat "$folder/slurmctld.pid")"; slurmctld ;;
down)
    scancel --user="$(id -un)" 2>/dev/null || true
    mapfile -t all < <(for node in $(seq $nodes); do processes_of "node$node"; done; cat "$folder/slurmctld.pid" "$folder/munged.pid" 2>/dev/null)
    end "${all[@]}" ;;
*) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
