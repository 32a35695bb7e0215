"""Configs as JSON: flattening, reading back, and the fields that differ on resume."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any

from bsft_jax.behaviors import Behavior
from bsft_jax.config.schema import RunConfig
from bsft_jax.errors import UserError


def flatten(tree: Any, prefix: str = '') -> dict[str, Any]:
    """Flattens a nested dictionary to `{dotted.path: value}`; lists and scalars are values."""
    if not isinstance(tree, dict):
        return {prefix: tree}
    flat = {}
    for key, value in tree.items():
        flat.update(flatten(value, f'{prefix}.{key}' if prefix else key))
    return flat


def _section_of(field: dataclasses.Field) -> type | None:
    """Returns the dataclass of a field that holds a section of the config, else None."""
    factory = field.default_factory
    is_section = isinstance(factory, type) and dataclasses.is_dataclass(factory)
    return factory if is_section else None


def _free_paths(cls: type, prefix: str = '') -> set[str]:
    paths = set()
    for field in dataclasses.fields(cls):
        path = f'{prefix}{field.name}'
        if field.metadata.get('free'):
            paths.add(path)
        elif section := _section_of(field):
            paths |= _free_paths(section, f'{path}.')
    return paths


FREE_FIELDS = frozenset(_free_paths(RunConfig))


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Returns the fixed fields that differ between two `to_dict()` results, `path: old → new`."""
    old, new = flatten(old), flatten(new)
    return [
        f'{path}: {old.get(path, "absent")} → {new.get(path, "absent")}'
        for path in sorted(old.keys() | new.keys())
        if path not in FREE_FIELDS and old.get(path, ...) != new.get(path, ...)
    ]


def from_dict(values: dict[str, Any], where: str = 'config.json') -> RunConfig:
    """Builds a RunConfig from the result of `to_dict`.

    Raises UserError for a field that this version does not have, as in configs of earlier versions.
    """

    def build(cls: type, tree: dict[str, Any], prefix: str) -> Any:
        fields = {field.name: field for field in dataclasses.fields(cls)}
        kwargs = {}
        for key, value in tree.items():
            if key not in fields:
                raise UserError(
                    f'unknown field {prefix}{key}: another version of bsft_jax wrote this config',
                    where=where,
                    fix='use that version, or start a new --workdir',
                )
            if section := _section_of(fields[key]):
                value = build(section, value, f'{prefix}{key}.')
            elif key == 'behaviors':
                value = tuple(Behavior(**b) for b in value)
            kwargs[key] = value
        return cls(**kwargs)

    return build(RunConfig, values, '')


def read_workdir(workdir: str | pathlib.Path) -> RunConfig:
    """Reads the resolved config of a workdir; raises UserError where there is none."""
    path = pathlib.Path(workdir) / 'config.json'
    try:
        values = json.loads(path.read_text(encoding='utf-8')) if path.is_file() else {}
    except ValueError as error:
        raise UserError(f'not valid JSON ({error})', where=str(path)) from error
    if 'arm' not in values:
        raise UserError(
            'not a workdir: it holds no config.json of a run',
            where=str(workdir),
            fix='name a --workdir of train, or a Hugging Face directory by --model',
        )
    return from_dict(values, str(path))
