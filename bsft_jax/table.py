"""Prints the metrics of every evaluation below a folder: `python -m bsft_jax.table --runs=DIR`."""

from __future__ import annotations

import signal

from bsft_jax import cli

_RUNS = cli.define_place('runs', None, 'Folder of workdirs (or one workdir).', required=True)


def main(argv) -> None:
    del argv
    from bsft_jax.report import table

    # A reader such as `head` may close the pipe early; that is no error.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    print(table.format_table(table.read_evaluations(_RUNS.value)))


if __name__ == '__main__':
    cli.run(main)
