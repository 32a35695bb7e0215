"""Tests that a bad `config.json` of a workdir, or a bad config, is one line and nothing else."""

import json

import pytest

from bsft_jax import config as config_lib
from bsft_jax.behaviors import Behavior
from bsft_jax.config import RunConfig
from bsft_jax.errors import UserError
from tests.config.config_with import config_with

GOOD = RunConfig().to_dict()
FIELDS = [*config_lib.flatten(GOOD), *(name for name in GOOD if isinstance(GOOD[name], dict))]
WRONG = [
    None,
    True,
    0,
    -1,
    10**400,
    1.5,
    float('nan'),
    float('inf'),
    '',
    'x',
    'a\x00b',
    '\ud800',
    '\x1b[31m',
    'x' * 200_000,
    [],
    ['x'],
    [None],
    [[]],
    {},
    {'x': 1},
]


def write(folder, values):
    (folder / 'config.json').write_text(json.dumps(values))
    return folder


def changed(path, value):
    values = json.loads(json.dumps(GOOD))
    *sections, name = path.split('.')
    target = values
    for section in sections:
        target = target[section]
    target[name] = value
    return values


def assert_refused(folder, values, message=''):
    """Returns the line that refuses a config.json."""
    with pytest.raises(UserError) as error:
        config_lib.read_workdir(write(folder, values))
    line = str(error.value)
    assert line.startswith(f'{folder / "config.json"}: ') and line.isprintable(), line
    assert message in line and '--config' not in line and len(line) < 600, line


@pytest.mark.parametrize('path', FIELDS)
def test_every_wrong_value_of_a_field_is_refused_or_of_its_type(path, tmp_path):
    kind = type(config_lib.flatten(GOOD).get(path, {}))
    for value in WRONG:
        try:
            config = config_lib.read_workdir(write(tmp_path, changed(path, value)))
        except UserError as error:
            assert str(error).startswith(f'{tmp_path / "config.json"}: ')
            assert str(error).isprintable() and len(str(error)) < 600
            continue
        read = config_lib.flatten(config.to_dict())[path]
        assert type(value) is kind or (kind, type(value)) == (float, int)
        assert read == value and value == value


@pytest.mark.parametrize('path', FIELDS)
def test_a_config_that_lacks_a_field_is_refused(path, tmp_path):
    values = changed(path, None)
    *sections, name = path.split('.')
    target = values
    for section in sections:
        target = target[section]
    del target[name]
    if path == 'arm':
        with pytest.raises(UserError, match='not a workdir'):
            config_lib.read_workdir(write(tmp_path, values))
    else:
        assert_refused(tmp_path, values, f'has no field {path}: another version')


@pytest.mark.parametrize(
    ('path', 'value', 'message'),
    [
        ('model', [], 'model: must be an object, got []'),
        ('train', None, 'train: must be an object, got None'),
        ('behaviors', 'x', "behaviors: must be a list, got 'x'"),
        ('behaviors', [], 'behaviors must be two or more'),
        ('behaviors', ['x', 'y'], "behaviors[0]: must be an object, got 'x'"),
        ('behaviors', [{'name': 'a', 'level': 0}], 'has no field behaviors[0].description'),
        ('arm', 'nonsense', "arm: 'nonsense' is not one of"),
        ('arm', ['x'], "arm: ['x'] is not a text"),
        ('model.dtype', 'float99', "model.dtype: 'float99' is not one of"),
        ('data.max_dropped_fraction', 'x', "data.max_dropped_fraction: 'x' is not a number"),
        ('data.answer_format', 'x', "data.answer_format: 'x' is not one of letter, text"),
        ('data.packed', 1, 'data.packed: 1 is not true or false'),
        ('data.packed', 'true', "data.packed: 'true' is not true or false"),
        ('seed', True, 'seed: True is not an integer'),
        ('seed', 1.0, 'seed: 1.0 is not an integer'),
        ('checkpoint.keep', 10**12, 'checkpoint.keep: 1000000000000 has more than 32 bits'),
        ('data.source', 'jsonl:a\x00b', 'is not a plain text'),
        ('optimizer.eps', 10**400, 'has more than 32 bits'),
        ('lora.targets', '(?:a){99999999999}', 'lora.targets: not a regular expression'),
        ('profile.trace_steps', '9' * 5000, 'profile.trace_steps: cannot read'),
        ('optimizer.warmup_steps', 200, 'set it below 200, or raise optimizer.schedule_steps'),
    ],
)
def test_what_is_wrong_is_named_by_file_and_field(path, value, message, tmp_path):
    assert_refused(tmp_path, changed(path, value), message)


@pytest.mark.parametrize(
    ('field', 'value', 'message'),
    [
        ('level', 'high', "behaviors[1].level: 'high' is not a number"),
        ('level', None, 'behaviors[1].level: None is not a number'),
        ('level', 7, 'level 7 of behavior'),
        ('name', 3, 'behaviors[1].name: 3 is not a text'),
        ('description', '', 'has no description'),
        ('extra', 1, 'unknown field behaviors[1].extra'),
    ],
)
def test_behaviors_are_checked_one_by_one(field, value, message, tmp_path):
    values = changed('seed', 0)
    values['behaviors'][1][field] = value
    assert_refused(tmp_path, values, message)


@pytest.mark.parametrize(
    'text', ['[]', '"arm"', '3', 'null', 'true', '{}', '{"model_type": "qwen2"}', '["arm"]']
)
def test_other_json_is_no_workdir(text, tmp_path):
    (tmp_path / 'config.json').write_text(text)
    with pytest.raises(UserError, match=f'--workdir={tmp_path}: not a workdir'):
        config_lib.read_workdir(tmp_path)


@pytest.mark.parametrize(
    'content', [b'', b'{', '{"arm": "x"}'.encode('utf-16'), b'[' * 100_000, b'\xff', b'9' * 5000]
)
def test_what_is_no_json_is_named(content, tmp_path):
    (tmp_path / 'config.json').write_bytes(content)
    with pytest.raises(UserError, match=r'config\.json: not valid JSON'):
        config_lib.read_workdir(tmp_path)


def test_a_folder_without_a_config_names_its_flag(tmp_path):
    (tmp_path / 'config.json').mkdir()
    for folder in (tmp_path, tmp_path / 'absent', ''):
        with pytest.raises(UserError, match=f'^--workdir={folder}: not a workdir'):
            config_lib.read_workdir(folder)


def test_numbers_and_infinite_norms_survive_a_file(tmp_path):
    config = config_with('optimizer.clip_norm', float('inf'))
    config.optimizer.learning_rate = 1
    assert config_lib.read_workdir(write(tmp_path, config.to_dict())) == config


@pytest.mark.parametrize(
    ('path', 'value', 'message'),
    [
        ('seed', 'abc', "--config.seed: 'abc' is not an integer"),
        ('train.steps', 1.5, '--config.train.steps: 1.5 is not an integer'),
        ('data.packed', 'yes', "--config.data.packed: 'yes' is not true or false"),
        ('model', None, '--config.model: None is no ModelConfig'),
        ('lora', {}, '--config.lora: {} is no LoraConfig'),
        ('behaviors', 'ab', "--config.behaviors: 'ab' is not a tuple"),
        ('behaviors', {}, '--config.behaviors: {} is not a tuple'),
        ('behaviors', ('a', 'b'), "--config.behaviors[0]: 'a' is no Behavior"),
        (
            'behaviors',
            (Behavior('a', 'x', 'b'), Behavior('b', 1.0, 'c')),
            "--config.behaviors[0].level: 'x' is not a number",
        ),
    ],
)
def test_a_config_file_is_checked_likewise(path, value, message):
    with pytest.raises(UserError) as error:
        config_lib.validate(config_with(path, value))
    assert str(error.value).startswith(message)
