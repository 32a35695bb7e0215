"""Published model sizes as `config.json` contents, for plans and benchmarks without weights.

The values are those of the `config.json` in each model card. Tests compare the resulting parameter
counts with the published ones.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from bsft_jax.errors import UserError

Config = dict[str, Any]


class Size(NamedTuple):
    """Holds the sizes of a model by the names of their config fields."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int


def _qwen2(*size: int, tied: bool = False) -> Config:
    return Size(*size)._asdict() | {
        'model_type': 'qwen2',
        'max_position_embeddings': 32_768,
        'rms_norm_eps': 1e-6,
        'rope_theta': 1_000_000.0,
        'tie_word_embeddings': tied,
    }


def _qwen3(*size: int, tied: bool = False) -> Config:
    return Size(*size)._asdict() | {
        'model_type': 'qwen3',
        'max_position_embeddings': 40_960,
        'rms_norm_eps': 1e-6,
        'rope_theta': 1_000_000.0,
        'tie_word_embeddings': tied,
    }


def _llama3(*size: int, factor: float, tied: bool = False) -> Config:
    return Size(*size)._asdict() | {
        'model_type': 'llama',
        'max_position_embeddings': 131_072,
        'rms_norm_eps': 1e-5,
        'rope_theta': 500_000.0,
        'rope_scaling': {
            'rope_type': 'llama3',
            'factor': factor,
            'low_freq_factor': 1.0,
            'high_freq_factor': 4.0,
            'original_max_position_embeddings': 8192,
        },
        'tie_word_embeddings': tied,
    }


def _mistral(*size: int, window: int | None) -> Config:
    return Size(*size)._asdict() | {
        'model_type': 'mistral',
        'max_position_embeddings': 32_768,
        'rms_norm_eps': 1e-5,
        'rope_theta': 1_000_000.0 if window is None else 10_000.0,
        'sliding_window': window,
        'tie_word_embeddings': False,
    }


def _gemma2(*size: int, query_scalar: int) -> Config:
    return Size(*size)._asdict() | {
        'model_type': 'gemma2',
        'max_position_embeddings': 8192,
        'rms_norm_eps': 1e-6,
        'rope_theta': 10_000.0,
        'query_pre_attn_scalar': query_scalar,
        'sliding_window': 4096,
        'attn_logit_softcapping': 50.0,
        'final_logit_softcapping': 30.0,
        'tie_word_embeddings': True,
    }


def _gemma3(*size: int, query_scalar: int, window: int, factor: float | None) -> Config:
    return Size(*size)._asdict() | {
        'model_type': 'gemma3_text',
        'max_position_embeddings': 32_768 if factor is None else 131_072,
        'rms_norm_eps': 1e-6,
        'rope_theta': 1_000_000.0,
        'rope_local_base_freq': 10_000.0,
        'rope_scaling': factor and {'rope_type': 'linear', 'factor': factor},
        'query_pre_attn_scalar': query_scalar,
        'sliding_window': window,
        'tie_word_embeddings': True,
    }


# Positional values are the fields of `Size`.
PRESETS: dict[str, Config] = {
    'qwen2.5-0.5b': _qwen2(896, 4864, 24, 14, 2, 64, 151_936, tied=True),
    'qwen2.5-1.5b': _qwen2(1536, 8960, 28, 12, 2, 128, 151_936, tied=True),
    'qwen2.5-3b': _qwen2(2048, 11_008, 36, 16, 2, 128, 151_936, tied=True),
    'qwen2.5-7b': _qwen2(3584, 18_944, 28, 28, 4, 128, 152_064),
    'qwen2.5-14b': _qwen2(5120, 13_824, 48, 40, 8, 128, 152_064),
    'qwen2.5-32b': _qwen2(5120, 27_648, 64, 40, 8, 128, 152_064),
    'qwen2.5-72b': _qwen2(8192, 29_568, 80, 64, 8, 128, 152_064),
    'qwen3-0.6b': _qwen3(1024, 3072, 28, 16, 8, 128, 151_936, tied=True),
    'qwen3-1.7b': _qwen3(2048, 6144, 28, 16, 8, 128, 151_936, tied=True),
    'qwen3-4b': _qwen3(2560, 9728, 36, 32, 8, 128, 151_936, tied=True),
    'qwen3-8b': _qwen3(4096, 12_288, 36, 32, 8, 128, 151_936),
    'qwen3-14b': _qwen3(5120, 17_408, 40, 40, 8, 128, 151_936),
    'qwen3-32b': _qwen3(5120, 25_600, 64, 64, 8, 128, 151_936),
    'llama3.2-1b': _llama3(2048, 8192, 16, 32, 8, 64, 128_256, factor=32.0, tied=True),
    'llama3.2-3b': _llama3(3072, 8192, 28, 24, 8, 128, 128_256, factor=32.0, tied=True),
    'llama3.1-8b': _llama3(4096, 14_336, 32, 32, 8, 128, 128_256, factor=8.0),
    'llama3.1-70b': _llama3(8192, 28_672, 80, 64, 8, 128, 128_256, factor=8.0),
    'mistral-7b-v0.1': _mistral(4096, 14_336, 32, 32, 8, 128, 32_000, window=4096),
    'mistral-7b-v0.3': _mistral(4096, 14_336, 32, 32, 8, 128, 32_768, window=None),
    'gemma2-2b': _gemma2(2304, 9216, 26, 8, 4, 256, 256_000, query_scalar=256),
    'gemma2-9b': _gemma2(3584, 14_336, 42, 16, 8, 256, 256_000, query_scalar=256),
    'gemma2-27b': _gemma2(4608, 36_864, 46, 32, 16, 128, 256_000, query_scalar=144),
    'gemma3-1b': _gemma3(
        1152, 6912, 26, 4, 1, 256, 262_144, query_scalar=256, window=512, factor=None
    ),
    'gemma3-4b': _gemma3(
        2560, 10_240, 34, 8, 4, 256, 262_208, query_scalar=256, window=1024, factor=8.0
    ),
    'gemma3-12b': _gemma3(
        3840, 15_360, 48, 16, 8, 256, 262_208, query_scalar=256, window=1024, factor=8.0
    ),
    'gemma3-27b': _gemma3(
        5376, 21_504, 62, 32, 16, 128, 262_208, query_scalar=168, window=1024, factor=8.0
    ),
}


def preset(name: str) -> Config:
    """Returns the `config.json` of a published size; raises UserError for an unknown name."""
    if name not in PRESETS:
        raise UserError(f'no preset {name!r}', fix=f'choose one of {", ".join(PRESETS)}')
    return dict(PRESETS[name])
