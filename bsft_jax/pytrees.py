"""Nested dictionaries of arrays, and the paths that name their leaves."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np


def path_of(key_path) -> str:
    """Returns a path such as `layers/attention/q/kernel` from a JAX key path."""
    return '/'.join(
        str(getattr(k, 'key', getattr(k, 'name', getattr(k, 'idx', k)))) for k in key_path
    )


def flatten(tree: Any) -> dict[str, Any]:
    """Returns nested parameters as `{path: leaf}`, sorted by path."""
    return {path_of(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def unflatten(flat: dict[str, Any]) -> dict[str, Any]:
    """Returns the nested dictionary that `flatten` was given."""
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        *parents, name = path.split('/')
        node = functools.reduce(lambda node, parent: node.setdefault(parent, {}), parents, tree)
        node[name] = leaf
    return tree


def to_host(array: jax.Array) -> np.ndarray:
    """Returns the whole array as numpy, on every process.

    All processes must call it for an array whose shards are on devices of several.
    """
    if array.is_fully_addressable:
        return np.asarray(array)
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(array, tiled=True)
