"""The README's table of figures, from the files in `benchmarks/results/`.

    python -m benchmarks.table            # writes it into README.md
    python -m benchmarks.table --print    # only prints it

A result has its rows under `table`: (what, ours, beside whom, ratio). The table names the command that made each.
"""

from __future__ import annotations

import json

from absl import flags

from benchmarks.output import ROOT
from bsft_jax import cli
from bsft_jax.errors import UserError

BEGIN, END = '<!-- python -m benchmarks.table -->', '<!-- end of the table -->'
HEAD = ('| what | ours | beside it | ratio | command |', '|---|---|---|---|---|')

_PRINT = flags.DEFINE_bool('print', False, 'Only print the table.')


def table() -> str:
    """All rows, results by name."""
    lines = [*HEAD]
    for path in sorted((ROOT / 'benchmarks' / 'results').glob('*.json')):
        found = json.loads(path.read_text(encoding='utf-8'))
        for row in found.get('table', ()):
            lines.append(f'| {" | ".join(row)} | `{found["command"]}` |')
    return '\n'.join(lines)


def put(text: str) -> str:
    """The README's text with the table between its two marks; raises UserError where they are not."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise UserError(f'lacks {BEGIN} or {END}', where='README.md')
    return f'{before}{BEGIN}\n{table()}\n{END}{after}'


def main(argv) -> None:
    del argv
    if _PRINT.value:
        print(table())
        return
    path = ROOT / 'README.md'
    path.write_text(put(path.read_text(encoding='utf-8')), encoding='utf-8')
    print(f'written: {path}')


if __name__ == '__main__':
    cli.run(main)
