"""Computes the numbers of metrics.json from predictions.

Macro-F1 of a category is `sklearn.metrics.f1_score(answer, prediction, average='macro',
zero_division=0)` over the option indices present in either column. Macro-F1 of a group and overall
are unweighted means over their categories. Accuracy is always the share of records. Records without
a category count under the name of their group.

Array letters are those of `bsft_jax.ops`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bsft_jax.errors import UserError
from bsft_jax.evaluation import (
    casewise,
    confusions,
    probabilities,
    selective,
    statistics,
    stepping_in,
)
from bsft_jax.records import taxonomy
from bsft_jax.records.record import cluster_of

SCHEMA = 1


def confusion_counts(
    answers_R: np.ndarray,
    predictions_R: np.ndarray,
    categories_R: np.ndarray,
    *,
    categories: int,
    options: int,
) -> np.ndarray:
    """Returns the counts int[C, K, K] by (category, answer, prediction)."""
    cells_R = (np.asarray(categories_R) * options + answers_R) * options + predictions_R
    counts = np.bincount(cells_R, minlength=categories * options * options)
    return counts.reshape(categories, options, options)


def confusion_macro_f1(confusion_KK: np.ndarray) -> np.ndarray:
    """Returns macro-F1 over the labels present as an answer (row) or a prediction (column).

    Leading axes are kept: [..., K, K] becomes float64[...]. NaN where there is no count at all.
    """
    confusion_KK = np.asarray(confusion_KK, dtype=np.float64)
    hits_K = np.diagonal(confusion_KK, axis1=-2, axis2=-1)
    return casewise.macro_f1(hits_K, confusion_KK.sum(-1) + confusion_KK.sum(-2))


def overall_macro_f1(
    answers_R: np.ndarray, categories_R: np.ndarray, predictions_R: np.ndarray
) -> float:
    """Returns the mean macro-F1 of the categories, each of which has a record."""
    counts = confusion_counts(
        answers_R,
        predictions_R,
        categories_R,
        categories=int(categories_R.max()) + 1,
        options=int(max(answers_R.max(), predictions_R.max())) + 1,
    )
    return float(confusion_macro_f1(counts).mean())


def metrics_from_confusion(confusion_CKK: np.ndarray, categories: Sequence[str]) -> dict[str, Any]:
    """Returns the macro-F1 values of `metrics_from_predictions` from accumulated counts.

    Categories without a record are left out.

    Returns:
      `{'categories': {name: x}, 'groups': {name: x}, 'overall': x, 'macro_f1_pooled': x}`; overall
      and pooled are None without any record.
    """
    confusion_CKK = np.asarray(confusion_CKK)
    present = [c for c in range(len(categories)) if confusion_CKK[c].sum()]
    f1_C = confusion_macro_f1(confusion_CKK)
    names = [categories[c] for c in present]
    members = _categories_by_group(names, [_group_of(name) for name in names])
    index = {categories[c]: c for c in present}
    return {
        'categories': {name: float(f1_C[c]) for name, c in index.items()},
        'groups': {
            group: float(np.mean([f1_C[index[name]] for name in names]))
            for group, names in members.items()
        },
        'overall': float(f1_C[present].mean()) if present else None,
        'macro_f1_pooled': float(confusion_macro_f1(confusion_CKK.sum(0))) if present else None,
    }


def metrics_from_predictions(
    predictions: Sequence[dict[str, Any]],
    *,
    policy: str,
    prompt: str,
    dial: float = 0.0,
    positive: str = 'proactive',
    levels: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Returns the content of metrics.json from the rows of predictions.jsonl.

    Intervals take whole cases as the units drawn (`case_id`, else `pair_id`; a record without
    either is its own case). What rests on one case has none: null.

    Args:
      predictions: one row per record; rows whose `answer` or `prediction` is null (free text) are
        left out.
      policy: copied into the result.
      prompt: copied into the result.
      dial: copied into the result.
      positive: the behavior of the highest level, whose probability `selection` judges.
      levels: the level of each behavior, by which `intervention` compares choice and label.

    Raises:
      UserError: no row has an answer and a prediction.
    """
    rows = [
        row
        for row in predictions
        if row.get('answer') is not None and row.get('prediction') is not None
    ]
    if not rows:
        raise UserError('no record has options and an answer to score', where='predictions')
    columns, levels = _Columns.of(rows), levels or {positive: 1.0}
    score = functools.partial(overall_macro_f1, columns.answers_R, columns.categories_R)
    group_of = {name: group for group, names in group_members(rows).items() for name in names}
    by_difficulty: dict[int, list[dict[str, Any]]] = {}
    for row in rows:
        if difficulty := row.get('difficulty'):
            by_difficulty.setdefault(difficulty, []).append(row)
    return {
        'schema': SCHEMA,
        'policy': policy,
        'prompt': prompt,
        'dial': dial,
        **_sections(rows, columns, positive, levels),
        'stepping_in': stepping_in.stepping_in_metrics(rows, levels, columns.clusters_R, score),
        'confusion': confusions.behavior_confusion(
            rows, levels, [group_of[category_of(row)] for row in rows]
        ),
        'selective': selective.selective_metrics(
            rows, columns.answers_R != columns.predictions_R, columns.macro_f1_of
        ),
        'difficulties': {
            str(difficulty): _sections(own, _Columns.of(own), positive, levels)
            for difficulty, own in sorted(by_difficulty.items())
        },
    }


class _Columns(NamedTuple):
    """Holds columns of predictions.jsonl as numbers; `categories` names those of `categories_R`."""

    categories: list[str]
    categories_R: np.ndarray
    clusters_R: np.ndarray
    answers_R: np.ndarray
    predictions_R: np.ndarray

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, Any]]) -> _Columns:
        """Returns the columns of rows that have an answer and a prediction."""
        names_R = [category_of(row) for row in rows]
        categories = sorted(set(names_R))
        return cls(
            categories,
            np.array([categories.index(name) for name in names_R]),
            statistics.cluster_ids([cluster_of(row) for row in rows]),
            np.array([row['answer'] for row in rows], dtype=np.int64),
            np.array([row['prediction'] for row in rows], dtype=np.int64),
        )

    def macro_f1_of(self, kept_R: np.ndarray) -> float:
        """Returns the overall macro-F1 of some records, over the categories that these have."""
        _, categories_R = np.unique(self.categories_R[kept_R], return_inverse=True)
        return overall_macro_f1(self.answers_R[kept_R], categories_R, self.predictions_R[kept_R])


def _sections(
    rows: Sequence[dict[str, Any]],
    columns: _Columns,
    positive: str,
    levels: Mapping[str, float] | None,
) -> dict[str, Any]:
    """Returns the sections `overall` to `intervention` of metrics.json."""
    categories, categories_R, *others = columns
    clusters_R, answers_R, predictions_R = others
    counts_C = _counts_by_case(categories_R, *others)

    def values_of(names: Sequence[str]) -> dict[str, Any]:
        chosen = [categories.index(name) for name in names]
        in_chosen_R = np.isin(categories_R, chosen)
        value, interval = _macro_f1_and_interval([counts_C[c] for c in chosen], clusters_R)
        return {
            'macro_f1': value,
            'macro_f1_interval': interval,
            'accuracy': float((answers_R == predictions_R)[in_chosen_R].mean()),
            'n': int(in_chosen_R.sum()),
            'cases': len(np.unique(clusters_R[in_chosen_R])),
        }

    pooled, pooled_interval = _macro_f1_and_interval(
        _counts_by_case(np.zeros_like(categories_R), *others), clusters_R
    )
    return {
        'overall': {
            **values_of(categories),
            'macro_f1_pooled': pooled,
            'macro_f1_pooled_interval': pooled_interval,
        },
        'groups': {group: values_of(names) for group, names in group_members(rows).items()},
        'categories': {name: values_of([name]) for name in categories},
        'selection': selection_metrics(rows, positive=positive),
        'intervention': intervention_metrics(rows, positive=positive, levels=levels),
    }


def _counts_by_case(
    categories_R: np.ndarray,
    clusters_R: np.ndarray,
    answers_R: np.ndarray,
    predictions_R: np.ndarray,
) -> list[casewise.CategoryCounts]:
    return casewise.count_by_case(
        clusters_R,
        categories_R,
        answers_R,
        predictions_R[None],
        categories=int(categories_R.max()) + 1,
    )


def _macro_f1_and_interval(
    counts: Sequence[casewise.CategoryCounts], clusters_R: np.ndarray
) -> tuple[float, list[float] | None]:
    mean = casewise.mean_macro_f1(counts, int(clusters_R.max()) + 1)
    interval = statistics.unit_interval(mean.value, mean.bias, mean.influence_U, mean.weight_U)
    return mean.value, interval


def category_of(row: Mapping[str, Any]) -> str:
    """Returns the category that a prediction or a record's fields count under, else its group."""
    return row.get('category') or row.get('group') or ''


def group_members(rows: Sequence[dict[str, Any]]) -> dict[str, list[str]]:
    """Returns the categories of each group in rows of predictions.jsonl.

    Groups stand in the order of the taxonomy, then unknown ones by name.
    """
    groups = {category_of(row): row.get('group') or _group_of(category_of(row)) for row in rows}
    categories = sorted(groups)
    return _categories_by_group(categories, [groups[name] for name in categories])


def selection_metrics(
    rows: Sequence[dict[str, Any]], *, positive: str = 'proactive'
) -> dict[str, Any] | None:
    """Scores the model's own choice of behavior, whichever behavior the policy made it use.

    `behavior_logprobs` are renormalised over the behaviors.

    Returns:
      `macro_f1`: of the most probable behavior against the labelled one.
      `auroc`, `ece` (15 equal-width bins), `brier` (mean squared error): of p(positive) against
        label == positive. All None when the model does not know `positive`; `auroc` is None when
        only one class is present.
      `n`: records with a label and `behavior_logprobs`.
      None instead of all that when no record has both.
    """
    rows = [row for row in rows if row.get('behavior_logprobs') and row.get('behavior')]
    if not rows:
        return None
    names = list(rows[0]['behavior_logprobs'])
    logprobs_Rn = np.array(
        [[row['behavior_logprobs'][name] for name in names] for row in rows], dtype=np.float64
    )
    probs_Rn = np.exp(logprobs_Rn - logprobs_Rn.max(-1, keepdims=True))
    probs_Rn /= probs_Rn.sum(-1, keepdims=True)
    labels = sorted({*names, *(row['behavior'] for row in rows)})
    answers_R = np.array([labels.index(row['behavior']) for row in rows])
    chosen_R = np.array([labels.index(names[i]) for i in logprobs_Rn.argmax(-1)])
    zeros_R = np.zeros_like(answers_R)
    confusion_CKK = confusion_counts(
        answers_R, chosen_R, zeros_R, categories=1, options=len(labels)
    )
    result = {
        'macro_f1': float(confusion_macro_f1(confusion_CKK[0])),
        'auroc': None,
        'ece': None,
        'brier': None,
    }
    if positive in names:
        probs_R = probs_Rn[:, names.index(positive)]
        positive_R = np.array([row['behavior'] == positive for row in rows])
        result |= {
            'auroc': probabilities.auroc(positive_R, probs_R),
            'ece': probabilities.expected_calibration_error(positive_R, probs_R),
            'brier': probabilities.brier_score(positive_R, probs_R),
        }
    return result | {'n': len(rows)}


def intervention_metrics(
    rows: Sequence[dict[str, Any]],
    *,
    positive: str = 'proactive',
    levels: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Returns how often the model intervenes uninvited and how often it fails to intervene.

    Choice and label are compared by the `levels` of the behaviors; without them `positive` is above
    all others. A rate is None where no record counts.

    Returns:
      `over_intervention_rate`: among records whose label is below the highest level, the share
        whose chosen option is above the label (by `option_behaviors`).
      `missed_intervention_rate`: among records whose label is above the lowest level, the share
        whose chosen option is below the label.
      `overshoot`, `undershoot`: by how many levels, on average over the same records.
      `token_…`: the same for `behavior_prediction`, the behavior that the policy used.
      `twin_score`: share of the pairs (two records of one `pair_id`) with both answers right.
      `pairs`: number of such pairs.
      `flip_rate`: share of the records whose best option differs between forced behaviors.
    """
    levels = levels or {positive: 1.0}
    lowest = min(levels.values()) if len(levels) > 1 else 0.0
    highest = max(levels.values())

    def rates(chosen_and_label: Sequence[tuple[str, str]]) -> list[float | None]:
        pairs = [(levels.get(a, 0.0), levels.get(b, 0.0)) for a, b in chosen_and_label]
        over = np.array([chosen - label for chosen, label in pairs if label < highest])
        missed = np.array([label - chosen for chosen, label in pairs if label > lowest])
        values = over > 0, missed > 0, over.clip(0), missed.clip(0)
        return [_mean(value) for value in values]

    labelled = [row for row in rows if row.get('behavior')]
    of_answers = rates(
        [
            (row['option_behaviors'][row['prediction']], row['behavior'])
            for row in labelled
            if row.get('option_behaviors')
        ]
    )
    token_over, token_missed, *_ = rates(
        [
            (row['behavior_prediction'], row['behavior'])
            for row in labelled
            if row.get('behavior_prediction')
        ]
    )
    twins: dict[str, list[bool]] = {}
    for row in rows:
        if row.get('pair_id'):
            twins.setdefault(row['pair_id'], []).append(row['answer'] == row['prediction'])
    pairs = [right for right in twins.values() if len(right) == 2]
    forced = [
        [
            int(np.argmax(scores))
            for name, scores in (row.get('option_logprobs') or {}).items()
            if name != 'none'
        ]
        for row in rows
    ]
    flips = [len(set(answers)) > 1 for answers in forced if len(answers) > 1]
    names = 'over_intervention_rate', 'missed_intervention_rate', 'overshoot', 'undershoot'
    return {
        **dict(zip(names, of_answers, strict=True)),
        'token_over_intervention_rate': token_over,
        'token_missed_intervention_rate': token_missed,
        'twin_score': _mean([all(right) for right in pairs]),
        'pairs': len(pairs),
        'flip_rate': _mean(flips),
    }


def _mean(values: Sequence[bool] | np.ndarray) -> float | None:
    return float(np.mean(values)) if len(values) else None


def _group_of(category: str) -> str:
    return taxonomy.group_of(category) if category in taxonomy.CATEGORIES else category


def _categories_by_group(categories: Sequence[str], groups: Sequence[str]) -> dict[str, list[str]]:
    """Returns the categories of each group; groups[i] is the group of categories[i]."""
    members: dict[str, list[str]] = {}
    for name in taxonomy.ordered_groups(groups):
        members[name] = [
            category for category, group in zip(categories, groups, strict=True) if group == name
        ]
    return members
