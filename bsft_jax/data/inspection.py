"""A rendered example for human eyes: its pieces in the colour of their loss weight, and its ids."""

from __future__ import annotations

from bsft_jax.data.examples import Example

_RESET, _DIM, _BEHAVIOR, _TRAINED = '\033[0m', '\033[2m', '\033[1;35m', '\033[32m'


def legend(colour: bool) -> str:
    """What the marks of `describe` mean."""
    if not colour:
        return 'what is trained on stands in ⟦ ⟧, a behavior token by itself'
    return f'{_DIM}weight 0{_RESET}, {_BEHAVIOR}behavior token{_RESET}, {_TRAINED}other targets{_RESET}'


def describe(example: Example, tokenizer, head_ids: frozenset[int], colour: bool) -> str:
    """The text of an example as its tokens spell it, then `id:weight` of every token that has one.

    Args:
      example: what training sees.
      tokenizer: which encoded it.
      head_ids: ids of behavior tokens.
      colour: with ANSI colours; without, what has weight stands in ⟦ ⟧.
    """
    parts = []
    ids, weights = example.ids.tolist(), example.weights.tolist()
    kinds = [
        'head' if i in head_ids and w else 'trained' if w else 'prompt'
        for i, w in zip(ids, weights, strict=True)
    ]
    start = 0
    for end in range(1, len(ids) + 1):
        if end < len(ids) and kinds[end] == kinds[start]:
            continue
        text = tokenizer.decode(ids[start:end], skip_special_tokens=False)
        if colour:
            parts.append(
                {'head': _BEHAVIOR, 'trained': _TRAINED, 'prompt': _DIM}[kinds[start]] + text + _RESET
            )
        else:
            parts.append(text if kinds[start] == 'prompt' else f'⟦{text}⟧')
        start = end
    trained = ' '.join(f'{i}:{w:g}' for i, w in zip(ids, weights, strict=True) if w)
    prompt = ' '.join(str(i) for i, w in zip(ids, weights, strict=True) if not w)
    return f'{"".join(parts)}\nprompt ids: {prompt}\nid:weight: {trained}'
