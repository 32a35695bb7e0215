"""Meshes: their sizes, the order of their devices, and the sharding of shipped configs.

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

from bsft_jax.config import MESH_AXES, OPTIMIZERS, MeshConfig
from bsft_jax.errors import UserError
from bsft_jax.hub import configs, presets
from bsft_jax.models.network import Network
from bsft_jax.parallel import mesh as mesh_lib
from bsft_jax.parallel import sharding
from bsft_jax.pytrees import flatten
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
    """Represents a device of a slice, with the attributes that a mesh reads."""

    id: int
    slice_index: int
    process_index: int = 0
    platform: str = 'gpu'
    device_kind: str = 'gpu'


@pytest.mark.parametrize(
    'config, devices, shape',
    [
        (MeshConfig(), 8, [8, 1, 1, 1]),
        (MeshConfig(2, -1, 1, 2), 16, [2, 4, 1, 2]),
        (MeshConfig(1, 2, 2, 2, devices=8), 8, [1, 2, 2, 2]),
    ],
)
def test_sizes_are_filled_in(config, devices, shape):
    assert mesh_lib.axis_sizes(config, devices) == shape


@pytest.mark.parametrize(
    'weights, kv_heads, devices, slices, shape',
    [
        # Qwen2.5-7B on GPUs of 80 GB, in bfloat16 and in float32; then 72B.
        (15, 4, 8, 1, (8, 1, 1, 1)),
        (30, 4, 8, 1, (4, 1, 1, 2)),
        (145, 8, 8, 1, (1, 1, 1, 8)),
        (145, 4, 8, 1, (1, 2, 1, 4)),
        # Does not fit: split over all devices.
        (900, 8, 8, 1, (1, 1, 1, 8)),
        (145, 16, 16, 2, (2, 1, 1, 8)),
        # `tensor` stays within a slice.
        (900, 16, 16, 2, (1, 2, 1, 8)),
        # data=2, fsdp=2 would fit, but neither is a multiple of the 4 slices.
        (300, 8, 32, 4, (1, 4, 1, 8)),
    ],
)
def test_a_model_for_inference_is_split_no_further_than_necessary(
    weights, kv_heads, devices, slices, shape
):
    config = mesh_lib.inference_axis_sizes(
        weights * 10**9, kv_heads, devices, slices, memory=80 * 10**9
    )
    assert dataclasses.astuple(config)[:4] == shape
    all_devices = [Device(i, i // (devices // slices)) for i in range(devices)]
    assert mesh_lib.arrange_devices(config, all_devices).shape == shape


@pytest.mark.parametrize(
    'config, message',
    [
        (MeshConfig(3, -1), 'data=3 × fsdp=-1 × context=1 × tensor=1 does not fit 8 devices'),
        (MeshConfig(2, 2), 'does not fit 8 devices'),
        (MeshConfig(devices=16), 'expected 16 devices, found 8'),
    ],
)
def test_sizes_that_do_not_fit_the_devices(config, message):
    with pytest.raises(UserError, match=message):
        mesh_lib.axis_sizes(config, 8)


@pytest.mark.parametrize(
    'config, crossing', [(MeshConfig(4, 2), 'data'), (MeshConfig(1, 4, 1, 2), 'fsdp')]
)
def test_only_one_axis_crosses_between_slices(config, crossing):
    devices = [Device(i, i // 4) for i in range(8)]
    device_array = mesh_lib.arrange_devices(config, devices)
    assert sorted(device.id for device in device_array.flat) == list(range(8))
    for axis, name in enumerate(MESH_AXES):
        lines = device_array.swapaxes(axis, -1).reshape(-1, device_array.shape[axis])
        crosses = any(len({device.slice_index for device in line}) > 1 for line in lines)
        assert crosses == (name == crossing), name


def test_slices_that_no_axis_can_be_split_over():
    with pytest.raises(UserError, match='neither data nor fsdp is a multiple of the 2 slices'):
        mesh_lib.arrange_devices(MeshConfig(1, 1, 1, 8), [Device(i, i // 4) for i in range(8)])


@pytest.mark.parametrize('sizes', [(8, 1, 1, 1), (2, 2, 1, 2), (1, 2, 4, 1)])
def test_the_rows_of_a_process_are_those_of_its_devices(sizes):
    mesh = mesh_lib.make_mesh(MeshConfig(*sizes), jax.devices()[: math.prod(sizes)])
    assert sharding.local_rows(mesh, 16) == list(range(16))


COMPILES = """
import os, jax
from bsft_jax.config import MeshConfig
from bsft_jax.parallel import mesh
folder = os.environ['JAX_COMPILATION_CACHE_DIR']
for devices in (1, 8):
    before = len(os.listdir(folder)) if os.path.isdir(folder) else 0
    with jax.set_mesh(mesh.make_mesh(MeshConfig(), jax.devices()[:devices])):
        jax.jit(lambda x: x @ x.T + devices)(jax.numpy.ones((8, 8))).block_until_ready()
    print(len(os.listdir(folder)) - before > 0)
"""


def test_a_program_for_several_simulated_devices_is_not_cached(tmp_path):
    env = os.environ | {
        'JAX_COMPILATION_CACHE_DIR': str(tmp_path / 'xla'),
        'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    }
    done = subprocess.run(
        [sys.executable, '-c', COMPILES], env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ['True', 'False']


def abstract(
    name: str, devices: int, optimizer_name: str = 'adamw'
) -> tuple[state.TrainState, AbstractMesh]:
    config = load(f'{name}-full')
    config.optimizer.name = optimizer_name
    arch = configs.architecture_of(presets.preset(SIZES[name]))
    network = Network(arch, (arch.vocab_size - 2, arch.vocab_size - 1))
    shape = mesh_lib.axis_sizes(config.mesh, devices)
    mesh = AbstractMesh(tuple(shape), MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))
    made = optimizer.make_optimizer(config.optimizer)
    return state.abstract(network, config.trainable, made, mesh), mesh


def tables(name: str) -> str:
    parts = []
    for devices in (8, 64, 256):
        shapes, mesh = abstract(name, devices)
        sizes = ' × '.join(f'{axis}={size}' for axis, size in mesh.shape.items())
        parts.append(f'{devices} devices, {sizes}\n{state.sharding_table(shapes)}\n')
    return '\n'.join(parts)


@pytest.mark.parametrize('name', SIZES)
def test_parameters_of_shipped_configs_are_split_as_in_the_golden_tables(name):
    assert tables(name) == (GOLDEN / f'{name}-sharding.txt').read_text()


@pytest.mark.parametrize('optimizer_name', OPTIMIZERS)
@pytest.mark.parametrize('name', SIZES)
def test_moments_are_split_as_their_parameters(name, optimizer_name):
    shapes, mesh = abstract(name, 64, optimizer_name)
    sharding.check_fsdp_coverage(shapes, mesh)
    params, found = flatten(shapes.trainable), set()
    for path, leaf in flatten(shapes.opt_state).items():
        of = max((p for p in params if path.endswith(f'/{p}')), key=len, default=None)
        if of is None:
            assert leaf.size in (1, 3), path
            continue
        kept = list(range(params[of].ndim))
        if '/v_row/' in path or '/v_col/' in path:
            del kept[-1 if '/v_row/' in path else -2]
        assert leaf.shape == tuple(params[of].shape[axis] for axis in kept), path
        assert leaf.sharding.shard_shape(leaf.shape) == tuple(
            params[of].sharding.shard_shape(params[of].shape)[axis] for axis in kept
        ), path
        found.add(of)
    assert found == set(params)


def test_a_size_that_fsdp_does_not_divide_is_refused():
    shapes, mesh = abstract('qwen2_5_7b', 64)
    sharding.check_fsdp_coverage(shapes, mesh)
    mesh = AbstractMesh((1, 5, 1, 1), MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))
    with pytest.raises(UserError, match='of the bytes would not be split over fsdp=5, the largest'):
        sharding.check_fsdp_coverage(shapes, mesh)


if __name__ == '__main__':
    for size in SIZES:
        (GOLDEN / f'{size}-sharding.txt').write_text(tables(size))
