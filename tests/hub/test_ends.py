"""Tests at which ids a model's own files say that a text ends."""

import json

import pytest

from bsft_jax.errors import UserError
from bsft_jax.hub.ends import end_ids


@pytest.mark.parametrize(
    ('generation', 'config', 'expected'),
    [
        (None, {}, ()),
        (None, {'eos_token_id': 2}, (2,)),
        (None, {'eos_token_id': [2, 7, 2]}, (2, 7)),
        ({}, {'eos_token_id': 2}, (2,)),
        ({'eos_token_id': None}, {'eos_token_id': [3]}, (3,)),
        ({'eos_token_id': 5}, {'eos_token_id': 2}, (5,)),
        ({'eos_token_id': [5, 6]}, {}, (5, 6)),
        ({'eos_token_id': -1}, {}, ()),
        ({'eos_token_id': []}, {'eos_token_id': 2}, ()),
    ],
)
def test_generation_config_comes_before_config(tmp_path, generation, config, expected):
    if generation is not None:
        (tmp_path / 'generation_config.json').write_text(json.dumps(generation))
    assert end_ids(tmp_path, config) == expected


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('{', 'cannot be read'),
        ('[' * 100_000, 'cannot be read'),
        ('[1]', 'must be an object'),
        ('{"eos_token_id": "2"}', "eos_token_id '2' is not an id"),
        ('{"eos_token_id": [2, true]}', 'is not an id'),
        ('{"eos_token_id": {"a": 2}}', 'is not an id'),
    ],
)
def test_a_bad_file_is_one_line_with_its_path(tmp_path, text, message):
    (tmp_path / 'generation_config.json').write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        end_ids(tmp_path, {})
    assert str(caught.value).startswith(str(tmp_path / 'generation_config.json'))
