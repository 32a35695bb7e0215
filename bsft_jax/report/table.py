"""Plain-text tables: the metrics of every evaluation at or below a folder, one line each."""

from __future__ import annotations

import pathlib
import textwrap
from collections.abc import Sequence
from typing import Any

from bsft_jax import files
from bsft_jax.errors import UserError
from bsft_jax.evaluation.metrics import SCHEMA
from bsft_jax.records import taxonomy
from bsft_jax.report import columns

_LEGEND_WIDTH = 106


def read_evaluations(runs: str | pathlib.Path) -> list[tuple[str, dict[str, Any]]]:
    """Reads every `eval/NAME/metrics.json` at or below the folder `runs`.

    Returns:
      (name, content of metrics.json) pairs, oldest first. A name is `WORKDIR/NAME` with WORKDIR
      relative to `runs`, or NAME alone when `runs` is the workdir.

    Raises:
      UserError: there is none, or a file is not the metrics of an evaluation.
    """
    root = pathlib.Path(runs)
    paths = sorted(root.rglob('eval/*/metrics.json'), key=lambda path: (path.stat().st_mtime, path))
    if not paths:
        raise UserError(
            'no eval/NAME/metrics.json below it', where=str(root), fix='run evaluate first'
        )
    evaluations = []
    for path in paths:
        metrics = files.read_json(path)
        if not isinstance(metrics, dict) or metrics.get('schema') != SCHEMA:
            raise UserError(
                'not the metrics of an evaluation', where=str(path), fix='evaluate again'
            )
        workdir, name = path.parents[2].relative_to(root), path.parent.name
        evaluations.append((f'{workdir}/{name}' if workdir.parts else name, metrics))
    return evaluations


def format_table(evaluations: Sequence[tuple[str, dict[str, Any]]]) -> str:
    """Returns an aligned table of (name, content of metrics.json) pairs with a legend below it.

    If records of several difficulty levels were scored, a table by level follows.
    """
    by_difficulty = [
        (name, f'difficulty {level}', own)
        for name, metrics in evaluations
        for level, own in metrics.get('difficulties', {}).items()
    ]
    lines = _table_lines('policy', [(name, m['policy'], m) for name, m in evaluations])
    if len({level for _, level, _ in by_difficulty}) > 1:
        lines += ['', *_table_lines('records', by_difficulty)]
    legend = textwrap.fill(
        'overall, groups: mean macro-F1 of the categories. 95 %: interval of overall, by case; one '
        'case has none. '
        f'{columns.legend()} -: does not apply.',
        _LEGEND_WIDTH,
    )
    return '\n'.join([*lines, *contamination_lines(evaluations), '', legend])


def _table_lines(header: str, rows: Sequence[tuple[str, str, dict[str, Any]]]) -> list[str]:
    """Returns the lines of a table.

    Args:
      header: what stands above the second cells.
      rows: first cell, second cell, and the metrics that the others show.
    """
    groups = taxonomy.ordered_groups(group for *_, metrics in rows for group in metrics['groups'])
    lines = [['run', header, 'n', 'overall', '95 %', *groups, *columns.headers()]]
    for name, second, metrics in rows:
        overall = metrics['overall']
        interval = overall.get('macro_f1_interval')
        lines.append(
            [
                name,
                second,
                str(overall['n']),
                format_number(overall['macro_f1']),
                '-'.join(format_number(end) for end in interval) if interval else '-',
                *(
                    format_number(metrics['groups'].get(group, {}).get('macro_f1'))
                    for group in groups
                ),
                *(format_number(column.value(metrics)) for column in columns.COLUMNS),
            ]
        )
    return align_columns(lines)


def contamination_lines(evaluations: Sequence[tuple[str, dict[str, Any]]]) -> list[str]:
    """Returns a line for each evaluation of records that the model was trained on."""
    lines = []
    for name, metrics in evaluations:
        counts = metrics.get('trained_on') or {}
        if counts.get('records') or counts.get('cases'):
            lines.append(
                f'warning: {name}: {counts["records"]} of {metrics["overall"]["n"]} records were '
                f'trained on, {counts["cases"]} are of cases that were'
            )
    return lines


def align_columns(lines: Sequence[Sequence[str]], left: int = 2) -> list[str]:
    """Pads lines of cells to text lines with a rule below the first one.

    Args:
      lines: the header and the rows, each with the same number of cells.
      left: number of leading columns that are flush left; the others are flush right.
    """
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    text = []
    for line in [lines[0], ['-' * width for width in widths], *lines[1:]]:
        cells = zip(line, widths, strict=True)
        text.append(
            '  '.join(
                cell.ljust(width) if c < left else cell.rjust(width)
                for c, (cell, width) in enumerate(cells)
            ).rstrip()
        )
    return text


def format_number(value: float | None) -> str:
    """Returns the value with three decimals, or - for None."""
    return '-' if value is None else f'{value:.3f}'
