"""Trains a run: `python -m bsft_jax.train --config=configs/quickstart.py --workdir=DIR`.

Started again with the same --workdir it continues from the newest whole checkpoint.
"""

from __future__ import annotations

from absl import flags

from bsft_jax import cli

_CONFIG = cli.define_config()
_WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of the run; made if absent.', required=True)


def main(argv) -> None:
    del argv
    _CONFIG.value.validate()
    from bsft_jax import runs
    from bsft_jax.parallel import processes

    processes.start(stopping=True)
    runs.train(_CONFIG.value, _WORKDIR.value)


if __name__ == '__main__':
    cli.run(main)
