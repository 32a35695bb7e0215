"""Safetensors on disk: which file holds which tensor, checked before anything is read."""

from __future__ import annotations

import json
import pathlib
import re

import numpy as np
from safetensors import SafetensorError, safe_open

from bsft_jax.errors import UserError
from bsft_jax.hub import configs

SINGLE = 'model.safetensors'
INDEX = 'model.safetensors.index.json'
HUB_FILES = ['*.json', '*.jinja']
HUB_WEIGHTS = '*.safetensors'
NOT_READ = ['consolidated*', '*/*']  # the same weights in another form, and folders
_TEXT_MODEL = re.compile(r'(?:model\.)?language_model\.(?:model\.)?(?P<lm_head>lm_head\.)?')  # both layouts
_DTYPES = {'F32': 'float32', 'BF16': 'bfloat16', 'F16': 'float16'}
ASSETS = pathlib.Path(__file__).resolve().parent.parent / 'assets'


def resolve_directory(base: str, *, weights: bool = True) -> pathlib.Path:
    """A Hugging Face directory, by path, by the name of a bundled asset, or by a hub id.

    A hub id is `ORGANISATION/NAME`, with `@REVISION` for another one than `main`; its files (those of its weights
    only with `weights`) come from the cache, or from the network where there is one.

    Raises UserError for what is none of these.
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
    names = sorted(p.parent.name for p in ASSETS.glob('*/config.json'))
    raise UserError(
        f'no model at {base!r}',
        where='--config.model.base / --model',
        fix=f'name a Hugging Face model directory, a hub id or a bundled model ({", ".join(names)})',
    )


def is_hub_id(base: str) -> bool:
    """Whether a base is spelled as a hub id, and no folder here has the organisation's name."""
    spelled = re.fullmatch(r'[\w.-]+/[\w.-]+(@[\w./-]+)?', base)
    return bool(spelled) and not pathlib.Path(base).expanduser().parent.is_dir()


def _download(repository: str, revision: str, weights: bool) -> pathlib.Path:
    """The folder of a hub repository in the cache, completed from the network; raises UserError."""
    from huggingface_hub import snapshot_download

    wanted = [*HUB_FILES, HUB_WEIGHTS] if weights else HUB_FILES
    try:
        folder = snapshot_download(
            repository, revision=revision or None, allow_patterns=wanted, ignore_patterns=NOT_READ
        )
    except Exception as error:  # the hub's errors share no class
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f'cannot be had from the hub or its cache ({type(error).__name__}: {reason})',
            where=repository,
            fix='name a directory, or fetch it first on a machine with a network',
        ) from error
    if not (pathlib.Path(folder) / 'config.json').is_file():
        raise UserError('no config.json in this repository', where=repository)
    return pathlib.Path(folder)


def read_config(directory: pathlib.Path) -> dict:
    """The `config.json` of a model directory; of a checkpoint that sees images that of its text model."""
    return configs.text_model(_read_config(directory))


def sees_images(directory: pathlib.Path) -> bool:
    """Whether a model directory has more than a text model."""
    return configs.sees_images(_read_config(directory))


def _read_config(directory: pathlib.Path) -> dict:
    path = directory / 'config.json'
    try:
        return json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise UserError(f'cannot be read ({error})', where=str(path)) from error


def _indexed(index: pathlib.Path) -> list[str]:
    """Files that an index names; raises UserError for one that cannot be read."""
    try:
        return sorted(set(json.loads(index.read_text(encoding='utf-8'))['weight_map'].values()))
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f'cannot be read ({type(error).__name__}: {error})', where=str(index)) from error


class TensorFiles:
    """The tensors of a checkpoint, single-file (`single`) or indexed, read by slices.

    In a checkpoint that sees images there are those of its text model, by the names they have without images.

    Raises UserError for a checkpoint without safetensors, an index that names a missing file,
    and a truncated or damaged file.
    """

    def __init__(self, directory: pathlib.Path, single: str = SINGLE):
        self.directory = directory
        self._open: dict[str, safe_open] = {}
        self._place: dict[str, tuple[str, str]] = {}  # file, and name in it
        index = directory / INDEX
        if index.is_file():
            files = _indexed(index)
        elif (directory / single).is_file():
            files = [single]
        else:
            pickled = sorted(p.name for p in directory.glob('*.bin')) + sorted(
                p.name for p in directory.glob('*.pt*')
            )
            fix = f'convert {pickled[0]} to safetensors; pickles are not opened' if pickled else ''
            raise UserError(f'no {single} or {INDEX}', where=str(directory), fix=fix)
        for file in files:
            path = directory / file
            if not path.is_file():
                raise UserError(f'names a missing file {file}', where=str(index))
            try:
                self._open[file] = safe_open(path, framework='np')
            except (SafetensorError, OSError) as error:
                raise UserError(f'damaged or truncated ({error})', where=str(path)) from error
            names = self._open[file].keys()
            self._place.update({name: (file, name) for name in names})
        inside = {name: match for name in self._place if (match := _TEXT_MODEL.match(name))}
        if inside:
            self._place = {
                (match['lm_head'] or 'model.') + name[match.end() :]: self._place[name]
                for name, match in inside.items()
            }

    @property
    def names(self) -> set[str]:
        return set(self._place)

    def _slice(self, name: str):
        file, stored = self._place[name]
        return self._open[file].get_slice(stored)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._slice(name).get_shape())

    def dtype(self, name: str) -> str:
        """Safetensors' name of the dtype, such as `BF16`."""
        return self._slice(name).get_dtype()

    def read(self, name: str, index: tuple[slice, ...] = ()) -> np.ndarray:
        """The tensor, or only the bytes of one slice of it."""
        return self._slice(name)[index or slice(None)]


def stored_dtype(directory: pathlib.Path) -> str:
    """The dtype of a checkpoint's table of embeddings; float32 where the directory has no weights."""
    try:
        return _DTYPES.get(TensorFiles(directory).dtype('model.embed_tokens.weight'), 'float32')
    except UserError:
        return 'float32'
