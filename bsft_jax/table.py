"""Prints the metrics of every evaluation below a folder: `python -m bsft_jax.table --runs=DIR`."""

from __future__ import annotations

from bsft_jax import signals

if __name__ == '__main__':
    signals.install()

from bsft_jax import cli
from bsft_jax.errors import printable

_RUNS = cli.define_place('runs', None, 'Folder of workdirs (or one workdir).', required=True)


def main(argv) -> None:
    del argv
    from bsft_jax.report import table

    print(printable(table.format_table(table.read_evaluations(_RUNS.value))))


if __name__ == '__main__':
    cli.run(main)
