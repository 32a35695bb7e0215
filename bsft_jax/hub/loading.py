"""Hugging Face checkpoints onto the mesh: each process reads the bytes that its devices hold."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from bsft_jax.errors import UserError
from bsft_jax.hub import tables
from bsft_jax.hub.files import TensorFiles
from bsft_jax.models import linear
from bsft_jax.models.network import Network, Params
from bsft_jax.parallel import sharding
from bsft_jax.trees import flatten, unflatten

CACHE_LINE = 64  # bytes
IGNORED = ('rotary_emb.inv_freq',)  # buffers that older exports wrote


class BaseCheckpoint:
    """The tensors of a model directory, as a network names its parameters.

    Raises UserError for missing, unknown or wrongly shaped tensors, before reading any.
    """

    def __init__(self, directory: pathlib.Path, network: Network):
        self._files, self._abstract = TensorFiles(directory), flatten(network.abstract())
        self._table = tables.entries(network.arch, self._abstract)
        self._check(network.arch.tied)

    def _check(self, tied: bool) -> None:
        expected = {}
        for path, entry in self._table.items():
            shape = self._abstract[path].shape[1 if entry.stacked else 0 :]
            for name in entry.tensors:
                expected[name] = shape[::-1] if entry.transpose else shape
        where = str(self._files.directory)
        present = {name for name in self._files.names if not name.endswith(IGNORED)}
        if tied:
            present.discard('lm_head.weight')
        if missing := sorted(expected.keys() - present):
            raise UserError(f'{len(missing)} tensors are missing, first {missing[0]}', where=where)
        if extra := sorted(present - expected.keys()):
            raise UserError(f'{len(extra)} unknown tensors, first {extra[0]}', where=where)
        for name, shape in expected.items():
            if self._files.shape(name) != shape:
                found = self._files.shape(name)
                raise UserError(f'{name} has shape {found}, config.json says {shape}', where=where)

    @property
    def paths(self) -> list[str]:
        """All that can be read: every parameter but behavior rows, adapters and scales of int8 kernels."""
        return list(self._table)

    def read(self, paths: Sequence[str], mesh: Mesh) -> Params:
        """Parameters in their dtype, sharded over `mesh`; kernels held in int8 are quantized on the devices."""
        flat = {}
        for path in paths:
            leaf = self._abstract[path]
            place = jax.sharding.NamedSharding(mesh, sharding.spec_for(path, leaf.shape, mesh))
            dtype = jnp.bfloat16 if leaf.dtype == jnp.int8 else leaf.dtype
            array = _read(self._files, self._table[path], leaf.shape, dtype, place)
            if leaf.dtype == jnp.int8:
                scale_path = f'{path}_scale'
                scale_place = sharding.spec_for(scale_path, self._abstract[scale_path].shape, mesh)
                places = place, jax.sharding.NamedSharding(mesh, scale_place)
                array, flat[scale_path] = jax.jit(linear.quantize, out_shardings=places)(array)
            flat[path] = array
        return unflatten(flat)


def load_params(directory: pathlib.Path, network: Network, mesh: Mesh) -> Params:
    """The base parameters of a directory, all but behavior rows and adapters; see `BaseCheckpoint`."""
    checkpoint = BaseCheckpoint(directory, network)
    return checkpoint.read(checkpoint.paths, mesh)


def _transpose(source: np.ndarray, target: np.ndarray) -> None:
    """Copies a matrix transposed, a few rows at a time, as many as fill a cache line: six times as fast."""
    rows = max(1, CACHE_LINE // source.itemsize)
    for start in range(0, len(source), rows):
        target[:, start : start + rows] = source[start : start + rows].T


def _read(files: TensorFiles, entry: tables.Entry, shape: tuple[int, ...], dtype, place) -> jax.Array:
    """One parameter. Of each tensor the part that this process's devices hold is read once, and in one piece.

    Host memory holds that part and the shards of this process, each only once for all devices that have it.
    """
    indices = {
        device: tuple(s.indices(size)[:2] for s, size in zip(index, shape, strict=True))
        for device, index in place.addressable_devices_indices_map(shape).items()
    }
    shards = {index: np.empty([stop - start for start, stop in index], dtype) for index in indices.values()}
    lead = 1 if entry.stacked else 0
    dimensions = range(lead, len(shape))
    box = [(min(i[d][0] for i in shards), max(i[d][1] for i in shards)) for d in dimensions]
    order = -1 if entry.transpose else 1
    for layer, name in enumerate(entry.tensors):
        part = files.read(name, tuple(slice(*edge) for edge in box[::order])).astype(dtype, copy=False)
        for index, shard in shards.items():
            inner = tuple(
                slice(start - first, stop - first)
                for (start, stop), (first, _) in zip(index[lead:], box, strict=True)
            )
            target = shard[layer] if entry.stacked else shard
            if entry.transpose:
                _transpose(part[inner[::-1]], target)
            else:
                target[...] = part[inner]
    placed = [jax.device_put(shards[index], device) for device, index in indices.items()]
    return jax.make_array_from_single_device_arrays(shape, place, placed)
