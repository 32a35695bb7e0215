"""Comparisons of records: what twins exchange, and what goes with a behavior."""

from __future__ import annotations

import collections
import re
from collections.abc import Iterable, Sequence

from bsft_jax.records.record import Record

# Category with twins -> the spans that its twins exchange. Nothing else moves, so that no order
# tells the behavior.
EXCHANGED = {
    'medication_safety': r'[a-z ]+',
    'follow_up_planning': r'\d|pending|final',
    'deterioration_check': r'\d+',
    'omission_detection': r'[A-Z][a-z]+',
    'error_correction': r'[a-z]+',
    'consistency_check': r'\d+',
    'critical_value_alert': r'\d+\.\d',
    'ambiguity_clarification': r'\d+ mg|unknown dose|no dose given|dose [a-z ]+',
}
TWINS = list(EXCHANGED)


def tokens(text: str) -> list[str]:
    """Returns the words, numbers and punctuation marks of a text."""
    return re.findall(r'\d+\.\d+|[\w-]+|[^\w\s]', text)


def leaks(records: Iterable[Record]) -> dict[str, dict[tuple, int]]:
    """Returns by category the features that are not equally frequent in both behaviors.

    The value of a feature is its surplus in proactive records. Features are the speakers, the words
    of each turn, the options by position, and `hard`. Categories without proactive records are left
    out.
    """
    surplus: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    proactive = set()
    for record in records:
        sign = 1 if record.behavior == 'proactive' else -1
        if sign == 1:
            proactive.add(record.category)
        counts = surplus[record.category]
        for index, message in enumerate(record.messages):
            counts['speaker', index, message.role, message.name] += sign
            for word in tokens(message.content):
                counts['word', index, word] += sign
        for index, option in enumerate(record.options):
            counts['option', index, option] += sign
        counts['hard', record.hard] += sign
    unequal = {
        category: {feature: n for feature, n in surplus[category].items() if n}
        for category in proactive
    }
    return {category: features for category, features in unequal.items() if features}


def exchanged(one: Sequence[str], other: Sequence[str]) -> tuple[str, str] | None:
    """Returns the two spans that are exchanged, or None if the tokens differ in anything else."""
    start, end = 0, len(one)
    if len(one) != len(other) or one == other:
        return None
    while one[start] == other[start]:
        start += 1
    while one[end - 1] == other[end - 1]:
        end -= 1
    a, b = list(one[start:end]), list(other[start:end])
    size = range(1, len(a))
    # Few of the tails fit, so that long notes take no longer than short ones.
    tails = [j for j in size if b[: len(a) - j] == a[j:]]
    spans = ((a[:i], a[j:]) for j in tails for i in size if i <= j and b == a[j:] + a[i:j] + a[:i])
    return next(((' '.join(first), ' '.join(last)) for first, last in spans), None)
