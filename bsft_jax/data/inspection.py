"""A rendered example as text for a terminal: its words colored by loss weight, and its ids."""

from __future__ import annotations

import itertools
from typing import Any

from bsft_jax.data.examples import Example
from bsft_jax.errors import printable

_RESET, _DIM, _MAGENTA, _GREEN = '\033[0m', '\033[2m', '\033[1;35m', '\033[32m'
_COLOUR = {'prompt': _DIM, 'prefix': _MAGENTA, 'answer': _GREEN}


def format_legend(colour: bool) -> str:
    """Returns the line that explains the marks of `format_example`."""
    if not colour:
        return 'what is trained on stands in ⟦ ⟧, a behavior token by itself'
    marks = {'prompt': 'weight 0', 'prefix': 'behavior token', 'answer': 'other targets'}
    return ', '.join(f'{_COLOUR[kind]}{text}{_RESET}' for kind, text in marks.items())


def format_example(
    example: Example, tokenizer: Any, prefix_ids: frozenset[int], colour: bool
) -> str:
    """Returns the text of an example, then its prompt ids and `id:weight` of every trained token.

    Args:
      example: an example as training sees it.
      tokenizer: the tokenizer that encoded it.
      prefix_ids: ids of behavior tokens.
      colour: marks the text with ANSI colors; otherwise what has weight stands in ⟦ ⟧.
    """
    pairs = list(zip(example.ids.tolist(), example.weights.tolist(), strict=True))

    def kind_of(pair: tuple[int, float]) -> str:
        token_id, weight = pair
        if not weight:
            return 'prompt'
        return 'prefix' if token_id in prefix_ids else 'answer'

    spans = []
    for kind, group in itertools.groupby(pairs, key=kind_of):
        ids = [token_id for token_id, _ in group]
        text = printable(tokenizer.decode(ids, skip_special_tokens=False))
        if colour:
            spans.append(f'{_COLOUR[kind]}{text}{_RESET}')
        else:
            spans.append(text if kind == 'prompt' else f'⟦{text}⟧')
    prompt = ' '.join(str(token_id) for token_id, weight in pairs if not weight)
    trained = ' '.join(f'{token_id}:{weight:g}' for token_id, weight in pairs if weight)
    return f'{"".join(spans)}\nprompt ids: {prompt}\nid:weight: {trained}'
