"""Study: one base config, several arms, several seeds; and the points that this comes to."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import pathlib
import runpy
from collections.abc import Mapping, Sequence
from typing import Any

from bsft_jax import config as config_lib
from bsft_jax.behaviorbench import sources
from bsft_jax.config import RunConfig
from bsft_jax.errors import UserError
from bsft_jax.evaluation import records as scored

POLICIES = ('auto', 'oracle')  # one is evaluated, the other read from its predictions
_ENDPOINT = 'endpoint of the study'
_WITHOUT_EFFECT = config_lib.FREE_FIELDS - {'model.base', 'train.steps'}


@dataclasses.dataclass(frozen=True)
class Arm:
    """One way to train: its name and what it changes of the base config, `{dotted.path: value}`."""

    name: str
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Study:
    """What a study config returns.

    Attributes:
      name: of the study.
      config: `FILE[:ARG]` of the base config, relative to the place the study is started from.
      arms: what is compared.
      seeds: each arm is trained with each of them.
      overrides: of every run.
      learning_rates: tried by every arm with the first seed; the one with the best overall macro-F1
        on the validation split is taken, the smaller one of equals. Empty: the base config's.
      base_prompts: prompt styles under which the untouched base model is evaluated.
      test_limit: evaluates so many test records, whole cases evenly spread; 0 all.
      endpoint: (group or `overall`, (arm, policy), (arm, policy)): the comparison named beforehand.
      published: figures of others to print beside the own ones, as another data set.
    """

    name: str
    config: str
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...] = (0,)
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    learning_rates: tuple[float, ...] = ()
    base_prompts: tuple[str, ...] = ('plain',)
    test_limit: int = 0
    endpoint: tuple[str, tuple[str, str], tuple[str, str]] = (
        'proactive',
        ('behavior_sft', 'auto'),
        ('general_sft', 'auto'),
    )
    published: tuple[Mapping[str, Any], ...] = ()


@dataclasses.dataclass(frozen=True)
class Point:
    """One run of a study: an arm, a seed, its whole config, and its folder below the study's."""

    arm: str
    seed: int
    config: RunConfig
    overrides: Mapping[str, Any]
    workdir: str

    @property
    def hash(self) -> str:
        """Of the resolved config: points that agree in it are one run."""
        return config_hash(self.config)


def digest(value: Any) -> str:
    """SHA-256 of plain JSON values."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def config_hash(config: RunConfig) -> str:
    """SHA-256 over the fields that change what a run learns; not over logging, mesh or checkpoints."""
    flat = config_lib.flatten(config.to_dict())
    return digest({path: value for path, value in flat.items() if path not in _WITHOUT_EFFECT})


def load(spec: str, kind: type) -> Any:
    """`get_config(ARG)` of `FILE[:ARG]`; raises UserError unless it returns a `kind`."""
    path, _, argument = spec.partition(':')
    if not pathlib.Path(path).is_file():
        raise UserError('no such config file', where=path or '--config')
    try:
        made = runpy.run_path(path).get('get_config')
        if made is None:
            raise UserError('defines no get_config', where=path)
        config = made(argument) if argument else made()
    except UserError:
        raise
    except Exception as error:
        raise UserError(f'{type(error).__name__}: {error}', where=spec) from error
    if not isinstance(config, kind):
        raise UserError(f'get_config() does not return a {kind.__name__}', where=path)
    return config


def with_overrides(config: RunConfig, overrides: Mapping[str, Any]) -> RunConfig:
    """A copy with single fields changed, checked; raises UserError for an unknown path or a bad value."""
    values = copy.deepcopy(config.to_dict())
    known = config_lib.flatten(values)
    for path, value in overrides.items():
        if path not in known:
            raise UserError(f'unknown config field {path!r}', where='study')
        kind = type(known[path])
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            raise UserError(f'{value!r} is not of type {kind.__name__}', where=f'study: {path}')
        *parents, name = path.split('.')
        place = values
        for parent in parents:
            place = place[parent]
        place[name] = value
    return config_lib.from_dict(values).validate()


def point(study: Study, arm: Arm, seed: int, learning_rate: float | None) -> Point:
    """The run of one arm and seed; raises UserError for a config that cannot be."""
    overrides = {**study.overrides, **arm.overrides, 'seed': seed}
    name = f'{arm.name}-s{seed}'
    if learning_rate is not None:
        overrides['optimizer.learning_rate'] = learning_rate
        name += f'-lr{learning_rate:g}'
    config = with_overrides(load(study.config, RunConfig), overrides)
    return Point(arm.name, seed, config, overrides, f'points/{name}')


def check(study: Study) -> None:
    """Raises UserError for a study that cannot be run, before anything is."""
    names = [arm.name for arm in study.arms]
    if not names or len({*names, 'base'}) != len(names) + 1:
        raise UserError(f'arms must have distinct names and none is base, got {names}', where='study')
    if not study.seeds or len(set(study.seeds)) != len(study.seeds):
        raise UserError(f'seeds must be distinct, got {list(study.seeds)}', where='study')
    known = names + ['base'] * ('plain' in study.base_prompts)
    for name, policy in study.endpoint[1:]:
        if name not in known:
            raise UserError(f'no arm {name!r}, known: {", ".join(known)}', where=_ENDPOINT)
        if policy not in POLICIES:
            raise UserError(f'no policy {policy!r}, known: {", ".join(POLICIES)}', where=_ENDPOINT)
    for arm in study.arms:
        if study.learning_rates and 'optimizer.learning_rate' in {**study.overrides, **arm.overrides}:
            raise UserError(
                f'arm {arm.name!r} has a learning rate and the study tries {list(study.learning_rates)}',
                where='study',
                fix='drop one of them',
            )
        form = point(study, arm, study.seeds[0], None).config.form
        if (arm.name, 'oracle') in study.endpoint[1:] and form not in ('tokens', 'words'):
            raise UserError(f'arm {arm.name!r} has no behavior to choose for oracle', where=_ENDPOINT)


def check_records(study: Study, source: str) -> None:
    """Raises UserError for test records that the study could not be summed up on, before anything is run."""
    records = scored.scorable(sources.load_records(source, 'test'), source)
    records = scored.choose(records, source, 'all', study.test_limit)
    groups = sorted({record.group for record in records} - {''})
    if study.endpoint[0] not in (*groups, 'overall'):
        known = ', '.join((*groups, 'overall'))
        raise UserError(f'no test record of the group {study.endpoint[0]!r}, known: {known}', where=_ENDPOINT)


def shared(points: Sequence[Point]) -> list[Point]:
    """The points, each in the folder of the first one with its config: they are one run."""
    home: dict[str, str] = {}
    return [dataclasses.replace(p, workdir=home.setdefault(p.hash, p.workdir)) for p in points]


def unique(points: Sequence[Point]) -> list[Point]:
    """The points without those whose config an earlier one has."""
    return list({p.hash: p for p in reversed(points)}.values())[::-1]
