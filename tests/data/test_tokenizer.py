"""Tests loading a tokenizer: missing, broken and limited files."""

import pytest

from bsft_jax.behaviors import BehaviorSet
from bsft_jax.data.rendering import Renderer
from bsft_jax.data.tokenizer import load_tokenizer
from bsft_jax.errors import UserError

from .test_rendering import CHOICE


def test_missing_files_are_named(shared, tmp_path):
    with pytest.raises(UserError, match=r'no tokenizer\.json') as caught:
        load_tokenizer(tmp_path)
    assert str(tmp_path) in str(caught.value)
    with pytest.raises(UserError, match='no such chat template') as caught:
        load_tokenizer(shared / 'models/stories260k/hf', str(tmp_path / 'x.jinja'))
    assert 'x.jinja' in str(caught.value)


@pytest.mark.parametrize('content', ['{', '{}', '{"version": "1.0"}'])
def test_a_broken_tokenizer_is_a_user_error(tmp_path, content):
    (tmp_path / 'tokenizer.json').write_text(content)
    with pytest.raises(UserError, match='cannot be read'):
        load_tokenizer(tmp_path)


def test_a_stored_length_limit_cuts_nothing(trained, tmp_path):
    trained.save_pretrained(str(tmp_path))
    limited = load_tokenizer(tmp_path)
    limited.backend_tokenizer.enable_truncation(4)
    limited.backend_tokenizer.enable_padding(length=4)
    limited.backend_tokenizer.save(str(tmp_path / 'tokenizer.json'))
    assert len(Renderer(load_tokenizer(tmp_path), BehaviorSet()).example(CHOICE).ids) > 40
