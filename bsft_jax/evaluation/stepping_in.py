"""Computes the section `stepping_in` of metrics.json: how well a model tells when to step in.

It has no need of behavior tokens (`evaluation.operating`), so that all arms have it.

Array letters are those of `bsft_jax.ops`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from bsft_jax.evaluation import probabilities
from bsft_jax.evaluation.operating import Choices, OperatingCurve, dials_between, find_choices

# Rates of over-intervention at which missed interventions are given, in per cent.
PERCENT_OVER = (5, 10)
MAX_POINTS = 40


def stepping_in_metrics(
    rows: Sequence[Mapping[str, Any]],
    levels: Mapping[str, float],
    case_R: np.ndarray,
    macro_f1_of: Callable[[np.ndarray], float],
) -> dict[str, Any] | None:
    """Scores how well a model tells when to step in, whatever the policy made it do.

    A record is *due* where its label is above the lowest level. The model steps in where its answer
    is, by `option_behaviors`; where no record has these, by its behavior token.

    Args:
      rows: rows of `predictions.jsonl`.
      levels: the level of each behavior; one that the rows name besides has 0.
      case_R: number of each record's case.
      macro_f1_of: returns the overall macro-F1 of the predictions int[R].

    Returns:
      `source`: what the probability of stepping in is of, `tokens` or `options`.
      `n`, `due`: labelled records whose options leave it to the model to step in, and how many of
        these are due.
      `auroc`, `average_precision`, `brier`, `ece`: of the probability of stepping in on these
        records; the first two by its log-odds. None without a record, `auroc` also with one class
        alone, `average_precision` also where none is due.
      `missed_at_5_percent`, `missed_at_10_percent`: rate of missed interventions at these rates of
        over-intervention, as `OperatingCurve.at_rate` has it. None where no record counts.
      `points`: at most 41 settings of the dial, ascending, with what the policy `dial:B` does there
        (a model without tokens has no such policy).
      None instead of all that where the rows have no scores, or neither tokens nor options that
      stand for a behavior.
    """
    choices = find_choices(rows, levels)
    if choices is None:
        return None
    low, _ = choices.level_range
    scored_R = choices.open_R & ~np.isnan(choices.label_R)
    due_R, log_odds_R = choices.label_R[scored_R] > low, choices.log_odds_R[scored_R]
    # Two exponents, neither of which overflows.
    probs_R = np.exp(-np.logaddexp(0.0, -log_odds_R))
    curve = OperatingCurve.of(choices)
    has_any = bool(scored_R.any())
    return {
        'source': choices.source,
        'n': int(scored_R.sum()),
        'due': int(due_R.sum()),
        'auroc': probabilities.auroc(due_R, log_odds_R),
        'average_precision': probabilities.average_precision(due_R, log_odds_R),
        'brier': probabilities.brier_score(due_R, probs_R) if has_any else None,
        'ece': probabilities.expected_calibration_error(due_R, probs_R) if has_any else None,
        **{
            f'missed_at_{percent}_percent': curve and curve.at_rate(percent / 100).missed
            for percent in PERCENT_OVER
        },
        'points': [] if curve is None else _points(curve, case_R, macro_f1_of),
    }


def _points(
    curve: OperatingCurve, case_R: np.ndarray, macro_f1_of: Callable[[np.ndarray], float]
) -> list[dict[str, Any]]:
    return [_point(curve, dial, case_R, macro_f1_of) for dial in _dials(curve.path.dial_E)]


def _dials(dial_E: np.ndarray) -> list[float]:
    """Returns 0 and settings between those at which choices change, evenly many changes apart."""
    dials = dials_between(dial_E)
    dials = dials[~np.isnan(dials)]
    kept = np.unique(np.linspace(0, len(dials) - 1, MAX_POINTS).round().astype(int))
    return np.unique([0.0, *dials[kept]]).tolist()


def _point(
    curve: OperatingCurve,
    dial: float,
    case_R: np.ndarray,
    macro_f1_of: Callable[[np.ndarray], float],
) -> dict[str, Any]:
    """Returns one of `points`."""
    choices: Choices = curve.choices
    choice_R1 = curve.path.choice_at(dial)[:, None]
    prediction_R, level_R = (
        np.take_along_axis(value_Rn, choice_R1, 1)[:, 0]
        for value_Rn in (choices.prediction_Rn, choices.level_Rn)
    )
    low, _ = choices.level_range
    counts_R = curve.can_be_over_R | curve.can_be_missed_R
    alerts_R = counts_R & (level_R > low)
    alerts, cases = int(alerts_R.sum()), len(np.unique(case_R[counts_R]))
    return {
        'dial': dial,
        'over_intervention_rate': float((level_R > choices.label_R)[curve.can_be_over_R].mean()),
        'missed_intervention_rate': float(
            (level_R < choices.label_R)[curve.can_be_missed_R].mean()
        ),
        'ppv': float((choices.label_R[alerts_R] > low).mean()) if alerts else None,
        'alerts_per_100_cases': 100 * alerts / cases,
        'macro_f1': macro_f1_of(prediction_R),
    }
