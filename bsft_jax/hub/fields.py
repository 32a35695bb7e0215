"""Fields of a Hugging Face `config.json`: what each may hold, checked before any is used.

The types are those of the config classes of `transformers`, which refuse other ones too.
"""

from __future__ import annotations

import dataclasses
import math
import reprlib
from collections.abc import Callable
from typing import Any

from bsft_jax.errors import UserError

Config = dict[str, Any]

# Deeper than any published model, and few enough to list.
MOST_LAYERS = 1000
_MOST = 2**31 - 1
# Cuts what is long or deep before it is written out.
_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxlong = 60


@dataclasses.dataclass(frozen=True)
class _Rule:
    """Says what a field may hold, in words for the error message and as a check."""

    words: str
    accepts: Callable[[Any], bool]
    nullable: bool = False


def _integer(least: int, most: int = _MOST, nullable: bool = False) -> _Rule:
    def accepts(value: Any) -> bool:
        return type(value) is int and least <= value <= most

    return _Rule(f'an integer from {least} to {most}', accepts, nullable)


def is_number(value: Any) -> bool:
    """Returns whether a value of a JSON file is a finite number; true and false are none."""
    is_numeric = isinstance(value, int | float) and not isinstance(value, bool)
    # An integer of 400 digits is no float.
    return is_numeric and abs(value) < 1e30 and math.isfinite(value)


def _number(zero: bool = False, nullable: bool = False) -> _Rule:
    words = 'a number of at least 0' if zero else 'a number above 0'
    return _Rule(words, lambda v: is_number(v) and (v >= 0 if zero else v > 0), nullable)


def _is_list_of_text(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


_FLAG = _Rule('true or false', lambda value: isinstance(value, bool))
_TEXT = _Rule('text', lambda value: isinstance(value, str))
_OBJECT = _Rule('an object', lambda value: isinstance(value, dict), nullable=True)

# A required field may be null here, since it is then reported as missing.
_RULES: dict[str, _Rule] = {
    'model_type': dataclasses.replace(_TEXT, nullable=True),
    'vocab_size': _integer(1, nullable=True),
    'hidden_size': _integer(1, nullable=True),
    'intermediate_size': _integer(1, nullable=True),
    'num_hidden_layers': _integer(1, MOST_LAYERS, nullable=True),
    'num_attention_heads': _integer(1, nullable=True),
    'num_key_value_heads': _integer(1, nullable=True),
    'head_dim': _integer(1, nullable=True),
    'max_position_embeddings': _integer(1, nullable=True),
    'original_max_position_embeddings': _integer(1, nullable=True),
    'sliding_window': _integer(1, nullable=True),
    'max_window_layers': _integer(0),
    'sliding_window_pattern': _integer(1),
    'query_pre_attn_scalar': _number(),
    'rms_norm_eps': _number(zero=True),
    'initializer_range': _number(zero=True),
    'rope_theta': _number(nullable=True),
    'rope_local_base_freq': _number(nullable=True),
    'partial_rotary_factor': _number(nullable=True),
    'attn_logit_softcapping': _number(nullable=True),
    'final_logit_softcapping': _number(nullable=True),
    'tie_word_embeddings': _FLAG,
    'attention_bias': _FLAG,
    'mlp_bias': _FLAG,
    'use_sliding_window': _FLAG,
    'use_bidirectional_attention': dataclasses.replace(_FLAG, nullable=True),
    # Some files of Gemma 1 have a null in the field that the family does not read.
    'hidden_act': dataclasses.replace(_TEXT, nullable=True),
    'hidden_activation': dataclasses.replace(_TEXT, nullable=True),
    'layer_types': _Rule('a list of names', _is_list_of_text, nullable=True),
    'rope_parameters': _OBJECT,
    'rope_scaling': _OBJECT,
    'text_config': _OBJECT,
    'bsft': _OBJECT,
}


def check(config: Any, where: str) -> None:
    """Raises UserError for a config that is no object or that has a field of the wrong kind."""
    if not isinstance(config, dict):
        raise UserError('is not a JSON object', where=where)
    for field, rule in _RULES.items():
        value = config.get(field)
        if field not in config or (value is None and rule.nullable) or rule.accepts(value):
            continue
        raise UserError(f'{field!r} is {shorten(value)}, not {rule.words}', where=where)


def shorten(value: Any) -> str:
    """Returns a value as an error message shows it, cut where it is long."""
    text = _REPR.repr(value)
    return text if len(text) <= 60 else f'{text[:57]}...'
