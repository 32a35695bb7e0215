"""Checks a run before it waits in a queue: `python -m bsft_jax.doctor --config=FILE --workdir=DIR`.

A line for each check; exits 2 when one fails. Nothing is written.
"""

from __future__ import annotations

from bsft_jax import signals

if __name__ == '__main__':
    signals.install()

import sys

from absl import flags

from bsft_jax import cli
from bsft_jax import config as config_lib
from bsft_jax.errors import UserError

_CONFIG = cli.define_config()
_WORKDIR = cli.define_place(
    'workdir', '.', 'Folder that the run would have; only its disk is looked at.'
)
_COORDINATES = flags.DEFINE_bool(
    'coordinates',
    False,
    'Train a few steps at three widths from --config.model.shape on instead, and check that '
    'activations and updates keep their size.',
)


def main(argv) -> None:
    del argv
    config = config_lib.validate(_CONFIG.value)
    if _COORDINATES.value:
        check_coordinates(config)
        return
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


def check_coordinates(config: config_lib.RunConfig) -> None:
    """Prints the sizes at each width; raises UserError where one is not flat."""
    from bsft_jax.studies import coordinates

    found = coordinates.measure_widths(config)
    print(coordinates.format_coordinates(found))
    if steep := found.steep:
        worst = max(steep, key=lambda name: abs(steep[name]))
        raise UserError(
            f'{worst} has a slope of {steep[worst]:+.2f} over the width, more than '
            f'{coordinates.MAX_SLOPE}: a learning rate does not transfer between these widths',
            where='--coordinates',
            fix='lower --config.optimizer.learning_rate, or start from a wider model.shape',
        )


if __name__ == '__main__':
    cli.run(main)
