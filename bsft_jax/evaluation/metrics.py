"""Predictions → the numbers of metrics.json.

Macro-F1 of a category is `sklearn.metrics.f1_score(answer, prediction, average='macro',
zero_division=0)` over the option indices present in either column. Groups and the overall figure
are unweighted means over their categories; accuracy is always the share of rows. Rows without a
category count as one of their group's name.

Letters in names: N rows, C categories, K options, B behaviors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bsft_jax.behaviorbench import taxonomy
from bsft_jax.behaviorbench.records import cluster_of
from bsft_jax.errors import UserError
from bsft_jax.evaluation import statistics

SCHEMA = 1
ECE_BINS = 15


def confusion_counts(
    answers_N: np.ndarray,
    predictions_N: np.ndarray,
    categories_N: np.ndarray,
    *,
    categories: int,
    options: int,
) -> np.ndarray:
    """Counts int[C, K, K] by (category, answer, prediction)."""
    cells_N = (np.asarray(categories_N) * options + answers_N) * options + predictions_N
    counts = np.bincount(cells_N, minlength=categories * options * options)
    return counts.reshape(categories, options, options)


def confusion_macro_f1(counts_KK: np.ndarray) -> np.ndarray:
    """Macro-F1 over the labels present in rows (answers) or columns (predictions).

    Leading axes are kept: counts[..., K, K] → float64[...]. NaN where there is no count at all.
    """
    counts_KK = np.asarray(counts_KK, dtype=np.float64)
    support_K = counts_KK.sum(-1) + counts_KK.sum(-2)
    hits_K = np.diagonal(counts_KK, axis1=-2, axis2=-1)
    f1_K = 2 * hits_K / np.maximum(support_K, 1)
    present = (support_K > 0).sum(-1)
    return np.where(present > 0, f1_K.sum(-1) / np.maximum(present, 1), np.nan)


def metrics_from_confusion(counts_CKK: np.ndarray, categories: Sequence[str]) -> dict[str, Any]:
    """The macro-F1 figures of `summarize` from accumulated counts; categories without a row are left out.

    Returns:
      `{'categories': {name: x}, 'groups': {name: x}, 'overall': x, 'macro_f1_pooled': x}`; overall
      and pooled are None without any row.
    """
    counts_CKK = np.asarray(counts_CKK)
    present = [c for c in range(len(categories)) if counts_CKK[c].sum()]
    f1_C = confusion_macro_f1(counts_CKK)
    members = _members([categories[c] for c in present], [_group(categories[c]) for c in present])
    index = {categories[c]: c for c in present}
    return {
        'categories': {name: float(f1_C[c]) for name, c in index.items()},
        'groups': {g: float(np.mean([f1_C[index[c]] for c in names])) for g, names in members.items()},
        'overall': float(f1_C[present].mean()) if present else None,
        'macro_f1_pooled': float(confusion_macro_f1(counts_CKK.sum(0))) if present else None,
    }


def summarize(
    predictions: Sequence[dict[str, Any]],
    *,
    policy: str,
    prompt: str,
    dial: float = 0.0,
    seed: int = 0,
    positive: str = 'proactive',
) -> dict[str, Any]:
    """The content of metrics.json from the rows of predictions.jsonl.

    Args:
      predictions: rows; those whose `answer` or `prediction` is null (free text) take no part.
      policy, prompt, dial: copied into the result.
      seed: of the bootstrap by case (`case_id`, else `pair_id`; a row without either is its own case).
      positive: the behavior of the highest level: what p(proactive), over- and
        missed-intervention are about.

    Raises:
      UserError: no row has an answer and a prediction.
    """
    rows = [r for r in predictions if r.get('answer') is not None and r.get('prediction') is not None]
    if not rows:
        raise UserError('no record has options and an answer to score', where='predictions')
    names_N = [category_of(r) for r in rows]
    members = group_members(rows)
    categories = sorted(set(names_N))

    answers_N = np.array([r['answer'] for r in rows])
    predictions_N = np.array([r['prediction'] for r in rows])
    categories_N = np.array([categories.index(name) for name in names_N])
    shape = (len(categories), *[int(max(answers_N.max(), predictions_N.max())) + 1] * 2)
    counts_CKK = confusion_counts(
        answers_N, predictions_N, categories_N, categories=shape[0], options=shape[1]
    )
    clusters_N = statistics.cluster_ids([cluster_of(r) for r in rows])
    cells_N = np.ravel_multi_index((categories_N, answers_N, predictions_N), shape)
    resampled_RCKK = statistics.bootstrap_sums(clusters_N, cells_N, int(np.prod(shape)), seed=seed).reshape(
        -1, *shape
    )

    f1_C, f1_CR = confusion_macro_f1(counts_CKK), confusion_macro_f1(resampled_RCKK).T

    def entry(members_of: Sequence[str]) -> dict[str, Any]:
        chosen = [categories.index(name) for name in members_of]
        of_rows = np.isin(categories_N, chosen)
        return {
            'macro_f1': float(f1_C[chosen].mean()),
            'macro_f1_interval': statistics.interval(statistics.mean_present(f1_CR[chosen])),
            'accuracy': float((answers_N == predictions_N)[of_rows].mean()),
            'n': int(of_rows.sum()),
            'cases': len(np.unique(clusters_N[of_rows])),
        }

    pooled_R = confusion_macro_f1(resampled_RCKK.sum(1))
    return {
        'schema': SCHEMA,
        'policy': policy,
        'prompt': prompt,
        'dial': dial,
        'overall': {
            **entry(categories),
            'macro_f1_pooled': float(confusion_macro_f1(counts_CKK.sum(0))),
            'macro_f1_pooled_interval': statistics.interval(pooled_R),
        },
        'groups': {group: entry(names) for group, names in members.items()},
        'categories': {name: entry([name]) for name in categories},
        'selection': selection(rows, positive=positive),
        'intervention': intervention(rows, positive=positive),
    }


def category_of(row: Mapping[str, Any]) -> str:
    """What a row, or the fields of a record, counts as: its category, or else its group's name."""
    return row.get('category') or row.get('group') or ''


def group_members(rows: Sequence[dict[str, Any]]) -> dict[str, list[str]]:
    """Group → its categories among `rows` of predictions.jsonl, groups in the order of the taxonomy."""
    groups = {category_of(r): r.get('group') or _group(category_of(r)) for r in rows}
    categories = sorted(groups)
    return _members(categories, [groups[c] for c in categories])


def selection(rows: Sequence[dict[str, Any]], *, positive: str = 'proactive') -> dict[str, Any] | None:
    """How well the model chooses the behavior by itself, whatever the policy made it use.

    `behavior_logprobs` are renormalised over the behaviors. `macro_f1` compares their arg max
    with the label; `auroc`, `ece` (15 equal-width bins) and `brier` (mean squared error) judge
    p(positive) against label == positive. None when no labelled row has behavior_logprobs;
    `auroc` is None when only one class is there.
    """
    rows = [r for r in rows if r.get('behavior_logprobs') and r.get('behavior')]
    if not rows:
        return None
    names = list(rows[0]['behavior_logprobs'])
    logprobs_NB = np.array([[r['behavior_logprobs'][name] for name in names] for r in rows], dtype=np.float64)
    p_NB = np.exp(logprobs_NB - logprobs_NB.max(-1, keepdims=True))
    p_NB /= p_NB.sum(-1, keepdims=True)
    labels = sorted({*names, *(r['behavior'] for r in rows)})
    answers_N = np.array([labels.index(r['behavior']) for r in rows])
    chosen_N = np.array([labels.index(names[b]) for b in logprobs_NB.argmax(-1)])
    zeros_N = np.zeros_like(answers_N)
    counts_CKK = confusion_counts(answers_N, chosen_N, zeros_N, categories=1, options=len(labels))
    result = {'macro_f1': float(confusion_macro_f1(counts_CKK[0])), 'auroc': None, 'ece': None, 'brier': None}
    if positive in names:
        p_N = p_NB[:, names.index(positive)]
        is_N = np.array([r['behavior'] == positive for r in rows])
        brier = float(np.mean((p_N - is_N) ** 2))
        result |= {'auroc': auroc(is_N, p_N), 'ece': ece(is_N, p_N), 'brier': brier}
    return result | {'n': len(rows)}


def auroc(is_N: np.ndarray, score_N: np.ndarray) -> float | None:
    """Area under the ROC curve by ranks (Mann-Whitney, ties count one half); None for one class."""
    positives = int(is_N.sum())
    negatives = len(is_N) - positives
    if not positives or not negatives:
        return None
    _, inverse_N, number = np.unique(score_N, return_inverse=True, return_counts=True)
    rank_N = (np.cumsum(number) - (number - 1) / 2)[inverse_N]
    return float((rank_N[is_N].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def ece(is_N: np.ndarray, p_N: np.ndarray, bins: int = ECE_BINS) -> float:
    """Expected calibration error of p(positive): |mean p − share positive| over equal-width bins, by size."""
    bin_N = np.minimum((p_N * bins).astype(int), bins - 1)
    return float(np.abs(np.bincount(bin_N, p_N - is_N, minlength=bins)).sum() / len(p_N))


def intervention(rows: Sequence[dict[str, Any]], *, positive: str = 'proactive') -> dict[str, Any]:
    """Rates of stepping in uninvited and of staying silent; None where nothing can be counted.

    Returns:
      `over_intervention_rate`: of the rows that are not labelled `positive`, the share whose
        chosen option is (by `option_behaviors`); `missed_intervention_rate`: of the rows labelled
        `positive`, the share whose chosen option is not.
      `token_…`: the same for `behavior_prediction`, the behavior the policy used.
      `twin_score`: share of the pairs (two rows of one `pair_id`) with both answers right, `pairs` of them.
      `flip_rate`: share of the rows whose arg max option differs between forced behaviors.
    """
    by_option = [
        (r['behavior'] == positive, r['option_behaviors'][r['prediction']] == positive)
        for r in rows
        if r.get('behavior') and r.get('option_behaviors')
    ]
    by_token = [
        (r['behavior'] == positive, r['behavior_prediction'] == positive)
        for r in rows
        if r.get('behavior') and r.get('behavior_prediction')
    ]
    twins: dict[str, list[bool]] = {}
    for r in rows:
        if r.get('pair_id'):
            twins.setdefault(r['pair_id'], []).append(r['answer'] == r['prediction'])
    pairs = [right for right in twins.values() if len(right) == 2]
    forced = [
        [
            int(np.argmax(scores))
            for name, scores in (r.get('option_logprobs') or {}).items()
            if name != 'none'
        ]
        for r in rows
    ]
    flips = [len(set(answers)) > 1 for answers in forced if len(answers) > 1]
    return {
        'over_intervention_rate': _mean([chosen for label, chosen in by_option if not label]),
        'missed_intervention_rate': _mean([not chosen for label, chosen in by_option if label]),
        'token_over_intervention_rate': _mean([chosen for label, chosen in by_token if not label]),
        'token_missed_intervention_rate': _mean([not chosen for label, chosen in by_token if label]),
        'twin_score': _mean([all(right) for right in pairs]),
        'pairs': len(pairs),
        'flip_rate': _mean(flips),
    }


def _mean(values: Sequence[bool]) -> float | None:
    return float(np.mean(values)) if len(values) else None


def _group(category: str) -> str:
    return taxonomy.group_of(category) if category in taxonomy.CATEGORIES else category


def _members(categories: Sequence[str], groups: Sequence[str]) -> dict[str, list[str]]:
    """Group → its categories, groups in the order of the taxonomy."""
    order = list(taxonomy.GROUPS)
    members: dict[str, list[str]] = {}
    for group in sorted(set(groups), key=lambda g: (order.index(g) if g in order else len(order), g)):
        members[group] = [c for c, of in zip(categories, groups, strict=True) if of == group]
    return members
