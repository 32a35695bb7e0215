"""Compares raters with one another, and each rater with himself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bsft_jax.evaluation import agreement
from bsft_jax.review_kit import wording
from bsft_jax.review_kit.ratings import Judgement, Ratings


def describe_raters(ratings: Ratings) -> list[dict[str, Any]]:
    """Returns by rater the comparisons, the median seconds of one, and the attention items."""
    found = []
    for rater, passed in sorted(ratings.checks.items()):
        own = [j for j in ratings.judgements if j.rater == rater]
        found.append(
            {
                'rater': rater,
                'comparisons': sum(not j.repeated for j in own),
                'seconds': float(np.median([j.seconds for j in own])),
                'checks': len(passed),
                'checks_failed': passed.count(False),
            }
        )
    return found


def inter_rater(
    comparisons: Sequence[Mapping[str, Any]],
    by_comparison: Mapping[int, list[Judgement]],
    case_I: np.ndarray,
) -> dict[str, dict[str, Any] | None]:
    """Returns what `agreement.measure_agreement` says of the preference and of each scale.

    The values of the preference are the first and the second system of the pair, a tie, and
    neither. The units of a scale are answers; a value that does not apply is no rating.
    """
    chosen = sorted(by_comparison)
    choices = [
        {
            j.rater: (*comparisons[i]['systems'], 'tie', 'neither').index(j.choice)
            for j in by_comparison[i]
        }
        for i in chosen
    ]
    found = {
        'preference': agreement.measure_agreement(
            agreement.count_values(choices, 4), case_I[chosen], ordinal=False
        )
    }
    answers = [(i, system) for i in chosen for system in comparisons[i]['systems']]
    case_of_answer = case_I[[i for i, _ in answers]]
    for scale in wording.SCALES:
        values = [
            {
                j.rater: value - 1
                for j in by_comparison[i]
                if (value := j.scales[system][scale.name]) is not None
            }
            for i, system in answers
        ]
        count_IQ = agreement.count_values(values, len(scale.anchors))
        found[scale.name] = agreement.measure_agreement(count_IQ, case_of_answer, ordinal=True)
    return found


def intra_rater(judgements: Sequence[Judgement]) -> dict[str, Any]:
    """Returns how far raters judge a repeated comparison as they did before.

    Returns:
      `all` and by number of the rater: `repeats`; `preference`, the share with the same choice;
      by scale the share of equal values, and under `within_one` of values at most one apart. A
      share is None where there is nothing to compare.
    """
    before = {(j.rater, j.comparison): j for j in judgements if not j.repeated}
    pairs = [(before[j.rater, j.comparison], j) for j in judgements if j.repeated]
    raters = sorted({j.rater for j in judgements})
    return {
        'all': _consistency(pairs),
        **{str(r): _consistency([p for p in pairs if p[0].rater == r]) for r in raters},
    }


def _consistency(pairs: Sequence[tuple[Judgement, Judgement]]) -> dict[str, Any]:
    same = [first.choice == second.choice for first, second in pairs]
    found: dict[str, Any] = {'repeats': len(pairs), 'preference': _share(same), 'within_one': {}}
    for scale in wording.SCALES:
        apart = [
            abs((value or 0) - (again or 0)) if (value is None) == (again is None) else np.inf
            for first, second in pairs
            for system in first.shown
            for value, again in [
                (first.scales[system][scale.name], second.scales[system][scale.name])
            ]
        ]
        found[scale.name] = _share([distance == 0 for distance in apart])
        found['within_one'][scale.name] = _share([distance <= 1 for distance in apart])
    return found


def _share(hits: Sequence[bool]) -> float | None:
    return sum(hits) / len(hits) if hits else None
