"""Compares two evaluations of the same records, pair by pair."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from bsft_jax import files, places
from bsft_jax.commands import eval_folder
from bsft_jax.errors import UserError
from bsft_jax.evaluation import statistics
from bsft_jax.report import table
from bsft_jax.studies import equal_over, estimates
from bsft_jax.studies.pairing import Setting, SettingResults, SharedRecords, pair_results

SIDES = ('a', 'b')
_RESAMPLES = 2000


@dataclasses.dataclass(frozen=True)
class CompareOptions:
    """Describes a comparison.

    Attributes:
      a: folder of an evaluation, `WORKDIR/eval/NAME`.
      b: folder of another one.
      output: folder that gets `compare.json`; empty writes nothing.
    """

    a: str
    b: str
    output: str = ''


def compare_evaluations(options: CompareOptions) -> dict[str, Any]:
    """Compares two evaluations, a minus b, and writes `compare.json`.

    Returns:
      `evaluations`: by side, its folder, policy, prompt and macro-F1.
      `n`, `cases`: the records that both have scored, and their cases. `left_out`: the others.
      `groups`: by group and `overall`, what `estimates.compare` returns of macro-F1, with the
        limits as `interval`, and with `p_holm`, adjusted over the groups and overall.
      `smallest_effect`: the difference of the overall macro-F1 that is found with 80 % power.
      `mcnemar`: `only_a` and `only_b`, the records that one side alone answers right, and the exact
        `p` of as uneven a split. It takes records, not cases, as independent.
      `missed_at_equal_over`: what `equal_over.compare_missed` returns.

    Raises:
      UserError: a folder holds no evaluation, both are one, the records or the levels of the
        behaviors differ, or the result cannot be written.
    """
    if options.output:
        places.check_output(options.output, 'output')
    folders = [pathlib.Path(path).resolve() for path in (options.a, options.b)]
    if folders[0] == folders[1]:
        raise UserError('is the folder of --a', where=f'--b={options.b}', fix='name another one')
    results = [
        _read_result(side, folder, f'--{side}={path}')
        for side, folder, path in zip(SIDES, folders, (options.a, options.b), strict=True)
    ]
    levels = [result['metrics']['behaviors'] for result in results]
    if levels[0] != levels[1]:
        raise UserError(
            f'the models have other behaviors: {levels[0]} and {levels[1]}', where='--a and --b'
        )
    records, rows = pair_results('the comparison', results)
    found = _compare(records, rows, levels[0])
    found['evaluations'] = {
        result['arm']: {
            'folder': str(folder),
            'policy': result['evaluation']['policy'],
            'prompt': result['evaluation']['prompt'],
            'macro_f1': result['metrics']['overall']['macro_f1'],
        }
        for folder, result in zip(folders, results, strict=True)
    }
    if options.output:
        output = pathlib.Path(options.output)
        with files.writing(output):
            output.mkdir(parents=True, exist_ok=True)
        files.write_json(output / 'compare.json', found)
    return found


def _read_result(side: str, folder: pathlib.Path, where: str) -> dict[str, Any]:
    """Returns an evaluation as a row of results.jsonl with its predictions."""
    predictions, metrics = eval_folder.read(folder, where)
    return {
        'arm': side,
        'seed': None,
        'evaluation': {
            'name': folder.name,
            'policy': metrics['policy'],
            'prompt': metrics['prompt'],
        },
        'workdir': str(folder.parents[1]),
        'metrics': metrics,
        'predictions': predictions,
    }


def _compare(
    records: SharedRecords, rows: dict[Setting, SettingResults], levels: dict[str, float]
) -> dict[str, Any]:
    a, b = rows
    groups = {
        group: estimates.compare(records, rows, group, a, b, resamples=_RESAMPLES, seed=0)
        for group in (*records.members, 'overall')
    }
    adjusted = statistics.holm_adjust([entry['p'] for entry in groups.values()])
    predictions = [np.array([row['prediction'] for row in rows[s].predictions[0]]) for s in (a, b)]
    right_a, right_b = (p == records.answer_R for p in predictions)
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    return {
        'n': len(records.answer_R),
        'cases': records.num_cases,
        'left_out': records.left_out,
        'groups': {
            group: {
                'difference': entry['difference'],
                'interval': None if entry['low'] is None else [entry['low'], entry['high']],
                'p': entry['p'],
                'p_holm': p_holm,
                'reason': entry['reason'],
                'cases': entry['cases'],
            }
            for (group, entry), p_holm in zip(groups.items(), adjusted, strict=True)
        },
        'smallest_effect': estimates.smallest_effect(groups['overall']),
        'mcnemar': {
            'only_a': only_a,
            'only_b': only_b,
            'p': statistics.mcnemar_p(only_a, only_b),
        },
        'missed_at_equal_over': equal_over.compare_missed(
            records, rows, [(a, b)], levels=levels, resamples=_RESAMPLES, seed=0
        ),
    }


def format_comparison(found: dict[str, Any]) -> str:
    """Returns the content of compare.json as plain text."""
    lines = [['macro-F1, a - b', 'cases', 'difference', '95 %', 'p', 'p (Holm)']]
    for group, entry in found['groups'].items():
        lines.append(
            [group, *_cells(entry, entry['interval']), table.format_number(entry['p_holm'])]
        )
    missed = found['missed_at_equal_over']
    for c in missed['comparisons']:
        interval = None if c['low'] is None else [c['low'], c['high']]
        name = f'missed at {100 * missed["over_rate"]:g} % over'
        lines.append([name, *_cells(c, interval), '-'])
    text = [
        *(
            f'{side}: {e["folder"]} ({e["policy"]}, {e["prompt"]})'
            for side, e in found['evaluations'].items()
        ),
        f'{found["n"]} records of {found["cases"]} cases, {found["left_out"]} left out',
        '',
        *table.align_columns(lines, left=1),
        '',
    ]
    one, mcnemar = found['smallest_effect'], found['mcnemar']
    effect = table.format_number(one['difference']) if one['reason'] is None else one['reason']
    text += [
        f'Right in a alone {mcnemar["only_a"]}, in b alone {mcnemar["only_b"]}: exact McNemar '
        f'p {table.format_number(mcnemar["p"])}, records taken as independent.',
        f'Smallest difference overall found with 80 % power: {effect}.',
    ]
    if missed['reason']:
        text.append(f'Not compared at equal over-intervention: {missed["reason"]}.')
    return '\n'.join([*text, *equal_over.describe_reach(missed)])


def _cells(entry: dict[str, Any], interval: Sequence[float] | None) -> list[str]:
    ends = '-' if interval is None else ' to '.join(map(table.format_number, interval))
    difference = f'{entry["difference"]:+.3f}' if entry['difference'] else '0.000'
    return [str(entry['cases']), difference, ends, table.format_number(entry['p'])]
