"""Meshes: every device once, slices on the outside, and what does not fit is said before it matters.

`python -m tests.parallel.test_mesh` rewrites the golden tables.
"""

import dataclasses
import math
import os
import subprocess
import sys

import jax
import pytest
from jax.sharding import AbstractMesh, AxisType

from bsft_jax.config import MESH_AXES, MeshSection
from bsft_jax.errors import UserError
from bsft_jax.hub import configs, presets
from bsft_jax.models.network import Network
from bsft_jax.parallel import mesh as mesh_lib
from bsft_jax.parallel import sharding
from bsft_jax.training import optimizer, state
from tests.test_golden import GOLDEN, load

SIZES = {
    'qwen2_5_0_5b': 'qwen2.5-0.5b',
    'qwen2_5_7b': 'qwen2.5-7b',
    'llama3_1_8b': 'llama3.1-8b',
    'qwen2_5_72b': 'qwen2.5-72b',
}


@dataclasses.dataclass(frozen=True)
class Device:
    """A device of a slice, as far as a mesh looks at it."""

    id: int
    slice_index: int
    process_index: int = 0
    platform: str = 'gpu'
    device_kind: str = 'card'


@pytest.mark.parametrize(
    'section, devices, shape',
    [
        (MeshSection(), 8, [8, 1, 1, 1]),
        (MeshSection(2, -1, 1, 2), 16, [2, 4, 1, 2]),
        (MeshSection(1, 2, 2, 2, devices=8), 8, [1, 2, 2, 2]),
    ],
)
def test_sizes_are_filled_in(section, devices, shape):
    assert mesh_lib.resolve(section, devices) == shape


@pytest.mark.parametrize(
    'weights, kv_heads, devices, slices, shape',
    [
        (15, 4, 8, 1, (8, 1, 1, 1)),  # Qwen2.5-7B in bfloat16 on cards of 80 GB
        (30, 4, 8, 1, (4, 1, 1, 2)),  # in float32
        (145, 8, 8, 1, (1, 1, 1, 8)),  # 72B
        (145, 4, 8, 1, (1, 2, 1, 4)),
        (900, 8, 8, 1, (1, 1, 1, 8)),  # does not fit: split as far as it goes
        (145, 16, 16, 2, (2, 1, 1, 8)),
        (900, 16, 16, 2, (1, 2, 1, 8)),  # `tensor` stays within a slice
        (300, 8, 32, 4, (1, 4, 1, 8)),  # data=2, fsdp=2 would fit, and 4 slices divide neither
    ],
)
def test_a_model_that_is_read_is_split_no_further_than_it_must(weights, kv_heads, devices, slices, shape):
    section = mesh_lib.reading_sizes(weights * 10**9, kv_heads, devices, slices, memory=80 * 10**9)
    assert dataclasses.astuple(section)[:4] == shape
    places = [Device(i, i // (devices // slices)) for i in range(devices)]
    assert mesh_lib.place(section, places).shape == shape


@pytest.mark.parametrize(
    'section, message',
    [
        (MeshSection(3, -1), 'data=3 × fsdp=-1 × context=1 × tensor=1 does not fit 8 devices'),
        (MeshSection(2, 2), 'does not fit 8 devices'),
        (MeshSection(devices=16), '16 devices are promised, and there are 8'),
    ],
)
def test_what_does_not_fit_the_devices(section, message):
    with pytest.raises(UserError, match=message):
        mesh_lib.resolve(section, 8)


@pytest.mark.parametrize(
    'section, crossing', [(MeshSection(4, 2), 'data'), (MeshSection(1, 4, 1, 2), 'fsdp')]
)
def test_only_one_axis_crosses_between_slices(section, crossing):
    devices = [Device(i, i // 4) for i in range(8)]
    placed = mesh_lib.place(section, devices)
    assert sorted(device.id for device in placed.flat) == list(range(8))
    for axis, name in enumerate(MESH_AXES):
        lines = placed.swapaxes(axis, -1).reshape(-1, placed.shape[axis])
        crosses = any(len({device.slice_index for device in line}) > 1 for line in lines)
        assert crosses == (name == crossing), name


def test_slices_that_no_axis_can_be_split_over():
    with pytest.raises(UserError, match='2 slices divide neither data nor fsdp'):
        mesh_lib.place(MeshSection(1, 1, 1, 8), [Device(i, i // 4) for i in range(8)])


@pytest.mark.parametrize('sizes', [(8, 1, 1, 1), (2, 2, 1, 2), (1, 2, 4, 1)])
def test_the_rows_of_a_process_are_those_of_its_devices(sizes):
    mesh = mesh_lib.make_mesh(MeshSection(*sizes), jax.devices()[: math.prod(sizes)])
    assert sharding.local_rows(mesh, 16) == list(range(16))


KEEPS = """
import os, jax
from bsft_jax.config import MeshSection
from bsft_jax.parallel import mesh
folder = os.environ['JAX_COMPILATION_CACHE_DIR']
for devices in (1, 8):
    before = len(os.listdir(folder)) if os.path.isdir(folder) else 0
    with jax.set_mesh(mesh.make_mesh(MeshSection(), jax.devices()[:devices])):
        jax.jit(lambda x: x @ x.T + devices)(jax.numpy.ones((8, 8))).block_until_ready()
    print(len(os.listdir(folder)) - before > 0)
"""


def test_a_program_for_several_simulated_devices_is_not_kept(tmp_path):
    env = os.environ | {
        'JAX_COMPILATION_CACHE_DIR': str(tmp_path / 'xla'),
        'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    }
    done = subprocess.run([sys.executable, '-c', KEEPS], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ['True', 'False']


def abstract(name: str, devices: int) -> state.TrainState:
    config = load(f'{name}-full')
    arch = configs.architecture_of(presets.preset(SIZES[name]))
    network = Network(arch, (arch.vocab_size - 2, arch.vocab_size - 1))
    shape = mesh_lib.resolve(config.mesh, devices)
    mesh = AbstractMesh(tuple(shape), MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))
    made = optimizer.make_optimizer(config.optimizer)
    return state.abstract(network, config.trainable, made, mesh), mesh


def tables(name: str) -> str:
    parts = []
    for devices in (8, 64, 256):
        shapes, mesh = abstract(name, devices)
        sizes = ' × '.join(f'{axis}={size}' for axis, size in mesh.shape.items())
        parts.append(f'{devices} devices, {sizes}\n{state.table(shapes)}\n')
    return '\n'.join(parts)


@pytest.mark.parametrize('name', SIZES)
def test_parameters_of_shipped_configs_are_split_as_in_the_golden_tables(name):
    assert tables(name) == (GOLDEN / f'{name}-sharding.txt').read_text()


def test_an_odd_width_is_not_left_whole_on_every_device():
    shapes, mesh = abstract('qwen2_5_7b', 64)
    sharding.check_split(shapes, mesh)
    mesh = AbstractMesh((1, 5, 1, 1), MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))
    with pytest.raises(UserError, match='of the bytes would not be split over fsdp=5, the largest'):
        sharding.check_split(shapes, mesh)


if __name__ == '__main__':
    for size in SIZES:
        (GOLDEN / f'{size}-sharding.txt').write_text(tables(size))
