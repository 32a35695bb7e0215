"""Splits by cluster, so that what belongs together stays together."""

from __future__ import annotations

import random
from collections.abc import Sequence


def split_of_clusters(cluster_ids: Sequence[str], seed: int) -> list[str]:
    """Split of each entry: 80/10/10 of the distinct clusters, by a seeded permutation of their names."""
    names = sorted(set(cluster_ids))
    random.Random(f'split/{seed}').shuffle(names)
    tenth = max(1, round(len(names) / 10))
    of = dict.fromkeys(names, 'train')
    of.update(dict.fromkeys(names[:tenth], 'test'))
    of.update(dict.fromkeys(names[tenth : 2 * tenth], 'validation'))
    return [of[name] for name in cluster_ids]
