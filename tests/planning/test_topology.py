"""Topologies: their spellings, the chips behind them and the compilers for them."""

import math

import pytest

from bsft_jax.errors import UserError
from bsft_jax.planning import topology as topology_lib
from bsft_jax.planning.chips import CHIPS
from bsft_jax.planning.topology import parse_topology


@pytest.mark.parametrize(
    'spelled, kind, shape, slices',
    [
        ('v5p:4x4x8', 'v5p', (4, 4, 8), 1),
        ('v6e:16x16*2', 'v6e', (16, 16), 2),
        ('h200:4x8', 'h200', (4, 8), 1),
    ],
)
def test_spellings(spelled, kind, shape, slices):
    topology = parse_topology(spelled)
    assert (topology.kind, topology.shape, topology.slices) == (kind, shape, slices)
    assert topology.num_devices == math.prod(shape) * slices


@pytest.mark.parametrize(
    'spelled', ['v5e', 'v5e:4', 'v5p:4x4', 'a100:1x8', 'h100:8', 'cpu:2x4', 'cpu:0', 'cpu:8*2', '']
)
def test_other_spellings_are_refused(spelled):
    with pytest.raises(UserError, match='is not a topology'):
        parse_topology(spelled)


@pytest.mark.parametrize('kind', CHIPS)
def test_an_entry_of_the_chips_is_all_that_a_topology_needs(kind):
    chip = CHIPS[kind]
    example = f'{kind}:{"x".join(map(str, chip.example_shape))}'
    assert example in topology_lib.SPELLINGS
    topology = parse_topology(example)
    assert (topology.chip, topology.platform) == (chip, chip.platform)
    if chip.platform == 'gpu':
        config = topology_lib._target_config(topology)
        assert f'device_memory_size: {chip.memory}\n' in config
        assert f'cuda_compute_capability {{ {chip.target.compute_capability} }}' in config


def test_a_missing_compiler_names_the_extra(monkeypatch):
    def version(name):
        if name == 'libtpu':
            raise topology_lib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(topology_lib.metadata, 'version', version)
    with pytest.raises(UserError, match=r"not installed \(libtpu\); pip install '\.\[plan\]'"):
        topology_lib.set_compiler_environment(parse_topology('v6e:4x4'))
