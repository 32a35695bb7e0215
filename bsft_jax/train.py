"""Trains a run: `python -m bsft_jax.train --config=configs/quickstart.py --workdir=DIR`.

Started again with the same --workdir it continues from the newest intact checkpoint.
"""

from __future__ import annotations

from bsft_jax import signals

if __name__ == '__main__':
    signals.install(restart=True)

from bsft_jax import cli
from bsft_jax import config as config_lib

_CONFIG = cli.define_config()
_WORKDIR = cli.define_place('workdir', None, 'Folder of the run; created if absent.', required=True)


def main(argv) -> None:
    del argv
    config_lib.validate(_CONFIG.value)
    from bsft_jax.commands.train import train
    from bsft_jax.parallel import processes

    processes.start(preemptible=True)
    train(_CONFIG.value, _WORKDIR.value)


if __name__ == '__main__':
    cli.run(main)
