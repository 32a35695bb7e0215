"""Checks a run before it waits in a queue: `python -m bsft_jax.doctor --config=FILE --workdir=DIR`.

A line for each check; exits 2 when one fails. Nothing is written.
"""

from __future__ import annotations

from bsft_jax import signals

if __name__ == '__main__':
    signals.install()

import sys

from bsft_jax import cli
from bsft_jax import config as config_lib
from bsft_jax.errors import UserError

_CONFIG = cli.define_config()
_WORKDIR = cli.define_place(
    'workdir', '.', 'Folder that the run would have; only its disk is looked at.'
)


def main(argv) -> None:
    del argv
    config = config_lib.validate(_CONFIG.value)
    from bsft_jax.commands import doctor
    from bsft_jax.parallel import processes

    processes.start()
    failed = []
    for finding in doctor.Doctor(config, _WORKDIR.value)():
        if processes.is_first():
            print(finding.line(sys.stdout.isatty()))
        if finding.verdict == doctor.FAIL:
            failed.append(finding.name)
    if failed:
        raise UserError(f'{", ".join(failed)}: this run would not start')


if __name__ == '__main__':
    cli.run(main)
