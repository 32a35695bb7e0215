"""What a process has set before jax starts: by the apps, and by the launch scripts, which a run by hand may lack."""

from __future__ import annotations

import os
import sys

CARD_SHARE = 0.92  # of a card's memory is for the program; jax's own default is 0.75
_SHARES = ('XLA_CLIENT_MEM_FRACTION', 'XLA_PYTHON_CLIENT_MEM_FRACTION')  # jax refuses both at once
# As in launch/_env.sh, which says why. glibc reads it before the first line of Python runs.
MALLOC = (
    'glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=68719476736:'
    'glibc.malloc.top_pad=67108864:glibc.malloc.arena_max=1'
)


def take_cards() -> None:
    """Lets the program have `CARD_SHARE` of each card, as plans expect, unless the environment names a share."""
    if not any(os.environ.get(name) for name in _SHARES):
        os.environ[_SHARES[0]] = str(CARD_SHARE)


def lacking() -> str:
    """One line that says what is not set and what to do; empty where nothing is missing.

    Only a Linux CPU needs any of it.
    """
    import jax

    chosen = os.environ.get('GLIBC_TUNABLES', '')
    missing = any(setting.partition('=')[0] not in chosen for setting in MALLOC.split(':'))
    if not missing or sys.platform != 'linux' or jax.default_backend() != 'cpu':
        return ''
    return (
        'malloc gives the buffers of every step back to the system, which can halve the speed on a CPU; '
        f'before Python starts: export GLIBC_TUNABLES={MALLOC}'
    )
