"""Defines studies: a base config, several arms and seeds, and the points they expand to."""

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
from bsft_jax.config import RunConfig
from bsft_jax.config.types import check_types
from bsft_jax.data import eval_records, sources, split_names
from bsft_jax.data.prompts import parse_prompt_style
from bsft_jax.errors import UserError
from bsft_jax.files import check_name

# `auto` is evaluated; `oracle` is computed from the predictions of `auto`.
POLICIES = ('auto', 'oracle')
_ENDPOINT = 'endpoint of the study'
_WITHOUT_EFFECT = config_lib.FREE_FIELDS - {'model.base', 'train.steps'}


@dataclasses.dataclass(frozen=True)
class Arm:
    """Describes one way to train.

    Attributes:
      name: of the arm.
      overrides: its changes to the base config, `{dotted.path: value}`.
    """

    name: str
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Study:
    """Describes a study; `get_config()` of a study config returns one.

    Attributes:
      name: of the study.
      config: `FILE[:ARG]` of the base config, relative to the working directory.
      arms: the ways to train that are compared.
      seeds: every arm is trained with each of them.
      overrides: changes to the base config that hold for every run.
      learning_rates: candidates that every arm tries with the first seed. The one with the best
        overall macro-F1 on the validation split is used, the smaller one of equals. Empty: the
        learning rate of the base config.
      base_prompts: prompt styles under which the untouched base model is evaluated.
      test_limit: number of test records that are evaluated, whole cases evenly spread; 0 for all.
      endpoint: (group or `overall`, (arm, policy), (arm, policy)): the one comparison that is named
        before there are results.
      over_rate: rate of over-intervention at which the second endpoint compares the missed
        interventions of the endpoint's two arms, named beforehand as well.
      published: results of others on other data, shown beside the study's own.
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
    over_rate: float = 0.05
    published: tuple[Mapping[str, Any], ...] = ()


@dataclasses.dataclass(frozen=True)
class Point:
    """Represents one run of a study.

    Attributes:
      arm: name of the arm.
      seed: of the run.
      config: the complete config.
      overrides: its differences from the base config.
      workdir: folder of the run, relative to the study's.
    """

    arm: str
    seed: int
    config: RunConfig
    overrides: Mapping[str, Any]
    workdir: str

    @property
    def hash(self) -> str:
        """Returns the hash of the config; points with equal hashes are one run."""
        return config_hash(self.config)


def json_digest(value: Any) -> str:
    """Returns the SHA-256 of a plain JSON value as hexadecimal text."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def config_hash(config: RunConfig) -> str:
    """Returns the SHA-256 of the fields that affect the trained model.

    Fields of logging, mesh and checkpoints are left out.
    """
    flat = config_lib.flatten(config.to_dict())
    return json_digest({path: value for path, value in flat.items() if path not in _WITHOUT_EFFECT})


def load_config(spec: str, *kinds: type) -> Any:
    """Returns `get_config(ARG)` of the Python file in `FILE[:ARG]`.

    Raises:
      UserError: the file is missing or broken, or does not return one of `kinds`.
    """
    wanted = ' or '.join(f'a {kind.__name__}' for kind in kinds)
    path, _, argument = spec.partition(':')
    if not pathlib.Path(path).is_file():
        raise UserError('no such config file', where=path or '--config')
    try:
        get_config = runpy.run_path(path).get('get_config')
        if get_config is None:
            raise UserError('defines no get_config', where=path)
        config = get_config(argument) if argument else get_config()
    except UserError:
        raise
    except SystemExit as error:
        raise UserError(
            f'calls sys.exit({error.code!r}) instead of returning {wanted}', where=path
        ) from error
    except Exception as error:
        raise UserError(f'{type(error).__name__}: {error}', where=spec) from error
    if not isinstance(config, kinds):
        raise UserError(f'get_config() does not return {wanted}', where=path)
    return config


def with_overrides(config: RunConfig, overrides: Mapping[str, Any]) -> RunConfig:
    """Returns a validated copy of a config with single fields changed.

    Raises:
      UserError: an unknown path or a bad value.
    """
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
        section = values
        for parent in parents:
            section = section[parent]
        section[name] = value
    return config_lib.validate(config_lib.from_dict(values))


def make_point(study: Study, arm: Arm, seed: int, learning_rate: float | None) -> Point:
    """Returns the run of one arm and seed.

    Args:
      study: the study.
      arm: one of its arms.
      seed: one of its seeds.
      learning_rate: replaces the config's; None keeps that.

    Raises:
      UserError: the resulting config is invalid.
    """
    overrides = {**study.overrides, **arm.overrides, 'seed': seed}
    name = f'{arm.name}-s{seed}'
    if learning_rate is not None:
        overrides['optimizer.learning_rate'] = learning_rate
        name += f'-lr{learning_rate:g}'
    config = with_overrides(load_config(study.config, RunConfig), overrides)
    return Point(arm.name, seed, config, overrides, f'points/{name}')


def base_config(study: Study) -> RunConfig:
    """Returns the config of the first arm and seed, whose base model and data stand for all."""
    return make_point(study, study.arms[0], study.seeds[0], None).config


def check_study(study: Study) -> None:
    """Checks the definition of a study before anything runs.

    Raises:
      UserError: names are not distinct, the endpoint names an unknown arm or policy, or the config
        of an arm is invalid.
    """
    check_types(study, 'study: ')
    names = [arm.name for arm in study.arms]
    for name in names:
        check_name(name, 'name of an arm')
    for prompt in study.base_prompts:
        parse_prompt_style(prompt)
    if not names or len({*names, 'base'}) != len(names) + 1:
        raise UserError(
            f'arms must have distinct names and none is base, got {names}', where='study'
        )
    if not study.seeds or len(set(study.seeds)) != len(study.seeds):
        raise UserError(f'seeds must be distinct, got {list(study.seeds)}', where='study')
    known = names + ['base'] * ('plain' in study.base_prompts)
    for name, policy in study.endpoint[1:]:
        if name not in known:
            raise UserError(f'no arm {name!r}, known: {", ".join(known)}', where=_ENDPOINT)
        if policy not in POLICIES:
            raise UserError(f'no policy {policy!r}, known: {", ".join(POLICIES)}', where=_ENDPOINT)
    if not 0 < study.over_rate < 1:
        raise UserError(f'over_rate {study.over_rate} is not between 0 and 1', where='study')
    for arm in study.arms:
        overrides = {**study.overrides, **arm.overrides}
        if study.learning_rates and 'optimizer.learning_rate' in overrides:
            raise UserError(
                f'arm {arm.name!r} has a learning rate and the study tries '
                f'{list(study.learning_rates)}',
                where='study',
                fix='drop one of them',
            )
        prefix_kind = make_point(study, arm, study.seeds[0], None).config.prefix_kind
        uses_oracle = (arm.name, 'oracle') in study.endpoint[1:]
        if uses_oracle and prefix_kind not in ('tokens', 'words'):
            raise UserError(
                f'arm {arm.name!r} has no behavior to choose for oracle', where=_ENDPOINT
            )


def check_records(study: Study, source: str) -> None:
    """Checks before any run that the test records of `source` support the endpoint.

    Raises:
      UserError: no test record can be scored, none is of the endpoint's group, or the splits of
        `source` share ids or cases.
    """
    records = eval_records.scorable(sources.load_records(source, 'test'), source)
    split_names.check_apart(source)
    records = eval_records.choose_records(records, source, 'all', study.test_limit)
    groups = sorted({record.group for record in records} - {''})
    if study.endpoint[0] not in (*groups, 'overall'):
        known = ', '.join((*groups, 'overall'))
        raise UserError(
            f'no test record of the group {study.endpoint[0]!r}, known: {known}', where=_ENDPOINT
        )


def with_shared_workdirs(points: Sequence[Point]) -> list[Point]:
    """Returns the points with the workdir of the first point of equal config: they are one run."""
    workdirs: dict[str, str] = {}
    return [dataclasses.replace(p, workdir=workdirs.setdefault(p.hash, p.workdir)) for p in points]


def distinct_configs(points: Sequence[Point]) -> list[Point]:
    """Returns the points without those whose config equals an earlier one's."""
    return list({p.hash: p for p in reversed(points)}.values())[::-1]
