#!/usr/bin/env bash
# Runs a temporary Slurm on this machine: one slurmctld and two nodes of two CPUs, with all files in one folder.
#   bash tests/slurm/cluster.sh start DIR [LINE…]    LINE: an additional line of slurm.conf, such as RequeueExit=75
#   bash tests/slurm/cluster.sh stop DIR
# sbatch, squeue and scontrol then need SLURM_CONF=DIR/slurm.conf. Debian: apt install slurm-wlm.
set -eu

command="${1:?start or stop}"
mkdir -p "${2:?a folder}"
dir="$(cd "$2" && pwd -P)"
shift 2
export SLURM_CONF="$dir/slurm.conf" PATH="$PATH:/usr/sbin"

free_ports() {
  python3 - "$1" <<'PYTHON'
import socket, sys
probes = [socket.create_server(('127.0.0.1', 0)) for _ in range(int(sys.argv[1]))]
print(*(probe.getsockname()[1] for probe in probes))
PYTHON
}

start() {
  local ctld one two node
  read -r ctld one two < <(free_ports 3)
  mkdir -p "$dir/state"
  # The names of nodes must resolve, since the processes of a run meet on the first one.
  cat >"$SLURM_CONF" <<CONF
ClusterName=test
SlurmctldHost=$(hostname)(127.0.0.1)
SlurmctldPort=$ctld
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthType=auth/none
CredType=cred/none
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool-%n
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd-%n.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
SlurmdParameters=config_overrides
ReturnToService=2
JobRequeue=1
KillWait=30
NodeName=127.0.0.1 NodeHostname=$(hostname) NodeAddr=127.0.0.1 Port=$one CPUs=2 RealMemory=1000
NodeName=127.0.0.2 NodeHostname=$(hostname) NodeAddr=127.0.0.1 Port=$two CPUs=2 RealMemory=1000
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
  printf '%s\n' "$@" >>"$SLURM_CONF"
  slurmctld
  for node in 127.0.0.1 127.0.0.2; do
    slurmd -N "$node"
  done
  for _ in $(seq 300); do
    [ "$(sinfo --noheader --states=idle --format=%D 2>/dev/null)" = 2 ] && return 0
    sleep 0.1
  done
  echo "the nodes did not come up; see $dir/*.log" >&2
  tail -n 5 "$dir"/*.log >&2
  return 1
}

stop() {
  local file
  scancel --full --signal=KILL --user="$(id -un)" 2>/dev/null || true
  for _ in $(seq 100); do
    [ -n "$(squeue --noheader --states=RUNNING,COMPLETING 2>/dev/null)" ] || break
    sleep 0.1
  done
  for file in "$dir"/slurmd-*.pid "$dir"/slurmctld.pid; do
    [ -f "$file" ] || continue
    kill "$(cat "$file")" 2>/dev/null || true
  done
  for file in "$dir"/slurmd-*.pid "$dir"/slurmctld.pid; do
    for _ in $(seq 100); do
      [ -f "$file" ] || break
      sleep 0.1
    done
  done
}

"$command" "$@"
