"""The types of config fields: what a config file or a `config.json` may put in each."""

from __future__ import annotations

import dataclasses
import functools
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from bsft_jax.errors import UserError, printable

# jax counts in 32 bits.
MAX_INTEGER = 2**31 - 1
# Longer texts are names of nothing.
_MAX_LENGTH = 100_000
_MAX_SHOWN = 60
_NAMES = {bool: 'true or false', int: 'an integer', float: 'a number', str: 'a text'}


def free(default: Any) -> Any:
    """Declares a field that may change when a run resumes (`base`: its files may have moved)."""
    return dataclasses.field(default=default, metadata={'free': True})


@functools.cache
def fields_of(cls: type) -> dict[str, Any]:
    """Returns the type of each field of a dataclass."""
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def check_types(config: Any, prefix: str) -> None:
    """Checks every field of a config and of what it consists of.

    Args:
      config: an instance of a dataclass whose fields are scalars, dataclasses, tuples and mappings.
      prefix: what stands before the names of its fields in errors.

    Raises UserError for a value that is not of its field's type.
    """
    for name, kind in fields_of(type(config)).items():
        _check(getattr(config, name), kind, f'{prefix}{name}')


def _check(value: Any, kind: Any, path: str) -> None:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return
    if origin is tuple:
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise UserError(f'{shown(value)} is not a tuple', where=path)
        kinds = arguments[:1] * len(value) if arguments[-1] is ... else arguments
        if len(kinds) != len(value):
            raise UserError(f'{shown(value)} has not {len(kinds)} parts', where=path)
        for i, (item, kind) in enumerate(zip(value, kinds, strict=True)):
            _check(item, kind, f'{path}[{i}]')
    elif origin is Mapping:
        if not (isinstance(value, Mapping) and all(isinstance(key, str) for key in value)):
            raise UserError(f'{shown(value)} is not a dictionary by name', where=path)
    elif dataclasses.is_dataclass(kind):
        if type(value) is not kind:
            raise UserError(f'{shown(value)} is no {kind.__name__}', where=path)
        check_types(value, f'{path}.')
    else:
        _check_scalar(value, kind, path)


def _check_scalar(value: Any, kind: type, path: str) -> None:
    # An integer is a number, but True is no integer.
    if type(value) is not kind and not (kind is float and type(value) is int):
        raise UserError(f'{shown(value)} is not {_NAMES[kind]}', where=path)
    if type(value) is int and not -MAX_INTEGER <= value < 2 * (MAX_INTEGER + 1):
        raise UserError(f'{shown(value)} has more than 32 bits', where=path)
    if type(value) is str and (printable(value) != value or len(value) > _MAX_LENGTH):
        raise UserError(f'{shown(value)} is not a plain text', where=path)


def shown(value: Any) -> str:
    """Returns a value as it is named in errors, cut where it is long."""
    try:
        text = repr(value)
    except ValueError:
        # An integer of more digits than Python writes.
        text = 'the number'
    return text if len(text) <= _MAX_SHOWN else f'{text[:_MAX_SHOWN]} …'
