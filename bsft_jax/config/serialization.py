"""Configs as JSON: flattening, reading back, and the fields that differ on resume."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import typing
from typing import Any

from bsft_jax.config.checks import validate
from bsft_jax.config.schema import RunConfig
from bsft_jax.config.types import fields_of, shown
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


def from_dict(values: Any, *, complete: bool = False) -> RunConfig:
    """Builds a RunConfig from the result of `to_dict`; `validate` checks its values.

    Args:
      values: the plain JSON values.
      complete: refuses values that lack a field; otherwise it has its default.

    Raises UserError for a field that this version does not have, as in configs of earlier versions.
    """
    return _build(RunConfig, values, '', complete)


def _build(kind: Any, value: Any, path: str, complete: bool) -> Any:
    """Returns the value of a field: a dataclass from an object, a tuple from a list."""
    if typing.get_origin(kind) is tuple:
        if not isinstance(value, list):
            raise UserError(f'must be a list, got {shown(value)}', where=path)
        item = typing.get_args(kind)[0]
        return tuple(_build(item, v, f'{path}[{i}]', True) for i, v in enumerate(value))
    if not dataclasses.is_dataclass(kind):
        return value
    if not isinstance(value, dict):
        raise UserError(f'must be an object, got {shown(value)}', where=path)
    fields, prefix = fields_of(kind), f'{path}.' if path else ''
    if unknown := [name for name in value if name not in fields]:
        raise UserError(
            f'unknown field {prefix}{unknown[0]}: another version of bsft_jax wrote this config',
            fix='use that version, or start a new --workdir',
        )
    if complete and (missing := [name for name in fields if name not in value]):
        raise UserError(
            f'has no field {prefix}{missing[0]}: another version of bsft_jax wrote this config, or '
            'it is damaged',
            fix='use that version, or start a new --workdir',
        )
    return kind(
        **{name: _build(fields[name], v, f'{prefix}{name}', complete) for name, v in value.items()}
    )


def read_workdir(workdir: str | pathlib.Path) -> RunConfig:
    """Reads the resolved config of a workdir; raises UserError where there is none or a bad one."""
    path = pathlib.Path(workdir) / 'config.json'
    try:
        values = json.loads(path.read_text(encoding='utf-8')) if path.is_file() else {}
    except (ValueError, RecursionError) as error:
        raise UserError(f'not valid JSON ({error})', where=str(path)) from error
    if not isinstance(values, dict) or 'arm' not in values:
        raise UserError(
            'not a workdir: it holds no config.json of a run',
            where=f'--workdir={workdir}',
            fix='name a --workdir of train, or a Hugging Face directory by --model',
        )
    try:
        return validate(from_dict(values, complete=True))
    except UserError as error:
        # Names of fields, not of flags: this config is in a file.
        raise UserError(str(error).replace('--config.', ''), where=str(path)) from error
