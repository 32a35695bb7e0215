#!/usr/bin/env bash
# Compares fine-tuning with and without behavior tokens on the bundled tiny model: the smallest study.
# Needs only Python >= 3.11. Everything but the cache (~/.cache) stays in this folder.
#   bash launch/quickstart.sh [--help]
# It installs JAX for CPUs; the README says how to install it for GPUs or TPUs.
# A second call continues what was stopped and prints the table; remove runs/quickstart to start over.

source "$(dirname "${BASH_SOURCE[0]}")/_env.sh" || exit 1

case "$*" in
  '') ;;
  --help | -h)
    bsft_help quickstart.sh
    exit 0
    ;;
  *)
    say "error: quickstart.sh takes no arguments, got: $*; bash launch/quickstart.sh --help says what it does"
    exit 2
    ;;
esac

runs=runs/quickstart
say "bsft_jax quickstart, in $BSFT_ROOT"
say "  1. creates .venv and installs into it (about 1 GB, a minute or two; only the first time)"
say "  2. fine-tunes the bundled tiny-clinical model on synthetic tasks: general_sft and behavior_sft, side by side"
say "  3. evaluates the base and both arms on cases and phrasings that no arm was trained on"
say "  4. prints the comparison and writes $runs/report.html"
say "Steps 2 to 4 take at most 10 minutes on 2 cores; each run's log is in $runs/logs."
say ''
bsft_environment || exit 1
began=$SECONDS
code=0
py -m bsft_jax.study --config=configs/studies/quickstart.py --workdir="$runs" --jobs=2 || code=$?
[ "$code" -eq 75 ] && say 'Stopped; run the script again to continue from the last checkpoint.'
[ "$code" -eq 0 ] && say "Done in $(((SECONDS - began + 59) / 60)) min. Open $runs/report.html in a browser."
exit "$code"
