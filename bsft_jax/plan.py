"""Plans a run for devices that you do not have.

    python -m bsft_jax.plan --config=FILE:ARG --topology=v5p:4x4x4

Compiles the real train step for the topology and prints what it needs; exits 3 if it does not fit.
"""

from __future__ import annotations

from bsft_jax import signals

if __name__ == '__main__':
    signals.install()

import pathlib

from absl import flags

from bsft_jax import cli, files, places
from bsft_jax import config as config_lib
from bsft_jax.errors import DoesNotFit, printable
from bsft_jax.planning import topology as topology_lib

_CONFIG = cli.define_config()
_TOPOLOGY = flags.DEFINE_string(
    'topology', None, f'Devices to plan for: {topology_lib.SPELLINGS}.', required=True
)
_OUTPUT = cli.define_place('output', '', 'JSON file for the plan; none by default.')
_SEARCH = flags.DEFINE_bool(
    'search',
    False,
    'Try train.remat × train.gradient_accumulation_steps and plan with the fastest that fits.',
)


def main(argv) -> None:
    """Plans the run, prints the plan and writes it to `--output`."""
    del argv
    config = config_lib.validate(_CONFIG.value)
    if _OUTPUT.value:
        places.check_output(_OUTPUT.value, 'output', file=True)
    topology = topology_lib.parse_topology(_TOPOLOGY.value)
    # Before jax is imported.
    topology_lib.set_compiler_environment(topology)
    from bsft_jax.planning import compile_plan, search
    from bsft_jax.planning.format import format_plan

    devices = topology_lib.topology_devices(topology)
    make_plan = search.search_plans if _SEARCH.value else compile_plan.make_plan
    plan = make_plan(config, topology, devices)
    plan['config'] = config.to_dict()
    print(printable(format_plan(plan)))
    if _OUTPUT.value:
        path = pathlib.Path(_OUTPUT.value)
        with files.writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        files.write_json(path, plan)
    if plan['verdict']['fits'] is False:
        raise DoesNotFit(search.explain_misfit(plan))


if __name__ == '__main__':
    cli.run(main)
