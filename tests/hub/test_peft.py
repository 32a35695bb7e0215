"""Exported adapters and merged weights reproduce our logits; impossible exports are refused."""

import dataclasses
import json
import pathlib
import shutil
import zlib

import jax
import numpy as np
import pytest

import bsft_jax
from bsft_jax.behaviors import DEFAULT_BEHAVIORS
from bsft_jax.config import QUANTIZED, ComputeConfig, LoraConfig
from bsft_jax.errors import UserError
from bsft_jax.hub import files, peft, pretrained
from bsft_jax.hub.export import write_export
from bsft_jax.pytrees import flatten, unflatten
from tests.tiny import NO_TORCH, assert_close, random_model, save_with_vision_tower

torch = pytest.importorskip('torch', reason=NO_TORCH)
TOKENS = np.array([[1, 5, 9, 300, 2, 77, 31, 8]])


def adapted_model(directory, lora: LoraConfig, base_dtype: str = 'float32') -> pretrained.Model:
    """Returns a model whose adapters and behavior rows differ from their initial values."""
    compute = ComputeConfig(lora=lora, base_dtype=base_dtype, attention='auto')
    spec = pretrained.read_pretrained(str(directory), compute, behaviors=DEFAULT_BEHAVIORS)
    model = pretrained.load_pretrained(spec)
    flat = flatten(model.params)
    for path in flat:
        if path.endswith('lora/b') or path.startswith('behavior/'):
            key = jax.random.key(zlib.crc32(path.encode()))
            flat[path] += 0.3 * jax.random.normal(key, flat[path].shape)
    return dataclasses.replace(model, params=unflatten(flat))


def torch_logits(model) -> np.ndarray:
    """Returns the logits of a torch model for `TOKENS` with behavior tokens."""
    with torch.no_grad():
        return model.eval()(torch.tensor(with_behavior_tokens(TOKENS))).logits.numpy()


def with_behavior_tokens(tokens):
    """Returns the tokens followed by the behavior tokens (ids 320 and 321)."""
    return np.concatenate([tokens, [[320, 4, 321, 6]]], axis=1)


@pytest.mark.parametrize('tied', [True, False], ids=['tied', 'untied'])
@pytest.mark.parametrize(
    'lora',
    [
        LoraConfig(4, 8.0),
        LoraConfig(2, 8.0, rank_stabilized=True, dropout=0.1, targets='attention/[qv]|mlp/down'),
    ],
    ids=['all', 'some, rank-stabilized'],
)
def test_peft_and_merged_exports_reproduce_our_logits(tied, lora, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    directory = random_model(tmp_path / 'base', tied=tied)
    tokens = with_behavior_tokens(TOKENS)
    model = adapted_model(directory, lora)
    assert model.behaviors.ids == (320, 321)
    ours = np.asarray(model.logits(tokens))
    unadapted = np.asarray(bsft_jax.load_model(directory).logits(tokens))
    assert np.abs(ours - unadapted).max() > 0.5

    folder = write_export(model, tmp_path / 'adapter', stop_id=2, format='peft')
    base = AutoModelForCausalLM.from_pretrained(directory, dtype='float32')
    assert_close(torch_logits(PeftModel.from_pretrained(base, folder)), ours, 1e-4)
    assert AutoTokenizer.from_pretrained(folder).encode('<|proactive|>') == [321]

    merged = write_export(model, tmp_path / 'merged', stop_id=2)
    theirs = AutoModelForCausalLM.from_pretrained(merged, dtype='float32')
    assert_close(torch_logits(theirs), ours, 1e-4)
    assert_close(bsft_jax.load_model(merged).logits(tokens), ours, 1e-4)


def test_an_adapter_of_a_base_with_a_vision_tower_adapts_only_the_text_model(tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    tokenizer = random_model(tmp_path / 'tokenizer')
    table_rows = json.loads((tokenizer / 'config.json').read_text())['vocab_size']
    directory = tmp_path / 'base'
    save_with_vision_tower(directory, table_rows)
    for file in (*tokenizer.glob('tokenizer*'), *tokenizer.glob('*.jinja')):
        shutil.copy(file, directory)
    model = adapted_model(directory, LoraConfig(4, 8.0))
    ours = np.asarray(model.logits(with_behavior_tokens(TOKENS)))
    folder = write_export(model, tmp_path / 'adapter', stop_id=2, format='peft')
    base = AutoModelForCausalLM.from_pretrained(directory, dtype='float32')
    assert type(base).__name__ == 'Gemma3ForConditionalGeneration'
    loaded = PeftModel.from_pretrained(base, folder)
    assert_close(torch_logits(loaded), ours, 1e-4)
    adapters = {name for name, _ in loaded.named_parameters() if 'lora_' in name}
    assert adapters and not any('vision_tower' in name for name in adapters)


@pytest.mark.parametrize('tied', [True, False], ids=['tied', 'untied'])
def test_rows_beyond_the_table_need_a_longer_one_in_peft(tied, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    directory = random_model(tmp_path / 'base', tied=tied, spare=False)
    model = adapted_model(directory, LoraConfig(4, 8.0))
    tokens = with_behavior_tokens(TOKENS)
    folder = write_export(model, tmp_path / 'adapter', stop_id=2, format='peft')
    base = AutoModelForCausalLM.from_pretrained(directory, dtype='float32')
    with pytest.raises(IndexError):
        PeftModel.from_pretrained(base, folder)
    assert peft.needed_rows(model) == 322
    base = AutoModelForCausalLM.from_pretrained(directory, dtype='float32')
    base.resize_token_embeddings(322)
    theirs = torch_logits(PeftModel.from_pretrained(base, folder))
    assert_close(theirs, model.logits(tokens), 1e-4)
    again = bsft_jax.load_model(folder)
    assert again.network.arch.vocab_size == 320 and again.behaviors == model.behaviors
    assert_close(again.logits(tokens), model.logits(tokens), 0)
    merged = bsft_jax.save_model(again, tmp_path / 'merged')
    assert_close(bsft_jax.load_model(merged).logits(tokens), theirs, 1e-4)


@pytest.mark.parametrize('base_dtype', QUANTIZED)
def test_adapters_are_merged_into_the_unquantized_base(base_dtype, tmp_path):
    from transformers import AutoModelForCausalLM

    base = random_model(tmp_path / 'base', width=128)
    model = adapted_model(base, LoraConfig(4), base_dtype=base_dtype)
    merged = write_export(model, tmp_path / 'merged', stop_id=2)
    theirs = torch_logits(AutoModelForCausalLM.from_pretrained(merged, dtype='float32'))
    tokens = with_behavior_tokens(TOKENS)
    exact = adapted_model(base, LoraConfig(4))
    trained = {p: x for p, x in flatten(model.params).items() if 'lora/' in p or 'behavior/' in p}
    exact = dataclasses.replace(exact, params=unflatten(flatten(exact.params) | trained))
    assert_close(theirs, exact.logits(tokens), 1e-4)
    assert np.abs(np.asarray(model.logits(tokens)) - theirs).max() > 1e-3
    written, stored = files.TensorFiles(merged), files.TensorFiles(base)
    for name in ('model.norm.weight', 'model.layers.1.self_attn.q_proj.bias'):
        np.testing.assert_array_equal(written.read(name), stored.read(name))


def test_a_model_that_an_adapter_cannot_represent_is_refused(tmp_path):
    plain = bsft_jax.load_model(random_model(tmp_path / 'base'), behaviors=DEFAULT_BEHAVIORS)
    with pytest.raises(UserError, match='no adapters'):
        write_export(plain, tmp_path / 'out', stop_id=2, format='peft')
    assert not (tmp_path / 'out').exists() and not list(pathlib.Path(tmp_path).glob('*.partial'))


def test_adapter_config_names_the_base_as_the_user_did(tmp_path, monkeypatch):
    directory = random_model(tmp_path / 'base')
    monkeypatch.setattr(files, '_download', lambda *_: directory)
    config = peft.adapter_config(adapted_model('some-lab/Model@main', LoraConfig(2)))
    assert (config['base_model_name_or_path'], config['revision']) == ('some-lab/Model', 'main')
    config = peft.adapter_config(adapted_model(directory, LoraConfig(2)))
    assert config['base_model_name_or_path'] == str(directory)


def test_adapter_config_names_the_adapted_maps(tmp_path):
    lora = LoraConfig(4, 6.0, targets='mlp/.*')
    model = adapted_model(random_model(tmp_path / 'base', tied=False), lora)
    folder = write_export(model, tmp_path / 'out', stop_id=2, format='peft')
    config = json.loads((folder / peft.CONFIG).read_text())
    assert config['target_modules'] == ['gate_proj', 'up_proj', 'down_proj']
    assert (config['r'], config['lora_alpha'], config['use_rslora']) == (4, 6.0, False)
    assert config['trainable_token_indices'] == {'embed_tokens': [320, 321], 'lm_head': [320, 321]}
    assert not any('self_attn' in name for name in peft.adapter_tensors(model))
