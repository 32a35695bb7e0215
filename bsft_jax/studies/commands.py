"""Builds the command lines of a study, and the folder names that they share."""

from __future__ import annotations

import pathlib
import sys

from bsft_jax.behaviors import DEFAULT_BEHAVIORS
from bsft_jax.config import RunConfig
from bsft_jax.studies.study import Point, Study, json_digest


def module_command(module: str, *flags: str) -> list[str]:
    """Returns the command line of `python -m bsft_jax.MODULE` with flags."""
    return [sys.executable, '-m', f'bsft_jax.{module}', *flags]


def train_command(study: Study, point: Point, directory: pathlib.Path) -> list[str]:
    """Returns the command that trains a point of the study in `directory`."""
    overrides = [f'--config.{path}={value}' for path, value in point.overrides.items()]
    return module_command(
        'train', f'--config={study.config}', *overrides, f'--workdir={directory / point.workdir}'
    )


def evaluate_command(study: Study, point: Point, directory: pathlib.Path, split: str) -> list[str]:
    """Returns the command that evaluates a trained point on a split under the policy `auto`."""
    return module_command(
        'evaluate',
        f'--workdir={directory / point.workdir}',
        f'--split={split}',
        '--policy=auto',
        f'--name={evaluation_name(study, split, "auto")}',
        f'--limit={record_limit(study, split)}',
    )


def base_command(
    study: Study, config: RunConfig, directory: pathlib.Path, prompt: str
) -> list[str]:
    """Returns the command that evaluates the untouched base model under a prompt style."""
    data, has_own = config.data, config.behaviors != DEFAULT_BEHAVIORS
    return module_command(
        'evaluate',
        f'--model={config.model.base}',
        f'--workdir={directory / base_workdir(config)}',
        *([f'--config={study.config}'] if has_own else []),
        f'--data={data.source}',
        f'--chat_template={data.chat_template}',
        *([f'--tokenizer={tokenizer}'] if (tokenizer := config.model.tokenizer) else []),
        f'--answer_format={data.answer_format}',
        f'--max_dropped_fraction={data.max_dropped_fraction}',
        f'--prompt={prompt}',
        f'--name={evaluation_name(study, "test", prompt)}',
        f'--limit={record_limit(study, "test")}',
    )


def record_limit(study: Study, split: str) -> int:
    """Returns the number of records of a split that are evaluated, 0 for all."""
    return study.test_limit if split == 'test' else 0


def evaluation_name(study: Study, split: str, variant: str) -> str:
    """Returns the folder name of an evaluation.

    It holds the limit, so that results of another limit are not mistaken for this one's.

    Args:
      study: the study.
      split: the split that is evaluated.
      variant: the policy of a trained model, or the prompt style of the base model.
    """
    limit = record_limit(study, split)
    return '-'.join([split, variant.replace(':', '-')] + [f'limit{limit}'] * bool(limit))


def base_workdir(config: RunConfig) -> str:
    """Returns the folder of the base model's evaluations, relative to the study's.

    Its name depends on the base model, the data that are evaluated and behaviors of one's own.
    """
    data = config.data
    identity = [
        config.model.base,
        data.source,
        data.chat_template,
        data.answer_format,
        data.max_dropped_fraction,
        *([config.model.tokenizer] if config.model.tokenizer else []),
        *([repr(config.behaviors)] if config.behaviors != DEFAULT_BEHAVIORS else []),
    ]
    return f'points/base-{json_digest(identity)[:8]}'
