"""Nested dictionaries of arrays and the paths that name their leaves."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np


def path_of(key_path) -> str:
    """`layers/attention/q/kernel` from a jax key path."""
    return '/'.join(str(getattr(k, 'key', getattr(k, 'name', getattr(k, 'idx', k)))) for k in key_path)


def flatten(tree: Any) -> dict[str, Any]:
    """Nested parameters → `{path: leaf}`, sorted by path."""
    return {path_of(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def fetch(array: jax.Array) -> np.ndarray:
    """The whole array on every process; all of them must call it where it is spread over several."""
    if array.is_fully_addressable:
        return np.asarray(array)
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(array, tiled=True)


def unflatten(flat: dict[str, Any]) -> dict[str, Any]:
    """Inverse of `flatten`."""
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        *folders, name = path.split('/')
        functools.reduce(lambda node, folder: node.setdefault(folder, {}), folders, tree)[name] = leaf
    return tree
