"""The runs of a study → summary.json: its rows, its comparisons, one sentence on its endpoint.

A row is one arm under one policy and prompt, over its seeds; its values are means over the seeds of
the macro-F1 of `evaluation.metrics`. Intervals resample on two levels: the seeds, and the cases, the
same cases for every arm and seed within a replicate, so that differences are paired. Arms trained
from the same seeds share the draw of the seeds as well.

Letters in names: N records, M cases, C categories, K options, S seeds, R replicates.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from bsft_jax.behaviorbench import taxonomy
from bsft_jax.behaviorbench.records import cluster_of
from bsft_jax.errors import UserError
from bsft_jax.evaluation import metrics, statistics
from bsft_jax.report import table

BASELINE = ('general_sft', 'auto', 'plain')
COMPARED = (*taxonomy.GROUPS, 'overall')
ENOUGH_PROACTIVE = 1500
# (z of a two-sided 5 % test) + (z of 80 % power) = 1.96 + 0.84
_POWER_FACTOR = 2.80
_SHARED = 0.95  # of the records of one result that every other must have


@dataclasses.dataclass
class Row:
    """One arm under one policy and prompt: `results` in the order of `seeds`, predictions int[S, N]."""

    seeds: tuple
    results: list[dict[str, Any]]
    predictions_SN: np.ndarray


@dataclasses.dataclass
class Records:
    """The records that all rows of a study are scored on, in the order of their ids; others are `left_out`."""

    categories: list[str]
    members: dict[str, list[str]]
    category_N: np.ndarray
    answer_N: np.ndarray
    case_N: np.ndarray
    left_out: int

    def chosen(self, group: str) -> list[int]:
        """Indices of the categories of a group or of `overall`; empty for an absent group."""
        names = self.categories if group == 'overall' else self.members.get(group, [])
        return [self.categories.index(name) for name in names]

    def number(self, group: str) -> int:
        """Records in a group or `overall`."""
        return int(np.isin(self.category_N, self.chosen(group)).sum())


def summarize(
    study: str,
    results: list[dict[str, Any]],
    *,
    endpoint: tuple,
    published: list[dict[str, Any]],
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """The content of summary.json.

    Args:
      study: its name.
      results: rows of results.jsonl, each with `predictions`, its rows of predictions.jsonl; `seed`
        is None for a model that was not trained.
      endpoint: `(group or 'overall', (arm, policy), (arm, policy))`, both under the prompt `plain`:
        the one comparison that the study was made for, first minus second.
      published: figures from elsewhere, `{'method', 'source', group or 'overall': value or None}`, copied.
      resamples, seed: of the bootstrap; no p is below 1/resamples, which Holm multiplies by the comparisons.

    Raises:
      UserError: no result, an evaluation twice, evaluations of different records, or an endpoint
        that the results do not have.
    """
    records, rows = _gather(study, results)
    group, first, second = endpoint[0], (*endpoint[1], 'plain'), (*endpoint[2], 'plain')
    for key in (first, second):
        if key not in rows:
            raise UserError(
                f'no result of {_label(key)}', where=f'endpoint of {study}', fix='run its points first'
            )
    if not records.chosen(group):
        raise UserError(f'no record of the group {group!r} was scored', where=f'endpoint of {study}')

    exact = {
        key: _macro_f1(records, row, np.ones((1, records.case_N.max() + 1))) for key, row in rows.items()
    }
    f1_RC = _replicates(records, rows, resamples, seed)
    value = {key: exact[key][0].mean(0) for key in rows}

    comparisons, replicates_R = [], None
    pairs = [(group, first, second)]
    if BASELINE in rows:
        pairs += [
            (g, key, BASELINE) for key in rows if key != BASELINE for g in COMPARED if records.chosen(g)
        ]
    for g, key, other in dict.fromkeys(pairs):
        chosen = records.chosen(g)
        difference_R = statistics.mean_present((f1_RC[key] - f1_RC[other])[:, chosen].T)
        replicates_R = difference_R if replicates_R is None else replicates_R
        low, high = statistics.interval(difference_R)
        comparisons.append(
            {
                'name': f'{g}: {_label(key)} - {_label(other)}',
                'difference': float((value[key] - value[other])[chosen].mean()),
                'low': low,
                'high': high,
                'p': statistics.two_sided_p(difference_R),
                'p_holm': None,
                'endpoint': not comparisons,
            }
        )
    for comparison, p in zip(
        comparisons[1:], statistics.holm([c['p'] for c in comparisons[1:]]), strict=True
    ):
        comparison['p_holm'] = p

    proactive = records.number('proactive')
    smallest = _POWER_FACTOR * float(np.nanstd(replicates_R, ddof=1))
    return {
        'study': study,
        'outcome': _outcome(group, first, second, comparisons[0], resamples),
        'rows': [_entry(key, row, records, value[key], f1_RC[key]) for key, row in rows.items()],
        'comparisons': comparisons,
        'smallest_effect': {'difference': smallest, 'proactive_records': proactive},
        'published': published,
        'notes': _notes(rows, records, first, second, resamples),
        'runs': [
            {'arm': arm, 'seed': s, 'workdir': workdir}
            for arm, s, workdir in dict.fromkeys((r['arm'], r['seed'], r['workdir']) for r in results)
        ],
    }


def _gather(study: str, results: list[dict[str, Any]]) -> tuple[Records, dict[tuple, Row]]:
    """Results by (arm, policy, prompt) in the order of appearance, on the records that all of them scored.

    Prompts of several lengths leave out different records as too long.
    """
    by_key: dict[tuple, dict] = {}
    scored: dict[int, dict[str, dict]] = {}
    for result in results:
        key = (result['arm'], result['evaluation']['policy'], result['evaluation']['prompt'])
        if result['seed'] in by_key.setdefault(key, {}):
            where = f'{result["workdir"]}, evaluation {result["evaluation"]["name"]}'
            raise UserError(f'a second result of {_label(key)}, seed {result["seed"]}', where=where)
        by_key[key][result['seed']] = result
        scored[id(result)] = _by_id(result)
    if len({len(result['predictions']) for result in results if not _has_ids(result)}) > 1:
        raise UserError(
            'records without an id, and not as many in every result: nobody knows which is which',
            where=study,
            fix='give the records an id, or evaluate again',
        )
    everywhere = sorted(set.intersection(*map(set, scored.values()))) if scored else []
    most = max(map(len, scored.values()), default=0)
    reference, ordered, column = None, [], {}
    for result in sorted(results, key=lambda result: len(scored[id(result)]), reverse=True):
        rows_N = [scored[id(result)][name] for name in everywhere]
        identity = [(r['id'], r.get('category'), r['answer']) for r in rows_N]
        if reference is None:
            reference, ordered = identity, rows_N
        if identity != reference or len(scored[id(result)]) < _SHARED * most:
            raise UserError(
                'other records than in the other results',
                where=f'{result["workdir"]}, evaluation {result["evaluation"]["name"]}',
                fix='evaluate every arm of a study on the same data, split and limit',
            )
        column[id(result)] = [r['prediction'] for r in rows_N]
    if not reference:
        raise UserError('no result with an answer and a prediction', where=study, fix='run its points first')

    members = metrics.group_members(ordered)
    categories = sorted(name for names in members.values() for name in names)
    records = Records(
        categories,
        members,
        np.array([categories.index(metrics.category_of(r)) for r in ordered]),
        np.array([r['answer'] for r in ordered]),
        statistics.cluster_ids([cluster_of(r) for r in ordered]),
        most - len(ordered),
    )
    rows = {}
    for key, of_seed in by_key.items():
        seeds = tuple(sorted(of_seed, key=_seed_order))
        chosen = [of_seed[s] for s in seeds]
        rows[key] = Row(seeds, chosen, np.array([column[id(result)] for result in chosen]))
    return records, rows


def _has_ids(result: dict[str, Any]) -> bool:
    return all(row['id'] for row in result['predictions'])


def _by_id(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The scored predictions of a result by record, one without an id by its place."""
    scored = {}
    for n, row in enumerate(result['predictions']):
        if row.get('answer') is None or row.get('prediction') is None:
            continue
        if (name := row['id'] or f'nameless {n:08d}') in scored:
            where = f'{result["workdir"]}, evaluation {result["evaluation"]["name"]}'
            raise UserError(f'two records have the id {name!r}', where=where, fix='give each its own')
        scored[name] = row
    return scored


def _macro_f1(records: Records, row: Row, times_RM: np.ndarray) -> np.ndarray:
    """Macro-F1 float64[R, S, C] with each case counted as often as `times_RM` says; NaN without a record."""
    f1_RSC = np.empty((len(times_RM), len(row.seeds), len(records.categories)))
    for c in range(len(records.categories)):
        of_N = records.category_N == c
        cases, case_N = np.unique(records.case_N[of_N], return_inverse=True)
        answer_N, predictions_SN = records.answer_N[of_N], row.predictions_SN[:, of_N]
        options = int(max(answer_N.max(), predictions_SN.max())) + 1
        for s, prediction_N in enumerate(predictions_SN):
            counts_MKK = metrics.confusion_counts(
                answer_N, prediction_N, case_N, categories=len(cases), options=options
            )
            counts_RX = times_RM[:, cases] @ counts_MKK.reshape(len(cases), -1).astype(np.float64)
            f1_RSC[:, s, c] = metrics.confusion_macro_f1(counts_RX.reshape(-1, options, options))
    return f1_RSC


def _replicates(
    records: Records, rows: dict[tuple, Row], resamples: int, seed: int
) -> dict[tuple, np.ndarray]:
    """Per row float64[R, C]: macro-F1 of resampled cases, averaged over resampled seeds."""
    rng = np.random.default_rng(seed)
    times_RM = statistics.draw_times(rng, int(records.case_N.max()) + 1, resamples)
    lists = sorted({row.seeds for row in rows.values()}, key=lambda seeds: [_seed_order(s) for s in seeds])
    times_RS = {seeds: statistics.draw_times(rng, len(seeds), resamples) for seeds in lists}
    return {
        key: np.einsum('rs,rsc->rc', times_RS[row.seeds], _macro_f1(records, row, times_RM)) / len(row.seeds)
        for key, row in rows.items()
    }


def _entry(key: tuple, row: Row, records: Records, value_C: np.ndarray, f1_RC: np.ndarray) -> dict[str, Any]:
    """One of `rows` of summary.json."""

    def figure(group: str) -> dict[str, float]:
        chosen = records.chosen(group)
        low, high = statistics.interval(statistics.mean_present(f1_RC[:, chosen].T))
        return {'value': float(value_C[chosen].mean()), 'low': low, 'high': high}

    acts = [result['metrics']['intervention'] for result in row.results]
    return {
        'arm': key[0],
        'policy': key[1],
        'prompt': key[2],
        'seeds': len(row.seeds),
        'n': len(records.answer_N),
        'overall': figure('overall'),
        'groups': {group: figure(group) for group in records.members},
        'categories': {name: float(value_C[c]) for c, name in enumerate(records.categories)},
        'selection': _mean(
            [(result['metrics']['selection'] or {}).get('macro_f1') for result in row.results]
        ),
        'over': _mean([a['over_intervention_rate'] for a in acts]),
        'missed': _mean([a['missed_intervention_rate'] for a in acts]),
        'twins': _mean([a['twin_score'] for a in acts]),
    }


def _outcome(group: str, first: tuple, second: tuple, comparison: dict[str, Any], resamples: int) -> str:
    """One sentence: the difference, its interval and p, and whether the interval excludes zero."""
    points, low, high = (100 * comparison[name] for name in ('difference', 'low', 'high'))
    other = second[0] if first[1] == second[1] else f'{second[0]} with {second[1]}'
    bound = '<=' if comparison['p'] <= 1 / resamples else '='
    excludes = 'excludes' if low > 0 or high < 0 else 'does not exclude'
    return (
        f'{first[0]} with {first[1]} is {abs(points):.1f} points {"below" if points < 0 else "above"} {other} '
        f'on {group} macro-F1 (95 % interval {low:.1f} to {high:.1f}, p {bound} {comparison["p"]:.2g}): '
        f'the interval {excludes} zero.'
    )


def _notes(
    rows: dict[tuple, Row], records: Records, first: tuple, second: tuple, resamples: int
) -> list[str]:
    """What a reader must know before believing the figures."""
    notes, proactive = [], records.number('proactive')
    if proactive < ENOUGH_PROACTIVE:
        notes.append(
            f'Only {proactive} proactive records: below {ENOUGH_PROACTIVE} a difference of one or two points '
            'cannot be told from chance; see the smallest effect.'
        )
    if records.left_out:
        notes.append(
            f'{records.left_out} records are left out of macro-F1: a longer prompt could not hold them.'
        )
    a, b = rows[first].seeds, rows[second].seeds
    number = min(len(a), len(b))
    if number == 1:
        notes.append(
            'An arm of the endpoint has one seed: its interval holds no variation between trainings.'
        )
    else:
        notes.append(
            f'{number} seeds: resampling them shows only {1 - 1 / number:.0%} of the variance between '
            'trainings; where trainings differ much, intervals are too narrow.'
        )
    if a != b:
        notes.append('The arms of the endpoint have different seeds: their seeds are resampled apart.')
    notes.append(
        f'Intervals: {resamples} replicates that resample seeds and whole cases, the same cases in every row; '
        'p_holm is adjusted over all comparisons but the endpoint.'
    )
    return notes


def format_summary(summary: dict[str, Any]) -> str:
    """The summary as plain text: rows, comparisons, published figures, smallest effect, outcome."""
    present = {group for row in summary['rows'] for group in row['groups']}
    groups = [group for group in taxonomy.GROUPS if group in present]
    groups += sorted(present - set(groups))
    rates = ('selection', 'over', 'missed', 'twins')
    lines = [['arm', 'policy', 'prompt', 'seeds', 'n', 'overall', '95 %', *groups, *rates]]
    for row in summary['rows']:
        lines.append(
            [
                *(str(row[name]) for name in ('arm', 'policy', 'prompt', 'seeds', 'n')),
                table.number(row['overall']['value']),
                _interval(row['overall']),
                *(table.number(row['groups'].get(group, {}).get('value')) for group in groups),
                *(table.number(row[name]) for name in rates),
            ]
        )
    text = [f'Study {summary["study"]}', '', *table.aligned(lines, left=3)]
    lines = [['comparison', 'difference', '95 %', 'p', 'p (Holm)']]
    for c in summary['comparisons']:
        holm = 'endpoint' if c['endpoint'] else table.number(c['p_holm'])
        lines.append([c['name'], f'{c["difference"]:+.3f}', _interval(c), table.number(c['p']), holm])
    text += ['', *table.aligned(lines, left=1)]
    if summary['published']:
        text += ['', 'Published, on another data set (not to be compared in level):']
        for figure in summary['published']:
            values = [
                f'{name} {table.number(figure[name])}' for name in (*groups, 'overall') if figure.get(name)
            ]
            text.append(f'  {figure["method"]}: {", ".join(values)} ({figure["source"]})')
    smallest = summary['smallest_effect']
    text += [
        '',
        f'Smallest effect found with 80 % power on the endpoint: {100 * smallest["difference"]:.1f} points '
        f'({smallest["proactive_records"]} proactive records).',
        *(f'Note: {note}' for note in summary['notes']),
        '',
        summary['outcome'],
    ]
    return '\n'.join(text)


def _label(key: tuple) -> str:
    return '/'.join(key[:2] if key[2] == 'plain' else key)


def _interval(figure: dict[str, Any]) -> str:
    return f'{table.number(figure["low"])} to {table.number(figure["high"])}'


def _seed_order(seed: int | None) -> int:
    return -1 if seed is None else seed


def _mean(values: Sequence[float | None]) -> float | None:
    return None if None in values else float(np.mean(values))
