"""Preemption: SIGTERM is collected, and every process of a run hears of it at the same step."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator

import jax
from jax.experimental import multihost_utils

from bsft_jax.errors import Preempted

ShouldStop = Callable[[int], bool]


@contextlib.contextmanager
def preemption_signal() -> Iterator[ShouldStop]:
    """Handles SIGTERM and yields `should_stop(n)`.

    `should_stop(n)` says whether the run was preempted by the n-th step since its start, the same
    in all processes. With several processes jax's runtime collects the signal and they all hear of
    it at one step. A single process hears of it at once; until it is here, there is nothing to
    save, and `bsft_jax.signals` ends it.
    """
    if jax.distributed.is_initialized():
        yield multihost_utils.reached_preemption_sync_point
        return
    received: list[int] = []
    previous = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    try:
        yield lambda _: bool(received)
    finally:
        signal.signal(signal.SIGTERM, previous)


def raise_if_preempted() -> None:
    """Raises Preempted in joined processes for a signal before the first step.

    There is nothing to save yet.
    """
    if jax.distributed.is_initialized() and multihost_utils.reached_preemption_sync_point(0):
        raise Preempted('by a signal before the first step; start again to continue')
