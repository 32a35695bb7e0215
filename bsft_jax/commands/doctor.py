"""Checks a run before it waits in a queue, by the functions that `train` uses."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import io
import math
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

from bsft_jax import places
from bsft_jax.commands import evaluators
from bsft_jax.config import RunConfig
from bsft_jax.data import (
    contamination,
    curriculum,
    labels,
    pipeline,
    rendering,
    sources,
    split_names,
)
from bsft_jax.data.trained_on import TrainedOn
from bsft_jax.errors import UserError, printable
from bsft_jax.hub import loading, pretrained
from bsft_jax.parallel import env
from bsft_jax.parallel import mesh as mesh_lib
from bsft_jax.records.record import SPLITS
from bsft_jax.training import setup, trackers
from bsft_jax.training.workdir import PACKAGES, package_version

OK, WARN, FAIL, SKIPPED = 'ok', 'warn', 'FAIL', 'skipped'
# Records of each source that are rendered: a sample, not the whole preparation.
MAX_SAMPLE = 2000
# Norm of the behavior rows over the table's. Far outside, one drowns the other.
NORM_RATIO_RANGE = 0.2, 5.0
_COLOURS = {OK: '32', WARN: '33', FAIL: '31', SKIPPED: '2'}


@dataclasses.dataclass(frozen=True)
class Finding:
    """Holds the result of one check.

    Attributes:
      name: name of the check.
      verdict: `ok`, `warn`, `FAIL` or `skipped`.
      message: one line.
    """

    name: str
    verdict: str
    message: str

    def line(self, colour: bool = False) -> str:
        """Formats the finding for a terminal."""
        verdict = f'{self.verdict:<8}'
        if colour:
            verdict = f'\033[{_COLOURS[self.verdict]}m{verdict}\033[0m'
        return f'{verdict}{self.name:<10}{printable(self.message)}'


class Warned(Exception):
    """Signals a problem that a run survives, in one line."""


class Doctor:
    """Runs the checks of one run, in the order in which they depend on each other.

    Args:
      config: the run, validated.
      workdir: folder that it would have.
    """

    def __init__(self, config: RunConfig, workdir: str | pathlib.Path):
        self._config, self._workdir = config, pathlib.Path(workdir)
        # Name of a check → what later checks take from it.
        self._results: dict[str, Any] = {}

    def __call__(self) -> Iterator[Finding]:
        """Yields a finding per check as soon as it is made.

        A check is skipped when one that it needs has failed.
        """
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
            if missing := [need for need in needs if need not in self._results]:
                yield Finding(name, SKIPPED, f'needs {" and ".join(missing)}')
                continue
            yield self._run_check(name, check)

    def _run_check(self, name: str, check: Callable[[], tuple[str, Any]]) -> Finding:
        try:
            # The checked functions log to stderr as they do in `train`.
            with contextlib.redirect_stderr(io.StringIO()):
                message, self._results[name] = check()
        except UserError as error:
            return Finding(name, FAIL, str(error))
        except Warned as warning:
            self._results[name] = None
            return Finding(name, WARN, str(warning))
        return Finding(name, OK, message)

    def _versions(self) -> tuple[str, None]:
        try:
            needed = [Requirement(line) for line in metadata.requires('bsft_jax') or ()]
            pythons = SpecifierSet(metadata.metadata('bsft_jax')['Requires-Python'])
        except metadata.PackageNotFoundError:
            raise Warned(
                'bsft_jax is not installed, so no ranges are known; pip install -e .'
            ) from None
        # A release candidate counts as its release.
        python = '.'.join(map(str, sys.version_info[:3]))
        problems = [] if python in pythons else [f'python {python}']
        for requirement in needed:
            if requirement.marker and not requirement.marker.evaluate({'extra': ''}):
                continue
            name, version = requirement.name, package_version(requirement.name)
            if version is None or not requirement.specifier.contains(version, prereleases=True):
                installed = version or 'is missing'
                problems.append(f'{name} {installed}, needed {requirement.specifier}')
        if problems:
            raise UserError('; '.join(problems), fix='pip install -e . -c launch/constraints.txt')
        versions = (f'{name} {package_version(name)}' for name in PACKAGES if name != 'bsft_jax')
        return ', '.join([f'python {platform.python_version()}', *versions]), None

    def _settings(self) -> tuple[str, None]:
        trackers.check_packages(self._config)
        folder = jax.config.jax_compilation_cache_dir
        if folder and '://' not in folder:
            try:
                places.check_writable(folder, folder)
            except UserError as error:
                raise Warned(
                    f'compiled programs cannot be cached in {folder}; set JAX_COMPILATION_CACHE_DIR'
                ) from error
        if warning := env.missing_settings():
            raise Warned(warning)
        if not folder:
            return 'compiled programs are not cached', None
        return f'compiled programs are cached in {folder}', None

    def _devices(self) -> tuple[str, list]:
        devices = jax.devices()
        kinds = {device.device_kind for device in devices}
        return (
            f'{len(devices)} × {", ".join(sorted(kinds))} in {jax.process_count()} processes',
            devices,
        )

    def _base(self) -> tuple[str, pretrained.PretrainedSpec]:
        spec = setup.read_base(self._config)
        message = f'{self._config.model.base}: {spec.network.arch.parameters:,} parameters'
        if self._config.model.init == 'random':
            return f'{message}, drawn at random', spec
        pretrained.check_weights(spec)
        return f'{message}, every tensor present in its shape', spec

    def _template(self) -> tuple[str, rendering.Renderer]:
        spec = self._results['base']
        renderer = pipeline.training_renderer(self._config, spec.tokenizer, spec.behaviors)
        stop = spec.tokenizer.convert_ids_to_tokens(renderer.stop_id)
        prefixes = [repr(spec.tokenizer.decode(ids)) for ids in spec.behaviors.prefixes]
        begin = ' or '.join(prefixes) or 'no prefix'
        return f'answers begin with {begin} and end with {stop!r}', renderer

    def _data(self) -> tuple[str, None]:
        spec = self._results['base']
        store, plan, _ = pipeline.training_examples(
            self._config,
            spec.tokenizer,
            spec.behaviors,
            spec.network.arch.max_positions,
            limit=MAX_SAMPLE,
        )
        num_records = len(store.lengths)
        targets = sum(float(np.sum(store[i].weights > 0)) for i in range(num_records))
        if not targets:
            raise UserError('no token of the records has weight', where=self._config.data.source)
        share = targets / store.lengths.sum()
        message = (
            f'{num_records:,} records rendered, rows {plan.fill:.0%} full, {share:.0%} targets'
        )
        return message, None

    def _splits(self) -> tuple[str, None]:
        evaluators.check_evaluators(self._config)
        source, counts, warnings, levels = self._config.data.source, {}, [], {}
        trained = TrainedOn.of_records(())
        for split in SPLITS:
            try:
                records = sources.load_records(source, split)
            except sources.NoSuchSplit:
                records = []
            counts[split] = len(records)
            if split == 'train':
                kept = labels.exclude_category(records, self._config.data.exclude_category)
                kept = curriculum.keep_levels(self._config, kept)
                trained = TrainedOn.of_records(kept)
                levels = collections.Counter(record.difficulty for record in kept)
            elif overlap := trained.overlap(records):
                warnings.append(contamination.describe(overlap, f'{split} records'))
        split_names.check_apart(source)
        if self._config.evaluation.interval and not counts['validation']:
            raise UserError(
                'no validation records', where=source, fix='set --config.evaluation.interval=0'
            )
        message = ', '.join(f'{split} {count:,}' for split, count in counts.items())
        if self._config.data.curriculum:
            drawn = (f'{levels[level]:,} of level {level}' for level in sorted(levels))
            message += f'; the curriculum draws on {", ".join(drawn)}'
        if not counts['test']:
            raise Warned(f'{message}: nothing to evaluate on later')
        if warnings:
            raise Warned('; '.join([message, *(w.removeprefix('warning: ') for w in warnings)]))
        return message, None

    def _mesh(self) -> tuple[str, setup.StatePlan]:
        state_plan = setup.plan_state(self._config, self._results['base'].network)
        size = _num_bytes(state_plan.shapes, local=True) / 1e9
        attention = state_plan.network.compute.attention
        message = f'{mesh_lib.describe_mesh(state_plan.mesh)}, attention {attention}'
        return f'{message}, {size:.2f} GB of state per device', state_plan

    def _rows(self) -> tuple[str, None]:
        spec, mesh = self._results['base'], self._results['mesh'].mesh
        if not spec.behaviors.ids:
            return 'the arm has no behavior rows', None
        if self._config.model.init == 'random':
            return 'made from random weights', None
        checkpoint = loading.BaseCheckpoint(spec.directory, spec.network)
        paths = [p for p in ('embed/table', 'lm_head/kernel') if p in checkpoint.paths]
        params = checkpoint.read(paths, mesh)
        params = pretrained.with_behavior_rows(spec, params, mesh, self._config.seed)
        ratio = pretrained.row_norm_ratio(params)
        names = {behavior.name for behavior in spec.behaviors.token_behaviors}
        num_new = len(names - spec.exported_names)
        counts = f'{num_new} new rows and {len(names) - num_new} of the base'
        message = f"{counts}, norm {ratio:.3f} of the table's"
        if not NORM_RATIO_RANGE[0] < ratio < NORM_RATIO_RANGE[1]:
            raise Warned(f'{message}; try another --config.model.row_init')
        return message, None

    def _disk(self) -> tuple[str, None]:
        places.check_output(self._workdir, 'workdir')
        shapes, keep = self._results['mesh'].shapes, self._config.checkpoint.keep
        needed = (keep + 1) * _num_bytes(
            {'trainable': shapes.trainable, 'opt_state': shapes.opt_state}
        )
        folder = self._workdir.resolve()
        while not folder.exists():
            folder = folder.parent
        free = shutil.disk_usage(folder).free
        message = f'{free / 1e9:,.1f} GB free, {keep} + 1 checkpoints take {needed / 1e9:,.2f} GB'
        if free < needed:
            raise UserError(
                message,
                where=f'--workdir={self._workdir}',
                fix='free some, or lower --config.checkpoint.keep',
            )
        return message, None


def _num_bytes(tree: Any, local: bool = False) -> int:
    """Returns the bytes of all arrays of a tree, or of the shards that one device holds."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape) if local else leaf.shape)
        * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )
