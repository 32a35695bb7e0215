"""What `doctor` looks at: a run's machine, model, data and mesh, by the functions that `train` uses."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import math
import os
import pathlib
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Any

import jax
import numpy as np
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from bsft_jax.behaviorbench import sources
from bsft_jax.behaviorbench.records import SPLITS
from bsft_jax.config import RunConfig
from bsft_jax.data import rendering
from bsft_jax.errors import UserError
from bsft_jax.hub import loading
from bsft_jax.hub import model as model_lib
from bsft_jax.parallel import mesh as mesh_lib
from bsft_jax.parallel import settings
from bsft_jax.training import placement
from bsft_jax.training import records as records_lib
from bsft_jax.training import workdir as workdir_lib

OK, WARN, FAIL, SKIPPED = 'ok', 'warn', 'FAIL', 'skipped'
SAMPLE = 2000  # records of each source that are rendered: a look, not the whole preparation
ROWS_NORM = 0.2, 5.0  # of the table's: rows far outside are drowned by the rest or drown it
NAMED = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'grain', 'transformers')
_COLOURS = {OK: '32', WARN: '33', FAIL: '31', SKIPPED: '2'}


@dataclasses.dataclass(frozen=True)
class Finding:
    """Attributes:
    name: of the check.
    verdict: `ok`, `warn`, `FAIL` or `skipped`.
    said: one line.
    """

    name: str
    verdict: str
    said: str

    def line(self, colour: bool = False) -> str:
        verdict = f'{self.verdict:<8}'
        if colour:
            verdict = f'\033[{_COLOURS[self.verdict]}m{verdict}\033[0m'
        return f'{verdict}{self.name:<10}{self.said}'


class Warned(Exception):
    """Something that a run survives: one line."""


class Checkup:
    """The checks of one run, in the order in which they depend on each other.

    Args:
      config: of the run, validated.
      workdir: where it would be.
    """

    def __init__(self, config: RunConfig, workdir: str | pathlib.Path):
        self._config, self._workdir = config, pathlib.Path(workdir)
        self._found: dict[str, Any] = {}  # name of a check → what later checks take from it

    def __call__(self) -> Iterator[Finding]:
        """A finding for each check as soon as it is made; one that needs what another did not find is skipped."""
        for name, check, needs in (
            ('versions', self._versions, ()),
            ('settings', self._settings, ()),
            ('devices', self._devices, ()),
            ('base', self._base, ()),
            ('template', self._template, ('base',)),
            ('data', self._data, ('base', 'template')),
            ('splits', self._splits, ()),
            ('mesh', self._mesh, ('base', 'devices')),
            ('rows', self._rows, ('base', 'mesh')),
            ('disk', self._disk, ('mesh',)),
        ):
            if missing := [need for need in needs if need not in self._found]:
                yield Finding(name, SKIPPED, f'needs {" and ".join(missing)}')
                continue
            yield self._look(name, check)

    def _look(self, name: str, check: Callable[[], tuple[str, Any]]) -> Finding:
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # what `train` would say on its way
                said, self._found[name] = check()
        except UserError as error:
            return Finding(name, FAIL, str(error))
        except Warned as warning:
            self._found[name] = None
            return Finding(name, WARN, str(warning))
        return Finding(name, OK, said)

    def _versions(self) -> tuple[str, None]:
        try:
            needed = [Requirement(line) for line in metadata.requires('bsft_jax') or ()]
            pythons = SpecifierSet(metadata.metadata('bsft_jax')['Requires-Python'])
        except metadata.PackageNotFoundError:
            raise Warned('bsft_jax is not installed, so no ranges are known; pip install -e .') from None
        python = '.'.join(map(str, sys.version_info[:3]))  # a release candidate counts as its release
        wrong = [] if python in pythons else [f'python {python}']
        for one in needed:
            if one.marker and not one.marker.evaluate({'extra': ''}):
                continue
            have = _version(one.name)
            if have is None or not one.specifier.contains(have, prereleases=True):
                wrong.append(f'{one.name} {have or "is missing"}, needed {one.specifier}')
        if wrong:
            raise UserError('; '.join(wrong), fix='pip install -e . -c launch/constraints.txt')
        return ', '.join(
            [f'python {platform.python_version()}', *(f'{n} {_version(n)}' for n in NAMED)]
        ), None

    def _settings(self) -> tuple[str, None]:
        folder = jax.config.jax_compilation_cache_dir
        if folder and '://' not in folder and not _writable(pathlib.Path(folder)):
            raise Warned(f'compiled programs cannot be kept in {folder}; set JAX_COMPILATION_CACHE_DIR')
        if lacking := settings.lacking():
            raise Warned(lacking)
        return f'compiled programs are kept in {folder}' if folder else 'compiled programs are not kept', None

    def _devices(self) -> tuple[str, list]:
        devices = jax.devices()
        kinds = {device.device_kind for device in devices}
        return f'{len(devices)} × {", ".join(sorted(kinds))} in {jax.process_count()} processes', devices

    def _base(self) -> tuple[str, model_lib.BaseModel]:
        base = workdir_lib.open_base(self._config)
        said = f'{self._config.model.base}: {base.network.arch.parameters:,} parameters'
        if self._config.model.weights == 'random':
            return f'{said}, drawn at random', base
        loading.BaseCheckpoint(base.directory, base.network)
        return f'{said}, every tensor there in its shape', base

    def _template(self) -> tuple[str, rendering.Renderer]:
        base = self._found['base']
        renderer = records_lib.training_renderer(self._config, base)
        stop = base.tokenizer.convert_ids_to_tokens(renderer.stop_id)
        heads = [base.tokenizer.decode(head) for head in base.behaviors.heads] or ['no head']
        return f'answers begin with {" or ".join(map(repr, heads))} and end with {stop!r}', renderer

    def _data(self) -> tuple[str, None]:
        store, plan = records_lib.training_examples(self._config, self._found['base'], SAMPLE)
        trained = sum(float(np.sum(store[i].weights > 0)) for i in range(len(store.lengths)))
        if not trained:
            raise UserError('no token of the records has weight', where=self._config.data.source)
        share = trained / plan.lengths_N.sum()
        return (
            f'{len(store.lengths):,} records rendered, rows {plan.fill:.0%} full, {share:.0%} targets',
            None,
        )

    def _splits(self) -> tuple[str, None]:
        source, counts = self._config.data.source, {}
        for split in SPLITS:
            try:
                counts[split] = len(sources.load_records(source, split))
            except sources.NoSuchSplit:
                counts[split] = 0
        if self._config.evaluation.interval and not counts['validation']:
            raise UserError('no validation records', where=source, fix='set --config.evaluation.interval=0')
        said = ', '.join(f'{split} {count:,}' for split, count in counts.items())
        if not counts['test']:
            raise Warned(f'{said}: nothing to evaluate on later')
        return said, None

    def _mesh(self) -> tuple[str, placement.Placement]:
        base = self._found['base']
        placed = placement.place(self._config, base)
        size = _bytes(placed.shapes, local=True) / 1e9
        said = f'{mesh_lib.describe(placed.mesh)}, attention {base.network.attention}'
        return f'{said}, {size:.2f} GB of state per device', placed

    def _rows(self) -> tuple[str, None]:
        base, mesh = self._found['base'], self._found['mesh'].mesh
        if not base.behaviors.ids:
            return 'the arm has no behavior rows', None
        if self._config.model.weights == 'random':
            return 'made from random weights', None
        checkpoint = loading.BaseCheckpoint(base.directory, base.network)
        table = checkpoint.read([p for p in ('embed/table', 'head/kernel') if p in checkpoint.paths], mesh)
        ratio = model_lib.row_norm_ratio(model_lib.with_rows(base, table, mesh, self._config.seed))
        said = f"{len(base.behaviors.ids)} new rows, norm {ratio:.3f} of the table's"
        if not ROWS_NORM[0] < ratio < ROWS_NORM[1]:
            raise Warned(f'{said}; try another --config.model.new_rows')
        return said, None

    def _disk(self) -> tuple[str, None]:
        shapes, keep = self._found['mesh'].shapes, self._config.checkpoint.keep
        needed = (keep + 1) * _bytes({'trainable': shapes.trainable, 'opt_state': shapes.opt_state})
        folder = self._workdir.resolve()
        while not folder.exists():
            folder = folder.parent
        free = shutil.disk_usage(folder).free
        said = f'{free / 1e9:,.1f} GB free, {keep} + 1 checkpoints take {needed / 1e9:,.2f} GB'
        if not _writable(folder):
            raise UserError('cannot be written', where=f'--workdir={folder}')
        if free < needed:
            raise UserError(
                said, where=f'--workdir={self._workdir}', fix='free some, or lower --config.checkpoint.keep'
            )
        return said, None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _writable(folder: pathlib.Path) -> bool:
    """Whether files can be made in a folder, or in the nearest one above it that is there."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK)


def _bytes(tree: Any, local: bool = False) -> int:
    """Of all arrays of a tree, or of the parts that one device holds."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape) if local else leaf.shape) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )
