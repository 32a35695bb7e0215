"""Summarizes the results of a study: its rows, its comparisons, one sentence on its endpoint.

A row is one setting, an arm under one policy and prompt style. Its values are means over the seeds
of the macro-F1 of `evaluation.metrics`. `studies.estimates` says what the intervals hold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bsft_jax.behaviors import BehaviorSet
from bsft_jax.errors import UserError
from bsft_jax.evaluation import statistics
from bsft_jax.records import taxonomy
from bsft_jax.report import columns, table
from bsft_jax.studies import equal_over, estimates
from bsft_jax.studies.pairing import Setting, SettingResults, SharedRecords, pair_results

BASELINE = Setting('general_sft', 'auto', 'plain')
COMPARED_GROUPS = (*taxonomy.GROUPS, 'overall')
MIN_PROACTIVE_RECORDS = 1500
_TEST_HEADERS = ('difference', '95 %', 'p', 'p (Holm)')


def summarize_study(
    study: str,
    results: list[dict[str, Any]],
    *,
    endpoint: tuple,
    published: list[dict[str, Any]],
    levels: Mapping[str, float] | None = None,
    over_rate: float = equal_over.OVER_RATE,
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
      levels: the level of each behavior; None for those of the default behaviors.
      over_rate: rate of over-intervention at which the second endpoint compares the arms of the
        first.
      resamples: number of exchanges of two arms that a test makes. No p is below its inverse, which
        Holm's adjustment multiplies by the number of comparisons.
      seed: of the exchanges.

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
    levels = BehaviorSet().levels if levels is None else levels
    comparisons = _compare(records, rows, (group, first, second), resamples, seed)
    missed = equal_over.compare_missed(
        records,
        rows,
        _missed_pairs(rows, first, second),
        levels=levels,
        over_rate=over_rate,
        resamples=resamples,
        seed=seed,
    )
    return {
        'study': study,
        'outcome': _outcome_sentence(group, first, second, comparisons[0], resamples),
        'second_outcome': _missed_sentence(missed, resamples),
        'rows': [_summary_row(setting, row, records) for setting, row in rows.items()],
        'comparisons': comparisons,
        'missed_at_equal_over': missed,
        'missed_by_rate': equal_over.missed_by_rate(rows, levels),
        'smallest_effect': {
            **estimates.smallest_effect(comparisons[0]),
            'proactive_records': records.count('proactive'),
        },
        'published': published,
        'notes': [
            *_caveats(records, rows[first].seeds, rows[second].seeds, comparisons[0], resamples),
            *equal_over.describe_reach(missed),
        ],
        'runs': [
            {'arm': arm, 'seed': s, 'workdir': workdir}
            for arm, s, workdir in dict.fromkeys(
                (r['arm'], r['seed'], r['workdir']) for r in results
            )
        ],
    }


def _compare(
    records: SharedRecords,
    rows: dict[Setting, SettingResults],
    endpoint: tuple[str, Setting, Setting],
    resamples: int,
    seed: int,
) -> list[dict[str, Any]]:
    """Compares the two sides of the endpoint, and every setting with the baseline in every group.

    Returns:
      `comparisons` of summary.json, the endpoint first.
    """
    pairs = [endpoint]
    if BASELINE in rows:
        pairs += [
            (group, setting, BASELINE)
            for setting in rows
            if setting != BASELINE
            for group in COMPARED_GROUPS
            if records.category_indices(group)
        ]
    comparisons = [
        estimates.compare(records, rows, *pair, resamples=resamples, seed=seed)
        | {'p_holm': None, 'endpoint': pair == endpoint}
        for pair in dict.fromkeys(pairs)
    ]
    # The endpoint is one test, named beforehand; only the others are adjusted.
    others = comparisons[1:]
    for comparison, p in zip(others, statistics.holm_adjust([c['p'] for c in others]), strict=True):
        comparison['p_holm'] = p
    return comparisons


def _missed_pairs(
    rows: dict[Setting, SettingResults], first: Setting, second: Setting
) -> list[tuple[Setting, Setting]]:
    """Returns the pairs that are compared at equal over-intervention, the endpoint's first.

    A curve does not depend on the policy, so one policy stands for all.
    """
    pairs = [(first, second)]
    if BASELINE in rows:
        pairs += [(s, BASELINE) for s in rows if s.policy == 'auto' and s != BASELINE]
    return list(dict.fromkeys(pairs))


def _summary_row(setting: Setting, row: SettingResults, records: SharedRecords) -> dict[str, Any]:
    """Returns one of `rows` of summary.json."""
    metrics_of_seeds = [result['metrics'] for result in row.results]
    return {
        'arm': setting.arm,
        'policy': setting.policy,
        'prompt': setting.prompt,
        'seeds': len(row.seeds),
        'n': len(records.answer_R),
        'overall': estimates.estimate(records, row, 'overall'),
        'groups': {group: estimates.estimate(records, row, group) for group in records.members},
        'categories': dict(
            zip(records.categories, estimates.macro_f1_by_category(row), strict=True)
        ),
        **{
            column.key: _mean_or_none([column.value(metrics) for metrics in metrics_of_seeds])
            for column in columns.COLUMNS
        },
    }


def _outcome_sentence(
    group: str, first: Setting, second: Setting, comparison: dict[str, Any], resamples: int
) -> str:
    """Returns one sentence on what the endpoint found, and one on what it cannot tell."""
    points = 100 * comparison['difference']
    relation = f'{abs(points):.1f} points {"below" if points < 0 else "above"}'
    if f'{abs(points):.1f}' == '0.0':
        relation = 'equal to' if points == 0 else 'within 0.1 points of'
    other = second.arm if first.policy == second.policy else f'{second.arm} with {second.policy}'
    found = f'{first.arm} with {first.policy} is {relation} {other} on {group} macro-F1'
    sentence = f'{found} ({_uncertainty(comparison, resamples)}): {_verdict(comparison)}.'
    if comparison['trainings'] == 1:
        sentence += ' One training of an arm cannot speak of other trainings.'
    return sentence


def _missed_sentence(missed: dict[str, Any], resamples: int) -> str:
    """Returns one sentence on what the second endpoint found."""
    rate = f'{100 * missed["over_rate"]:g} %'
    if missed['reason']:
        return f'No missed interventions at {rate} over-intervention: {missed["reason"]}.'
    comparison = missed['comparisons'][0]
    first, second, points = comparison['first'], comparison['second'], comparison['difference']
    relation = f'{abs(100 * points):.1f} points {"fewer" if points < 0 else "more"}'
    if f'{abs(100 * points):.1f}' == '0.0':
        relation = 'as many' if points == 0 else 'within 0.1 points'
    return (
        f'At {rate} over-intervention {first["setting"]} misses {100 * first["missed"]:.1f} % of '
        f'interventions and {second["setting"]} {100 * second["missed"]:.1f} %: {relation} '
        f'({_uncertainty(comparison, resamples)}): {_verdict(comparison)}.'
    )


def _uncertainty(comparison: dict[str, Any], resamples: int) -> str:
    """Returns the interval of a comparison, in points, and its p, or why there is none."""
    if comparison['reason']:
        return comparison['reason']
    low, high = 100 * comparison['low'], 100 * comparison['high']
    bound = '<=' if comparison['p'] <= 1 / resamples else '='
    return f'95 % interval {low:.1f} to {high:.1f}, p {bound} {comparison["p"]:.2g}'


def _verdict(comparison: dict[str, Any]) -> str:
    """Returns whether the interval excludes zero, or why it has no say."""
    cases, fewest = comparison['cases'], statistics.fewest_cases()
    if cases < fewest and comparison['difference']:
        number = f'{cases} case{"s are" if cases > 1 else " is"}'
        return f'{number} too few to tell a difference from chance, {fewest} at least are needed'
    if comparison['reason']:
        return f'no {"interval" if comparison["difference"] else "difference"} can be estimated'
    if comparison['trainings'] == 1:
        return 'this holds for these trained models, on other cases'
    beyond = comparison['low'] > 0 or comparison['high'] < 0
    excludes = beyond and comparison['p'] <= 1 - statistics.LEVEL
    return f'the interval {"excludes" if excludes else "does not exclude"} zero'


def _caveats(
    records: SharedRecords,
    first_seeds: tuple,
    second_seeds: tuple,
    comparison: dict[str, Any],
    resamples: int,
) -> list[str]:
    """Returns the caveats of the numbers; the seeds are those of the endpoint's two sides."""
    notes, proactive = [], records.count('proactive')
    if proactive < MIN_PROACTIVE_RECORDS:
        notes.append(
            f'Only {proactive} proactive records: below {MIN_PROACTIVE_RECORDS} a difference of '
            'one or two points cannot be told from chance.'
        )
    if records.left_out:
        notes.append(
            f'{records.left_out} records are left out of macro-F1: '
            'a longer prompt could not hold them.'
        )
    number = comparison['trainings']
    if number == 1:
        notes.append(
            'An arm of the endpoint has one seed: its interval, its p and the smallest effect hold '
            'no variation between trainings.'
        )
    elif number:
        notes.append(
            f"{number} seeds: trainings are taken as drawn at random, with Student's t of "
            f'{number - 1} degree{"s" if number > 2 else ""} of freedom. '
            'The fewer seeds, the wider the intervals.'
        )
    if first_seeds != second_seeds:
        notes.append(
            'The arms of the endpoint have different seeds: their trainings vary independently.'
        )
    notes.append(
        'Intervals are by whole cases. Macro-F1 of small categories lies below its true value by '
        'its nature; intervals are corrected for that, so that it can stand near their lower end.'
    )
    notes.append(
        f'p: arms exchanged within cases, all ways or {resamples} of them; '
        'p_holm is adjusted over all comparisons but the endpoint.'
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

    lines = [['comparison', *_TEST_HEADERS]]
    lines += [[c['name'], *_test_cells(c, 'endpoint')] for c in summary['comparisons']]
    text += ['', *table.align_columns(lines, left=1)]
    missed = summary['missed_at_equal_over']
    if missed['comparisons']:
        text += ['', *_missed_table(missed)]

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
    if smallest['difference'] is None:
        effect = f'cannot be estimated: {smallest["reason"]}'
    else:
        effect = f'{100 * smallest["difference"]:.1f} points'
    text += [
        '',
        f'Smallest effect found with 80 % power on the endpoint: {effect} '
        f'({smallest["proactive_records"]} proactive records).',
        *(f'Note: {note}' for note in summary['notes']),
        '',
        summary['second_outcome'],
        summary['outcome'],
    ]
    return '\n'.join(text)


def _missed_table(missed: dict[str, Any]) -> list[str]:
    lines = [[f'missed at {100 * missed["over_rate"]:g} % over', 'of first', 'second']]
    lines[0] += _TEST_HEADERS
    for c in missed['comparisons']:
        rates = (table.format_number(c[side]['missed']) for side in ('first', 'second'))
        lines.append([c['name'], *rates, *_test_cells(c, 'second endpoint')])
    return table.align_columns(lines, left=1)


def _test_cells(comparison: dict[str, Any], endpoint: str) -> list[str]:
    """Returns the cells of `_TEST_HEADERS`; that of an endpoint names it."""
    # An exact zero has no sign.
    difference = f'{comparison["difference"]:+.3f}' if comparison['difference'] else '0.000'
    holm = endpoint if comparison['endpoint'] else table.format_number(comparison['p_holm'])
    p = table.format_number(comparison['p'])
    return [difference, _format_interval(comparison), p, holm]


def _format_interval(estimate: dict[str, Any]) -> str:
    if estimate['low'] is None:
        return '-'
    return f'{table.format_number(estimate["low"])} to {table.format_number(estimate["high"])}'


def _mean_or_none(values: Sequence[float | None]) -> float | None:
    """Returns the mean, or None when any value is None."""
    return None if None in values else float(np.mean(values))
