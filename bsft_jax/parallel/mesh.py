"""The device mesh: axes `data`, `fsdp`, `tensor`."""

from __future__ import annotations

import math

import jax
from jax.sharding import AxisType, Mesh

from bsft_jax.config import MeshSection
from bsft_jax.errors import UserError

AXES = ('data', 'fsdp', 'tensor')


def make_mesh(section: MeshSection, devices=None) -> Mesh:
    """The mesh of a config over `devices` (default: all); a size of -1 takes what is left.

    Raises UserError when the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = [getattr(section, axis) for axis in AXES]
    known = math.prod(size for size in sizes if size != -1)
    resolved = [len(devices) // known if size == -1 else size for size in sizes]
    if math.prod(resolved) != len(devices):
        raise UserError(
            f'mesh {" × ".join(f"{a}={s}" for a, s in zip(AXES, sizes, strict=True))} does not fit {len(devices)} devices',
            where='--config.mesh',
            fix='set one axis to -1, or sizes whose product is the number of devices',
        )
    return jax.make_mesh(resolved, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def whole_mesh() -> Mesh:
    """A mesh of all devices with the parameters split over them: for a model that one device may not hold."""
    return make_mesh(MeshSection(data=1, fsdp=-1))


def single_device_mesh() -> Mesh:
    """A mesh of the first device."""
    return make_mesh(MeshSection(data=1), jax.devices()[:1])


def batch_shards(mesh: Mesh) -> int:
    """Over how many devices the rows of a batch are split."""
    return mesh.shape['data'] * mesh.shape['fsdp']
