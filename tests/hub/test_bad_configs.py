"""A damaged `config.json` of a model is one line that names the file and the field."""

import json
import shutil

import pytest

from bsft_jax.errors import UserError
from bsft_jax.hub import files, pretrained

BUNDLED = files.ASSETS / 'tiny-clinical'
BSFT = {'prefix_kind': 'tokens', 'behaviors': [], 'answer_format': 'letter'}
REACTIVE = {'name': 'reactive', 'level': 0.0, 'description': 'a dog'}


@pytest.fixture
def base(tmp_path):
    """Returns a model directory without weights, whose config a test damages."""
    folder = tmp_path / 'base'
    ignored = shutil.ignore_patterns('*.safetensors')
    return shutil.copytree(BUNDLED, folder, ignore=ignored)


def refused(base, message):
    with pytest.raises(UserError, match=message) as raised:
        pretrained.read_pretrained(str(base))
    line = str(raised.value)
    assert line.startswith(f'{base / "config.json"}: ') and len(line) < 400 and '\n' not in line


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ('[]', 'is not a JSON object'),
        ('"qwen2"', 'is not a JSON object'),
        ('null', 'is not a JSON object'),
        ('3', 'is not a JSON object'),
        ('', 'cannot be read'),
        ('{', 'cannot be read'),
        ('[' * 100_000, 'cannot be read'),
        ('{"a":' * 100_000, 'cannot be read'),
        ('{"model_type": "qwen2"}', "'num_attention_heads' is missing"),
        ('{"model_type": ["qwen2"]}', "'model_type' is \\['qwen2'\\], not text"),
        ('{}', 'unknown architecture None'),
    ],
)
def test_a_file_of_another_form(base, content, message):
    (base / 'config.json').write_text(content)
    refused(base, message)


@pytest.mark.parametrize('encoding', ['utf-16', 'utf-32'])
def test_another_encoding(base, encoding):
    text = (base / 'config.json').read_text()
    (base / 'config.json').write_text(text, encoding=encoding)
    refused(base, 'cannot be read')


@pytest.mark.parametrize('value', [0, -1, '6', 6.0, True, [6], {}, 10**30, 10**400])
@pytest.mark.parametrize(
    'field',
    ['num_attention_heads', 'num_hidden_layers', 'num_key_value_heads', 'vocab_size', 'head_dim'],
)
def test_a_size_that_is_none(base, field, value):
    edit(base, **{field: value})
    refused(base, f"'{field}' is .*, not an integer from 1 to")


def edit(base, **changes):
    path = base / 'config.json'
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'num_hidden_layers': 10**9}, 'not an integer from 1 to 1000'),
        ({'num_hidden_layers': 1001}, 'not an integer from 1 to 1000'),
        ({'num_hidden_layers': None}, "'num_hidden_layers' is missing"),
        ({'max_position_embeddings': 'x'}, "'max_position_embeddings' is 'x'"),
        ({'rms_norm_eps': 'x'}, "'rms_norm_eps' is 'x', not a number of at least 0"),
        ({'rms_norm_eps': -1e-6}, "'rms_norm_eps' is -1e-06"),
        ({'rms_norm_eps': float('nan')}, "'rms_norm_eps' is nan"),
        ({'rms_norm_eps': float('inf')}, "'rms_norm_eps' is inf"),
        ({'rms_norm_eps': None}, "'rms_norm_eps' is None"),
        ({'rope_theta': float('inf')}, "'rope_theta' is inf"),
        ({'initializer_range': 'x'}, "'initializer_range' is 'x'"),
        ({'tie_word_embeddings': 1}, "'tie_word_embeddings' is 1, not true or false"),
        ({'hidden_act': 3}, "'hidden_act' is 3, not text"),
        ({'hidden_act': 'x' * 1000}, 'hidden_act .* is not supported'),
        ({'num_attention_heads': 3, 'num_key_value_heads': None}, 'does not divide into 3 heads'),
        ({'num_key_value_heads': 3}, 'do not divide among 3 key and value heads'),
        ({'head_dim': 7}, 'heads of 7 dimensions cannot be rotated'),
        ({'model_type': 'bert'}, "unknown architecture 'bert'"),
        ({'model_type': 'gemma3', 'text_config': 5}, "'text_config' is 5, not an object"),
        ({'bsft': 'x'}, "'bsft' is 'x', not an object"),
        ({'bsft': []}, "'bsft' is \\[\\], not an object"),
        ({'bsft': {'behaviors': [REACTIVE]}}, 'another version'),
        ({'bsft': {'answer_format': 'zzz'}}, 'another version'),
        ({'bsft': {'form': 'zzz'}}, 'another version'),
        ({'bsft': BSFT | {'prefix_kind': 'zzz'}}, "bsft.prefix_kind 'zzz' is none of none, tokens"),
        ({'bsft': BSFT | {'prefix_kind': ['tokens']}}, 'bsft.prefix_kind'),
        ({'bsft': BSFT | {'answer_format': 'zzz'}}, "bsft.answer_format 'zzz' is none of letter"),
        ({'bsft': BSFT | {'answer_format': None}}, 'bsft.answer_format None is none of letter'),
        ({'bsft': BSFT | {'behaviors': [{'name': 'reactive'}]}}, 'bsft.behaviors .* no behaviors'),
        ({'bsft': BSFT | {'behaviors': [REACTIVE, REACTIVE]}}, 'bsft.behaviors .* no behaviors'),
        ({'bsft': BSFT | {'behaviors': [REACTIVE | {'level': 'high'}]}}, 'no behaviors'),
        ({'bsft': BSFT | {'behaviors': [REACTIVE | {'level': 2}]}}, 'no behaviors'),
        ({'bsft': BSFT | {'behaviors': [REACTIVE | {'name': 'a b'}]}}, 'no behaviors'),
        ({'bsft': BSFT | {'behaviors': [REACTIVE | {'description': 1}]}}, 'no behaviors'),
        ({'bsft': BSFT | {'behaviors': {'reactive': 0}}}, 'no behaviors'),
        ({'bsft': BSFT | {'behaviors': ['reactive']}}, 'no behaviors'),
    ],
    ids=str,
)
def test_a_field_of_the_wrong_kind(base, changes, message):
    edit(base, **changes)
    refused(base, message)


def test_a_deep_value_is_cut(base):
    edit(base, head_dim=json.loads('[' * 400 + ']' * 400))
    refused(base, r"'head_dim' is \[\[.*, not an integer")


def test_fields_that_nothing_here_reads_may_hold_anything(base):
    edit(base, torch_dtype='float99', dtype=5, auto_map={'AutoConfig': 'x.Y'}, note=[1], bsft=None)
    assert pretrained.read_pretrained(str(base)).network.arch.family == 'qwen2'


def test_the_text_model_of_a_vision_tower_is_checked_too(base):
    text = {'hidden_size': '32', 'model_type': 'gemma3_text'}
    (base / 'config.json').write_text(json.dumps({'model_type': 'gemma3', 'text_config': text}))
    refused(base, "'hidden_size' is '32'")
