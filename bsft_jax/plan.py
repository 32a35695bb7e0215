"""Plans a run for devices that are not there: `python -m bsft_jax.plan --config=FILE:ARG --topology=v5p:4x4x4`.

Compiles the real train step for the topology and prints what it takes; exits 3 when it does not fit.
"""

from __future__ import annotations

import json
import pathlib

from absl import flags

from bsft_jax import cli
from bsft_jax.errors import DoesNotFit

_CONFIG = cli.define_config()
_TOPOLOGY = flags.DEFINE_string(
    'topology',
    None,
    'v5e:4x4, v5p:4x4x4, v6e:16x16 (*S: S slices), h100:HxG, h200:HxG or cpu:N.',
    required=True,
)
_OUTPUT = flags.DEFINE_string('output', '', 'JSON file of the plan; none by default.')
_SEARCH = flags.DEFINE_bool(
    'search', False, 'Try train.remat × train.accumulation and plan with the fastest that fits.'
)


def main(argv) -> None:
    del argv
    config = _CONFIG.value.validate()
    from bsft_jax.planning import topology as topology_lib

    topology = topology_lib.parse(_TOPOLOGY.value)
    topology_lib.prepare(topology)
    from bsft_jax.planning import account, advice, show

    devices = topology_lib.devices(topology)
    found = (advice.search if _SEARCH.value else account.plan)(config, topology, devices)
    found['config'] = config.to_dict()
    print(show.text(found))
    if _OUTPUT.value:
        path = pathlib.Path(_OUTPUT.value)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found, indent=2) + '\n', encoding='utf-8')
    if found['verdict']['fits'] is False:
        raise DoesNotFit(advice.sentence(found))


if __name__ == '__main__':
    cli.run(main)
