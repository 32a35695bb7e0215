"""The tables of figures in `docs/measured.md` (all) and README.md (a few), from the files in `benchmarks/results/`.

    python -m benchmarks.table            # writes both
    python -m benchmarks.table --print    # only prints all rows

A result has its rows under `table`: (what, ours, beside whom, ratio). The table names the date, the processor and the
command of each.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from absl import flags

from benchmarks.output import ROOT
from bsft_jax import cli
from bsft_jax.errors import UserError

BEGIN, END = '<!-- python -m benchmarks.table -->', '<!-- end of the table -->'
HEAD = ('| what | ours | beside it | ratio | date, processor | command |', '|---|---|---|---|---|---|')
CHOSEN = {  # rows of the README, by result
    'train_step_cpu': (12, 14),
    'sft_cpu': (0,),
    'inference_cpu': (0, 1),
    'packing_cpu': (1,),
    'attention_cpu': (1,),
    'loss_head_cpu': (0,),
}
PAGES = ('README.md', 'docs/measured.md')

_PRINT = flags.DEFINE_bool('print', False, 'Only print the table of all rows.')


def _rows() -> dict[str, list[tuple[str, ...]]]:
    """Cells of every row, by the name of its result."""
    rows = {}
    for path in sorted((ROOT / 'benchmarks' / 'results').glob('*.json')):
        found = json.loads(path.read_text(encoding='utf-8'))
        if 'table' in found:
            last = (f'{found["date"]}, {found.get("processor", "-")}', f'`{found["command"]}`')
            rows[path.stem] = [(*row, *last) for row in found['table']]
    return rows


def _lines(rows: Sequence[tuple[str, ...]]) -> str:
    return '\n'.join((*HEAD, *(f'| {" | ".join(row)} |' for row in rows)))


def _headline(rows: dict[str, list[tuple[str, ...]]]) -> str:
    """What a train step comes to beside eager torch, over all sizes, by processor and dtype."""
    found = []
    for name in (name for name in rows if name.startswith('train_step_cpu')):
        shares = {}
        for mode in ('full', 'lora'):
            beside = [row for row in rows[name] if f', {mode},' in row[0] and row[2].startswith('torch:')]
            shares[mode] = sorted((row[3].split()[0] for row in beside), key=float)
        processor = rows[name][0][4].split(', ')[1]
        dtype = rows[name][0][0].split(', ')[-1].split()[0]  # "..., float32 on a CPU"
        full, lora = (f'{ratios[0]} to {ratios[-1]}' for ratios in shares.values())
        found.append(
            f'{dtype} on `{processor}` {full} times as fast with every parameter, {lora} times with LoRA'
        )
    return f'**A train step beside eager torch: {"; ".join(found)}.**'


def table(page: str) -> str:
    """What stands between the marks of a page: all rows, results by name; in the README a headline and a few."""
    rows = _rows()
    if page != 'README.md':
        return _lines([row for found in rows.values() for row in found])
    chosen = [rows[name][i] for name, places in CHOSEN.items() for i in places]
    return f'{_headline(rows)}\n\n{_lines(chosen)}'


def put(page: str, text: str) -> str:
    """The page's text with its table between its two marks; raises UserError where they are not."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise UserError(f'lacks {BEGIN} or {END}', where=page)
    return f'{before}{BEGIN}\n{table(page)}\n{END}{after}'


def main(argv) -> None:
    del argv
    if _PRINT.value:
        print(table('docs/measured.md'))
        return
    for page in PAGES:
        path = ROOT / page
        path.write_text(put(page, path.read_text(encoding='utf-8')), encoding='utf-8')
        print(f'written: {path}')


if __name__ == '__main__':
    cli.run(main)
