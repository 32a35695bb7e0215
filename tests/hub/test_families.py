"""Every family is exported bit-equal in bfloat16, and transformers reads the export."""

import dataclasses
import shutil

import jax.numpy as jnp
import numpy as np
import pytest

import bsft_jax
from bsft_jax.behaviors import DEFAULT_BEHAVIORS
from bsft_jax.data.tokenizer import load_tokenizer
from bsft_jax.hub import families
from bsft_jax.hub.files import TensorFiles
from tests.tiny import (
    NO_TORCH,
    SHAPES,
    assert_close,
    random_model,
    save_torch,
    save_with_vision_tower,
)

torch = pytest.importorskip('torch', reason=NO_TORCH)
ROWS = 384
# One shape per family: the one named here, else the family's last.
SHAPE_OF_FAMILY = {shape['family']: name for name, shape in SHAPES.items()} | {
    'llama': 'llama 3 rope',
    'mistral': 'mistral window',
    'qwen2': 'qwen2 untied sharded bf16',
    'gemma2': 'gemma2 remainder',
}

# Families that the package does not list, as the entries that would add them.
NEW_FAMILIES = (
    (
        families.Family(
            'seed_oss',
            output_bias='attention_out_bias',
            mlp_bias='mlp_bias',
            defaults={'head_dim': 128},
        ),
        dict(num_key_value_heads=2, head_dim=12, attention_bias=True, attention_out_bias=False),
    ),
    (
        dataclasses.replace(
            families.FAMILIES['gemma2'],
            model_type='vaultgemma',
            norms={
                'input_layernorm': 'attention_norm',
                'pre_feedforward_layernorm': 'mlp_norm',
            },
        ),
        dict(num_key_value_heads=2, num_hidden_layers=3, head_dim=12, sliding_window=33),
    ),
)


@pytest.fixture(scope='module')
def tokenizer_of(tmp_path_factory):
    return random_model(tmp_path_factory.mktemp('tokenizer'))


def copy_tokenizer(source, target):
    for file in (*source.glob('tokenizer*'), source / 'chat_template.jinja'):
        shutil.copy(file, target)


def test_every_family_has_a_shape():
    assert families.FAMILIES.keys() == SHAPE_OF_FAMILY.keys()


@pytest.mark.parametrize(('entry', 'fields'), NEW_FAMILIES, ids=['seed_oss', 'vaultgemma'])
def test_a_new_family_takes_one_entry(entry, fields, tokenizer_of, tmp_path, monkeypatch):
    from transformers import AutoModelForCausalLM

    monkeypatch.setitem(families.FAMILIES, entry.model_type, entry)
    theirs = save_torch(tmp_path / 'base', entry.model_type, vocab_size=ROWS, **fields)
    copy_tokenizer(tokenizer_of, tmp_path / 'base')
    tokens = np.arange(1, 91)[None]
    with torch.no_grad():
        expected = theirs(torch.tensor(tokens)).logits.numpy()
    model = bsft_jax.load_model(tmp_path / 'base')
    assert model.network.arch.parameters == sum(p.numel() for p in theirs.parameters())
    assert_close(model.logits(tokens), expected, 1e-4)
    out = bsft_jax.save_model(model, tmp_path / 'out')
    exported = AutoModelForCausalLM.from_pretrained(out, dtype='float32').eval()
    with torch.no_grad():
        assert_close(exported(torch.tensor(tokens)).logits.numpy(), expected, 1e-4)


@pytest.mark.parametrize('family', SHAPE_OF_FAMILY)
def test_bfloat16_round_trips_bit_for_bit_and_transformers_reads_it(family, tokenizer_of, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    shape = SHAPES[SHAPE_OF_FAMILY[family]] | dict(dtype='bfloat16', vocab_size=ROWS)
    save_torch(tmp_path / 'base', **shape)
    copy_tokenizer(tokenizer_of, tmp_path / 'base')
    model = bsft_jax.load_model(tmp_path / 'base', behaviors=DEFAULT_BEHAVIORS)
    ids = model.behaviors.ids
    # The row of the second behavior points in the direction of the prompt's last hidden state, so
    # that its token comes next.
    prompt = load_tokenizer(tmp_path / 'base').encode('Is it urgent?')
    side = 'output' if 'output' in model.params['behavior'] else 'input'
    hidden_BTD = _hidden(model, prompt)
    row_D = hidden_BTD[0, -1] / np.linalg.norm(hidden_BTD[0, -1])
    rows = np.asarray(model.params['behavior'][side]).copy()
    rows[1] = np.asarray(40 * row_D)
    model.params['behavior'][side] = jnp.asarray(rows)
    out = bsft_jax.save_model(model, tmp_path / 'out')
    source, exported = TensorFiles(tmp_path / 'base'), TensorFiles(out)
    assert source.names == exported.names and ids == (320, 321)
    for name in source.names:
        before, after = source.read(name), exported.read(name)
        assert before.shape == after.shape and exported.dtype(name) == 'BF16'
        old = [i for i in range(len(before)) if len(before) != ROWS or i not in ids]
        assert np.array_equal(before[old].view(np.uint16), after[old].view(np.uint16)), name
    theirs = AutoModelForCausalLM.from_pretrained(
        out, dtype='float32', attn_implementation='eager'
    ).eval()
    tokens = np.array([[*prompt, 320, 5, 321, 7, *range(30, 90)]])  # beyond every window
    with torch.no_grad():
        expected = theirs(torch.tensor(tokens)).logits.numpy()
        answer = theirs.generate(torch.tensor([prompt]), max_new_tokens=1, do_sample=False)[
            0, len(prompt) :
        ]
    assert_close(bsft_jax.load_model(out).logits(tokens), expected, 1e-4)
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer.decode(answer, skip_special_tokens=True) == '<|proactive|>'


def _hidden(model, tokens):
    from bsft_jax.ops.attention import TokenLayout

    tokens_BT = jnp.asarray([tokens], jnp.int32)
    return np.asarray(model.network.bind(model.params)(tokens_BT, TokenLayout.single(tokens_BT))[0])


def test_qwen2_5_keeps_its_151936_rows(shared, tmp_path):
    sizes = dict(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    save_torch(
        tmp_path / 'base',
        family='qwen2',
        dtype='bfloat16',
        vocab_size=151_936,
        num_key_value_heads=1,
        tie_word_embeddings=True,
        **sizes,
    )
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
def test_the_text_model_of_a_gemma_3_with_a_vision_tower(prefix, tokenizer_of, tmp_path):
    """Covers both layouts of such files; they have no LM head, since the table is tied to it."""
    from safetensors.numpy import load_file, save_file
    from transformers import AutoModelForCausalLM

    base = tmp_path / 'base'
    theirs = save_with_vision_tower(base, ROWS)
    tensors = load_file(base / 'model.safetensors')
    assert any('vision_tower' in name for name in tensors)
    tensors = {
        name.replace('language_model.model.', prefix): tensor for name, tensor in tensors.items()
    }
    save_file(tensors, base / 'model.safetensors', metadata={'format': 'pt'})
    copy_tokenizer(tokenizer_of, base)
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
