"""Files of models: their directory, `config.json` and weights in safetensors or GGUF.

Files are checked before any tensor is read.
"""

from __future__ import annotations

import json
import os
import pathlib
import re
from typing import Any, Protocol

import numpy as np
from safetensors import SafetensorError, safe_open

from bsft_jax.data import trained_on
from bsft_jax.errors import UserError
from bsft_jax.hub import configs, fields, gguf_base
from bsft_jax.hub.gguf_tensors import GGUFTensors

SINGLE = 'model.safetensors'
INDEX = 'model.safetensors.index.json'
ADAPTER_CONFIG = 'adapter_config.json'
ASSETS = pathlib.Path(__file__).resolve().parent.parent / 'assets'

HUB_FILES = ['*.json', '*.jinja', trained_on.FILE]
HUB_WEIGHTS = '*.safetensors'
# The same weights in another layout, and subfolders but for named chat templates.
HUB_IGNORED = ['consolidated*', '*/*.json', '*/*.safetensors']

TABLE, HEAD = 'model.embed_tokens.weight', 'lm_head.weight'
DTYPES = {'F64': 'float64', 'F32': 'float32', 'BF16': 'bfloat16', 'F16': 'float16'}

# Both layouts that checkpoints with a vision tower have had.
_TEXT_MODEL = re.compile(r'(?:model\.)?language_model\.(?:model\.)?(?P<lm_head>lm_head\.)?')
# What torch.compile adds to the names of a module.
_COMPILED = '_orig_mod.'
# Tensors that quantized checkpoints hold beside or in place of a weight: GPTQ, AWQ,
# compressed-tensors, FP8 and bitsandbytes.
_QUANTIZED = re.compile(
    r'\.(qweight|qzeros|scales|g_idx|SCB|input_scale|weight_scale\w*|weight_packed|weight_shape'
    r'|weight_zero_point|weight_g_idx|weight\.(absmax|quant_|nested_).*)$'
)
_LAYER = re.compile(r'model\.layers\.(\d{1,9})\.')
_COMPARED_VALUES = 2**24


def resolve_directory(
    base: str, *, weights: bool = True, where: str = '--config.model.base / --model'
) -> pathlib.Path:
    """Returns the Hugging Face directory, of a model or of a PEFT adapter, that `base` names.

    Files of a hub repository come from the cache, or from the network where there is one.

    Args:
      base: a path of a directory or GGUF file, the name of a bundled or packaged model, or a hub id
        `ORGANISATION/NAME`, with `@REVISION` for a revision other than `main`.
      weights: whether the weights of a hub repository are needed.
      where: where `base` was read, for an error message.

    Raises:
      UserError: `base` is none of these, or a folder that holds something else, such as a run.
    """
    path = pathlib.Path(base).expanduser()
    if gguf_base.names_gguf(base) and not path.is_dir():
        return gguf_base.folder_of(base)
    bundled = ASSETS / base
    for candidate in (path, bundled):
        _check_is_no_run(candidate)
        if _holds_model(candidate):
            return candidate
    if path.is_dir():
        fix = 'name a Hugging Face model directory'
        if found := sorted(path.glob(f'*{gguf_base.SUFFIX}')):
            fix = f'name the GGUF file itself, as {found[0]}'
        raise UserError('no config.json in this folder', where=base, fix=fix)
    if is_hub_id(base):
        return _download(*base.partition('@')[::2], weights)
    bundled_names = sorted(p.name for p in ASSETS.glob('*') if _holds_model(p))
    names = ', '.join([*bundled_names, *gguf_base.PACKAGED])
    raise UserError(
        f'no model at {base!r}',
        where=where,
        fix=f'name a Hugging Face model directory, a GGUF file, a hub id or one of {names}',
    )


def _holds_model(folder: pathlib.Path) -> bool:
    return (folder / 'config.json').is_file() or (folder / ADAPTER_CONFIG).is_file()


def is_adapter(directory: pathlib.Path) -> bool:
    """Returns whether a directory holds a PEFT adapter; a model may bring one along."""
    return (directory / ADAPTER_CONFIG).is_file() and not has_weights(directory)


def _check_is_no_run(folder: pathlib.Path) -> None:
    """Raises UserError for a folder that holds a run in place of a model."""
    if not (folder / 'config.json').is_file():
        return
    config = _read_config(folder)
    if isinstance(config, dict) and 'arm' in config and 'model_type' not in config:
        raise UserError(
            'this is a workdir, not a model',
            where=str(folder),
            fix='name it by --workdir, or export it first',
        )


def is_hub_id(base: str) -> bool:
    """Returns whether a base is spelled as a hub id and its first part is no local folder."""
    is_spelled_so = re.fullmatch(r'[\w.-]+/[\w.-]+(@[\w./-]+)?', base)
    return (
        bool(is_spelled_so)
        and not gguf_base.names_gguf(base)
        and not pathlib.Path(base).expanduser().parent.is_dir()
    )


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
    if not _holds_model(pathlib.Path(folder)):
        raise UserError('no config.json in this repository', where=repository)
    return pathlib.Path(folder)


def read_config(directory: pathlib.Path) -> dict[str, Any]:
    """Returns the `config.json` of a model directory, reduced to its text model.

    Raises UserError for a file that cannot be read, or that has a field of the wrong kind.
    """
    return configs.text_config(_read_config(directory), str(directory / 'config.json'))


def has_vision_tower(directory: pathlib.Path) -> bool:
    """Returns whether a model directory holds a vision tower beside its text model."""
    return configs.has_vision_tower(_read_config(directory))


def _read_config(directory: pathlib.Path) -> Any:
    path = directory / 'config.json'
    try:
        return json.loads(path.read_text(encoding='utf-8'))
    # Brackets within brackets, thousands deep, exhaust the parser's stack.
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f'cannot be read ({error})', where=str(path)) from error


def has_weights(directory: pathlib.Path) -> bool:
    """Returns whether a directory has the weights of a model, and not just their index.

    Raises UserError as `TensorFiles` does for an index.
    """
    if (directory / gguf_base.WEIGHTS).is_file():
        return True
    index = directory / INDEX
    if (directory / SINGLE).is_file() or not index.is_file():
        return (directory / SINGLE).is_file()
    return any((directory / name).is_file() for name in _indexed_names(index))


class Tensors(Protocol):
    """Describes the tensors of a checkpoint, whatever its files are.

    Attributes:
      directory: where they are, for error messages.
    """

    directory: pathlib.Path

    @property
    def names(self) -> set[str]:
        """Returns the names of all tensors."""
        ...

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns the shape of a tensor."""
        ...

    def dtype(self, name: str) -> str:
        """Returns the dtype of a tensor as safetensors names it, such as `BF16`."""
        ...

    def read(self, name: str, index: tuple[slice, ...] = ()) -> np.ndarray:
        """Reads a tensor, or only one slice of it."""
        ...


def open_tensors(directory: pathlib.Path) -> Tensors:
    """Opens the weights of a model directory.

    Raises UserError as `TensorFiles` and `GGUFTensors` do.
    """
    if (directory / gguf_base.WEIGHTS).is_file():
        return GGUFTensors(pathlib.Path(os.path.realpath(directory / gguf_base.WEIGHTS)))
    return TensorFiles(directory)


class TensorFiles:
    """Reads the tensors of a checkpoint, in one file or in several with an index, by slices.

    A checkpoint with a vision tower shows only the tensors of its text model, under the names that
    they have in a checkpoint without one.
    """

    def __init__(self, directory: pathlib.Path, single: str = SINGLE, prefix: str = ''):
        """Opens the files of a directory.

        Args:
          directory: folder of the checkpoint.
          single: name of the file of a checkpoint without an index.
          prefix: beginning of the stored names that is left out.

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
            self._locations.update({name.removeprefix(prefix): (file, name) for name in names})
        self._locations = _by_usual_names(self._locations)

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


def _by_usual_names(locations: dict[str, tuple[str, str]]) -> dict[str, tuple[str, str]]:
    """Returns the locations of a text model's tensors by the names of its causal LM in a file.

    Names may lack the prefix `model.`, as those of an encoder saved alone do, or have one that
    `torch.compile` or a vision tower adds.
    """
    locations = {name.replace(_COMPILED, ''): place for name, place in locations.items()}
    text_model = {name: match for name in locations if (match := _TEXT_MODEL.match(name))}
    if text_model:
        named = {
            (match['lm_head'] or 'model.') + name[match.end() :]: locations[name]
            for name, match in text_model.items()
        }
        # The newer layout has the LM head outside of the text model.
        return named | ({HEAD: locations[HEAD]} if HEAD in locations else {})
    if TABLE.removeprefix('model.') in locations:
        return {
            name if name == HEAD else f'model.{name}': place for name, place in locations.items()
        }
    return locations


def _tensor_file_names(directory: pathlib.Path, single: str) -> list[str]:
    """Returns the names of the safetensors files; raises UserError when none or not all exist.

    As in transformers, a single file counts before an index.
    """
    if (directory / single).is_file():
        return [single]
    index = directory / INDEX
    if index.is_file():
        names = _indexed_names(index)
        for name in names:
            if not (directory / name).is_file():
                raise UserError(f'names a missing file {name}', where=str(index))
        return names
    pickled = [p.name for glob in ('*.bin', '*.pt*') for p in sorted(directory.glob(glob))]
    fix = f'convert {pickled[0]} to safetensors; pickles are not opened' if pickled else ''
    raise UserError(f'no {single} or {INDEX}', where=str(directory), fix=fix)


def _indexed_names(index: pathlib.Path) -> list[str]:
    """Returns the file names that an index lists.

    Raises UserError for an index that cannot be read or that names a file of another folder.
    """
    try:
        names = set(json.loads(index.read_text(encoding='utf-8'))['weight_map'].values())
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        message = f'cannot be read ({type(error).__name__}: {error})'
        raise UserError(message, where=str(index)) from error
    for name in names:
        if not isinstance(name, str) or name in ('', '.', '..') or {'/', os.sep, '\0'} & {*name}:
            message = f'names {fields.shorten(name)}, which is not a file of this folder'
            raise UserError(message, where=str(index))
    return sorted(names)


def check_unquantized(tensors: Tensors) -> None:
    """Raises UserError for a checkpoint whose weights are not plain floating-point numbers."""
    for name in sorted(tensors.names):
        dtype = tensors.dtype(name)
        if dtype not in DTYPES or _QUANTIZED.search(name):
            raise UserError(
                f'the checkpoint is quantized ({name} is {dtype}), which is not supported',
                where=str(tensors.directory),
                fix='name the base that it was made from, in bfloat16 or float32',
            )


def check_depth(tensors: Tensors, num_layers: int) -> None:
    """Raises UserError for a checkpoint that has another number of layers than its config."""
    depths = {int(match[1]) + 1 for name in tensors.names if (match := _LAYER.match(name))}
    if (depth := max(depths, default=0)) != num_layers:
        message = f'config.json says {num_layers} layers, the files have {depth}'
        raise UserError(message, where=str(tensors.directory))


def has_own_head(tensors: Tensors) -> bool:
    """Returns whether a checkpoint holds an LM head whose values are not those of its table."""
    if not {TABLE, HEAD} <= tensors.names:
        return False
    shape = tensors.shape(TABLE)
    if tensors.shape(HEAD) != shape or len(shape) != 2:
        return True
    step = max(1, _COMPARED_VALUES // max(1, shape[1]))
    return any(
        not np.array_equal(tensors.read(TABLE, rows), tensors.read(HEAD, rows))
        for start in range(0, shape[0], step)
        for rows in [(slice(start, min(start + step, shape[0])),)]
    )


def stored_dtypes(directory: pathlib.Path) -> dict[str, str]:
    """Returns the dtype of each tensor of a directory by its name; none without weights."""
    if not has_weights(directory):
        return {}
    tensors = open_tensors(directory)
    return {name: DTYPES.get(tensors.dtype(name), 'float32') for name in tensors.names}


def is_bfloat16(directory: pathlib.Path) -> bool:
    """Returns whether bfloat16 holds every matrix of a directory's weights exactly."""
    if not has_weights(directory):
        return False
    tensors = open_tensors(directory)
    return all(
        tensors.dtype(name) == 'BF16' for name in tensors.names if len(tensors.shape(name)) > 1
    )
