"""Composes overrides of a config to lists of named ones: the arms or points of a study.

    rates = grid.sweep('optimizer.learning_rate', (1e-3, 2e-3))
    seeds = grid.sweep('seed', (0, 1))
    grid.product(rates, seeds)   # learning_rate=0.001,seed=0 and three more

An axis is a sequence of `Arm`s or of plain `{dotted.path: value}` mappings, whose names are made of
their fields and values. Of items with equal overrides only the first stays.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bsft_jax.errors import UserError
from bsft_jax.files import check_name, shorten_name
from bsft_jax.studies.study import Arm, json_digest

Axis = Sequence[Arm | Mapping[str, Any]]
# What a name keeps of a value; the rest becomes `-`.
_UNSAFE = re.compile(r'[^\w.:=+,*-]+')


def sweep(path: str, values: Iterable[Any]) -> list[Arm]:
    """Returns one item for each value of a field, named by the last part of its path."""
    return _collapse(_named({path: value}) for value in values)


def product(*axes: Axis) -> list[Arm]:
    """Returns every combination of one item from each axis; the last axis varies fastest.

    Raises:
      UserError: two axes change the same field, or different overrides have one name.
    """
    return _collapse(_merge(items) for items in itertools.product(*map(_items, axes)))


def zip_(*axes: Axis) -> list[Arm]:
    """Returns the first items of all axes as one, then the second ones, and so on.

    Raises:
      UserError: the axes have different lengths, and as `product` does.
    """
    lengths = [len(axis) for axis in axes]
    if len(set(lengths)) > 1:
        raise UserError(f'axes of {lengths} items cannot be zipped', where='grid')
    return _collapse(_merge(items) for items in zip(*map(_items, axes), strict=True))


def chain(*axes: Axis) -> list[Arm]:
    """Returns the items of all axes one after the other.

    Raises:
      UserError: different overrides have one name.
    """
    return _collapse(item for axis in axes for item in _items(axis))


def sample(axis: Axis, count: int, seed: int = 0) -> list[Arm]:
    """Returns `count` items of an axis that are drawn without replacement, in their order.

    Raises:
      UserError: the axis has fewer items.
    """
    items = _collapse(_items(axis))
    if not 0 <= count <= len(items):
        raise UserError(f'cannot draw {count} of {len(items)} items', where='grid')
    chosen = sorted(random.Random(seed).sample(range(len(items)), count))
    return [items[i] for i in chosen]


def _items(axis: Axis) -> list[Arm]:
    return [item if isinstance(item, Arm) else _named(item) for item in axis]


def _named(overrides: Mapping[str, Any]) -> Arm:
    """Returns overrides under a name of their fields and values that can be that of a folder.

    A value with characters that a name cannot have gets a digest, so that no two become one.
    """
    parts = []
    for path, value in overrides.items():
        text = str(value)
        if (safe := _UNSAFE.sub('-', text)) != text:
            safe = f'{safe}-{json_digest(text)[:6]}'
        parts.append(f'{path.rpartition(".")[2]}={safe}')
    return Arm(shorten_name(','.join(parts)), dict(overrides))


def _merge(items: Sequence[Arm]) -> Arm:
    overrides: dict[str, Any] = {}
    for item in items:
        if shared := sorted(overrides.keys() & item.overrides.keys()):
            raise UserError(f'two axes change {shared[0]}', where='grid', fix='change it in one')
        overrides |= item.overrides
    return Arm(shorten_name(','.join(item.name for item in items)), overrides)


def _collapse(items: Iterable[Arm]) -> list[Arm]:
    """Returns the items without those whose overrides equal an earlier one's."""
    kept: dict[str, Arm] = {}
    for item in items:
        kept.setdefault(json_digest(dict(item.overrides)), item)
    names: set[str] = set()
    for item in kept.values():
        check_name(item.name, 'name in a grid')
        if item.name in names:
            raise UserError(
                f'{item.name!r} names two different overrides', where='grid', fix='name them Arm(…)'
            )
        names.add(item.name)
    return list(kept.values())
