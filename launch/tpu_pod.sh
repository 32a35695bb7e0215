#!/usr/bin/env bash
# Runs an app of bsft_jax on every host of a Cloud TPU slice: makes the slice or takes the one of that name,
# copies this working copy (tracked files as they are now), installs, runs, streams the logs, fetches
# metrics.jsonl to runs/NAME and deletes the slice. Needs git and gcloud, logged in.
#   bash launch/tpu_pod.sh --name=NAME --zone=ZONE --accelerator=TYPE --version=RUNTIME [OPTIONS] -- -m bsft_jax.train …
# What stands behind `--` is what `python` is given. Options:
#   --project=PROJECT    another than gcloud's own
#   --queued             asks for a queued resource and waits for it, instead of for a TPU VM at once
#   --spot               cheaper, and may be taken away
#   --nfs=HOST:/SHARE    is mounted at /mnt/nfs: where --workdir has to be when there are several hosts
#   --keep               does not delete the slice
#   --dry_run            prints the commands of a first run and runs none
# Ctrl-C lets the app save. The exit code is the app's: 75 means the same command again. Without --nfs the workdir
# is the host's, and is deleted with it after 0. A slice is kept all the same, and how to fetch and to delete is said:
# without --nfs after any other code (but for 2 in a slice that this call has made: nothing has begun there), after a
# lost connection (255), and where metrics.jsonl cannot be fetched (1, if the app's code is 0).

ABSENT=44 # exit code of a look for a file that is not there: gcloud's own are 1 and 255

say() { printf '%s\n' "$*" >&2; }
fail() {
  say "error: $*"
  exit 2
}

# The words as a shell reads them, single-quoted where they need it.
quoted() {
  local word line=''
  for word in "$@"; do
    case "$word" in
      '' | *[!A-Za-z0-9_./=:,@%+-]*) word="'${word//\'/\'\\\'\'}'" ;;
    esac
    line="$line${line:+ }$word"
  done
  printf '%s\n' "$line"
}

name='' zone='' accelerator='' version='' project='' nfs='' queued='' spot='' keep='' dry_run=''
while [ $# -gt 0 ] && [ "$1" != -- ]; do
  case "$1" in
    --name=?* | --zone=?* | --accelerator=?* | --version=?* | --project=?* | --nfs=?*)
      option="${1%%=*}"
      printf -v "${option#--}" '%s' "${1#*=}"
      ;;
    --queued | --spot | --keep | --dry_run) printf -v "${1#--}" yes ;;
    *) fail "$1 is no option; see the head of launch/tpu_pod.sh" ;;
  esac
  shift
done
for option in name zone accelerator version; do
  [ -n "${!option}" ] || fail "--$option=… is missing; see the head of launch/tpu_pod.sh"
done
[ $# -gt 1 ] || fail 'nothing to run: -- -m bsft_jax.train --config=FILE --workdir=DIR'
shift
workdir='' before=''
for argument in "$@"; do
  case "$before" in --workdir | -workdir) workdir="$argument" ;; esac
  case "$argument" in --workdir=* | -workdir=*) workdir="${argument#*=}" ;; esac
  before="$argument"
done
case "$workdir" in '' | /*) ;; *) workdir="bsft_jax/$workdir" ;; esac

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
place=("--zone=$zone" ${project:+"--project=$project"} --quiet)
archive="${TMPDIR:-/tmp}/bsft-$name.tar.gz"

# What hosts are told. The app has a session of its own, so that it outlives a lost connection.
stop="pkill -TERM -f '[.]venv/bin/python'; for i in \$(seq 1800); do pgrep -f '[.]venv/bin/python' >/dev/null || break; sleep 1; done"
stop="$stop; pkill -KILL -f '[.]venv/bin/python' || true"
apt='sudo DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300'
install="set -e; rm -rf bsft_jax/bsft_jax; mkdir -p bsft_jax; tar -xzf bsft.tar.gz -C bsft_jax; cd bsft_jax"
install="$install; python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' && venv=python3-venv || venv=python3.11-venv"
install="$install; $apt update; $apt install -y \$venv nfs-common; source launch/_env.sh; bsft_environment tpu"
found='$(findmnt --noheadings --output=SOURCE /mnt/nfs)'
mount="set -e; sudo mkdir -p /mnt/nfs; if mountpoint -q /mnt/nfs; then [ \"$found\" = $(quoted "$nfs") ] ||"
mount="$mount { echo \"error: /mnt/nfs is $found here: name that, or delete the slice\" >&2; exit 2; }"
mount="$mount; else sudo mount -t nfs $(quoted "$nfs") /mnt/nfs; fi; sudo chmod 777 /mnt/nfs"
app="trap : TERM; $(quoted .venv/bin/python "$@"); echo \$? >run.code"
start="cd bsft_jax && rm -f run.code && : >run.log && { BSFT_DISTRIBUTED=1 setsid bash -c $(quoted "$app") >>run.log 2>&1 </dev/null &"
start="$start tail -n +1 -f --pid=\$! run.log; exit \$(cat run.code || echo 1); }"

run() {
  if [ -n "$dry_run" ]; then
    quoted "$@"
  else
    "$@"
  fi
}
tpu() { run gcloud compute tpus tpu-vm "$1" "$name" "${place[@]}" "${@:2}"; }
queue() { run gcloud compute tpus queued-resources "$1" "$name" "${place[@]}" "${@:2}"; }
everywhere() { tpu ssh --worker=all "--command=$1"; }
copy() { run gcloud compute tpus tpu-vm scp "$2" "$3" "${place[@]}" "--worker=$1"; }
state() {
  if [ -n "$queued" ]; then
    queue describe '--format=value(state.state)' 2>/dev/null
  else
    tpu describe '--format=value(state)' 2>/dev/null
  fi
}

create() {
  if [ -n "$queued" ]; then
    queue create "--node-id=$name" "--accelerator-type=$accelerator" "--runtime-version=$version" ${spot:+--spot}
  else
    tpu create "--accelerator-type=$accelerator" "--version=$version" ${spot:+--spot}
  fi
}

delete() {
  if [ -n "$queued" ]; then
    queue delete --force
  else
    tpu delete
  fi
}

# Makes the slice where there is none that can be used (`made`), and waits for it.
made=''
provide() {
  local now
  if [ -n "$dry_run" ]; then
    state
    create
    [ -z "$queued" ] || state
    return
  fi
  case "$(state)" in
    '') create && made=yes || return 1 ;;
    PREEMPTED | TERMINATED | FAILED | SUSPENDED) delete && create && made=yes || return 1 ;;
    *) say "$name is there already" ;;
  esac
  while :; do
    now="$(state)"
    case "$now" in
      READY | ACTIVE) return 0 ;;
      FAILED | SUSPENDED | PREEMPTED | TERMINATED | STOPPED | '') fail "$name is ${now:-gone}" ;;
    esac
    say "$name is $now"
    sleep 20
  done
}

# Ends here with the slice left as it is.
leave() {
  if [ -z "$dry_run" ]; then
    say "$name is kept, and costs"
    [ -z "$workdir" ] || say "  to fetch the run: $(dry_run=yes copy 0 "$name:$workdir" "runs/$name") --recurse"
    say "  to delete the slice: $(dry_run=yes delete)"
  fi
  exit "$1"
}

# metrics.jsonl to runs/NAME, where the app has written one.
fetch() {
  local there=0
  tpu ssh --worker=0 "--command=test -e $(quoted "$workdir/metrics.jsonl") || exit $ABSENT" || there=$?
  [ "$there" -ne "$ABSENT" ] || return 0
  run mkdir -p "runs/$name" && copy 0 "$name:$workdir/metrics.jsonl" "runs/$name/metrics.jsonl"
}

# Whether the slice may hold what is nowhere else.
holds() {
  [ "$code" -eq 255 ] || { [ -z "$nfs" ] && [ "$code" -ne 0 ] && [ "$code$made" != 2yes ]; }
}

trap 'leave 130' INT TERM
provide || leave 1
run bash -c 'tree=$(git stash create) && git archive --format=tar.gz --output="$1" "${tree:-HEAD}"' - "$archive" || leave 1
copy all "$archive" "$name:bsft.tar.gz" || leave 1
everywhere "$stop" || leave 1
everywhere "$install" || leave 1
[ -z "$nfs" ] || everywhere "$mount" || leave "$?"

code=0
stopped=''
trap 'stopped=yes' INT TERM
everywhere "$start" || code=$?
if [ -n "$stopped" ]; then
  say 'Stopping: the app saves'
  everywhere "$stop"
  code=75
fi
trap - INT TERM
if [ -n "$workdir" ] && ! fetch; then
  say "error: $workdir/metrics.jsonl cannot be fetched"
  [ "$code" -ne 0 ] || code=1
  keep=yes
fi
if [ -n "$keep" ] || holds; then
  leave "$code"
fi
delete
exit "$code"
