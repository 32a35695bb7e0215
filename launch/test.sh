#!/usr/bin/env bash
# Runs the fast tests in .venv; --all adds the slow ones; other arguments go to pytest.
#   bash launch/test.sh [--help] [--all] [PYTEST ARGUMENTS]
# On Python 3.11 this installs torch for the parity tests. If pip would choose its CUDA build (several
# GB), point PIP_EXTRA_INDEX_URL at an index of CPU builds.

source "$(dirname "${BASH_SOURCE[0]}")/_env.sh" || exit 1

case "${1:-}" in
  --help | -h)
    bsft_help test.sh
    exit 0
    ;;
esac

bsft_environment test || exit 1
# Huge pages help large train steps; what they do to tests has not been measured.
unset GLIBC_TUNABLES

marks='not slow'
arguments=()
for argument in "$@"; do
  if [ "$argument" = --all ]; then
    marks=''
  else
    arguments+=("$argument")
  fi
done
say "Running the tests${marks:+ that are $marks} (bash launch/test.sh --all runs all of them)"
py -m pytest -n 2 --dist worksteal -rs -m "$marks" ${arguments[@]+"${arguments[@]}"}
