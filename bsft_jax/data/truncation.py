"""Truncation: a conversation that is longer than a row loses its oldest turns, never its answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from bsft_jax.behaviorbench.records import Record
from bsft_jax.data.examples import Example


def shortened(record: Record, render: Callable[[Record], Example], limit: int) -> tuple[Example, int] | None:
    """The example of a record without as few of its oldest turns as fit `limit`, and their number.

    What goes is whole rounds: the turns from one that asks up to the next that does. System turns
    at the beginning stay, and so does the last round, which holds the question and the answer. None
    where that is still too long.
    """
    head, starts = _rounds(record)
    low, high, best = 0, len(starts), None
    while low < high:
        middle = (low + high) // 2
        messages = record.messages[:head] + record.messages[starts[middle] :]
        example = render(dataclasses.replace(record, messages=messages))
        if example.length <= limit:
            high, best = middle, (example, starts[middle] - head)
        else:
            low = middle + 1
    return best


def _rounds(record: Record) -> tuple[int, list[int]]:
    """How many system turns begin a record, and where the rounds behind its first one begin."""
    roles = [message.role for message in record.messages]
    head = next((i for i, role in enumerate(roles) if role != 'system'), len(roles))
    starts = [i for i in range(head + 1, len(roles)) if roles[i] == 'user' and roles[i - 1] != 'user']
    return head, starts
