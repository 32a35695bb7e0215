"""One line per evaluation under a folder of workdirs, as an aligned table.

python -m bsft_jax.report.table --runs=runs/quickstart
"""

from __future__ import annotations

import pathlib
import signal
from collections.abc import Sequence
from typing import Any

from absl import flags

from bsft_jax import cli, files
from bsft_jax.behaviorbench import taxonomy
from bsft_jax.errors import UserError
from bsft_jax.evaluation.metrics import SCHEMA

_LEGEND = (
    'overall, groups: mean macro-F1 of the categories; 95 %: interval of overall, by case. '
    "selection: macro-F1\nof the model's own choice of behavior. over, missed: rates of stepping in "
    'uninvited, of staying silent.\ntwins: share of pairs with both answers right. -: does not apply.'
)


def read(runs: str | pathlib.Path) -> list[tuple[str, dict[str, Any]]]:
    """Every `eval/NAME/metrics.json` at or below `runs`, as (name, its content), oldest first.

    Raises UserError when there is none or one is something else.
    """
    root = pathlib.Path(runs)
    paths = sorted(root.rglob('eval/*/metrics.json'), key=lambda path: (path.stat().st_mtime, path))
    if not paths:
        raise UserError('no eval/NAME/metrics.json below it', where=str(root), fix='run evaluate first')
    found = []
    for path in paths:
        content = files.read_json(path)
        if not isinstance(content, dict) or content.get('schema') != SCHEMA:
            raise UserError('not the metrics of an evaluation', where=str(path), fix='evaluate again')
        workdir, name = path.parents[2].relative_to(root), path.parent.name
        found.append((f'{workdir}/{name}' if workdir.parts else name, content))
    return found


def format_table(found: Sequence[tuple[str, dict[str, Any]]]) -> str:
    """An aligned table of (name, content of metrics.json) with a legend below it."""
    present = {group for _, content in found for group in content['groups']}
    groups = [group for group in taxonomy.GROUPS if group in present]
    groups += sorted(present - set(groups))
    head = ['run', 'policy', 'n', 'overall', '95 %', *groups, 'selection', 'over', 'missed', 'twins']
    lines = [head]
    for name, content in found:
        overall, acts = content['overall'], content['intervention']
        low_high = overall.get('macro_f1_interval')
        lines.append(
            [
                name,
                content['policy'],
                str(overall['n']),
                number(overall['macro_f1']),
                '-'.join(number(x) for x in low_high) if low_high else '-',
                *(number(content['groups'].get(group, {}).get('macro_f1')) for group in groups),
                number((content['selection'] or {}).get('macro_f1')),
                number(acts['over_intervention_rate']),
                number(acts['missed_intervention_rate']),
                number(acts['twin_score']),
            ]
        )
    return '\n'.join([*aligned(lines), '', _LEGEND])


def aligned(lines: Sequence[Sequence[str]], left: int = 2) -> list[str]:
    """Lines of cells, the head first, as lines of text with a rule; the first `left` columns flush left."""
    widths = [max(len(cells) for cells in column) for column in zip(*lines, strict=True)]
    text = []
    for line in [lines[0], ['-' * width for width in widths], *lines[1:]]:
        cells = zip(line, widths, strict=True)
        text.append(
            '  '.join(
                cell.ljust(width) if c < left else cell.rjust(width) for c, (cell, width) in enumerate(cells)
            ).rstrip()
        )
    return text


def number(value: float | None) -> str:
    """Three decimals, or - for None."""
    return '-' if value is None else f'{value:.3f}'


def main(_) -> None:
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # what reads it may stop early, as head does
    print(format_table(read(flags.FLAGS.runs)))


if __name__ == '__main__':
    flags.DEFINE_string('runs', None, 'Folder of workdirs (or one workdir).', required=True)
    cli.run(main)
