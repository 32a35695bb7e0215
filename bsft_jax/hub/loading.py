"""Hugging Face checkpoints onto the mesh: every device's shard is read from its own byte range."""

from __future__ import annotations

import pathlib

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

IGNORED = ('rotary_emb.inv_freq',)  # buffers that older exports wrote


def _check(files: TensorFiles, arch, table: dict[str, tables.Entry], shapes: dict[str, tuple]) -> None:
    expected = {}
    for path, entry in table.items():
        shape = shapes[path][1:] if entry.stacked else shapes[path]
        for name in entry.tensors:
            expected[name] = shape[::-1] if entry.transpose else shape
    where = str(files.directory)
    present = {name for name in files.names if not name.endswith(IGNORED)}
    if arch.tied:
        present.discard('lm_head.weight')
    if missing := sorted(expected.keys() - present):
        raise UserError(f'{len(missing)} tensors are missing, first {missing[0]}', where=where)
    if extra := sorted(present - expected.keys()):
        raise UserError(f'{len(extra)} unknown tensors, first {extra[0]}', where=where)
    for name, shape in expected.items():
        if files.shape(name) != shape:
            raise UserError(f'{name} has shape {files.shape(name)}, config.json says {shape}', where=where)


def load_params(directory: pathlib.Path, network: Network, mesh: Mesh) -> Params:
    """Reads the base parameters (all but behavior rows and adapters) in their dtype, sharded over `mesh`.

    Kernels that the network holds in int8 are read in bfloat16 and quantized on the devices.

    Raises UserError for missing, unknown or wrongly shaped tensors, before reading any.
    """
    files, arch = TensorFiles(directory), network.arch
    abstract = flatten(network.abstract())
    table = tables.entries(arch, abstract)
    _check(files, arch, table, {path: abstract[path].shape for path in table})

    def read(entry: tables.Entry, dtype, index: tuple[slice, ...]) -> np.ndarray:
        names = entry.tensors
        inner = index[1:] if entry.stacked else index
        inner = inner[::-1] if entry.transpose else inner
        layers = names[index[0]] if entry.stacked else names
        parts = [files.read(name, inner).astype(dtype) for name in layers]
        parts = [part.T if entry.transpose else part for part in parts]
        return np.stack(parts) if entry.stacked else np.ascontiguousarray(parts[0])

    flat = {}
    for path, entry in table.items():
        leaf = abstract[path]
        place = jax.sharding.NamedSharding(mesh, sharding.spec_for(path, leaf.shape, mesh))
        dtype = jnp.bfloat16 if leaf.dtype == jnp.int8 else leaf.dtype
        array = jax.make_array_from_callback(
            leaf.shape, place, lambda index, e=entry, d=dtype: read(e, d, index)
        )
        if leaf.dtype == jnp.int8:
            scale_path = f'{path}_scale'
            scale_place = sharding.spec_for(scale_path, abstract[scale_path].shape, mesh)
            places = place, jax.sharding.NamedSharding(mesh, scale_place)
            array, flat[scale_path] = jax.jit(linear.quantize, out_shardings=places)(array)
        flat[path] = array
    return unflatten(flat)
