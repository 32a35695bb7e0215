"""Identifies a record by its words."""

from __future__ import annotations

import hashlib

from bsft_jax.records.record import Record


def digest_of_words(record: Record) -> str:
    """Returns a hash of the last turn and the options, which no prompt style changes.

    Tells whether two evaluations are of the same records, and whether a record is the one that was
    evaluated.
    """
    words = [record.messages[-1].content if record.messages else '', *record.options]
    data = '\0'.join(words).encode('utf-8', 'surrogatepass')
    return hashlib.blake2b(data, digest_size=8).hexdigest()
