#!/usr/bin/env bash
# Runs a command of bsft_jax on every host of a Cloud TPU slice: creates the slice or uses the existing one
# of that name, copies this working copy (tracked files as they are now), installs, runs, streams the
# logs, fetches metrics.jsonl to runs/NAME and deletes the slice. Needs git and gcloud, logged in.
#   bash launch/tpu_pod.sh --name=NAME --zone=ZONE --accelerator=TYPE --version=RUNTIME [OPTIONS] -- -m bsft_jax.train …
# Everything after `--` is passed to `python`. Options:
#   --project=PROJECT    uses this project instead of gcloud's default
#   --queued             requests a queued resource and waits for it, instead of a TPU VM at once
#   --spot               requests a cheaper slice, which may be preempted
#   --nfs=HOST:/SHARE    mounts the share at /mnt/nfs; with several hosts --workdir must be on it
#   --keep               does not delete the slice
#   --dry_run            prints the commands of a first run and runs none
# Ctrl-C lets the command save. The exit code is the command's; after 75 the same call continues.
# Without --nfs the workdir is on the host and is deleted with it after exit code 0. In these cases the
# slice is kept, and the script prints how to fetch the run and how to delete the slice:
#   - without --nfs, after any other exit code, except 2 on a slice that this call created, where nothing
#     has begun
#   - after a lost connection (255)
#   - if metrics.jsonl cannot be fetched; the exit code is then 1 if the command's is 0

# Exit code of the test for a file that does not exist; gcloud's own codes are 1 and 255.
ABSENT=44

say() { printf '%s\n' "$*" >&2; }
fail() {
  say "error: $*"
  exit 2
}

# Prints words in shell syntax, single-quoted where needed.
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
    *) fail "unknown option $1; see the head of launch/tpu_pod.sh" ;;
  esac
  shift
done
for option in name zone accelerator version; do
  [ -n "${!option}" ] || fail "--$option=… is missing; see the head of launch/tpu_pod.sh"
done
case "$name" in
  [!a-z]* | *[!a-z0-9-]* | *-) fail "--name=$name is not a name of Google Cloud: lower-case letters, digits and dashes" ;;
esac
[ $# -gt 1 ] || fail 'nothing to run: -- -m bsft_jax.train --config=FILE --workdir=DIR'
shift
workdir='' previous=''
for argument in "$@"; do
  case "$previous" in --workdir | -workdir) workdir="$argument" ;; esac
  case "$argument" in --workdir=* | -workdir=*) workdir="${argument#*=}" ;; esac
  previous="$argument"
done
case "$workdir" in '' | /*) ;; *) workdir="bsft_jax/$workdir" ;; esac

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
location=("--zone=$zone" ${project:+"--project=$project"} --quiet)
# A folder that nobody else can guess or has made before.
folder="${TMPDIR:-/tmp}/bsft.XXXXXX"
if [ -z "$dry_run" ]; then
  folder="$(mktemp -d "$folder")" || exit 1
  trap 'rm -rf "$folder"' EXIT
fi
archive="$folder/bsft.tar.gz"

# The commands that hosts run. The app has a session of its own, so that it outlives a lost connection.
stop="pkill -TERM -f '[.]venv/bin/python'; for i in \$(seq 1800); do pgrep -f '[.]venv/bin/python' >/dev/null || break; sleep 1; done"
stop="$stop; pkill -KILL -f '[.]venv/bin/python' || true"
apt='sudo DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300'
install="set -e; rm -rf bsft_jax/bsft_jax; mkdir -p bsft_jax; tar -xzf bsft.tar.gz -C bsft_jax; cd bsft_jax"
install="$install; python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' && venv=python3-venv || venv=python3.11-venv"
install="$install; $apt update; $apt install -y \$venv nfs-common; source launch/_env.sh; bsft_environment tpu"
mounted='$(findmnt --noheadings --output=SOURCE /mnt/nfs)'
mount="set -e; sudo mkdir -p /mnt/nfs; if mountpoint -q /mnt/nfs; then [ \"$mounted\" = $(quoted "$nfs") ] ||"
mount="$mount { echo \"error: /mnt/nfs is $mounted on this slice: pass it as --nfs, or delete the slice\" >&2; exit 2; }"
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
tpu() { run gcloud compute tpus tpu-vm "$1" "$name" "${location[@]}" "${@:2}"; }
queue() { run gcloud compute tpus queued-resources "$1" "$name" "${location[@]}" "${@:2}"; }
everywhere() { tpu ssh --worker=all "--command=$1"; }
copy() { run gcloud compute tpus tpu-vm scp "$2" "$3" "${location[@]}" "--worker=$1"; }
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

# Creates the slice unless a usable one exists (sets `created`), and waits for it.
created=''
provide_slice() {
  local status
  if [ -n "$dry_run" ]; then
    state
    create
    [ -z "$queued" ] || state
    return
  fi
  case "$(state)" in
    '') create && created=yes || return 1 ;;
    PREEMPTED | TERMINATED | FAILED | SUSPENDED) delete && create && created=yes || return 1 ;;
    *) say "$name exists already" ;;
  esac
  while :; do
    status="$(state)"
    case "$status" in
      READY | ACTIVE) return 0 ;;
      FAILED | SUSPENDED | PREEMPTED | TERMINATED | STOPPED | '') fail "$name is ${status:-gone}" ;;
    esac
    say "$name is $status"
    sleep 20
  done
}

# Exits with a code and keeps the slice.
keep_slice() {
  if [ -z "$dry_run" ]; then
    say "$name is kept and costs money"
    [ -z "$workdir" ] || say "  to fetch the run: $(dry_run=yes copy 0 "$name:$workdir" "runs/$name") --recurse"
    say "  to delete the slice: $(dry_run=yes delete)"
  fi
  exit "$1"
}

# Copies metrics.jsonl to runs/NAME, if the app has written one.
fetch() {
  local result=0
  tpu ssh --worker=0 "--command=test -e $(quoted "$workdir/metrics.jsonl") || exit $ABSENT" || result=$?
  [ "$result" -ne "$ABSENT" ] || return 0
  run mkdir -p "runs/$name" && copy 0 "$name:$workdir/metrics.jsonl" "runs/$name/metrics.jsonl"
}

# Succeeds if the slice may have files that exist nowhere else.
has_only_copy() {
  [ "$code" -eq 255 ] || { [ -z "$nfs" ] && [ "$code" -ne 0 ] && [ "$code$created" != 2yes ]; }
}

trap 'keep_slice 130' INT TERM
provide_slice || keep_slice 1
run bash -c 'tree=$(git stash create) && git archive --format=tar.gz --output="$1" "${tree:-HEAD}"' - "$archive" || keep_slice 1
copy all "$archive" "$name:bsft.tar.gz" || keep_slice 1
everywhere "$stop" || keep_slice 1
everywhere "$install" || keep_slice 1
[ -z "$nfs" ] || everywhere "$mount" || keep_slice "$?"

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
if [ -n "$keep" ] || has_only_copy; then
  keep_slice "$code"
fi
delete
exit "$code"
