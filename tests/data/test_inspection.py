"""What `prepare --inspect` shows: the words in the colour of their weight, and every id."""

import re

import pytest

from bsft_jax.behaviorbench.records import Message, Record
from bsft_jax.data import inspection
from bsft_jax.errors import UserError

RECORD = Record(
    (Message('user', 'Is potassium 6.2 urgent?', 'Dr. Ito'),), id='r', behavior='proactive', options=('yes', 'no'), answer=0
)  # fmt: skip


@pytest.mark.parametrize('colour', [False, True])
def test_every_token_is_shown_with_its_weight(make_renderer, colour):
    renderer = make_renderer('trained', behavior_weight=0.5)
    example = renderer.example(RECORD)
    shown = inspection.describe(example, renderer.tokenizer, frozenset(renderer.behaviors.ids), colour)
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
    assert ('\033' in inspection.legend(colour)) == colour


def test_a_system_turn_that_the_template_drops_is_an_error(fresh_tokenizer):
    from bsft_jax.behaviors import BehaviorSet
    from bsft_jax.data.rendering import Renderer

    tokenizer = fresh_tokenizer('trained')
    tokenizer.chat_template = (
        "{% for m in messages if m.role != 'system' %}<|im_start|>{{ m.role }} {{ m.content }}<|im_end|>{% endfor %}"
        '{% if add_generation_prompt %}<|im_start|>assistant {% endif %}'
    )
    renderer = Renderer(tokenizer, BehaviorSet())
    told = Record((Message('system', 'Be brief.'), Message('user', 'Hello.')), id='s')
    with pytest.raises(UserError, match="record 's' has a system turn, which the chat template drops"):
        renderer.prompt_ids(told)
    assert renderer.prompt_ids(Record(told.messages[1:], id='u'))
