"""Pairs the results of a study record by record.

Array letters are those of `bsft_jax.ops`.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from bsft_jax.errors import UserError
from bsft_jax.evaluation import casewise, metrics, statistics
from bsft_jax.records.record import cluster_of

# Every result must have this share of the records of the largest one.
_MIN_SHARED_FRACTION = 0.95


class Setting(NamedTuple):
    """Identifies a row of the summary: one arm under one policy and prompt style."""

    arm: str
    policy: str
    prompt: str

    @property
    def label(self) -> str:
        """Returns `arm/policy`, followed by `/prompt` unless that is `plain`."""
        return '/'.join(self[:2] if self.prompt == 'plain' else self)


@dataclasses.dataclass
class SettingResults:
    """Holds the results of one setting.

    Attributes:
      seeds: seeds in ascending order; (None,) for a model that was not trained.
      results: rows of results.jsonl in the order of `seeds`.
      predictions: rows of predictions.jsonl of the shared records, in the order of `seeds`.
      counts: counts of each category of the shared records, by case and seed.
    """

    seeds: tuple
    results: list[dict[str, Any]]
    predictions: list[list[dict[str, Any]]]
    counts: list[casewise.CategoryCounts]


@dataclasses.dataclass
class SharedRecords:
    """Holds the records that every result of a study has scored, in the order of their ids.

    Attributes:
      categories: names of the categories.
      members: names of the categories by group.
      category_R: index of each record's category.
      answer_R: index of each record's right option.
      case_R: number of each record's case.
      left_out: number of records that some result lacks.
    """

    categories: list[str]
    members: dict[str, list[str]]
    category_R: np.ndarray
    answer_R: np.ndarray
    case_R: np.ndarray
    left_out: int

    @property
    def num_cases(self) -> int:
        """Returns the number of cases."""
        return int(self.case_R.max()) + 1

    def category_indices(self, group: str) -> list[int]:
        """Returns the indices of the categories of a group or of `overall`; none if absent."""
        names = self.categories if group == 'overall' else self.members.get(group, [])
        return [self.categories.index(name) for name in names]

    def count(self, group: str) -> int:
        """Returns the number of records in a group or `overall`."""
        return int(np.isin(self.category_R, self.category_indices(group)).sum())


def pair_results(
    study: str, results: list[dict[str, Any]]
) -> tuple[SharedRecords, dict[Setting, SettingResults]]:
    """Collects results by setting and aligns their predictions on the records that all scored.

    Records differ where a longer prompt could not hold some of them.

    Args:
      study: its name.
      results: rows of results.jsonl, each with `predictions`, its rows of predictions.jsonl.

    Returns:
      The shared records, and the results by setting in the order of their first appearance.

    Raises:
      UserError: there is no result, two are of the same setting and seed, or their records differ.
    """
    by_setting: dict[Setting, dict] = {}
    scored: dict[int, dict[str, dict]] = {}
    for result in results:
        evaluation = result['evaluation']
        setting = Setting(result['arm'], evaluation['policy'], evaluation['prompt'])
        if result['seed'] in by_setting.setdefault(setting, {}):
            raise UserError(
                f'a second result of {setting.label}, seed {result["seed"]}', where=_where(result)
            )
        by_setting[setting][result['seed']] = result
        scored[id(result)] = _scored_by_id(result)
    records, predictions = _align(study, results, scored)
    rows = {}
    for setting, by_seed in by_setting.items():
        seeds = tuple(sorted(by_seed, key=seed_order))
        of_seeds = [by_seed[seed] for seed in seeds]
        rows_JR = [predictions[id(result)] for result in of_seeds]
        predictions_JR = np.array(
            [[row['prediction'] for row in rows_R] for rows_R in rows_JR], dtype=np.int64
        )
        counts = casewise.count_by_case(
            records.case_R,
            records.category_R,
            records.answer_R,
            predictions_JR,
            categories=len(records.categories),
        )
        rows[setting] = SettingResults(seeds, of_seeds, rows_JR, counts)
    return records, rows


def _align(
    study: str, results: list[dict[str, Any]], scored: dict[int, dict[str, dict]]
) -> tuple[SharedRecords, dict[int, list[dict[str, Any]]]]:
    """Returns the shared records and, by id() of a result, its rows of them."""
    if len({len(result['predictions']) for result in results if not _has_ids(result)}) > 1:
        raise UserError(
            'records without an id, and not as many in every result: '
            'they cannot be told from one another',
            where=study,
            fix='give the records an id, or evaluate again',
        )
    names = sorted(set.intersection(*map(set, scored.values()))) if scored else []
    # Older predictions have no digest of the words.
    fields = ['id', 'category', 'answer', 'digest']
    if not all(row.get('digest') for rows in scored.values() for row in rows.values()):
        fields.remove('digest')
    most = max(map(len, scored.values()), default=0)
    reference, ordered, predictions = None, [], {}
    # The largest result first: the others are compared with it.
    for result in sorted(results, key=lambda result: len(scored[id(result)]), reverse=True):
        rows_R = [scored[id(result)][name] for name in names]
        identity = [[row.get(field) for field in fields] for row in rows_R]
        if reference is None:
            reference, ordered = identity, rows_R
        if identity != reference or len(scored[id(result)]) < _MIN_SHARED_FRACTION * most:
            raise UserError(
                'other records than in the other results',
                where=_where(result),
                fix='evaluate all on the same data, split and limit',
            )
        predictions[id(result)] = rows_R
    if not reference:
        raise UserError(
            'no result with an answer and a prediction', where=study, fix='run its points first'
        )

    members = metrics.group_members(ordered)
    categories = sorted(name for names in members.values() for name in names)
    records = SharedRecords(
        categories=categories,
        members=members,
        category_R=np.array([categories.index(metrics.category_of(row)) for row in ordered]),
        answer_R=np.array([row['answer'] for row in ordered], dtype=np.int64),
        case_R=statistics.cluster_ids([cluster_of(row) for row in ordered]),
        left_out=most - len(ordered),
    )
    return records, predictions


def _scored_by_id(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Returns the predictions with an answer by record id; one without an id by its position."""
    scored = {}
    for n, row in enumerate(result['predictions']):
        if row.get('answer') is None or row.get('prediction') is None:
            continue
        if (name := row['id'] or f'nameless {n:08d}') in scored:
            raise UserError(
                f'two records have the id {name!r}', where=_where(result), fix='give each its own'
            )
        scored[name] = row
    return scored


def _has_ids(result: dict[str, Any]) -> bool:
    return all(row['id'] for row in result['predictions'])


def _where(result: dict[str, Any]) -> str:
    return f'{result["workdir"]}, evaluation {result["evaluation"]["name"]}'


def seed_order(seed: int | None) -> int:
    """Returns a sort key of seeds; None comes first."""
    return -1 if seed is None else seed
