"""Measures how far raters agree: raw agreement, Krippendorff's alpha, Gwet's AC1 and AC2.

Array letters are those of `bsft_jax.ops`; I are the units that are rated, Q the values that a
rating can have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bsft_jax.evaluation import resampling


def count_values(ratings: Sequence[Mapping[Any, int]], values: int) -> np.ndarray:
    """Returns how many raters gave each unit each value, float64[I, Q].

    Args:
      ratings: by unit, the value of each rater, an index below `values`. A rater may be missing.
      values: number of values that a rating can have, used or not.
    """
    count_IQ = np.zeros((len(ratings), values))
    for unit, by_rater in enumerate(ratings):
        for value in by_rater.values():
            count_IQ[unit, value] += 1
    return count_IQ


def ordinal_weights(values: int) -> np.ndarray:
    """Returns Gwet's ordinal weights (2014, 3.5), [Q, Q]: 1 for equal values, 0 for both ends."""
    steps_QQ = np.abs(np.subtract.outer(np.arange(values), np.arange(values)))
    return 1 - steps_QQ * (steps_QQ + 1) / (values * (values - 1))


def measure_agreement(
    count_IQ: np.ndarray,
    case_I: np.ndarray,
    *,
    ordinal: bool,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any] | None:
    """Measures the agreement of raters on units, with 95 % intervals over cases.

    Args:
      count_IQ: what `count_values` returns.
      case_I: number of the case of each unit, from 0.
      ordinal: whether the values have an order.
      resamples: draws of the bootstrap.
      seed: of the draws.

    Returns:
      None where no unit has two ratings, else:
      `units`: units with at least two ratings.
      `agreement`: share of the pairs of ratings of a unit that are equal, averaged over units.
      `alpha`: Krippendorff's alpha (2019), nominal or ordinal; None where all ratings are equal.
      `ac`: Gwet's AC1 (2008), or his AC2 with ordinal weights where `ordinal`.
      `alpha_interval`, `ac_interval`: percentiles of the cluster bootstrap, None for one case.
      `prevalence`: share of each value, averaged over units.
    """
    rated = count_IQ.sum(1) > 0
    count_IQ, case_I = count_IQ[rated], np.unique(case_I[rated], return_inverse=True)[1]
    paired = count_IQ.sum(1) > 1
    if not paired.any():
        return None
    parts = _Parts(count_IQ, ordinal)
    once_1I = np.ones((1, len(count_IQ)))
    drawn_EI = resampling.draw_clusters(int(case_I.max()) + 1, resamples, seed)[:, case_I]
    found: dict[str, Any] = {
        'units': int(paired.sum()),
        'agreement': float(_Parts(count_IQ, False).agreement(once_1I)[0]),
    }
    for name, measure in (('alpha', parts.alpha), ('ac', parts.gwet)):
        value = float(measure(once_1I)[0])
        found[name] = value if np.isfinite(value) else None
        found[f'{name}_interval'] = resampling.percentile_interval(
            measure(drawn_EI), units=len(np.unique(case_I[paired]))
        )
    found['prevalence'] = parts.prevalence(once_1I)[0].tolist()
    return found


class _Parts:
    """Holds what each unit adds to the coefficients, so that a resample is a weighted sum.

    Every method takes how often each unit counts, [E, I], and returns a value per resample, [E];
    NaN where it is not defined.
    """

    def __init__(self, count_IQ: np.ndarray, ordinal: bool):
        values, total_I = count_IQ.shape[1], count_IQ.sum(1)
        self._ordinal = ordinal
        self._weight_QQ = ordinal_weights(values) if ordinal else np.eye(values)
        self._paired_I = (total_I > 1).astype(np.float64)
        self._share_IQ = count_IQ / total_I[:, None]
        # A unit with one rating has no pair; the divisor there is of no account.
        pairs_IQQ = count_IQ[:, :, None] * count_IQ[:, None, :]
        pairs_IQQ -= np.eye(values) * count_IQ[:, None, :]
        self._coincidence_IQQ = pairs_IQQ / np.maximum(total_I - 1, 1)[:, None, None]
        agreeing_I = (pairs_IQQ * self._weight_QQ).sum((1, 2))
        self._agreement_I = agreeing_I / np.maximum(total_I * (total_I - 1), 1)

    def prevalence(self, times_EI: np.ndarray) -> np.ndarray:
        """Returns the share of each value, [E, Q]."""
        return times_EI @ self._share_IQ / times_EI.sum(1, keepdims=True)

    def agreement(self, times_EI: np.ndarray) -> np.ndarray:
        """Returns the weighted share of agreeing pairs of ratings."""
        with np.errstate(invalid='ignore', divide='ignore'):
            return times_EI @ self._agreement_I / (times_EI @ self._paired_I)

    def gwet(self, times_EI: np.ndarray) -> np.ndarray:
        """Returns AC1, or AC2 where the values have an order."""
        share_EQ, values = self.prevalence(times_EI), len(self._weight_QQ)
        chance_E = (share_EQ * (1 - share_EQ)).sum(1) * self._weight_QQ.sum()
        chance_E /= values * (values - 1)
        return (self.agreement(times_EI) - chance_E) / (1 - chance_E)

    def alpha(self, times_EI: np.ndarray) -> np.ndarray:
        """Returns Krippendorff's alpha."""
        seen_EQQ = np.tensordot(times_EI, self._coincidence_IQQ, axes=1)
        count_EQ = seen_EQQ.sum(2)
        distance_EQQ = self._distances(count_EQ)
        observed_E = (seen_EQQ * distance_EQQ).sum((1, 2))
        chance_E = (count_EQ[:, :, None] * count_EQ[:, None, :] * distance_EQQ).sum((1, 2))
        with np.errstate(invalid='ignore', divide='ignore'):
            return 1 - (count_EQ.sum(1) - 1) * observed_E / chance_E

    def _distances(self, count_EQ: np.ndarray) -> np.ndarray:
        """Returns squared distances of values, [E or 1, Q, Q].

        That of two ordered values is the number of ratings from the one to the other, each of the
        two counted half.
        """
        if not self._ordinal:
            return 1 - np.eye(count_EQ.shape[1])[None]
        # Ratings up to the middle of each value.
        rank_EQ = np.cumsum(count_EQ, axis=1) - count_EQ / 2
        return (rank_EQ[:, :, None] - rank_EQ[:, None, :]) ** 2
