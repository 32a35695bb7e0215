"""Tests of `generate`: the options that it refuses, and a text that nothing ends."""

import pytest

from bsft_jax.commands import generate
from bsft_jax.errors import UserError
from bsft_jax.inference import decoding, open_model
from bsft_jax.models.network import Network
from tests import run as runs


def test_options_that_would_be_ignored_are_refused(base, monkeypatch):
    def fail(*_):
        pytest.fail('a device was touched')

    monkeypatch.setattr(Network, 'for_mesh', fail)
    ask = dict(sampling=decoding.Sampling(max_new_tokens=2), text='Hi')
    with pytest.raises(UserError, match=r'--chat_template=a\.jinja: belongs to --model'):
        runs.generate(**ask, workdir='run', chat_template='a.jinja')
    with pytest.raises(UserError, match='--step=3: belongs to --workdir'):
        runs.generate(**ask, model=str(base), step=3)
    for policy in ('forced:nonsense', 'oracle', 'best'):
        with pytest.raises(UserError, match=f'--policy={policy}: .* --raw has none'):
            runs.generate(**ask, model=str(base), raw=True, policy=policy)


def test_a_tokenizer_without_an_end_continues_a_text_to_its_length(base, monkeypatch):
    original = open_model.open_model

    def open_without_end(source):
        model = original(source)
        model.tokenizer.eos_token = None
        return model

    monkeypatch.setattr(generate, 'open_model', open_without_end)
    sampling = decoding.Sampling(max_new_tokens=3)
    [answer] = runs.generate(sampling=sampling, model=str(base), text='Hi', raw=True)
    assert len(answer['ids']) == 3
