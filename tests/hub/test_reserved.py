"""Ids of behavior tokens: spare rows, then reserved or unused ids, then ids beyond the table."""

import json
import shutil

import numpy as np
import pytest
from transformers import AddedToken

import bsft_jax
from bsft_jax.behaviors import DEFAULT_BEHAVIORS
from bsft_jax.data.tokenizer import load_tokenizer
from bsft_jax.errors import UserError
from bsft_jax.hub.files import TensorFiles
from tests.tiny import random_model


@pytest.fixture(scope='module')
def plain(tmp_path_factory):
    return random_model(tmp_path_factory.mktemp('plain'))


def with_tokens(plain, folder, names, rows, special):
    """Copies the model, adds tokens to its tokenizer and resizes its table to `rows` rows."""
    from safetensors.numpy import load_file, save_file

    shutil.copytree(plain, folder)
    tokenizer = load_tokenizer(folder)
    tokenizer.add_tokens([AddedToken(name, special=special, normalized=False) for name in names])
    tokenizer.save_pretrained(str(folder))
    tensors = load_file(folder / 'model.safetensors')
    table = tensors['model.embed_tokens.weight']
    tensors['model.embed_tokens.weight'] = np.resize(table, (rows, table.shape[1]))
    save_file(tensors, folder / 'model.safetensors', metadata={'format': 'pt'})
    config = json.loads((folder / 'config.json').read_text())
    (folder / 'config.json').write_text(json.dumps(config | {'vocab_size': rows}))
    return folder


@pytest.mark.parametrize(
    ('pattern', 'special'), [('<|reserved_special_token_{}|>', True), ('<unused{}>', False)]
)
def test_reserved_ids_are_taken_when_no_row_is_spare(plain, pattern, special, tmp_path):
    names = [pattern.format(i) for i in range(3)]
    directory = with_tokens(plain, tmp_path / 'base', names, 323, special)
    model = bsft_jax.load_model(directory, behaviors=DEFAULT_BEHAVIORS)
    assert model.behaviors.ids == (320, 321) and len(model.tokenizer) == 323
    out = bsft_jax.save_model(model, tmp_path / 'out')
    assert TensorFiles(out).shape('model.embed_tokens.weight')[0] == 323
    tokenizer = load_tokenizer(out)
    assert tokenizer.encode('<|reactive|><|proactive|>x')[:2] == [320, 321]
    assert tokenizer.decode([321], skip_special_tokens=True) == '<|proactive|>'
    assert names[0] not in tokenizer.get_vocab()
    assert tokenizer.convert_tokens_to_ids(names[2]) == 322
    assert bsft_jax.load_model(out).behaviors.ids == (320, 321)


def test_reserved_ids_in_use_are_kept(plain, tmp_path):
    names = [f'<|reserved_special_token_{i}|>' for i in range(4)]
    directory = with_tokens(plain, tmp_path / 'base', names, 324, True)
    tokenizer = load_tokenizer(directory)
    tokenizer.pad_token = names[0]
    tokenizer.chat_template = f'{{# {names[1]} #}}{tokenizer.chat_template}'
    tokenizer.save_pretrained(directory)
    model = bsft_jax.load_model(directory, behaviors=DEFAULT_BEHAVIORS)
    assert model.behaviors.ids == (322, 323)
    exported = load_tokenizer(bsft_jax.save_model(model, tmp_path / 'out'))
    assert exported.pad_token_id == 320 and len(exported) == 324


def test_spare_rows_come_before_reserved_ids(plain, tmp_path):
    directory = with_tokens(plain, tmp_path / 'base', ['<unused0>', '<unused1>'], 384, False)
    model = bsft_jax.load_model(directory, behaviors=DEFAULT_BEHAVIORS)
    assert model.behaviors.ids == (322, 323) and '<unused0>' in model.tokenizer.get_vocab()


def test_the_table_grows_when_too_few_ids_are_reserved(plain, tmp_path):
    directory = with_tokens(plain, tmp_path / 'base', ['<unused0>'], 321, False)
    model = bsft_jax.load_model(directory, behaviors=DEFAULT_BEHAVIORS)
    assert model.behaviors.ids == (321, 322)


def test_a_special_token_beyond_the_table_is_ignored_unless_the_template_writes_it(plain, tmp_path):
    directory = with_tokens(
        plain, tmp_path / 'base', ['<unused0>', '<unused1>', '<image>'], 322, True
    )
    assert bsft_jax.load_model(directory, behaviors=DEFAULT_BEHAVIORS).behaviors.ids == (320, 321)
    template = directory / 'chat_template.jinja'
    template.write_text('<image>' + template.read_text())
    with pytest.raises(UserError, match='the tokenizer has 323 ids, the embedding table 322 rows'):
        bsft_jax.load_model(directory)
