#!/usr/bin/env bash
# Runs an app of bsft_jax on a TPU slice or on GPU nodes of a GKE cluster: fills launch/gke_jobset.yaml and gives
# it to kubectl. Needs JobSet 0.10.1 in the cluster, an image with bsft_jax, and a volume claim that several
# nodes may write, which the app sees as /data (docs/launch.md makes all three).
#   bash launch/gke_jobset.sh --name=NAME --image=IMAGE --claim=CLAIM --accelerator=TYPE --hosts=N --cards=N \
#       [--topology=AxB] [--spot] [--dry_run] -- -m bsft_jax.train --config=FILE --workdir=/data/DIR …
# What stands behind `--` is what `python` is given. Options:
#   --accelerator=TYPE   of the nodes: tpu-v6e-slice, nvidia-h100-80gb, …
#   --topology=AxB       of a slice (tpu-…), whose product is hosts × cards; nodes with GPUs have none
#   --hosts=N --cards=N  how many nodes, and how many chips or GPUs each has
#   --spot               cheaper nodes, which may be taken away
#   --dry_run            prints the manifest and applies nothing
# Exit code 75 of the app and a lost node start it again from the last checkpoint, as often as it happens; exit
# code 2 ends the run at once; anything else is tried again three times.

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
    *) fail "$1 is no option; see the head of launch/gke_jobset.sh" ;;
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
    fail "--$option=${!option} has to be a small letter and at most 39 more, digits or -"
done
[[ "${topology:-1x1}" =~ ^[1-9][0-9]*(x[1-9][0-9]*){1,2}$ ]] || fail "--topology=$topology is not like 4x4 or 2x2x2"
case "$accelerator:$topology" in
  tpu-*:) fail "--accelerator=$accelerator needs the slice's --topology=AxB" ;;
  tpu-*:*) [ $((${topology//x/*})) -eq $((hosts * cards)) ] || fail "--topology=$topology has not $hosts × $cards chips" ;;
  *:?*) fail "--topology=$topology is for TPUs (tpu-…), --accelerator=$accelerator is none" ;;
esac
[[ "$image" =~ ^[-A-Za-z0-9._/:@]+$ ]] || fail "--image=$image is no image"
[ $# -gt 1 ] || fail 'nothing to run: -- -m bsft_jax.train --config=FILE --workdir=/data/DIR'
shift

arguments=''
for argument in "$@"; do
  case "$argument" in *[[:cntrl:]]*) fail "a control character in $argument" ;; esac
  argument="${argument//\\/\\\\}"
  argument="${argument//\"/\\\"}"
  argument="${argument//\$(/\$\$(}" # Kubernetes would put a variable there
  arguments="$arguments${arguments:+, }\"$argument\""
done
arguments="[$arguments]"

# The template without its head and without the lines of the other kinds.
template() {
  sed -e '/^#/d' \
    -e "/ # $([ -n "$topology" ] && echo gpu || echo tpu)\$/d" \
    -e "$([ -n "$spot" ] || echo '/ # spot$/d')" \
    -e 's/ # \(tpu\|gpu\|spot\)$//' "$(dirname "${BASH_SOURCE[0]}")/gke_jobset.yaml"
}

# The arguments come last: what looks like a placeholder in them stays as it is.
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
say "The log of process 0; kubectl get jobset $name says how it stands:"
say "  kubectl logs --follow --selector=jobset.sigs.k8s.io/jobset-name=$name,batch.kubernetes.io/job-completion-index=0"
