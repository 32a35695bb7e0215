"""GGUF files of every family compute what torch computes, from tensors that are read exactly."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

import bsft_jax
from bsft_jax.data.tokenizer import load_tokenizer
from bsft_jax.hub import files
from tests.gguf_writer import tokenizer_metadata, write_gguf
from tests.tiny import (
    GEMMA3_ROPE,
    LLAMA3_ROPE,
    NO_TORCH,
    SHAPES,
    assert_close,
    random_model,
    save_torch,
)

torch = pytest.importorskip('torch', reason=NO_TORCH)
ROWS = 384
GEMMA2 = dict(
    family='gemma2',
    num_key_value_heads=2,
    num_hidden_layers=3,
    head_dim=12,
    sliding_window=33,
    query_pre_attn_scalar=12,
    attn_logit_softcapping=5.0,
    final_logit_softcapping=3.0,
)
GEMMA3 = SHAPES['gemma3 periods'] | dict(query_pre_attn_scalar=8)
# What no key of a GGUF file says has here the value that llama.cpp takes.
FAMILIES = {
    **{
        name: SHAPES[name]
        for name in ('llama', 'llama grouped tied', 'llama bias', 'llama wide heads')
    },
    'llama linear': dict(
        family='llama',
        rope_parameters={'rope_type': 'linear', 'rope_theta': 10000.0, 'factor': 4.0},
        rope_theta=None,
    ),
    'llama 3 rope': dict(
        family='llama',
        num_key_value_heads=2,
        head_dim=16,
        rope_parameters=LLAMA3_ROPE | {'original_max_position_embeddings': 8192},
        rope_theta=None,
    ),
    **{
        name: SHAPES[name]
        for name in ('mistral window', 'qwen2 tied', 'qwen2 untied sharded bf16', 'qwen3 untied')
    },
    'gemma2': GEMMA2,
    'gemma2 wide queries': GEMMA2 | dict(num_hidden_layers=46, query_pre_attn_scalar=8),
    'gemma3': GEMMA3,
    'gemma3 wide queries': GEMMA3
    | dict(
        num_hidden_layers=62,
        head_dim=12,
        rope_parameters=GEMMA3_ROPE
        | {'sliding_attention': {'rope_type': 'default', 'rope_theta': 10000.0}},
    ),
}


@pytest.fixture(scope='module')
def tokenizer(tmp_path_factory):
    return load_tokenizer(random_model(tmp_path_factory.mktemp('tokenizer')))


@pytest.fixture(scope='module')
def tokenizer_keys(tokenizer):
    return tokenizer_metadata(tokenizer, ROWS, eos=2, padding=0)


def torch_model(folder, shape):
    """Writes a torch model and returns it, its config and its tensors."""
    model = save_torch(folder, vocab_size=ROWS, **shape)
    config = json.loads((folder / 'config.json').read_text())
    return model, config, {name: t.numpy() for name, t in model.state_dict().items()}


def logits_of(model, tokens):
    with torch.no_grad():
        return model(torch.tensor(tokens)).logits.numpy()


@pytest.mark.parametrize('name', FAMILIES)
def test_every_family_computes_what_torch_computes(tmp_path, tokenizer_keys, name):
    torch_side, config, tensors = torch_model(tmp_path / 'hf', FAMILIES[name])
    changes = {}
    if name == 'gemma3 wide queries':
        # The local theta is not in older files.
        changes = {'gemma3__rope__freq_base_swa': None}
    path = write_gguf(tmp_path / 'model.gguf', config, tensors, tokenizer=tokenizer_keys, **changes)
    model = bsft_jax.load_model(path)
    tokens = np.random.default_rng(0).integers(0, ROWS, (2, 100)).tolist()
    assert_close(model.logits(tokens), logits_of(torch_side, tokens), 1e-4)
    # The file is read to the bit, but for norms that one was added to and taken from again.
    opened = files.open_tensors(model.spec.directory)
    tied = config['tie_word_embeddings']
    assert opened.names == {n for n in tensors if not (tied and n == 'lm_head.weight')}
    for tensor in opened.names:
        exact = np.array_equal(opened.read(tensor), tensors[tensor])
        assert exact or (name.startswith('gemma') and tensor.endswith('norm.weight'))


KINDS = ('F32', 'F16', 'BF16', 'Q8_0', 'Q4_0', 'Q4_1', 'Q4_K', 'Q6_K')


@pytest.mark.parametrize('family', ['llama', 'gemma2'])
@pytest.mark.parametrize('kind', KINDS)
def test_every_tensor_is_the_one_that_transformers_reads(tmp_path, tokenizer_keys, kind, family):
    from transformers import AutoModelForCausalLM

    # Blocks of K-quants have 256 values.
    shape = dict(hidden_size=256, intermediate_size=256, num_hidden_layers=1, head_dim=64)
    shape |= dict(family=family, num_attention_heads=4, num_key_value_heads=2)
    _, config, tensors = torch_model(tmp_path / 'hf', shape)
    path = tmp_path / 'model.gguf'
    write_gguf(path, config, tensors, kind=kind, tokenizer=tokenizer_keys)
    reference = AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file=path.name, dtype=torch.float32
    ).state_dict()
    opened = files.open_tensors(files.resolve_directory(str(path)))
    tied = config['tie_word_embeddings']
    assert opened.names == reference.keys() - ({'lm_head.weight'} if tied else set())
    rng = np.random.default_rng(0)
    for name in opened.names:
        expected = reference[name].float().numpy()
        assert opened.shape(name) == expected.shape
        tensor = opened.read(name)
        assert np.array_equal(tensor.astype(np.float32), expected), name
        plain = kind if kind in ('F32', 'F16', 'BF16') and tensor.ndim > 1 else 'F32'
        assert opened.dtype(name) == plain and tensor.dtype == jnp.dtype(files.DTYPES[plain])
        index = tuple(slice(*sorted(rng.integers(0, size + 1, 2))) for size in tensor.shape)
        assert np.array_equal(opened.read(name, index), tensor[index])
        assert np.array_equal(opened.read(name, index[:1]), tensor[index[:1]])
