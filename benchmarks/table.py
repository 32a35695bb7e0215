"""Writes the benchmark tables of `docs/measured.md` (all rows) and README.md (three rows).

    python -m benchmarks.table            # writes both
    python -m benchmarks.table --print    # only prints all rows

A result in `benchmarks/results/` has its rows under `table`: (what, ours, peer, ratio).
The date, the processor and the command of each are added here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from absl import flags

from benchmarks.output import ROOT
from bsft_jax import cli
from bsft_jax.errors import UserError

BEGIN, END = '<!-- python -m benchmarks.table -->', '<!-- end of the table -->'
HEADER = (
    '| what | ours | beside it | ratio | date, processor | command |',
    '|---|---|---|---|---|---|',
)
# Rows that the README shows, by result: indices into its `table`.
README_ROWS = {'train_step_cpu': (12,), 'sft_cpu': (0,), 'loss_head_cpu': (0,)}
README, MEASURED = PAGES = ('README.md', 'docs/measured.md')

_PRINT = flags.DEFINE_bool('print', False, 'Print the table of all rows and write nothing.')


def _read_rows() -> dict[str, list[tuple[str, ...]]]:
    """Returns the cells of every row, by the name of its result."""
    rows = {}
    for path in sorted((ROOT / 'benchmarks' / 'results').glob('*.json')):
        result = json.loads(path.read_text(encoding='utf-8'))
        if 'table' in result:
            origin = (f'{result["date"]}, {result.get("processor", "-")}', f'`{result["command"]}`')
            rows[path.stem] = [(*row, *origin) for row in result['table']]
    return rows


def _format_rows(rows: Sequence[tuple[str, ...]]) -> str:
    return '\n'.join((*HEADER, *(f'| {" | ".join(row)} |' for row in rows)))


def _headline(rows: dict[str, list[tuple[str, ...]]]) -> str:
    """Summarizes the train step beside eager torch by processor and dtype."""
    lines = ['**A train step beside eager torch:**', '']
    for name in (name for name in rows if name.startswith('train_step_cpu')):
        ranges = {}
        for mode in ('full', 'lora'):
            eager = [
                row for row in rows[name] if f', {mode},' in row[0] and row[2].startswith('torch:')
            ]
            ranges[mode] = sorted((row[3].split()[0] for row in eager), key=float)
        processor = rows[name][0][4].split(', ')[1]
        # The first cell ends with `float32 on a CPU`.
        dtype = rows[name][0][0].split(', ')[-1].split()[0]
        full, lora = (f'{ratios[0]} to {ratios[-1]}' for ratios in ranges.values())
        lines.append(
            f'- {dtype} on `{processor}`: {full} times as fast with every parameter, '
            f'{lora} times with LoRA.'
        )
    return '\n'.join(lines)


def page_table(page: str) -> str:
    """Returns the table of a page: three rows for the README, else a summary and all rows."""
    rows = _read_rows()
    if page == README:
        return _format_rows(
            [rows[name][i] for name, indices in README_ROWS.items() for i in indices]
        )
    return (
        f'{_headline(rows)}\n\n{_format_rows([row for result in rows.values() for row in result])}'
    )


def insert_table(page: str, text: str) -> str:
    """Returns a page's text with its table replaced.

    Raises:
      UserError: if one of the two marks of the table is missing.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise UserError(f'lacks {BEGIN} or {END}', where=page)
    return f'{before}{BEGIN}\n{page_table(page)}\n{END}{after}'


def main(argv) -> None:
    """Writes the tables into both pages, or prints all rows."""
    del argv
    if _PRINT.value:
        print(page_table(MEASURED))
        return
    for page in PAGES:
        path = ROOT / page
        path.write_text(insert_table(page, path.read_text(encoding='utf-8')), encoding='utf-8')
        print(f'written: {path}')


if __name__ == '__main__':
    cli.run(main)
