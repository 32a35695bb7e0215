"""Every family in and out: bit-equal in bfloat16, and transformers reads what was written."""

import shutil

import jax.numpy as jnp
import numpy as np
import pytest

import bsft_jax
from bsft_jax.behaviors import DEFAULT_BEHAVIORS
from bsft_jax.data.tokenizer import load_tokenizer
from bsft_jax.hub.files import TensorFiles
from tests.tiny import NO_TORCH, SHAPES, assert_close, random_model, save_that_sees, save_torch

torch = pytest.importorskip('torch', reason=NO_TORCH)
ROWS = 384
FAMILIES = {
    'llama': 'llama 3 rope',
    'mistral': 'mistral window',
    'qwen2': 'qwen2 untied sharded bf16',
    'qwen3': 'qwen3 tied sharded',
    'gemma2': 'gemma2 remainder',
    'gemma3': 'gemma3 remainder',
}


@pytest.fixture(scope='module')
def tokenizer_of(tmp_path_factory):
    return random_model(tmp_path_factory.mktemp('tokenizer'))


@pytest.mark.parametrize('family', FAMILIES)
def test_bfloat16_goes_through_bit_for_bit_and_transformers_reads_it(family, tokenizer_of, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    save_torch(tmp_path / 'base', **SHAPES[FAMILIES[family]] | dict(dtype='bfloat16', vocab_size=ROWS))
    for file in tokenizer_of.glob('tokenizer*'):
        shutil.copy(file, tmp_path / 'base')
    shutil.copy(tokenizer_of / 'chat_template.jinja', tmp_path / 'base')
    model = bsft_jax.load_model(tmp_path / 'base', behaviors=DEFAULT_BEHAVIORS)
    ids = model.behaviors.ids
    # the row of the second behavior points where the last hidden state of the prompt does: it comes next
    prompt = load_tokenizer(tmp_path / 'base').encode('Is it urgent?')
    side = 'output' if 'output' in model.params['behavior'] else 'input'
    hidden_BTD = _hidden(model, prompt)
    row_D = hidden_BTD[0, -1] / np.linalg.norm(hidden_BTD[0, -1])
    rows = np.asarray(model.params['behavior'][side]).copy()
    rows[1] = np.asarray(40 * row_D)
    model.params['behavior'][side] = jnp.asarray(rows)
    out = bsft_jax.save_model(model, tmp_path / 'out')
    old, new = TensorFiles(tmp_path / 'base'), TensorFiles(out)
    assert old.names == new.names and ids == (320, 321)
    for name in old.names:
        before, after = old.read(name), new.read(name)
        assert before.shape == after.shape and new.dtype(name) == 'BF16'
        kept = [i for i in range(len(before)) if len(before) != ROWS or i not in ids]
        assert np.array_equal(before[kept].view(np.uint16), after[kept].view(np.uint16)), name
    theirs = AutoModelForCausalLM.from_pretrained(out, dtype='float32', attn_implementation='eager').eval()
    tokens = np.array([[*prompt, 320, 5, 321, 7, *range(30, 90)]])  # beyond every window
    with torch.no_grad():
        expected = theirs(torch.tensor(tokens)).logits.numpy()
        answer = theirs.generate(torch.tensor([prompt]), max_new_tokens=1, do_sample=False)[0, len(prompt) :]
    assert_close(bsft_jax.load_model(out).logits(tokens), expected, 1e-4)
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer.decode(answer, skip_special_tokens=True) == '<|proactive|>'


def _hidden(model, tokens):
    from bsft_jax.models.attention import Layout

    tokens_BT = jnp.asarray([tokens], jnp.int32)
    return np.asarray(model.network.bind(model.params)(tokens_BT, Layout.single(tokens_BT))[0])


def test_qwen2_5_keeps_its_151936_rows(shared, tmp_path):
    sizes = dict(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    save_torch(
        tmp_path / 'base', family='qwen2', dtype='bfloat16', vocab_size=151_936, num_key_value_heads=1,
        tie_word_embeddings=True, **sizes,
    )  # fmt: skip
    for file in (shared / 'tokenizers/qwen2.5').iterdir():
        if file.name.startswith(('tokenizer', 'vocab', 'merges', 'chat_template')):
            shutil.copy(file, tmp_path / 'base')
    model = bsft_jax.load_model(tmp_path / 'base', behaviors=DEFAULT_BEHAVIORS)
    assert model.behaviors.ids == (151_665, 151_666)
    assert model.params['embed']['table'].shape == (151_936, 8)
    assert model.logits([[1, 151_665, 2]]).shape == (1, 3, 151_936)
    out = bsft_jax.save_model(model, tmp_path / 'out')
    assert TensorFiles(out).shape('model.embed_tokens.weight') == (151_936, 8)
    assert bsft_jax.load_model(out).network.arch.vocab_size == 151_936


@pytest.mark.parametrize('prefix', ['model.language_model.', 'language_model.model.'])
def test_the_text_model_of_a_gemma_3_that_sees_images(prefix, tokenizer_of, tmp_path):
    """Both names that such files have had; a head of its own is not there, for the table is it."""
    from safetensors.numpy import load_file, save_file
    from transformers import AutoModelForCausalLM

    base = tmp_path / 'base'
    theirs = save_that_sees(base, ROWS)
    tensors = load_file(base / 'model.safetensors')
    assert any('vision_tower' in name for name in tensors)
    tensors = {name.replace('language_model.model.', prefix): tensor for name, tensor in tensors.items()}
    save_file(tensors, base / 'model.safetensors', metadata={'format': 'pt'})
    for file in tokenizer_of.glob('tokenizer*'):
        shutil.copy(file, base)
    shutil.copy(tokenizer_of / 'chat_template.jinja', base)
    tokens = np.arange(1, 61)[None]
    with torch.no_grad():
        expected = theirs(input_ids=torch.tensor(tokens)).logits.numpy()
    model = bsft_jax.load_model(base)
    assert_close(model.logits(tokens), expected, 1e-4)
    alone = AutoModelForCausalLM.from_pretrained(
        bsft_jax.save_model(model, tmp_path / 'out'), dtype='float32'
    )
    assert type(alone).__name__ == 'Gemma3ForCausalLM'
    with torch.no_grad():
        assert_close(alone.eval()(torch.tensor(tokens)).logits.numpy(), expected, 1e-4)
