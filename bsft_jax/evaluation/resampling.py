"""Bounds averages by drawing whole cases again, for figures that `statistics` has no formula for.

Array letters are those of `bsft_jax.ops`; E are the draws, I the items, of which a case has some.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bsft_jax.evaluation import statistics

# Below this share of draws with a value, their percentiles say nothing.
_LEAST_DEFINED = 0.5


def draw_clusters(clusters: int, resamples: int, seed: int) -> np.ndarray:
    """Returns how often each cluster is drawn in each resample, float64[E, U] (Efron 1979)."""
    rng = np.random.default_rng(seed)
    shares_U = np.full(clusters, 1 / clusters)
    return rng.multinomial(clusters, shares_U, size=resamples).astype(np.float64)


def percentile_interval(
    values_E: np.ndarray, units: int, level: float = statistics.LEVEL
) -> list[float] | None:
    """Returns the middle of the resampled values as [low, high].

    Returns None for fewer than two units, and where most resamples have no value (NaN).
    """
    defined = values_E[np.isfinite(values_E)]
    if units < 2 or len(defined) < _LEAST_DEFINED * len(values_E):
        return None
    return np.quantile(defined, [(1 - level) / 2, (1 + level) / 2]).tolist()


def average_ratio(
    top_I: np.ndarray,
    bottom_I: np.ndarray,
    case_I: np.ndarray,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """Returns sum(top) / sum(bottom), a value within [0, 1], with two intervals of 95 % over cases.

    Args:
      top_I: by item, what is counted.
      bottom_I: by item, what it is counted of; items with 0 are left out.
      case_I: number of the case of each item.
      resamples: draws of the bootstrap.
      seed: of the draws.

    Returns:
      `value`: None where nothing is counted. `items`, `cases`: how many it rests on.
      `wilson`: `statistics.unit_interval`, Wilson's interval (1927) with cases as units.
      `bootstrap`: percentiles over draws of whole cases.
      The intervals are None for fewer than two cases.
    """
    kept = bottom_I > 0
    top_I, bottom_I = top_I[kept], bottom_I[kept]
    case_I = np.unique(case_I[kept], return_inverse=True)[1]
    cases = int(case_I.max()) + 1 if len(case_I) else 0
    found: dict[str, Any] = {'value': None, 'wilson': None, 'bootstrap': None}
    found |= {'items': len(top_I), 'cases': cases}
    if not cases:
        return found
    top_U, bottom_U = np.bincount(case_I, top_I), np.bincount(case_I, bottom_I)
    value, total = top_U.sum() / bottom_U.sum(), bottom_U.sum()
    found['value'] = float(value)
    if cases < 2:
        return found
    # The jackknife's factor for one case in `cases`.
    influence_U = (top_U - value * bottom_U) / total * (cases / (cases - 1)) ** 0.5
    found['wilson'] = statistics.unit_interval(value, (0.0, 0.0), influence_U, bottom_U / total)
    times_EU = draw_clusters(cases, resamples, seed)
    found['bootstrap'] = percentile_interval((times_EU @ top_U) / (times_EU @ bottom_U), cases)
    return found
