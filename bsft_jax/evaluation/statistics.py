"""Confidence intervals and p-values by resampling whole cases.

Array letters are those of `bsft_jax.ops`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# Limits the memory of one chunk of resamples: 64 MiB of int64 indices.
_MAX_DRAWS_PER_CHUNK = 1 << 23


def cluster_ids(names: Sequence[str]) -> np.ndarray:
    """Returns a cluster number int[R] per name; a record with an empty name is its own cluster."""
    numbers: dict = {}
    keys = (name or ('row', n) for n, name in enumerate(names))
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)


def resample_counts(rng: np.random.Generator, units: int, resamples: int) -> np.ndarray:
    """Draws `units` of `units` with replacement, `resamples` times.

    Returns:
      float64[E, U]: how often each resample holds each unit.
    """
    drawn = rng.integers(units, size=(resamples, units)) + np.arange(resamples)[:, None] * units
    return (
        np.bincount(drawn.ravel(), minlength=resamples * units)
        .reshape(resamples, units)
        .astype(float)
    )


def bootstrap_sums(
    clusters_R: np.ndarray, cells_R: np.ndarray, cells: int, *, resamples: int = 1000, seed: int = 0
) -> np.ndarray:
    """Returns the counts float64[E, Z] per cell in resamples of whole clusters with replacement.

    Args:
      clusters_R: cluster of each record, consecutive numbers from 0. A record is drawn with its
        cluster.
      cells_R: cell in [0, cells) in which each record counts once.
      cells: number of cells, Z.
      resamples: number of resamples, E.
      seed: of the random draws.
    """
    rng = np.random.default_rng(seed)
    units = int(clusters_R.max()) + 1
    # Only cells that occur take part in the matmul.
    used_Z, column_R = np.unique(cells_R, return_inverse=True)
    counts_UZ = np.zeros((units, len(used_Z)))
    np.add.at(counts_UZ, (clusters_R, column_R), 1.0)
    sums_EZ = np.zeros((resamples, cells))
    chunk = max(1, _MAX_DRAWS_PER_CHUNK // units)
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        sums_EZ[start : start + size, used_Z] = resample_counts(rng, units, size) @ counts_UZ
    return sums_EZ


def percentile_interval(values_E: np.ndarray, level: float = 0.95) -> list[float] | None:
    """Returns [low, high], the central `level` of resampled values.

    NaN stands for a resample without a value and is left out; None when there is no value.
    """
    values_E = values_E[~np.isnan(values_E)]
    if not len(values_E):
        return None
    return [float(q) for q in np.quantile(values_E, [(1 - level) / 2, (1 + level) / 2])]


def nan_mean(values: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
    """Returns the mean over the first axis of the values that are not NaN; NaN if all are.

    Unlike `np.nanmean` it does not warn of the latter.
    """
    values = np.asarray(values, dtype=np.float64)
    present = ~np.isnan(values)
    total = np.where(present, values, 0.0).sum(0)
    number = present.sum(0)
    return np.where(number > 0, total / np.maximum(number, 1), np.nan)


def two_sided_p(differences_E: np.ndarray) -> float:
    """Returns twice the smaller share of resampled differences on one side of zero.

    The result lies within [1/E, 1]. Zeros count on both sides. NaN stands for a resample without a
    value and is left out; the result is 1 when no resample has a value.
    """
    differences_E = differences_E[~np.isnan(differences_E)]
    if not len(differences_E):
        return 1.0
    share = min((differences_E <= 0).mean(), (differences_E >= 0).mean())
    return float(min(1.0, max(2 * share, 1 / len(differences_E))))


def holm_adjust(p_values: Sequence[float]) -> list[float]:
    """Adjusts p-values, in the order given, by Holm's step-down method.

    Rejecting where the result is below a level keeps the family-wise error rate below that level.
    """
    order = np.argsort(p_values, kind='stable')
    factors = np.arange(len(p_values), 0, -1)
    adjusted = np.zeros(len(p_values))
    adjusted[order] = np.asarray(p_values, dtype=np.float64)[order] * factors
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(adjusted[order]))
    return adjusted.tolist()
