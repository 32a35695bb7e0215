#!/usr/bin/env bash
# Fine-tunes the bundled tiny model with and without behavior tokens, evaluates both and the base,
# and prints a table. Needs Python >= 3.11 and nothing else; everything stays in this folder.
#   bash launch/quickstart.sh
# Called again it resumes a training that was stopped, repeats the evaluations and prints the
# table; remove runs/quickstart to start afresh.

source "$(dirname "${BASH_SOURCE[0]}")/_env.sh" || exit 1

runs=runs/quickstart
say "bsft_jax quickstart, in $BSFT_ROOT"
say "  1. makes .venv and installs into it (about 1 GB, a minute or two; only the first time)"
say "  2. fine-tunes the bundled tiny-clinical model on synthetic tasks: general_sft, behavior_sft"
say "  3. evaluates the base and both arms on cases that were never trained on"
say "Steps 2 and 3 take at most 10 minutes on 2 cores. Results go to $runs."
say ''
bsft_environment || exit 1

step() {
  local name="$1" code=0 began=$SECONDS
  shift
  say ''
  say "== $name"
  py "$@" >/dev/null || code=$?
  if [ "$code" -ne 0 ]; then
    say "error: '$name' ended with exit code $code"
    [ "$code" -eq 2 ] || say 'Run the script again to continue from the last checkpoint.'
    exit "$code"
  fi
  say "   $((SECONDS - began)) s"
}

began=$SECONDS
for arm in general_sft behavior_sft; do
  step "train $arm" -m bsft_jax.train --config="configs/quickstart.py:$arm" --workdir="$runs/$arm"
done
trained_on() {
  py -c 'import json, sys; print(json.load(open(sys.argv[1]))["data"][sys.argv[2]])' "$runs/general_sft/config.json" "$1"
}
step 'evaluate the base' -m bsft_jax.evaluate --model=tiny-clinical --workdir="$runs/base" \
  --data="$(trained_on source)" --answer_format="$(trained_on answer_format)" --name=test --policy=auto
for arm in general_sft behavior_sft; do
  step "evaluate $arm" -m bsft_jax.evaluate --workdir="$runs/$arm" --name=test --policy=auto
done
say ''
say "Done in $(((SECONDS - began + 59) / 60)) min."
py -m bsft_jax.report.table --runs="$runs"
