"""Every spelling of a `config.json` gives the logits of transformers, or one line that refuses it.

Each case writes the file, lets transformers make a random model of it, and loads its tensors.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bsft_jax.config import ComputeConfig
from bsft_jax.errors import UserError
from bsft_jax.hub import configs, files, loading
from bsft_jax.models import lm_head
from bsft_jax.models.network import Network
from bsft_jax.ops.attention import TokenLayout
from bsft_jax.parallel import mesh as mesh_lib
from tests.tiny import NO_TORCH, assert_close

torch = pytest.importorskip('torch', reason=NO_TORCH)
# Longer than every window here, and far from every rotary embedding's first turn.
TOKENS = (np.arange(70) * 37 % 90 + 1)[None]
EQUAL, ABSENT = 'equal', object()

SIZES = {
    'vocab_size': 96,
    'hidden_size': 32,
    'intermediate_size': 48,
    'num_hidden_layers': 2,
    'num_attention_heads': 4,
    'num_key_value_heads': 2,
    'max_position_embeddings': 256,
    'initializer_range': 0.3,
}
BASES = {
    'llama': {},
    'mistral': {'sliding_window': 24},
    'qwen2': {},
    'qwen3': {'head_dim': 8},
    'gemma': {'head_dim': 8},
    'gemma2': {'head_dim': 8, 'sliding_window': 24},
    'gemma3_text': {'head_dim': 8, 'sliding_window': 24, 'num_hidden_layers': 6},
}
LINEAR = {'rope_type': 'linear', 'factor': 4.0}
LLAMA3 = {
    'rope_type': 'llama3',
    'factor': 8.0,
    'low_freq_factor': 1.0,
    'high_freq_factor': 4.0,
    'original_max_position_embeddings': 64,
}
SLIDING, FULL = 'sliding_attention', 'full_attention'
UNSUPPORTED = 'rope scaling .* is not supported'

# What a file may say of its one rotary embedding.
ONE_ROPE = {
    'nothing': ({}, EQUAL),
    'theta': ({'rope_theta': 700.0}, EQUAL),
    'integer theta': ({'rope_theta': 700}, EQUAL),
    'null scaling': ({'rope_theta': 700.0, 'rope_scaling': None}, EQUAL),
    'empty parameters': ({'rope_theta': 700.0, 'rope_parameters': {}}, EQUAL),
    'parameters with theta': (
        {'rope_parameters': {'rope_type': 'default', 'rope_theta': 700.0}},
        EQUAL,
    ),
    'parameters over theta': (
        {'rope_theta': 90.0, 'rope_parameters': {'rope_type': 'default', 'rope_theta': 700.0}},
        EQUAL,
    ),
    'theta beside parameters': ({'rope_theta': 700.0, 'rope_parameters': LINEAR}, EQUAL),
    'parameters without theta': ({'rope_parameters': LINEAR}, EQUAL),
    'linear scaling': ({'rope_theta': 700.0, 'rope_scaling': LINEAR}, EQUAL),
    'theta in scaling': (
        {'rope_theta': 90.0, 'rope_scaling': LINEAR | {'rope_theta': 700.0}},
        EQUAL,
    ),
    'old name of the kind': ({'rope_scaling': {'type': 'linear', 'factor': 4}}, EQUAL),
    'both names of the kind': ({'rope_scaling': LINEAR | {'type': 'default'}}, EQUAL),
    'llama3': ({'rope_theta': 700.0, 'rope_scaling': LLAMA3}, EQUAL),
    'llama3 without original positions': (
        {'rope_scaling': {k: v for k, v in LLAMA3.items() if 'original' not in k}},
        EQUAL,
    ),
    'original positions on top': (
        {'rope_scaling': LLAMA3, 'original_max_position_embeddings': 32},
        EQUAL,
    ),
    'ignored partial rotation': ({'partial_rotary_factor': 0.5}, EQUAL),
    'partial rotation': ({'rope_scaling': LINEAR | {'partial_rotary_factor': 0.5}}, UNSUPPORTED),
    'yarn': ({'rope_scaling': LINEAR | {'rope_type': 'yarn'}}, UNSUPPORTED),
    'old yarn': ({'rope_scaling': {'type': 'yarn', 'factor': 4.0}}, UNSUPPORTED),
    'dynamic': ({'rope_scaling': LINEAR | {'rope_type': 'dynamic'}}, UNSUPPORTED),
    'longrope': ({'rope_scaling': {'rope_type': 'longrope', 'factor': 4.0}}, UNSUPPORTED),
    'unknown kind': ({'rope_scaling': {'rope_type': ['linear']}}, UNSUPPORTED),
    'one per layer type': ({'rope_parameters': {FULL: LINEAR}}, 'has one rotary embedding'),
    'no factor': ({'rope_scaling': {'rope_type': 'linear'}}, "lacks 'factor'"),
    'factor as text': (
        {'rope_scaling': LINEAR | {'factor': '4'}},
        "'factor' .* not a number above 0",
    ),
    'theta as text': ({'rope_theta': '700'}, "'rope_theta' is '700', not a number above 0"),
    'theta of zero': ({'rope_theta': 0}, "'rope_theta' is 0, not a number above 0"),
    'scaling as text': ({'rope_scaling': 'linear'}, "'rope_scaling' is 'linear', not an object"),
    'scaling twice': ({'rope_scaling': LINEAR, 'rope_parameters': LLAMA3}, 'both there'),
}
# Every spelling is tried for these families; others read the rotary embedding as they do.
ONE_ROPE_FAMILIES = ('llama', 'qwen2')
FEW_ROPES = ('nothing', 'parameters with theta', 'theta in scaling', 'llama3', 'one per layer type')

TWO_ROPES = {
    'nothing': ({}, EQUAL),
    'both thetas': ({'rope_theta': 900.0, 'rope_local_base_freq': 70.0}, EQUAL),
    'global theta alone': ({'rope_theta': 900.0}, EQUAL),
    'local theta alone': ({'rope_local_base_freq': 70.0}, EQUAL),
    'scaling': ({'rope_theta': 900.0, 'rope_scaling': LINEAR}, EQUAL),
    'theta in scaling': ({'rope_scaling': LINEAR | {'rope_theta': 900.0}}, EQUAL),
    'null scaling': ({'rope_theta': 900.0, 'rope_scaling': None}, EQUAL),
    'null parameters': ({'rope_parameters': None}, EQUAL),
    'empty parameters': ({'rope_parameters': {}}, EQUAL),
    'nested': (
        {
            'rope_parameters': {
                FULL: LINEAR | {'rope_theta': 900.0},
                SLIDING: {'rope_type': 'default', 'rope_theta': 70.0},
            }
        },
        EQUAL,
    ),
    'nested, thetas on top': (
        {
            'rope_theta': 900.0,
            'rope_local_base_freq': 70.0,
            'rope_parameters': {FULL: LINEAR, SLIDING: {'rope_type': 'default'}},
        },
        EQUAL,
    ),
    'nested without thetas': ({'rope_parameters': {FULL: LINEAR, SLIDING: LINEAR}}, EQUAL),
    'nested, old name of the kind': (
        {'rope_parameters': {FULL: {'type': 'linear', 'factor': 4.0}, SLIDING: None}},
        EQUAL,
    ),
    'full layers alone': ({'rope_theta': 900.0, 'rope_parameters': {FULL: LINEAR}}, EQUAL),
    'sliding layers alone': ({'rope_parameters': {SLIDING: {'rope_theta': 70.0}}}, EQUAL),
    'flat parameters': ({'rope_parameters': LINEAR}, 'must have an entry full_attention'),
    'old name of the kind': (
        {'rope_scaling': {'type': 'linear', 'factor': 4.0}},
        "name its kind by 'rope_type'",
    ),
    'nested scaling': ({'rope_scaling': {FULL: LINEAR}}, 'is not supported'),
    'nested yarn': ({'rope_parameters': {FULL: LINEAR | {'rope_type': 'yarn'}}}, UNSUPPORTED),
    'nested text': ({'rope_parameters': {FULL: 'linear'}}, 'no object'),
}

TYPES = [FULL, SLIDING]
WINDOW = {'use_sliding_window': True, 'sliding_window': 24, 'max_window_layers': 1}
QWEN = {
    'window': (WINDOW, EQUAL),
    'window, never reached': (WINDOW | {'max_window_layers': 28}, EQUAL),
    'default of max_window_layers': (WINDOW | {'max_window_layers': ABSENT}, EQUAL),
    'window of all layers': (WINDOW | {'max_window_layers': 0}, EQUAL),
    'window off': (WINDOW | {'use_sliding_window': False}, EQUAL),
    'window without its switch': (WINDOW | {'use_sliding_window': ABSENT}, EQUAL),
    'null window, off': ({'use_sliding_window': False, 'sliding_window': None}, EQUAL),
    'layer types': (WINDOW | {'layer_types': TYPES[::-1]}, EQUAL),
    'null layer types': (WINDOW | {'layer_types': None}, EQUAL),
    'full layers, off': ({'layer_types': [FULL] * 2}, EQUAL),
    'sliding layers, off': (WINDOW | {'use_sliding_window': False, 'layer_types': TYPES}, 'is off'),
    'null window': (WINDOW | {'sliding_window': None}, "'sliding_window' is missing"),
    'window of zero': (WINDOW | {'sliding_window': 0}, "'sliding_window' is 0"),
    'types of another depth': (WINDOW | {'layer_types': [FULL]}, 'layer_types'),
    'chunked layers': (WINDOW | {'layer_types': ['chunked_attention'] * 2}, 'layer_types'),
    'types as text': ({'layer_types': FULL}, "'layer_types' is .* not a list"),
    'switch as text': ({'use_sliding_window': 'yes'}, "'use_sliding_window' is 'yes'"),
    'null max_window_layers': (WINDOW | {'max_window_layers': None}, "'max_window_layers' is None"),
}
TIED = {
    'tied': ({'tie_word_embeddings': True}, EQUAL),
    'untied': ({'tie_word_embeddings': False}, EQUAL),
    'tied or not by default': ({}, EQUAL),
    'tied as text': ({'tie_word_embeddings': 'true'}, "'tie_word_embeddings' is 'true'"),
    'tied as null': ({'tie_word_embeddings': None}, "'tie_word_embeddings' is None"),
}
HEADS = {
    'null head_dim': ({'head_dim': None}, EQUAL),
    'wide heads': ({'head_dim': 12}, EQUAL),
}
CASES = {
    'llama': TIED
    | HEADS
    | {
        'biases': ({'attention_bias': True, 'mlp_bias': True}, EQUAL),
        'null key heads': ({'num_key_value_heads': None}, EQUAL),
        'no key heads': ({'num_key_value_heads': ABSENT}, EQUAL),
        'epsilon by default': ({'rms_norm_eps': ABSENT}, EQUAL),
        'large epsilon': ({'rms_norm_eps': 0.1}, EQUAL),
        'swish': ({'hidden_act': 'swish'}, EQUAL),
        'tanh gelu': ({'hidden_act': 'gelu_pytorch_tanh'}, EQUAL),
        'relu': ({'hidden_act': 'relu'}, 'hidden_act .* is not supported'),
        'old dtype': ({'torch_dtype': 'bfloat16'}, EQUAL),
        'sliding layers': ({'layer_types': TYPES, 'sliding_window': 24}, 'does not have'),
        'full layers': ({'layer_types': [FULL] * 2}, EQUAL),
        'both dtypes': ({'torch_dtype': 'bfloat16', 'dtype': 'float32'}, EQUAL),
        'inner sizes': (
            {'per_layer_config': {'1': {'intermediate_size': 24}}},
            'layers of different sizes',
        ),
    },
    'mistral': TIED
    | HEADS
    | {
        'full': ({'sliding_window': None}, EQUAL),
        'default window': ({'sliding_window': ABSENT}, EQUAL),
        'ignored switch': ({'use_sliding_window': False}, EQUAL),
        'layer types': ({'layer_types': TYPES, 'head_dim': 8}, EQUAL),
        'full layer types': ({'layer_types': [FULL] * 2, 'head_dim': 8}, EQUAL),
        'ignored biases': ({'attention_bias': True, 'mlp_bias': True}, EQUAL),
        'default key heads': ({'num_key_value_heads': ABSENT}, 'do not divide among 8'),
        'window of zero': ({'sliding_window': 0}, "'sliding_window' is 0"),
    },
    'qwen2': TIED | QWEN | {'wide heads': ({'head_dim': 12}, EQUAL)},
    'qwen3': TIED
    | QWEN
    | {
        'biases': ({'attention_bias': True}, EQUAL),
        'default head_dim': ({'head_dim': ABSENT}, EQUAL),
    },
    'gemma': TIED
    | {
        'wide heads': ({'head_dim': 12}, EQUAL),
        'legacy gelu': ({'hidden_act': 'gelu'}, EQUAL),
        'ignored activation': ({'hidden_act': 'gelu', 'hidden_activation': 'silu'}, EQUAL),
        'ignored null activation': ({'hidden_activation': None}, EQUAL),
        'biases': ({'attention_bias': True}, EQUAL),
        'both directions': ({'use_bidirectional_attention': True}, 'bidirectional'),
        'null direction': ({'use_bidirectional_attention': None}, EQUAL),
    },
    'gemma2': TIED
    | {
        'wide heads': ({'head_dim': 12}, EQUAL),
        'scalar': ({'query_pre_attn_scalar': 24}, EQUAL),
        'caps': ({'attn_logit_softcapping': 2.0, 'final_logit_softcapping': 3.0}, EQUAL),
        'null caps': ({'attn_logit_softcapping': None, 'final_logit_softcapping': None}, EQUAL),
        'layer types': ({'layer_types': TYPES}, EQUAL),
        'ignored activation': ({'hidden_act': 'silu'}, EQUAL),
        'silu': ({'hidden_activation': 'silu'}, EQUAL),
        'null activation': ({'hidden_activation': None}, 'hidden_activation None is not supp'),
        'exact gelu': ({'hidden_activation': 'gelu'}, 'hidden_activation .* is not supported'),
        'null window': ({'sliding_window': None}, "'sliding_window' is missing"),
        'cap of zero': ({'final_logit_softcapping': 0.0}, "'final_logit_softcapping' is 0.0"),
        'scalar of zero': ({'query_pre_attn_scalar': 0}, "'query_pre_attn_scalar' is 0"),
    },
    'gemma3_text': TWO_ROPES
    | TIED
    | {
        'pattern': ({'sliding_window_pattern': 2}, EQUAL),
        'ignored pattern': ({'_sliding_window_pattern': 2}, EQUAL),
        'layer types over pattern': (
            {'sliding_window_pattern': 2, 'layer_types': [FULL, *[SLIDING] * 5]},
            EQUAL,
        ),
        'full layers': ({'layer_types': [FULL] * 6}, EQUAL),
        'final cap': ({'final_logit_softcapping': 3.0}, EQUAL),
        'scalar': ({'query_pre_attn_scalar': 24}, EQUAL),
        'biases': ({'attention_bias': True}, EQUAL),
        'cap of attention': ({'attn_logit_softcapping': 3.0}, 'soft caps of attention'),
        'pattern of zero': ({'sliding_window_pattern': 0}, "'sliding_window_pattern' is 0"),
        'both directions': ({'use_bidirectional_attention': True}, 'bidirectional'),
    },
}
for _family in ('llama', 'mistral', 'qwen2', 'qwen3', 'gemma', 'gemma2'):
    _names = ONE_ROPE if _family in ONE_ROPE_FAMILIES else FEW_ROPES
    CASES[_family] |= {f'rope: {name}': ONE_ROPE[name] for name in _names}
SPELLINGS = [(family, name) for family, cases in CASES.items() for name in cases]


def written_config(folder, family, changes):
    """Writes the `config.json` of a family with some fields changed or absent."""
    config = {'model_type': family} | SIZES | BASES[family] | changes
    config = {key: value for key, value in config.items() if value is not ABSENT}
    (folder / 'config.json').write_text(json.dumps(config))


def torch_logits(folder):
    """Writes a random model of the config beside it and returns its logits."""
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(folder)
    model = AutoModelForCausalLM.from_config(
        config, attn_implementation='eager', dtype=torch.float32
    ).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if 'norm' in name or 'bias' in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
        # A tied head is the same parameter and has no name of its own here.
        tensors = {name: p.detach().clone() for name, p in model.named_parameters()}
        save_file(tensors, folder / 'model.safetensors', metadata={'format': 'pt'})
        return model(torch.tensor(TOKENS)).logits.numpy()


def our_logits(folder):
    """Returns the logits of the model in a folder, computed operation by operation."""
    arch = configs.architecture_of(files.read_config(folder))
    network = Network(arch, compute=ComputeConfig(attention='dense', unroll_layers=True))
    mesh = mesh_lib.single_device_mesh()
    params = loading.load_params(folder, network, mesh)
    tokens_BT = jnp.asarray(TOKENS, jnp.int32)
    with jax.set_mesh(mesh), jax.disable_jit():
        decoder = network.bind(params)
        return lm_head.logits(decoder, decoder(tokens_BT, TokenLayout.single(tokens_BT))[0])


@pytest.mark.parametrize(('family', 'name'), SPELLINGS)
def test_a_spelling_gives_the_logits_of_torch_or_is_refused(family, name, tmp_path):
    changes, expected = CASES[family][name]
    written_config(tmp_path, family, changes)
    if expected == EQUAL:
        theirs = torch_logits(tmp_path)
        assert_close(our_logits(tmp_path), theirs, 1e-4)
        return
    with pytest.raises(UserError, match=expected) as raised:
        configs.architecture_of(files.read_config(tmp_path), str(tmp_path / 'config.json'))
    assert str(raised.value).startswith(f'{tmp_path}/config.json: ')
    assert len(str(raised.value)) < 400 and '\n' not in str(raised.value)
