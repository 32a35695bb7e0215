"""The device mesh: axes `data`, `fsdp`, `context`, `tensor`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from bsft_jax.config import MESH_AXES, MeshSection
from bsft_jax.errors import UserError
from bsft_jax.parallel import processes

# Of a device's memory may be weights of a model that is read; caches and copies take the rest.
LARGEST_PART = 1 / 3
SLICED = ('data', 'fsdp')  # axes that may cross the slow network between slices, the first that can


def make_mesh(section: MeshSection, devices: Sequence | None = None) -> Mesh:
    """The mesh of a config over `devices` (default: all); a size of -1 takes what is left.

    Over several CPU devices this process keeps no compiled programs and reads none: one that is read back has lost the
    order of its collectives, and devices that start them in different orders wait for each other for ever (XLA of
    jaxlib 0.10.2).

    Raises UserError as `resolve` and `place` do.
    """
    placed = place(section, jax.devices() if devices is None else devices)
    if placed.size > 1 and placed.flat[0].platform == 'cpu':
        processes.keep_nothing_compiled()
    return Mesh(placed, MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))


def place(section: MeshSection, devices: Sequence) -> np.ndarray:
    """The devices in the shape of the mesh.

    TPU devices are laid out so that neighbours on an axis are neighbours on the chip network. Devices of several
    slices are split over `data`, or over `fsdp` where `data` does not divide, so that only that axis crosses
    between slices.

    Raises UserError where neither of the two can be split so.
    """
    shape = resolve(section, len(devices))
    slices = len({getattr(device, 'slice_index', 0) for device in devices})
    options = dict(devices=devices, allow_split_physical_axes=True)
    if slices == 1:
        return mesh_utils.create_device_mesh(shape, **options)
    across = _across(shape, slices)
    within = [size // outer for size, outer in zip(shape, across, strict=True)]
    return mesh_utils.create_hybrid_device_mesh(within, across, **options)


def resolve(section: MeshSection, devices: int) -> list[int]:
    """The size of every axis over so many devices.

    Raises UserError when the sizes do not multiply to their number, or it is not the promised one.
    """
    if section.devices and section.devices != devices:
        raise UserError(
            f'{section.devices} devices are promised, and there are {devices}',
            where='--config.mesh.devices',
            fix='start every process, look at what each one has, or correct the number',
        )
    sizes = {axis: getattr(section, axis) for axis in MESH_AXES}
    known = math.prod(size for size in sizes.values() if size != -1)
    shape = [devices // known if size == -1 else size for size in sizes.values()]
    if math.prod(shape) != devices:
        raise UserError(
            f'mesh {" × ".join(f"{axis}={size}" for axis, size in sizes.items())} does not fit {devices} devices',
            where='--config.mesh',
            fix='set one axis to -1, or sizes whose product is the number of devices',
        )
    return shape


def _across(shape: list[int], slices: int) -> list[int]:
    """How many parts each axis has over slices; raises UserError where no axis can be split."""
    for axis in SLICED:
        index = MESH_AXES.index(axis)
        if shape[index] % slices == 0:
            return [slices if i == index else 1 for i in range(len(shape))]
    raise UserError(
        f'{slices} slices divide neither {" nor ".join(SLICED)}',
        where='--config.mesh',
        fix=f'make --config.mesh.data a multiple of {slices}',
    )


def reading_mesh(size: int, kv_heads: int) -> Mesh:
    """A mesh of all devices for a model that is read and not trained, of `size` bytes; see `reading_sizes`."""
    memory = (jax.local_devices()[0].memory_stats() or {}).get('bytes_limit', 0)  # CPUs do not say
    slices = len({getattr(device, 'slice_index', 0) for device in jax.devices()})
    return make_mesh(
        reading_sizes(size, kv_heads, jax.device_count(), slices, memory=processes.least(memory))
    )


def reading_sizes(size: int, kv_heads: int, devices: int, slices: int, *, memory: float) -> MeshSection:
    """Sizes of a mesh that splits a model no further than it must, since each decoded token reads every weight.

    Into the fewest parts of which `LARGEST_PART` of a device's `memory` holds one, or else over all devices. Parts are
    those of `tensor` as far as it divides the heads within a slice, which leaves weights where they are, then of
    `fsdp`, which gathers them.
    """
    for parts in (n for n in range(1, devices + 1) if devices % n == 0):
        tensor = math.gcd(parts, kv_heads, devices // slices)
        section = MeshSection(data=devices // parts, fsdp=parts // tensor, tensor=tensor)
        placeable = any(getattr(section, axis) % slices == 0 for axis in SLICED)
        if placeable and size / parts <= LARGEST_PART * memory:
            break
    return section


def single_device_mesh() -> Mesh:
    """A mesh of this process's first device."""
    return make_mesh(MeshSection(data=1), jax.local_devices()[:1])


def batch_shards(mesh: Mesh) -> int:
    """Over how many devices the rows of a batch are split."""
    return mesh.shape['data'] * mesh.shape['fsdp']


def describe(mesh: Mesh) -> str:
    """`data=2 × fsdp=4 (8 × cpu)`: the axes that split anything."""
    axes = ' × '.join(f'{axis}={size}' for axis, size in mesh.shape.items() if size > 1) or 'one device'
    device = mesh.devices.flat[0]
    return f'{axes} ({mesh.size} × {device.device_kind})'
