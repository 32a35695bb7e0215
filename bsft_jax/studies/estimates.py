"""Estimates the macro-F1 of a study's settings, and compares two of them record by record.

Cases are drawn at random, and so are trainings where a setting has several seeds. Intervals and
tests are those of `evaluation.statistics`. One seed cannot show how trainings vary: its interval
and its p speak of the trained models alone, on other cases.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bsft_jax.evaluation import casewise, statistics
from bsft_jax.studies.pairing import Setting, SettingResults, SharedRecords

# Smallest effect found with 80 % power, in half widths of the 95 % interval: (1.96 + 0.84) / 1.96.
_EFFECT_PER_HALF_WIDTH = 2.80 / 1.96


def estimate(records: SharedRecords, row: SettingResults, group: str) -> dict[str, Any]:
    """Returns `value`, `low` and `high` of the macro-F1 of a group or `overall`.

    `low` and `high` are None for one case.
    """
    mean = _mean(records, row, group)
    interval = statistics.unit_interval(
        mean.value,
        mean.bias,
        mean.influence_U,
        mean.weight_U,
        trainings=statistics.Trainings.of_seeds(mean.values_J),
    )
    low, high = interval or (None, None)
    return {'value': mean.value, 'low': low, 'high': high}


def compare(
    records: SharedRecords,
    rows: dict[Setting, SettingResults],
    group: str,
    first: Setting,
    second: Setting,
    *,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """Returns one of `comparisons` of summary.json, the first setting minus the second.

    The seeds are paired where both settings have the same, and vary apart otherwise.

    Returns:
      `name`, `difference`, `low`, `high` and `p`.
      `reason`: why `low` and `high` are None; None where they are not.
      `cases`: number of cases of the group.
      `trainings`: smaller number of seeds of the two, None for two models that were not trained.
    """
    one, other = rows[first], rows[second]
    means = _mean(records, one, group), _mean(records, other, group)
    share_U = casewise.difference_by_case(
        _counts(records, one, group),
        _counts(records, other, group),
        records.num_cases,
        paired=one.seeds == other.seeds,
    )
    return {'name': f'{group}: {first.label} - {second.label}'} | assess_difference(
        share_U,
        means[0].weight_U,
        (one.seeds, other.seeds),
        (means[0].values_J, means[1].values_J),
        resamples=resamples,
        seed=seed,
    )


def assess_difference(
    share_U: np.ndarray,
    weight_U: np.ndarray,
    seeds: tuple[tuple, tuple],
    values: tuple[np.ndarray, np.ndarray],
    *,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """Returns what `compare` does, but for the `name`.

    Args:
      share_U: by case, the shares that add up to the difference.
      weight_U: by case, its weight in the difference, 0 for a case that has none.
      seeds: the seeds of both sides, paired where they are the same.
      values: what is compared, for each seed of both sides.
      resamples: number of exchanges.
      seed: of the exchanges.
    """
    if seeds[0] == seeds[1]:
        trainings = statistics.Trainings.of_seeds(values[0] - values[1])
    else:
        trainings = [
            part for values_J in values for part in statistics.Trainings.of_seeds(values_J)
        ]
    found = statistics.paired_difference(
        share_U, weight_U, trainings=trainings, resamples=resamples, seed=seed
    )
    low, high = found.interval or (None, None)
    return {
        'difference': found.value,
        'low': low,
        'high': high,
        'p': found.p,
        'reason': found.reason or None,
        'cases': int((weight_U > 0).sum()),
        'trainings': min((len(side) for side in seeds if side != (None,)), default=None),
    }


def smallest_effect(comparison: dict[str, Any]) -> dict[str, Any]:
    """Returns the `difference` that a comparison finds with 80 % power, by its interval's width.

    It is None, with the `reason`, where the comparison has no interval or too few cases to exclude
    any difference.
    """
    reason = comparison['reason']
    if not reason and comparison['cases'] < statistics.fewest_cases():
        reason = f'{comparison["cases"]} cases are too few'
    if reason:
        return {'difference': None, 'reason': reason}
    width = comparison['high'] - comparison['low']
    return {'difference': _EFFECT_PER_HALF_WIDTH * width / 2, 'reason': None}


def macro_f1_by_category(row: SettingResults) -> list[float]:
    """Returns the macro-F1 of each category, averaged over the seeds."""
    return [
        float(np.mean(casewise.macro_f1(counts.hits_VJK.sum(0), counts.support_VJK.sum(0))))
        for counts in row.counts
    ]


def _mean(records: SharedRecords, row: SettingResults, group: str) -> casewise.MeanMacroF1:
    return casewise.mean_macro_f1(_counts(records, row, group), records.num_cases)


def _counts(
    records: SharedRecords, row: SettingResults, group: str
) -> list[casewise.CategoryCounts]:
    return [row.counts[c] for c in records.category_indices(group)]
