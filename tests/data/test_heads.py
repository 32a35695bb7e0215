"""What an answer begins with in every form: its ids, its weights, and the room that plans keep."""

import dataclasses

import numpy as np
import pytest

from bsft_jax.behaviorbench.records import Message, Record
from bsft_jax.behaviors import DEFAULT_BEHAVIORS, FORMS, Behavior, extend_tokenizer
from bsft_jax.data.checks import check_records
from bsft_jax.errors import UserError

RECORD = Record(
    (Message('user', 'Potassium 5.9 mmol/L. What next?'),),
    id='choice',
    behavior='proactive',
    options=('Stop the lisinopril.', 'No change'),
    answer=0,
    rationale='The value is high.',
)
NAMES = ('qwen2.5', 'stories260k', 'trained')


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('form', FORMS)
def test_the_first_weighted_ids_are_the_head(make_renderer, name, form):
    renderer = make_renderer(name, form=form, behavior_weight=2.5)
    example, prompt = renderer.example(RECORD), renderer.prompt_ids(RECORD)
    expected = {
        'none': [],
        'tokens': renderer.tokenizer.convert_tokens_to_ids(['<|proactive|>']),
        'words': renderer.tokenizer.encode('Behavior: proactive\n', add_special_tokens=False),
        'neutral': renderer.tokenizer.convert_tokens_to_ids(['<|neutral|>']),
    }[form]
    P, end = len(prompt), len(prompt) + len(expected)
    assert example.ids[:P].tolist() == prompt and not example.weights[:P].any()
    assert example.ids[P:end].tolist() == expected == list(renderer.behaviors.head('proactive'))
    assert example.weights[P:end].sum() == pytest.approx(2.5 if expected else 0)
    assert len(set(example.weights[P:end])) <= 1
    plain = make_renderer(name, form='none').example(RECORD)
    assert example.ids[end:].tolist() == plain.ids[P:].tolist()
    np.testing.assert_array_equal(example.weights[end:], plain.weights[P:])


@pytest.mark.parametrize('name', NAMES)
def test_every_form_takes_the_same_room_whatever_the_label(make_renderer, name):
    rooms = set()
    for form in FORMS:
        for behavior in ('reactive', 'proactive'):
            example = make_renderer(name, form=form).example(dataclasses.replace(RECORD, behavior=behavior))
            assert example.reserved >= 0
            rooms.add(len(example.ids) + example.reserved)
    assert len(rooms) == 1
    for form in FORMS:
        bare = make_renderer(name, form=form).example(dataclasses.replace(RECORD, behavior=''))
        assert bare.reserved == 0 and len(bare.ids) < rooms.copy().pop()


def test_names_of_different_lengths_take_the_room_of_the_longest(fresh_tokenizer):
    behaviors = (*DEFAULT_BEHAVIORS, Behavior('looks_far_ahead_and_says_so', 0.5, 'a'))
    made = extend_tokenizer(fresh_tokenizer('trained'), behaviors, 'words')
    assert made.longest == len(made.heads[2]) > len(made.heads[0])
    assert made.ids == () and made.head_names == tuple(b.name for b in behaviors)


def test_no_arm_trains_on_the_token_of_another(make_renderer):
    hostile = dataclasses.replace(RECORD, rationale='See <|neutral|>.')
    for form in FORMS:
        with pytest.raises(UserError, match='neutral'):
            check_records([hostile], make_renderer('trained', form=form), DEFAULT_BEHAVIORS)
