#!/usr/bin/env bash
# Runs a command of bsft_jax on a TPU slice or on GPU nodes of a GKE cluster: fills
# launch/gke_jobset.yaml and passes it to kubectl. Needs JobSet 0.10.1 in the cluster, an image with
# bsft_jax, and a volume claim that several nodes can write, which the command sees as /data
# (docs/launch.md shows how to create all three).
#   bash launch/gke_jobset.sh --name=NAME --image=IMAGE --claim=CLAIM --accelerator=TYPE --hosts=N --cards=N \
#       [--topology=AxB] [--spot] [--dry_run] -- -m bsft_jax.train --config=FILE --workdir=/data/DIR …
# Everything after `--` is passed to `python`. Options:
#   --accelerator=TYPE   GKE's name of the nodes' accelerator: tpu-v6e-slice, nvidia-h100-80gb, …
#   --topology=AxB       shape of a TPU slice, with hosts × cards chips; not for GPUs
#   --hosts=N            number of nodes
#   --cards=N            TPU chips or GPUs per node
#   --spot               uses cheaper nodes, which may be preempted
#   --dry_run            prints the manifest and applies nothing
# After exit code 75 or the loss of a node the run starts again from its last checkpoint, without limit.
# Exit code 2 ends it at once. After any other failure it starts again at most three times.

say() { printf '%s\n' "$*" >&2; }
fail() {
  say "error: $*"
  exit 2
}

name='' image='' claim='' accelerator='' topology='' hosts='' cards='' spot='' dry_run=''
while [ $# -gt 0 ] && [ "$1" != -- ]; do
  case "$1" in
    --name=?* | --image=?* | --claim=?* | --accelerator=?* | --topology=?* | --hosts=?* | --cards=?*)
      option="${1%%=*}"
      printf -v "${option#--}" '%s' "${1#*=}"
      ;;
    --spot | --dry_run) printf -v "${1#--}" yes ;;
    *) fail "unknown option $1; see the head of launch/gke_jobset.sh" ;;
  esac
  shift
done
for option in name image claim accelerator hosts cards; do
  [ -n "${!option}" ] || fail "--$option=… is missing; see the head of launch/gke_jobset.sh"
done
for option in hosts cards; do
  [[ "${!option}" =~ ^[1-9][0-9]*$ ]] || fail "--$option=${!option} is not a number"
done
for option in name claim accelerator; do
  [[ "${!option}" =~ ^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$ ]] ||
    fail "--$option=${!option} must be at most 40 lowercase letters, digits and -, begin with a letter and not end with -"
done
[[ "${topology:-1x1}" =~ ^[1-9][0-9]*(x[1-9][0-9]*){1,2}$ ]] || fail "--topology=$topology must be like 4x4 or 2x2x2"
case "$accelerator:$topology" in
  tpu-*:) fail "--accelerator=$accelerator needs the --topology=AxB of the slice" ;;
  tpu-*:*) [ $((${topology//x/*})) -eq $((hosts * cards)) ] || fail "--topology=$topology does not have $hosts × $cards chips" ;;
  *:?*) fail "--topology=$topology is for TPUs (tpu-…), not for --accelerator=$accelerator" ;;
esac
[[ "$image" =~ ^[-A-Za-z0-9._/:@]+$ ]] || fail "--image=$image is not an image name"
[ $# -gt 1 ] || fail 'nothing to run: -- -m bsft_jax.train --config=FILE --workdir=/data/DIR'
shift

arguments=''
for argument in "$@"; do
  case "$argument" in *[[:cntrl:]]*) fail "control character in $argument" ;; esac
  argument="${argument//\\/\\\\}"
  argument="${argument//\"/\\\"}"
  argument="${argument//\$(/\$\$(}" # else Kubernetes expands a variable
  arguments="$arguments${arguments:+, }\"$argument\""
done
arguments="[$arguments]"

# Prints the template without its comment and without the lines for other kinds of nodes.
template() {
  sed -e '/^#/d' \
    -e "/ # $([ -n "$topology" ] && echo gpu || echo tpu)\$/d" \
    -e "$([ -n "$spot" ] || echo '/ # spot$/d')" \
    -e 's/ # \(tpu\|gpu\|spot\)$//' "$(dirname "${BASH_SOURCE[0]}")/gke_jobset.yaml"
}

# Fills the template. The arguments come last, so that text like a placeholder in them stays as it is.
manifest() {
  local text option placeholder
  text="$(template)" || return 1
  for option in name image claim accelerator topology hosts cards arguments; do
    placeholder="\${$(printf '%s' "$option" | tr '[:lower:]' '[:upper:]')}"
    text=${text//"$placeholder"/"${!option}"}
  done
  printf '%s\n' "$text"
}

if [ -n "$dry_run" ]; then
  manifest
  exit
fi
manifest | kubectl apply --filename=- || exit 1
say "kubectl get jobset $name shows the state of the run; the log of process 0:"
say "  kubectl logs --follow --selector=jobset.sigs.k8s.io/jobset-name=$name,batch.kubernetes.io/job-completion-index=0"
