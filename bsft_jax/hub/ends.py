"""Reads at which ids a model's own files say that a text ends."""

from __future__ import annotations

import json
import pathlib
from typing import Any

from bsft_jax.errors import UserError

FILE = 'generation_config.json'


def end_ids(directory: pathlib.Path, hf_config: dict[str, Any]) -> tuple[int, ...]:
    """Returns the `eos_token_id` of `generation_config.json`, or else of `config.json`.

    `transformers` reads them in the same order. There may be none, one or several.

    Raises UserError for a file that cannot be read, or names something other than ids.
    """
    path, stored = directory / FILE, {}
    if path.is_file():
        try:
            stored = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(f'cannot be read ({error})', where=str(path)) from error
        if not isinstance(stored, dict):
            raise UserError('must be an object', where=str(path))
    if stored.get('eos_token_id') is None:
        path, stored = directory / 'config.json', hf_config
    named = stored.get('eos_token_id')
    ids = named if isinstance(named, list) else [] if named is None else [named]
    if any(type(i) is not int for i in ids):
        raise UserError(
            f'eos_token_id {named!r} is not an id or a list of ids',
            where=str(path),
            fix='give the ids of the tokens that end a text',
        )
    return tuple(dict.fromkeys(i for i in ids if i >= 0))
