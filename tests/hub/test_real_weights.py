"""A real pretrained Llama, stories260k, reproduces its greedy ids and NLL."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

import bsft_jax
from bsft_jax.behaviors import DEFAULT_BEHAVIORS
from bsft_jax.inference import decoding


@pytest.fixture(scope='module')
def path(shared):
    return shared / 'models' / 'stories260k' / 'hf'


@pytest.fixture(scope='module')
def golden(path):
    return json.loads((path / 'golden.json').read_text())


def test_greedy_ids_and_nll(path, golden):
    model = bsft_jax.load_model(path)
    expected = golden['greedy_from_bos']
    (generation,) = decoding.generate(
        model,
        [expected[:1]],
        policy='none',
        stop_id=model.tokenizer.eos_token_id,
        sampling=decoding.Sampling(max_new_tokens=len(expected) - 1),
    )
    assert expected[:1] + generation.ids == expected
    ids = model.tokenizer.encode(golden['expected_stdout'])
    logits_TV = np.asarray(model.logits([ids]))[0].astype(np.float64)
    log_z_T = np.log(np.exp(logits_TV).sum(-1))
    nll_T = log_z_T[:-1] - logits_TV[np.arange(len(ids) - 1), ids[1:]]
    assert abs(nll_T.mean() - golden['nll_of_expected_stdout']) < 1e-4
    first = np.asarray(model.logits([[1]]))[0, 0, :5]
    np.testing.assert_allclose(first, golden['last_logits_first5_after_bos'], atol=1e-4)


def test_two_new_rows_leave_old_logits_bit_equal(path, golden):
    plain = bsft_jax.load_model(path)
    extended = bsft_jax.load_model(path, behaviors=DEFAULT_BEHAVIORS)
    assert extended.behaviors.ids == (512, 513)
    tokens = [golden['greedy_from_bos'][:100]]
    old, new = plain.logits(tokens), extended.logits(tokens)
    assert new.shape[-1] == 514 and jnp.array_equal(old, new[..., :512])
