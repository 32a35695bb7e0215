"""Files of Hugging Face models: their directory, `config.json` and safetensors.

Safetensors files are checked before any tensor is read.
"""

from __future__ import annotations

import json
import pathlib
import re
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from bsft_jax.errors import UserError
from bsft_jax.hub import configs

SINGLE = 'model.safetensors'
INDEX = 'model.safetensors.index.json'
ASSETS = pathlib.Path(__file__).resolve().parent.parent / 'assets'

HUB_FILES = ['*.json', '*.jinja']
HUB_WEIGHTS = '*.safetensors'
# The same weights in another layout, and subfolders.
HUB_IGNORED = ['consolidated*', '*/*']

# Both layouts that checkpoints with a vision tower have had.
_TEXT_MODEL = re.compile(r'(?:model\.)?language_model\.(?:model\.)?(?P<lm_head>lm_head\.)?')
_DTYPES = {'F32': 'float32', 'BF16': 'bfloat16', 'F16': 'float16'}


def resolve_directory(base: str, *, weights: bool = True) -> pathlib.Path:
    """Returns the Hugging Face directory that `base` names.

    Files of a hub repository come from the cache, or from the network where there is one.

    Args:
      base: a path, the name of a bundled model, or a hub id `ORGANISATION/NAME`, with `@REVISION`
        for a revision other than `main`.
      weights: whether the weights of a hub repository are needed.

    Raises:
      UserError: `base` is none of these.
    """
    path = pathlib.Path(base).expanduser()
    bundled = ASSETS / base
    for candidate in (path, bundled):
        if (candidate / 'config.json').is_file():
            return candidate
    if path.is_dir():
        raise UserError(
            'no config.json in this folder', where=base, fix='name a Hugging Face model directory'
        )
    if is_hub_id(base):
        return _download(*base.partition('@')[::2], weights)
    names = ', '.join(sorted(p.parent.name for p in ASSETS.glob('*/config.json')))
    raise UserError(
        f'no model at {base!r}',
        where='--config.model.base / --model',
        fix=f'name a Hugging Face model directory, a hub id or a bundled model ({names})',
    )


def is_hub_id(base: str) -> bool:
    """Returns whether a base is spelled as a hub id and its first part is no local folder."""
    is_spelled_so = re.fullmatch(r'[\w.-]+/[\w.-]+(@[\w./-]+)?', base)
    return bool(is_spelled_so) and not pathlib.Path(base).expanduser().parent.is_dir()


def _download(repository: str, revision: str, weights: bool) -> pathlib.Path:
    """Returns a hub repository's cache folder, completed from the network; raises UserError."""
    from huggingface_hub import snapshot_download

    patterns = [*HUB_FILES, HUB_WEIGHTS] if weights else HUB_FILES
    try:
        folder = snapshot_download(
            repository,
            revision=revision or None,
            allow_patterns=patterns,
            ignore_patterns=HUB_IGNORED,
        )
    except Exception as error:  # the hub's errors have no common class
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f'not available from the hub or its cache ({type(error).__name__}: {reason})',
            where=repository,
            fix='name a directory, or download it first on a machine with network access',
        ) from error
    if not (pathlib.Path(folder) / 'config.json').is_file():
        raise UserError('no config.json in this repository', where=repository)
    return pathlib.Path(folder)


def read_config(directory: pathlib.Path) -> dict[str, Any]:
    """Returns the `config.json` of a model directory, reduced to its text model."""
    return configs.text_config(_read_config(directory))


def has_vision_tower(directory: pathlib.Path) -> bool:
    """Returns whether a model directory holds a vision tower beside its text model."""
    return configs.has_vision_tower(_read_config(directory))


def _read_config(directory: pathlib.Path) -> dict[str, Any]:
    path = directory / 'config.json'
    try:
        return json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise UserError(f'cannot be read ({error})', where=str(path)) from error


class TensorFiles:
    """Reads the tensors of a checkpoint, in one file or in several with an index, by slices.

    A checkpoint with a vision tower shows only the tensors of its text model, under the names that
    they have in a checkpoint without one.
    """

    def __init__(self, directory: pathlib.Path, single: str = SINGLE):
        """Opens the files of a directory.

        Args:
          directory: folder of the checkpoint.
          single: name of the file of a checkpoint without an index.

        Raises:
          UserError: no safetensors, an index that names a missing file, or a truncated or damaged
            file.
        """
        self.directory = directory
        self._open: dict[str, safe_open] = {}
        # Name of a tensor -> its file, and its name in that file.
        self._locations: dict[str, tuple[str, str]] = {}
        for file in _tensor_file_names(directory, single):
            path = directory / file
            try:
                self._open[file] = safe_open(path, framework='np')
            except (SafetensorError, OSError) as error:
                raise UserError(f'damaged or truncated ({error})', where=str(path)) from error
            names = self._open[file].keys()
            self._locations.update({name: (file, name) for name in names})
        text_model = {name: match for name in self._locations if (match := _TEXT_MODEL.match(name))}
        if text_model:
            self._locations = {
                (match['lm_head'] or 'model.') + name[match.end() :]: self._locations[name]
                for name, match in text_model.items()
            }

    @property
    def names(self) -> set[str]:
        """Returns the names of all tensors."""
        return set(self._locations)

    def _slice(self, name: str):
        file, stored = self._locations[name]
        return self._open[file].get_slice(stored)

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns the shape of a tensor."""
        return tuple(self._slice(name).get_shape())

    def dtype(self, name: str) -> str:
        """Returns the dtype of a tensor as safetensors names it, such as `BF16`."""
        return self._slice(name).get_dtype()

    def read(self, name: str, index: tuple[slice, ...] = ()) -> np.ndarray:
        """Reads a tensor, or only the bytes of one slice of it."""
        return self._slice(name)[index or slice(None)]


def _tensor_file_names(directory: pathlib.Path, single: str) -> list[str]:
    """Returns the names of the safetensors files; raises UserError when none or not all exist."""
    index = directory / INDEX
    if index.is_file():
        names = _indexed_names(index)
        for name in names:
            if not (directory / name).is_file():
                raise UserError(f'names a missing file {name}', where=str(index))
        return names
    if (directory / single).is_file():
        return [single]
    pickled = [p.name for glob in ('*.bin', '*.pt*') for p in sorted(directory.glob(glob))]
    fix = f'convert {pickled[0]} to safetensors; pickles are not opened' if pickled else ''
    raise UserError(f'no {single} or {INDEX}', where=str(directory), fix=fix)


def _indexed_names(index: pathlib.Path) -> list[str]:
    """Returns the file names that an index lists; raises UserError if it cannot be read."""
    try:
        return sorted(set(json.loads(index.read_text(encoding='utf-8'))['weight_map'].values()))
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        message = f'cannot be read ({type(error).__name__}: {error})'
        raise UserError(message, where=str(index)) from error


def stored_dtype(directory: pathlib.Path) -> str:
    """Returns the dtype of a checkpoint's embedding table; float32 without weights."""
    try:
        return _DTYPES.get(TensorFiles(directory).dtype('model.embed_tokens.weight'), 'float32')
    except UserError:
        return 'float32'
