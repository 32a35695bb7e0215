"""Adapters out: `peft` gives our logits, merged weights the same, and what no adapter can hold is refused."""

import json
import pathlib
import shutil
import zlib

import jax
import numpy as np
import pytest

import bsft_jax
from bsft_jax.behaviors import DEFAULT_BEHAVIORS
from bsft_jax.errors import UserError
from bsft_jax.hub import export, files, peft
from bsft_jax.hub import model as model_lib
from bsft_jax.models.lora import LoraSpec
from bsft_jax.trees import flatten, unflatten
from tests.tiny import NO_TORCH, assert_close, random_model, save_that_sees

torch = pytest.importorskip('torch', reason=NO_TORCH)
TOKENS = np.array([[1, 5, 9, 300, 2, 77, 31, 8]])


def adapted(directory, spec: LoraSpec, **changes) -> model_lib.Model:
    """A model whose adapters and rows were moved away from their first values."""
    base = model_lib.open_base(str(directory), behaviors=DEFAULT_BEHAVIORS, lora=spec, **changes)
    model = model_lib.load(base)
    flat = flatten(model.params)
    for path in flat:
        if path.endswith('lora/b') or path.startswith('behavior/'):
            flat[path] += 0.3 * jax.random.normal(jax.random.key(zlib.crc32(path.encode())), flat[path].shape)
    model.params = unflatten(flat)
    return model


def torch_logits(model) -> np.ndarray:
    with torch.no_grad():
        return model.eval()(torch.tensor(with_rows(TOKENS))).logits.numpy()


def with_rows(tokens):
    """The same tokens with the two behavior tokens among them (ids 320 and 321 of the small tokenizer)."""
    return np.concatenate([tokens, [[320, 4, 321, 6]]], axis=1)


@pytest.mark.parametrize('tied', [True, False], ids=['tied', 'untied'])
@pytest.mark.parametrize(
    'spec',
    [
        LoraSpec(4, 8.0),
        LoraSpec(2, 8.0, rank_stabilized=True, dropout=0.1, targets='attention/[qv]|mlp/down'),
    ],
    ids=['all', 'some, rank-stabilized'],
)
def test_peft_and_merged_give_our_logits(tied, spec, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    directory = random_model(tmp_path / 'base', tied=tied)
    model = adapted(directory, spec)
    assert model.behaviors.ids == (320, 321)
    ours = np.asarray(model.logits(with_rows(TOKENS)))
    assert np.abs(ours - np.asarray(bsft_jax.load_model(directory).logits(with_rows(TOKENS)))).max() > 0.5
    folder = export.write(model, tmp_path / 'adapter', stop_id=2, form='peft')
    base = AutoModelForCausalLM.from_pretrained(directory, dtype='float32')
    assert_close(torch_logits(PeftModel.from_pretrained(base, folder)), ours, 1e-4)
    assert AutoTokenizer.from_pretrained(folder).encode('<|proactive|>') == [321]
    merged = export.write(model, tmp_path / 'merged', stop_id=2)
    assert_close(torch_logits(AutoModelForCausalLM.from_pretrained(merged, dtype='float32')), ours, 1e-4)
    assert_close(bsft_jax.load_model(merged).logits(with_rows(TOKENS)), ours, 1e-4)


def test_an_adapter_of_a_base_that_sees_images_is_its_text_models(tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    tokenizer = random_model(tmp_path / 'tokenizer')
    rows = json.loads((tokenizer / 'config.json').read_text())['vocab_size']
    directory = tmp_path / 'base'
    save_that_sees(directory, rows)
    for file in (*tokenizer.glob('tokenizer*'), *tokenizer.glob('*.jinja')):
        shutil.copy(file, directory)
    model = adapted(directory, LoraSpec(4, 8.0))
    ours = np.asarray(model.logits(with_rows(TOKENS)))
    folder = export.write(model, tmp_path / 'adapter', stop_id=2, form='peft')
    base = AutoModelForCausalLM.from_pretrained(directory, dtype='float32')
    assert type(base).__name__ == 'Gemma3ForConditionalGeneration'
    loaded = PeftModel.from_pretrained(base, folder)
    assert_close(torch_logits(loaded), ours, 1e-4)
    found = {name for name, _ in loaded.named_parameters() if 'lora_' in name}
    assert found and not any('vision_tower' in name for name in found)


def test_an_int8_base_is_merged_as_it_was_trained(tmp_path):
    model = adapted(random_model(tmp_path / 'base'), LoraSpec(4), base_dtype='int8')
    ours = np.asarray(model.logits(TOKENS))
    merged = export.write(model, tmp_path / 'merged', stop_id=2)
    assert_close(bsft_jax.load_model(merged).logits(TOKENS), ours, 1e-4)
    exact = adapted(model.base.directory, LoraSpec(4))
    assert 1e-4 < np.abs(np.asarray(exact.logits(TOKENS)) - ours).max() < 0.3


def test_what_an_adapter_cannot_hold_is_refused(tmp_path):
    grown = adapted(random_model(tmp_path / 'grown', spare=False), LoraSpec(4))
    with pytest.raises(UserError, match='behind the 320 rows'):
        export.write(grown, tmp_path / 'out', stop_id=2, form='peft')
    plain = bsft_jax.load_model(grown.base.directory, behaviors=DEFAULT_BEHAVIORS)
    with pytest.raises(UserError, match='no adapters'):
        export.write(plain, tmp_path / 'out', stop_id=2, form='peft')
    assert not (tmp_path / 'out').exists() and not list(pathlib.Path(tmp_path).glob('*.partial'))


def test_adapter_config_names_the_base_as_it_was_asked_for(tmp_path, monkeypatch):
    directory = random_model(tmp_path / 'base')
    monkeypatch.setattr(files, '_download', lambda *_: directory)
    made = peft.config(adapted('some-lab/Model@main', LoraSpec(2)))
    assert (made['base_model_name_or_path'], made['revision']) == ('some-lab/Model', 'main')
    assert peft.config(adapted(directory, LoraSpec(2)))['base_model_name_or_path'] == str(directory)


def test_adapter_config_names_what_was_adapted(tmp_path):
    model = adapted(random_model(tmp_path / 'base', tied=False), LoraSpec(4, 6.0, targets='mlp/.*'))
    written = json.loads(
        (export.write(model, tmp_path / 'out', stop_id=2, form='peft') / peft.CONFIG).read_text()
    )
    assert written['target_modules'] == ['gate_proj', 'up_proj', 'down_proj']
    assert (written['r'], written['lora_alpha'], written['use_rslora']) == (4, 6.0, False)
    assert written['trainable_token_indices'] == {'embed_tokens': [320, 321], 'lm_head': [320, 321]}
    assert not any('self_attn' in name for name in peft.tensors(model))
