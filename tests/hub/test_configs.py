"""Published sizes have the published parameter counts; old and new config fields agree."""

import math

import pytest

from bsft_jax.errors import UserError
from bsft_jax.hub import configs, presets
from bsft_jax.models.network import Network
from bsft_jax.ops.rope import Rope
from bsft_jax.pytrees import flatten

# From the safetensors metadata of the Hugging Face repositories and the model cards.
PUBLISHED = {
    'qwen2.5-0.5b': 494_032_768,
    'qwen2.5-1.5b': 1_543_714_304,
    'qwen2.5-3b': 3_085_938_688,
    'qwen2.5-7b': 7_615_616_512,
    'qwen2.5-14b': 14_770_033_664,
    'qwen2.5-32b': 32_763_876_352,
    'qwen2.5-72b': 72_706_203_648,
    'qwen3-0.6b': 596_049_920,
    'qwen3-1.7b': 1_720_574_976,
    'qwen3-4b': 4_022_468_096,
    'qwen3-8b': 8_190_735_360,
    'qwen3-14b': 14_768_307_200,
    'qwen3-32b': 32_762_123_264,
    'llama3.2-1b': 1_235_814_400,
    'llama3.2-3b': 3_212_749_824,
    'llama3.1-8b': 8_030_261_248,
    'llama3.1-70b': 70_553_706_496,
    'mistral-7b-v0.1': 7_241_732_096,
    'mistral-7b-v0.3': 7_248_023_552,
    'gemma2-2b': 2_614_341_888,
    'gemma2-9b': 9_241_705_984,
    'gemma2-27b': 27_227_128_320,
    'gemma3-1b': 999_885_952,
    'gemma3-4b': 4_300_079_472,
    'gemma3-12b': 12_187_325_040,
    'gemma3-27b': 27_432_406_640,
}
# SigLIP, which the larger Gemma 3 checkpoints hold as well.
VISION_TOWER, VISION_WIDTH = 416_866_032, 1152


@pytest.mark.parametrize('name', presets.PRESETS)
def test_presets_have_the_published_number_of_parameters(name):
    arch = configs.architecture_of(presets.preset(name))
    expected = PUBLISHED[name]
    if name in ('gemma3-4b', 'gemma3-12b', 'gemma3-27b'):
        projector, projector_norm = VISION_WIDTH * arch.embed_dim, VISION_WIDTH
        expected -= VISION_TOWER + projector + projector_norm
    assert arch.parameters == expected
    counted = sum(math.prod(leaf.shape) for leaf in flatten(Network(arch).abstract()).values())
    assert counted == expected


def test_every_published_size_is_a_preset():
    assert PUBLISHED.keys() == presets.PRESETS.keys()
    with pytest.raises(UserError, match="no preset 'gpt-2'"):
        presets.preset('gpt-2')


def kinds(config):
    return configs.architecture_of(config).kinds


def test_gemma_3_has_two_ropes_in_old_and_new_fields():
    old = presets.preset('gemma3-4b')
    replaced = ('rope_theta', 'rope_local_base_freq', 'rope_scaling')
    new = {k: v for k, v in old.items() if k not in replaced}
    new |= {
        'rope_parameters': {
            'full_attention': {'rope_type': 'linear', 'factor': 8.0, 'rope_theta': 1_000_000.0},
            'sliding_attention': {'rope_type': 'default', 'rope_theta': 10_000.0},
        },
        'layer_types': [
            *[*['sliding_attention'] * 5, 'full_attention'] * 5,
            *['sliding_attention'] * 4,
        ],
    }
    assert kinds(old) == kinds(new)
    assert [kind.window for kind in kinds(old)] == [1024] * 5 + [0]
    assert kinds(old)[-1].rope == Rope(1_000_000.0, 8.0) and kinds(old)[0].rope == Rope(10_000.0)


def test_gemma_2_alternates_and_llama_3_scales():
    assert [kind.window for kind in kinds(presets.preset('gemma2-9b'))] == [4096, 0]
    (kind,) = kinds(presets.preset('llama3.1-8b'))
    assert kind.rope == Rope(500_000.0, 8.0, 1.0, 4.0, 8192) and kind.window == 0


@pytest.mark.parametrize(
    ('message', 'changes'),
    [
        ('layer_types', dict(use_sliding_window=True, layer_types=['chunked_attention'] * 28)),
        (
            "'sliding_window' is missing",
            dict(use_sliding_window=True, max_window_layers=3, sliding_window=None),
        ),
        (
            'both there',
            dict(rope_scaling={'rope_type': 'default'}, rope_parameters={'rope_type': 'default'}),
        ),
        ('soft caps', dict(model_type='gemma3_text', attn_logit_softcapping=50.0)),
        ("lacks 'factor'", dict(rope_scaling={'rope_type': 'linear'})),
        ('yarn', dict(rope_scaling={'rope_type': 'yarn', 'factor': 4.0})),
        ('bidirectional', dict(use_bidirectional_attention=True)),
    ],
)
def test_features_that_the_decoder_cannot_compute_exactly_are_refused(message, changes):
    with pytest.raises(UserError, match=message):
        configs.architecture_of(presets.preset('qwen2.5-7b') | changes)
