"""A part of many records that stands for all of them."""

from __future__ import annotations

from collections.abc import Sequence

from bsft_jax.behaviorbench.records import Record, cluster_of


def spread(records: Sequence[Record], limit: int) -> list[Record]:
    """At most `limit` of the records, whole cases that lie evenly over all of them; all for a limit of 0.

    A file sorted by kind gives some of every kind, and twins stay together. Only the last case is cut.
    """
    if not limit or len(records) <= limit:
        return list(records)
    case_of = [cluster_of(vars(record)) or i for i, record in enumerate(records)]
    cases = list(dict.fromkeys(case_of))
    number = -(-limit * len(cases) // len(records))
    chosen = {cases[k * len(cases) // number] for k in range(number)}
    return [record for record, case in zip(records, case_of, strict=True) if case in chosen][:limit]
