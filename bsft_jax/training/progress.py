"""Shows how far a command has come; needs no JAX."""

from __future__ import annotations

import sys

from tqdm import tqdm


def progress(description: str, total: int, initial: int = 0, *, shown: bool = True) -> tqdm:
    """Returns a progress bar with rate and time left; off a terminal, a line about each 30 s."""
    terminal = sys.stderr.isatty()
    return tqdm(
        desc=description,
        total=total,
        initial=initial,
        dynamic_ncols=terminal,
        mininterval=0.5 if terminal else 30,
        maxinterval=1 if terminal else 60,
        ncols=None if terminal else 110,
        file=sys.stderr,
        disable=not shown,
    )
