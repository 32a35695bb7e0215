"""Loading of checkpoints and adapters: each process reads the bytes that its devices hold."""

from __future__ import annotations

import pathlib
from collections.abc import Container, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from bsft_jax.errors import UserError
from bsft_jax.hub import adapters, files, tables
from bsft_jax.hub.adapters import Adapter
from bsft_jax.hub.files import HEAD, Tensors
from bsft_jax.models import quantization
from bsft_jax.models.network import Network, Params
from bsft_jax.parallel import sharding
from bsft_jax.pytrees import flatten, unflatten

CACHE_LINE = 64  # bytes
# Buffers that older exports wrote.
IGNORED = ('rotary_emb.inv_freq',)


class Checkpoint:
    """Reads tensors of files as parameters of a network."""

    def __init__(
        self,
        tensors: Tensors,
        table: Mapping[str, tables.Entry],
        network: Network,
        *,
        shapes_from: str,
        unused: Container[str] = (),
    ):
        """Checks names, shapes and dtypes, without reading a tensor.

        Args:
          tensors: the files.
          table: the entries of all parameters that the files hold.
          network: the network.
          shapes_from: what says which shapes the tensors have, for an error message.
          unused: names of tensors that may be there and are not read.

        Raises:
          UserError: for missing, unknown, quantized or wrongly shaped tensors.
        """
        self._files, self._table = tensors, table
        self._abstract = flatten(network.abstract())
        self._base_dtype = network.compute.base_dtype
        # Shapes of the files, where the network's kernels are quantized.
        stored = network.with_compute(base_dtype='float32').abstract()
        self._shapes = {path: leaf.shape for path, leaf in flatten(stored).items()}
        self._check(shapes_from, unused)

    def _check(self, shapes_from: str, unused: Container[str]) -> None:
        expected = {}
        for path, entry in self._table.items():
            shape = self._shapes[path][1 if entry.stacked else 0 :]
            for name in entry.tensors:
                expected[name] = shape[::-1] if entry.transpose else shape
        where = str(self._files.directory)
        files.check_unquantized(self._files)
        present = {
            name for name in self._files.names if not name.endswith(IGNORED) and name not in unused
        }
        if missing := sorted(expected.keys() - present):
            raise UserError(f'{len(missing)} tensors are missing, first {missing[0]}', where=where)
        if extra := sorted(present - expected.keys()):
            raise UserError(f'{len(extra)} unknown tensors, first {extra[0]}', where=where)
        for name, shape in expected.items():
            stored = self._files.shape(name)
            if stored != shape:
                message = f'{name} has shape {stored}, {shapes_from} {shape}'
                raise UserError(message, where=where)

    @property
    def paths(self) -> list[str]:
        """Returns the paths of the parameters that the files hold."""
        return list(self._table)

    def read(self, paths: Sequence[str], mesh: Mesh) -> Params:
        """Reads parameters in the network's dtypes, sharded over `mesh`.

        Kernels that the network holds quantized are read in bfloat16 and quantized on the devices.
        """
        flat = {}
        for path in paths:
            shape, dtype = self._shapes[path], self._abstract[path].dtype
            parts = {p: x for p, x in self._abstract.items() if p.startswith(f'{path}_')}
            array = _read_parameter(
                self._files,
                self._table[path],
                shape,
                jnp.bfloat16 if parts else dtype,
                NamedSharding(mesh, sharding.spec_for(path, shape, mesh)),
            )
            flat |= self._quantize(path, array, mesh) if parts else {path: array}
        return unflatten(flat)

    def _quantize(self, path: str, kernel: jax.Array, mesh: Mesh) -> dict[str, jax.Array]:
        """Returns the parts of a kernel by their paths, each sharded by its rule."""
        module = path.removesuffix('kernel')
        shapes = {
            p.removeprefix(module): NamedSharding(mesh, sharding.spec_for(p, x.shape, mesh))
            for p, x in self._abstract.items()
            if p == path or p.startswith(f'{path}_')
        }
        with jax.set_mesh(mesh):
            quantize = jax.jit(quantization.quantize, static_argnums=1, out_shardings=shapes)
            parts = quantize(kernel, self._base_dtype)
        return {module + name: part for name, part in parts.items()}


class BaseCheckpoint(Checkpoint):
    """Reads the tensors of a model directory: all but behavior rows, adapters and scales."""

    def __init__(self, directory: pathlib.Path, network: Network):
        """Opens the files; raises UserError as `Checkpoint` does."""
        super().__init__(
            files.open_tensors(directory),
            tables.entries(network.arch, flatten(network.abstract())),
            network,
            shapes_from='config.json says',
            unused={HEAD} if network.arch.tied else (),
        )


class AdapterCheckpoint(Checkpoint):
    """Reads the tensors of a PEFT adapter: its factors and, if it has them, its behavior rows."""

    def __init__(self, adapter: Adapter, network: Network):
        """Opens the file; raises UserError as `Checkpoint` does, and where there is none."""
        table = tables.adapter_entries(network.arch, flatten(network.abstract()))
        if not adapter.token_ids:
            # The rows of behaviors that are new to the adapter.
            table = {path: entry for path, entry in table.items() if '/lora/' in path}
        super().__init__(
            adapters.open_weights(adapter.folder),
            table,
            network,
            shapes_from=f'{adapters.CONFIG} and its base say',
        )


def load_params(directory: pathlib.Path, network: Network, mesh: Mesh) -> Params:
    """Loads all parameters of a directory, that is all but behavior rows and adapters.

    Raises:
      UserError: as `BaseCheckpoint` does.
    """
    checkpoint = BaseCheckpoint(directory, network)
    return checkpoint.read(checkpoint.paths, mesh)


def _read_parameter(
    tensors: Tensors,
    entry: tables.Entry,
    shape: tuple[int, ...],
    dtype,
    leaf_sharding: NamedSharding,
) -> jax.Array:
    """Reads one parameter.

    Of each tensor the box that this process's devices hold is read once, in one piece. Host memory
    holds that box and the distinct shards of this process.
    """
    # Shards are keyed by their (start, stop) per dimension, so that replicas share one.
    indices = {
        device: tuple(s.indices(size)[:2] for s, size in zip(index, shape, strict=True))
        for device, index in leaf_sharding.addressable_devices_indices_map(shape).items()
    }
    shards = {
        index: np.empty([stop - start for start, stop in index], dtype)
        for index in indices.values()
    }

    # The box around all shards, in the dimensions of one tensor.
    lead = 1 if entry.stacked else 0
    dimensions = range(lead, len(shape))
    box = [(min(i[d][0] for i in shards), max(i[d][1] for i in shards)) for d in dimensions]

    order = -1 if entry.transpose else 1
    for layer, name in enumerate(entry.tensors):
        tensor_index = tuple(slice(*edge) for edge in box[::order])
        tensor = _read_exactly(tensors, name, tensor_index).astype(dtype, copy=False)
        for index, shard in shards.items():
            inner = tuple(
                slice(start - first, stop - first)
                for (start, stop), (first, _) in zip(index[lead:], box, strict=True)
            )
            target = shard[layer] if entry.stacked else shard
            if entry.transpose:
                _transpose_into(tensor[inner[::-1]], target)
            else:
                target[...] = tensor[inner]
    arrays = [jax.device_put(shards[index], device) for device, index in indices.items()]
    return jax.make_array_from_single_device_arrays(shape, leaf_sharding, arrays)


def _read_exactly(tensors: Tensors, name: str, index: tuple[slice, ...]) -> np.ndarray:
    """Reads a tensor as its file holds it, or float64 as float32.

    Raises UserError for values that are not finite, or that float32 would round.
    """
    tensor, where = tensors.read(name, index), str(tensors.directory)
    if not _is_finite(tensor):
        raise UserError(f'the weights are not finite: {name}', where=where)
    if tensor.dtype != np.float64:
        return tensor
    rounded = tensor.astype(np.float32)
    if not np.array_equal(rounded, tensor):
        message = f'{name} is float64, and its values do not fit float32'
        raise UserError(message, where=where, fix='save the base in float32')
    return rounded


def _is_finite(tensor: np.ndarray) -> bool:
    """Returns whether no value is infinite or NaN; for bfloat16 by its bits, which is faster."""
    if tensor.dtype == jnp.bfloat16:
        return not np.any((tensor.view(np.uint16) & 0x7F80) == 0x7F80)
    return bool(np.isfinite(tensor).all())


def _transpose_into(source: np.ndarray, target: np.ndarray) -> None:
    """Copies a matrix transposed, as many rows at a time as fill a cache line.

    This is six times as fast as one assignment.
    """
    rows = max(1, CACHE_LINE // source.itemsize)
    for start in range(0, len(source), rows):
        target[:, start : start + rows] = source[start : start + rows].T
