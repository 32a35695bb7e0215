"""Tests of configs as JSON: they survive a file, and fixed fields that differ are listed."""

import json

import pytest

from bsft_jax import config as config_lib
from bsft_jax.config import RunConfig
from bsft_jax.errors import UserError
from tests.config.config_with import config_with


def test_defaults_are_valid_and_survive_a_file():
    config = config_lib.validate(RunConfig())
    assert config_lib.from_dict(config.to_dict()) == config
    with pytest.raises(UserError, match=r'unknown field data\.speed'):
        config_lib.from_dict({'data': {'speed': 1}})


def test_a_config_of_an_earlier_version_is_refused(tmp_path):
    values = RunConfig().to_dict()
    values['data']['rows_per_step'] = values['data'].pop('global_batch_rows')
    (tmp_path / 'config.json').write_text(json.dumps(values))
    message = (
        r'config\.json: unknown field data\.rows_per_step: another version of bsft_jax wrote this '
        'config; use that version, or start a new --workdir'
    )
    with pytest.raises(UserError, match=message):
        config_lib.read_workdir(tmp_path)


def test_only_fixed_fields_count_as_differences():
    old = RunConfig().to_dict()
    free = config_with('mesh.data', 8)
    free.train.steps, free.checkpoint.interval, free.evaluation.limit = 5, 7, 9
    assert config_lib.differences(old, free.to_dict()) == []
    longer = config_with('optimizer.schedule_steps', 300).to_dict()
    assert config_lib.differences(old, longer) == ['optimizer.schedule_steps: 200 → 300']
    assert config_lib.differences(old, config_with('data.source', 'jsonl:x').to_dict())
