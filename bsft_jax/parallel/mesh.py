"""The device mesh, with the axes `data`, `fsdp`, `context` and `tensor`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from bsft_jax.config import MESH_AXES, MeshConfig
from bsft_jax.errors import UserError
from bsft_jax.parallel import processes

# Largest share of a device's memory for the weights of a model that is only read; caches and copies
# take the rest.
MAX_WEIGHT_FRACTION = 1 / 3
# Axes that may cross the slow network between slices, in order of preference.
DCN_AXES = ('data', 'fsdp')


def make_mesh(config: MeshConfig, devices: Sequence | None = None) -> Mesh:
    """Makes the mesh of a config over `devices` (default: all).

    With several CPU devices it also disables this process's compilation cache: a program that is
    read back has lost the order of its collectives, and devices that start them in different orders
    wait for each other forever (XLA of jaxlib 0.10.2).

    Raises UserError as `axis_sizes` and `arrange_devices` do.
    """
    device_array = arrange_devices(config, jax.devices() if devices is None else devices)
    if device_array.size > 1 and device_array.flat[0].platform == 'cpu':
        processes.disable_compilation_cache()
    return Mesh(device_array, MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))


def arrange_devices(config: MeshConfig, devices: Sequence) -> np.ndarray:
    """Arranges devices in the shape of the mesh.

    TPU devices that are neighbors on an axis are neighbors on the chip network. Devices of several
    slices are split over `data`, or over `fsdp` if `data` is not a multiple of the slices, so that
    only that axis crosses between slices.

    Raises UserError if neither of the two can be split that way.
    """
    shape = axis_sizes(config, len(devices))
    num_slices = len({getattr(device, 'slice_index', 0) for device in devices})
    options = dict(devices=devices, allow_split_physical_axes=True)
    if num_slices == 1:
        return mesh_utils.create_device_mesh(shape, **options)
    dcn_shape = _dcn_shape(shape, num_slices)
    slice_shape = [size // outer for size, outer in zip(shape, dcn_shape, strict=True)]
    return mesh_utils.create_hybrid_device_mesh(slice_shape, dcn_shape, **options)


def axis_sizes(config: MeshConfig, num_devices: int) -> list[int]:
    """Returns the size of every axis; an axis of -1 takes the devices that the others leave.

    Raises UserError if the product of the sizes is not `num_devices`, or if the config expects
    another number of devices.
    """
    if config.devices and config.devices != num_devices:
        raise UserError(
            f'expected {config.devices} devices, found {num_devices}',
            where='--config.mesh.devices',
            fix='start every process, check which devices each one has, or correct the number',
        )
    sizes = {axis: getattr(config, axis) for axis in MESH_AXES}
    known = math.prod(size for size in sizes.values() if size != -1)
    shape = [num_devices // known if size == -1 else size for size in sizes.values()]
    if math.prod(shape) != num_devices:
        mesh = ' × '.join(f'{axis}={size}' for axis, size in sizes.items())
        raise UserError(
            f'mesh {mesh} does not fit {num_devices} devices',
            where='--config.mesh',
            fix='set one axis to -1, or sizes whose product is the number of devices',
        )
    return shape


def _dcn_shape(shape: list[int], num_slices: int) -> list[int]:
    """Returns into how many slices each axis is split; raises UserError if no axis can be."""
    for axis in DCN_AXES:
        index = MESH_AXES.index(axis)
        if shape[index] % num_slices == 0:
            return [num_slices if i == index else 1 for i in range(len(shape))]
    raise UserError(
        f'neither {" nor ".join(DCN_AXES)} is a multiple of the {num_slices} slices',
        where='--config.mesh',
        fix=f'make --config.mesh.data a multiple of {num_slices}',
    )


def inference_mesh(num_bytes: int, num_kv_heads: int) -> Mesh:
    """Makes a mesh of all devices for a model that is only read; see `inference_axis_sizes`."""
    # CPUs report no limit.
    memory = (jax.local_devices()[0].memory_stats() or {}).get('bytes_limit', 0)
    num_slices = len({getattr(device, 'slice_index', 0) for device in jax.devices()})
    # Every process must make the same mesh, so the smallest memory decides.
    memory = processes.all_min(memory)
    return make_mesh(
        inference_axis_sizes(num_bytes, num_kv_heads, jax.device_count(), num_slices, memory=memory)
    )


def inference_axis_sizes(
    num_bytes: int, num_kv_heads: int, num_devices: int, num_slices: int, *, memory: float
) -> MeshConfig:
    """Returns the mesh sizes that split a model no further than necessary.

    Each decoded token reads every weight, so the fewest shards of which one takes at most
    `MAX_WEIGHT_FRACTION` of a device's memory are best; if none is small enough, all devices share
    the model. `tensor` comes first, as far as it divides the key/value heads within a slice: it
    leaves the weights where they are. `fsdp`, which gathers them, takes the rest.

    Args:
      num_bytes: size of the model.
      num_kv_heads: key/value heads of a layer.
      num_devices: devices of all slices.
      num_slices: slices that the devices belong to.
      memory: bytes of memory per device.
    """
    for shards in (n for n in range(1, num_devices + 1) if num_devices % n == 0):
        tensor = math.gcd(shards, num_kv_heads, num_devices // num_slices)
        config = MeshConfig(data=num_devices // shards, fsdp=shards // tensor, tensor=tensor)
        spans_slices = any(getattr(config, axis) % num_slices == 0 for axis in DCN_AXES)
        if spans_slices and num_bytes / shards <= MAX_WEIGHT_FRACTION * memory:
            break
    return config


def single_device_mesh() -> Mesh:
    """Makes a mesh of this process's first device."""
    return make_mesh(MeshConfig(data=1), jax.local_devices()[:1])


def batch_shards(mesh: Mesh) -> int:
    """Returns the number of shards that the rows of a batch are split into."""
    return mesh.shape['data'] * mesh.shape['fsdp']


def describe_mesh(mesh: Mesh) -> str:
    """Formats the axes larger than one and the devices, as in `data=2 × fsdp=4 (8 × cpu)`."""
    axes = ' × '.join(f'{axis}={size}' for axis, size in mesh.shape.items() if size > 1)
    device = mesh.devices.flat[0]
    return f'{axes or "one device"} ({mesh.size} × {device.device_kind})'
