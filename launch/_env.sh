# Sourced by the scripts in this folder. Changes to the repository root and defines
#   bsft_environment [EXTRA]     installs setup.py, with an extra such as `test`, and the versions of
#                                constraints.txt into .venv
#   bsft_help SCRIPT             prints the comment at the head of a script of this folder
#   py [ARGUMENTS]               runs the interpreter of .venv

# XLA's CPU buffers return to the system at every step. In huge pages that costs little; a step
# asks for 200,000 small ones otherwise. glibc reads the variable when a process starts; glibc before
# 2.35 and other platforms ignore it.
export GLIBC_TUNABLES="${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}"
export PIP_DISABLE_PIP_VERSION_CHECK=1

BSFT_ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)" || exit 1
BSFT_VENV="$BSFT_ROOT/.venv"
cd "$BSFT_ROOT" || exit 1

say() { printf '%s\n' "$*" >&2; }

bsft_help() { sed -n '2,/^$/s/^# \{0,1\}//p' "$BSFT_ROOT/launch/$1"; }

# Console scripts of a venv break if its path contains a space, so always `python -m …`.
py() { "$BSFT_VENV/bin/python" "$@"; }

_bsft_recent() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

_bsft_find_python() {
  local name seen=''
  for name in python3 python3.11 python3.12 python3.13 python3.14 python; do
    command -v "$name" >/dev/null 2>&1 || continue
    if _bsft_recent "$name"; then
      printf '%s\n' "$name"
      return 0
    fi
    seen="$seen $name ($("$name" --version 2>&1 | head -n 1))"
  done
  say "error: bsft_jax needs Python 3.11 or newer, and the PATH has none.${seen:+ Found:$seen.}"
  say "Install one (for example python3.12 with its venv package) and run this script again."
  return 1
}

_bsft_make_venv() {
  local base
  if [ -e "$BSFT_VENV/bin/python" ] && py -m pip --version >/dev/null 2>&1; then
    _bsft_recent "$BSFT_VENV/bin/python" && return 0
    say "error: $BSFT_VENV has $(py --version), but bsft_jax needs Python 3.11 or newer: remove that folder."
    return 1
  fi
  base="$(_bsft_find_python)" || return 1
  if ! "$base" -c 'import venv, ensurepip' >/dev/null 2>&1; then
    say "error: $base has no venv module: install its venv package (Debian, Ubuntu: apt install python3-venv)."
    return 1
  fi
  say "Creating .venv with $("$base" --version)"
  "$base" -m venv --clear "$BSFT_VENV"
}

bsft_environment() {
  local extra="${1:-}" target='.' stamp wanted
  _bsft_make_venv || return 1
  [ -z "$extra" ] || target=".[$extra]"
  stamp="$BSFT_VENV/installed${extra:+-$extra}"
  wanted="$BSFT_ROOT $(py --version) $(cat setup.py pyproject.toml launch/constraints.txt)"
  if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
    return 0
  fi
  say "Installing bsft_jax${extra:+ with its $extra extra} into .venv (about 1 GB, about a minute${extra:+; plus torch where it is used}):"
  if (
    set -o pipefail
    py -m pip install --progress-bar off --constraint launch/constraints.txt --editable "$target" 2>&1 |
      tee "$BSFT_VENV/install.log" |
      while IFS= read -r line; do
        case "$line" in
          Collecting*) printf '.' ;;
          Installing\ collected*) printf '\ninstalling\n' ;;
        esac
      done >&2
  ); then
    printf '%s\n' "$wanted" | tee "$stamp" >"$BSFT_VENV/installed"
    return 0
  fi
  say ''
  say "error: the installation failed; the last lines of .venv/install.log:"
  tail -n 15 "$BSFT_VENV/install.log" >&2
  return 1
}
