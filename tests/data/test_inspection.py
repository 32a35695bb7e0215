"""Tests what `prepare --inspect` prints: words in the color of their weight, and every id."""

import dataclasses
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


@pytest.mark.parametrize('colour', [False, True])
def test_a_note_sends_no_escape_sequence_to_the_terminal(make_renderer, colour):
    renderer = make_renderer('trained')
    note = Message('user', 'Potassium \x1b]0;owned\x07\x1b[2J\x9b1A 6.2', 'Dr. \x1b[31m')
    record = dataclasses.replace(RECORD, messages=(note,), id='\x1b[2J')
    shown = inspection.format_example(
        renderer.example(record), renderer.tokenizer, frozenset(renderer.behaviors.ids), colour
    )
    own = re.sub(r'\x1b\[(0|2|1;35|32)m', '', shown)
    assert '\\x1b[2J' in own and not re.search('[\x00-\x08\x0b-\x1f\x7f-\x9f]', own)
    # The colors are this package's own.
    assert ('\x1b' in shown) == colour
