"""Compares the interventions that settings miss at equal over-intervention: the second endpoint.

Array letters are those of `bsft_jax.ops`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from bsft_jax.evaluation import statistics
from bsft_jax.evaluation.operating import OperatingCurve, find_choices
from bsft_jax.studies import estimates
from bsft_jax.studies.pairing import Setting, SettingResults, SharedRecords

OVER_RATE = 0.05
# Rates at which a study's page shows every arm: 0 to 50 % in steps of one.
SHOWN_RATES = tuple(percent / 100 for percent in range(51))
# Rates that differ by less are equal.
_ROUNDING = 1e-9


@dataclasses.dataclass(frozen=True)
class MissedAtRate:
    """Holds the missed interventions of one setting at one rate of over-intervention.

    Attributes:
      seeds: seeds in ascending order.
      missed_J: rate of missed interventions.
      over_J: rate of over-intervention that is met: the one asked for, or less.
      withheld_J: share of the answers that step in that is withheld to meet it.
      part_U: by case, parts that add up to the mean of `missed_J`.
      weight_U: by case, its weight in the rates.
    """

    seeds: tuple
    missed_J: np.ndarray
    over_J: np.ndarray
    withheld_J: np.ndarray
    part_U: np.ndarray
    weight_U: np.ndarray


def missed_at_rate(
    records: SharedRecords, row: SettingResults, levels: Mapping[str, float], over_rate: float
) -> MissedAtRate | None:
    """Returns what a setting misses at a rate; None without scores or records that count."""
    found, parts, curve = [], [], None
    for predictions in row.predictions:
        choices = find_choices(predictions, levels)
        curve = None if choices is None else OperatingCurve.of(choices)
        if curve is None:
            return None
        found.append(curve.at_rate(over_rate))
        parts.append(curve.missed_by_case(over_rate, records.case_R, records.num_cases))
    return MissedAtRate(
        row.seeds,
        np.array([at.missed for at in found]),
        np.array([at.over for at in found]),
        np.array([at.withheld for at in found]),
        np.mean(parts, axis=0),
        curve.weight_by_case(records.case_R, records.num_cases),
    )


def missed_by_rate(
    rows: Mapping[Setting, SettingResults], levels: Mapping[str, float]
) -> dict[str, Any]:
    """Returns what each arm misses at each of SHOWN_RATES.

    A curve does not depend on the policy, so one row of an arm under a prompt stands for all.

    Returns:
      `rates`.
      `arms`: `arm`, `prompt`, `seeds` (their number), and by rate `missed` (mean of the seeds),
        `low` and `high` (least and most of them) and `over` (mean of the rates that are met, as
        `MissedAtRate.over_J`). An arm without scores of stepping in has no entry.
    """
    arms, seen = [], set()
    for setting, row in rows.items():
        curves = []
        if (setting.arm, setting.prompt) not in seen:
            choices = [find_choices(predictions, levels) for predictions in row.predictions]
            curves = [choice and OperatingCurve.of(choice) for choice in choices]
        if not curves or any(curve is None for curve in curves):
            continue
        seen.add((setting.arm, setting.prompt))
        found = [[curve.at_rate(rate) for curve in curves] for rate in SHOWN_RATES]
        arms.append(
            {
                'arm': setting.arm,
                'prompt': setting.prompt,
                'seeds': len(curves),
                'missed': [float(np.mean([at.missed for at in of_seeds])) for of_seeds in found],
                'low': [min(at.missed for at in of_seeds) for of_seeds in found],
                'high': [max(at.missed for at in of_seeds) for of_seeds in found],
                'over': [float(np.mean([at.over for at in of_seeds])) for of_seeds in found],
            }
        )
    return {'rates': list(SHOWN_RATES), 'arms': arms}


def compare_missed(
    records: SharedRecords,
    rows: dict[Setting, SettingResults],
    pairs: list[tuple[Setting, Setting]],
    *,
    levels: Mapping[str, float],
    over_rate: float = OVER_RATE,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """Compares pairs of settings, the first minus the second.

    Args:
      records: the shared records.
      rows: the results by setting.
      pairs: the second endpoint, then other pairs.
      levels: the level of each behavior.
      over_rate: rate of over-intervention.
      resamples: number of exchanges of a test.
      seed: of the exchanges.

    Returns:
      `over_rate`.
      `reason`: why there is no second endpoint; None where there is one.
      `comparisons`: of the pairs that can be compared, each what `estimates.compare` returns with
        `p_holm` and `endpoint`, and for both sides (`first`, `second`) the `setting` and the means
        over the seeds of `missed`, `over` and `withheld`. Without a second endpoint there is none.
    """
    first, second = pairs[0]
    settings = dict.fromkeys(setting for pair in pairs for setting in pair)
    sides = {
        setting: missed_at_rate(records, rows[setting], levels, over_rate) for setting in settings
    }
    reason = None
    if first.arm == second.arm and first.prompt == second.prompt:
        reason = 'both sides of the endpoint are one model, with one dial'
    elif sides[first] is None or sides[second] is None:
        lacking = second if sides[first] else first
        reason = f'{lacking.label} has no scores of stepping in, or all or no records are due'
    comparisons = []
    for pair in [] if reason else pairs:
        one, other = (sides[setting] for setting in pair)
        if one is None or other is None:
            continue
        comparisons.append(
            {
                'name': f'{pair[0].label} - {pair[1].label}',
                **estimates.assess_difference(
                    one.part_U - other.part_U,
                    one.weight_U,
                    (one.seeds, other.seeds),
                    (one.missed_J, other.missed_J),
                    resamples=resamples,
                    seed=seed,
                ),
                'p_holm': None,
                'endpoint': pair == pairs[0],
                'first': _side(pair[0], one),
                'second': _side(pair[1], other),
            }
        )
    others = comparisons[1:]
    for comparison, p in zip(others, statistics.holm_adjust([c['p'] for c in others]), strict=True):
        comparison['p_holm'] = p
    return {'over_rate': over_rate, 'reason': reason, 'comparisons': comparisons}


def _side(setting: Setting, at: MissedAtRate) -> dict[str, Any]:
    return {
        'setting': setting.label,
        'missed': float(at.missed_J.mean()),
        'over': float(at.over_J.mean()),
        'withheld': float(at.withheld_J.mean()),
    }


def describe_reach(found: Mapping[str, Any]) -> list[str]:
    """Returns a note for each side of the second endpoint whose dial does not meet the rate."""
    notes, rate = [], f'{100 * found["over_rate"]:g} %'
    for comparison in found['comparisons'][:1]:
        for side in (comparison['first'], comparison['second']):
            if side['withheld'] > 0:
                notes.append(
                    f'{side["setting"]} is above {rate} over-intervention at its lowest setting: '
                    f'{100 * side["withheld"]:.0f} % of what steps in there is withheld at random.'
                )
            elif side['over'] < found['over_rate'] - _ROUNDING:
                notes.append(
                    f'{side["setting"]} misses least at {100 * side["over"]:.1f} % '
                    f'over-intervention, below {rate}, and is compared there.'
                )
    return notes
