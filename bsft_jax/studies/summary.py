"""Summarizes the results of a study: its rows, its comparisons, one sentence on its endpoint.

A row is one setting, an arm under one policy and prompt style. Its values are means over the seeds
of the macro-F1 of `evaluation.metrics`. Intervals resample on two levels: the seeds, and the cases.
Within a resample the cases are the same for every arm and seed, so that differences are paired.
Arms trained from the same seeds share the draw of the seeds as well.

Array letters are those of `bsft_jax.ops`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bsft_jax.errors import UserError
from bsft_jax.evaluation import statistics
from bsft_jax.records import taxonomy
from bsft_jax.report import columns, table
from bsft_jax.studies.bootstrap import exact_macro_f1, resampled_macro_f1
from bsft_jax.studies.pairing import Setting, SettingResults, SharedRecords, pair_results

BASELINE = Setting('general_sft', 'auto', 'plain')
COMPARED_GROUPS = (*taxonomy.GROUPS, 'overall')
MIN_PROACTIVE_RECORDS = 1500
# (z of a two-sided 5 % test) + (z of 80 % power) = 1.96 + 0.84
_POWER_FACTOR = 2.80


def summarize_study(
    study: str,
    results: list[dict[str, Any]],
    *,
    endpoint: tuple,
    published: list[dict[str, Any]],
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """Returns the content of summary.json.

    Args:
      study: its name.
      results: rows of results.jsonl, each with `predictions`, its rows of predictions.jsonl; `seed`
        is None for a model that was not trained.
      endpoint: `(group or 'overall', (arm, policy), (arm, policy))`, both under the prompt `plain`:
        the one comparison that the study was made for, first minus second.
      published: results of others, `{'method', 'source', group or 'overall': value or None}`,
        copied.
      resamples: number of bootstrap resamples. No p is below 1/resamples, which Holm's adjustment
        multiplies by the number of comparisons.
      seed: of the bootstrap.

    Raises:
      UserError: there is no result, an evaluation occurs twice, evaluations are of different
        records, or the results lack a side of the endpoint.
    """
    records, rows = pair_results(study, results)
    group, first, second = endpoint[0], *(Setting(*side, 'plain') for side in endpoint[1:])
    for setting in (first, second):
        if setting not in rows:
            raise UserError(
                f'no result of {setting.label}',
                where=f'endpoint of {study}',
                fix='run its points first',
            )
    if not records.category_indices(group):
        raise UserError(
            f'no record of the group {group!r} was scored', where=f'endpoint of {study}'
        )

    f1_C = {setting: exact_macro_f1(records, row) for setting, row in rows.items()}
    f1_EC = resampled_macro_f1(records, rows, resamples, seed)
    comparisons, smallest = _compare(records, (group, first, second), f1_C, f1_EC)
    return {
        'study': study,
        'outcome': _outcome_sentence(group, first, second, comparisons[0], resamples),
        'rows': [
            _summary_row(setting, row, records, f1_C[setting], f1_EC[setting])
            for setting, row in rows.items()
        ],
        'comparisons': comparisons,
        'smallest_effect': {
            'difference': smallest,
            'proactive_records': records.count('proactive'),
        },
        'published': published,
        'notes': _caveats(records, rows[first].seeds, rows[second].seeds, resamples),
        'runs': [
            {'arm': arm, 'seed': s, 'workdir': workdir}
            for arm, s, workdir in dict.fromkeys(
                (r['arm'], r['seed'], r['workdir']) for r in results
            )
        ],
    }


def _compare(
    records: SharedRecords,
    endpoint: tuple[str, Setting, Setting],
    f1_C: dict[Setting, np.ndarray],
    f1_EC: dict[Setting, np.ndarray],
) -> tuple[list[dict[str, Any]], float]:
    """Compares the two sides of the endpoint, and every setting with the baseline in every group.

    Returns:
      `comparisons` of summary.json, the endpoint first, and the smallest difference that the
      endpoint detects with 80 % power.
    """
    pairs = [endpoint]
    if BASELINE in f1_C:
        pairs += [
            (group, setting, BASELINE)
            for setting in f1_C
            if setting != BASELINE
            for group in COMPARED_GROUPS
            if records.category_indices(group)
        ]
    comparisons, smallest = [], 0.0
    for group, setting, other in dict.fromkeys(pairs):
        chosen = records.category_indices(group)
        difference_E = statistics.nan_mean((f1_EC[setting] - f1_EC[other])[:, chosen].T)
        is_endpoint = not comparisons
        if is_endpoint:
            smallest = _POWER_FACTOR * float(np.nanstd(difference_E, ddof=1))
        low, high = statistics.percentile_interval(difference_E)
        comparisons.append(
            {
                'name': f'{group}: {setting.label} - {other.label}',
                'difference': float((f1_C[setting] - f1_C[other])[chosen].mean()),
                'low': low,
                'high': high,
                'p': statistics.two_sided_p(difference_E),
                'p_holm': None,
                'endpoint': is_endpoint,
            }
        )
    # The endpoint is one test, named beforehand; only the others are adjusted.
    others = comparisons[1:]
    for comparison, p in zip(others, statistics.holm_adjust([c['p'] for c in others]), strict=True):
        comparison['p_holm'] = p
    return comparisons, smallest


def _summary_row(
    setting: Setting,
    row: SettingResults,
    records: SharedRecords,
    f1_C: np.ndarray,
    f1_EC: np.ndarray,
) -> dict[str, Any]:
    """Returns one of `rows` of summary.json."""

    def estimate(group: str) -> dict[str, float]:
        chosen = records.category_indices(group)
        low, high = statistics.percentile_interval(statistics.nan_mean(f1_EC[:, chosen].T))
        return {'value': float(f1_C[chosen].mean()), 'low': low, 'high': high}

    metrics_of_seeds = [result['metrics'] for result in row.results]
    return {
        'arm': setting.arm,
        'policy': setting.policy,
        'prompt': setting.prompt,
        'seeds': len(row.seeds),
        'n': len(records.answer_R),
        'overall': estimate('overall'),
        'groups': {group: estimate(group) for group in records.members},
        'categories': {name: float(f1_C[c]) for c, name in enumerate(records.categories)},
        **{
            column.key: _mean_or_none([column.value(metrics) for metrics in metrics_of_seeds])
            for column in columns.COLUMNS
        },
    }


def _outcome_sentence(
    group: str, first: Setting, second: Setting, comparison: dict[str, Any], resamples: int
) -> str:
    """Returns one sentence: the difference, its interval, p, and whether that excludes zero."""
    points, low, high = (100 * comparison[name] for name in ('difference', 'low', 'high'))
    same_policy = first.policy == second.policy
    other = second.arm if same_policy else f'{second.arm} with {second.policy}'
    bound = '<=' if comparison['p'] <= 1 / resamples else '='
    excludes = 'excludes' if low > 0 or high < 0 else 'does not exclude'
    return (
        f'{first.arm} with {first.policy} is {abs(points):.1f} points '
        f'{"below" if points < 0 else "above"} {other} on {group} macro-F1 '
        f'(95 % interval {low:.1f} to {high:.1f}, p {bound} {comparison["p"]:.2g}): '
        f'the interval {excludes} zero.'
    )


def _caveats(
    records: SharedRecords, first_seeds: tuple, second_seeds: tuple, resamples: int
) -> list[str]:
    """Returns the caveats of the numbers; the seeds are those of the endpoint's two sides."""
    notes, proactive = [], records.count('proactive')
    if proactive < MIN_PROACTIVE_RECORDS:
        notes.append(
            f'Only {proactive} proactive records: below {MIN_PROACTIVE_RECORDS} a difference of '
            'one or two points cannot be told from chance; see the smallest effect.'
        )
    if records.left_out:
        notes.append(
            f'{records.left_out} records are left out of macro-F1: '
            'a longer prompt could not hold them.'
        )
    number = min(len(first_seeds), len(second_seeds))
    if number == 1:
        notes.append(
            'An arm of the endpoint has one seed: its interval holds no variation between '
            'trainings.'
        )
    else:
        # The variance of resampled means of J values is (J - 1) / J of the unbiased estimate.
        notes.append(
            f'{number} seeds: resampling them shows only {1 - 1 / number:.0%} of the variance '
            'between trainings; where trainings differ much, intervals are too narrow.'
        )
    if first_seeds != second_seeds:
        notes.append(
            'The arms of the endpoint have different seeds: their seeds are resampled apart.'
        )
    notes.append(
        f'Intervals: {resamples} replicates that resample seeds and whole cases, the same cases in '
        'every row; p_holm is adjusted over all comparisons but the endpoint.'
    )
    return notes


def format_summary(summary: dict[str, Any]) -> str:
    """Returns the content of summary.json as plain text, ending with the outcome."""
    groups = taxonomy.ordered_groups(group for row in summary['rows'] for group in row['groups'])
    identity = ('arm', 'policy', 'prompt', 'seeds', 'n')
    lines = [[*identity, 'overall', '95 %', *groups, *columns.headers()]]
    for row in summary['rows']:
        lines.append(
            [
                *(str(row[name]) for name in identity),
                table.format_number(row['overall']['value']),
                _format_interval(row['overall']),
                *(
                    table.format_number(row['groups'].get(group, {}).get('value'))
                    for group in groups
                ),
                *(table.format_number(row[column.key]) for column in columns.COLUMNS),
            ]
        )
    text = [f'Study {summary["study"]}', '', *table.align_columns(lines, left=3)]

    lines = [['comparison', 'difference', '95 %', 'p', 'p (Holm)']]
    for c in summary['comparisons']:
        difference, p = f'{c["difference"]:+.3f}', table.format_number(c['p'])
        holm = 'endpoint' if c['endpoint'] else table.format_number(c['p_holm'])
        lines.append([c['name'], difference, _format_interval(c), p, holm])
    text += ['', *table.align_columns(lines, left=1)]

    if summary['published']:
        text += ['', 'Published, on another data set (not to be compared in level):']
    for item in summary['published']:
        values = ', '.join(
            f'{name} {table.format_number(item[name])}'
            for name in (*groups, 'overall')
            if item.get(name)
        )
        text.append(f'  {item["method"]}: {values} ({item["source"]})')
    smallest = summary['smallest_effect']
    text += [
        '',
        'Smallest effect found with 80 % power on the endpoint: '
        f'{100 * smallest["difference"]:.1f} points '
        f'({smallest["proactive_records"]} proactive records).',
        *(f'Note: {note}' for note in summary['notes']),
        '',
        summary['outcome'],
    ]
    return '\n'.join(text)


def _format_interval(estimate: dict[str, Any]) -> str:
    return f'{table.format_number(estimate["low"])} to {table.format_number(estimate["high"])}'


def _mean_or_none(values: Sequence[float | None]) -> float | None:
    """Returns the mean, or None when any value is None."""
    return None if None in values else float(np.mean(values))
