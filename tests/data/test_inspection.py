"""Tests what `prepare --inspect` prints: words in the color of their weight, and every id."""

import re

import pytest

from bsft_jax.data import inspection
from bsft_jax.records.record import Message, Record

RECORD = Record(
    (Message('user', 'Is potassium 6.2 urgent?', 'Dr. Ito'),),
    id='r',
    behavior='proactive',
    options=('yes', 'no'),
    answer=0,
)


@pytest.mark.parametrize('colour', [False, True])
def test_every_token_is_shown_with_its_weight(make_renderer, colour):
    renderer = make_renderer('trained', behavior_weight=0.5)
    example = renderer.example(RECORD)
    shown = inspection.format_example(
        example, renderer.tokenizer, frozenset(renderer.behaviors.ids), colour
    )
    *text, prompt, trained = shown.splitlines()
    pairs = [pair.split(':') for pair in trained.removeprefix('id:weight: ').split()]
    prompt_ids = [int(i) for i in prompt.removeprefix('prompt ids: ').split()]
    assert prompt_ids + [int(i) for i, _ in pairs] == example.ids.tolist()
    assert [float(w) for _, w in pairs] == [0.5] + [1.0] * (len(pairs) - 1)
    marks = r'\033\[[\d;]*m' if colour else '[⟦⟧]'
    assert re.sub(marks, '', '\n'.join(text)) == renderer.tokenizer.decode(example.ids)
    if colour:
        assert '\033[1;35m<|proactive|>\033[0m\033[32mAnswer: A.' in shown
    else:
        assert '⟦<|proactive|>⟧⟦Answer: A.<|im_end|>⟧' in shown
    assert ('\033' in inspection.format_legend(colour)) == colour
