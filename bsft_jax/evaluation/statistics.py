"""Confidence intervals and p-values by resampling whole cases.

Letters in names: N rows, M clusters, X cells of a table of counts, R resamples.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_DRAWS_AT_ONCE = 1 << 23


def cluster_ids(names: Sequence[str]) -> np.ndarray:
    """Names → cluster numbers int[N]; a row with an empty name is a cluster of its own."""
    numbers: dict = {}
    keys = (name or ('row', n) for n, name in enumerate(names))
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)


def draw_times(rng: np.random.Generator, units: int, resamples: int) -> np.ndarray:
    """How often each of M units is drawn when M are drawn with replacement: float64[R, M]."""
    drawn = rng.integers(units, size=(resamples, units)) + np.arange(resamples)[:, None] * units
    return np.bincount(drawn.ravel(), minlength=resamples * units).reshape(resamples, units).astype(float)


def bootstrap_sums(
    clusters_N: np.ndarray, cells_N: np.ndarray, cells: int, *, resamples: int = 1000, seed: int = 0
) -> np.ndarray:
    """Counts per cell in `resamples` draws of M clusters with replacement: float[R, cells].

    Every row counts once in its cell (`cells_N` in [0, cells)) and moves with its cluster
    (`clusters_N`, consecutive numbers from 0).
    """
    rng = np.random.default_rng(seed)
    n_clusters = int(clusters_N.max()) + 1
    used_X, column_N = np.unique(cells_N, return_inverse=True)
    counts_MX = np.zeros((n_clusters, len(used_X)))
    np.add.at(counts_MX, (clusters_N, column_N), 1.0)
    sums = np.zeros((resamples, cells))
    chunk = max(1, _DRAWS_AT_ONCE // n_clusters)
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        sums[start : start + size, used_X] = draw_times(rng, n_clusters, size) @ counts_MX
    return sums


def interval(values_R: np.ndarray, level: float = 0.95) -> list[float] | None:
    """Percentile interval of resampled values; resamples without a value (NaN) are left out."""
    values_R = values_R[~np.isnan(values_R)]
    if not len(values_R):
        return None
    return [float(q) for q in np.quantile(values_R, [(1 - level) / 2, (1 + level) / 2])]


def mean_present(values: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
    """Mean over the first axis of the values that are not NaN; NaN where none is."""
    values = np.asarray(values, dtype=np.float64)
    present = ~np.isnan(values)
    total = np.where(present, values, 0.0).sum(0)
    number = present.sum(0)
    return np.where(number > 0, total / np.maximum(number, 1), np.nan)


def two_sided_p(differences_R: np.ndarray) -> float:
    """Twice the smaller share of resampled differences on either side of zero, within [1/R, 1].

    Zeros count on both sides; resamples without a value (NaN) are left out, 1 when none has one.
    """
    differences_R = differences_R[~np.isnan(differences_R)]
    if not len(differences_R):
        return 1.0
    share = min((differences_R <= 0).mean(), (differences_R >= 0).mean())
    return float(min(1.0, max(2 * share, 1 / len(differences_R))))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment, in the order given: the family-wise error stays below the level."""
    order = np.argsort(p_values, kind='stable')
    adjusted = np.zeros(len(p_values))
    adjusted[order] = np.asarray(p_values, dtype=np.float64)[order] * np.arange(len(p_values), 0, -1)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(adjusted[order]))
    return adjusted.tolist()
