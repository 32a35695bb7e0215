"""Tests answer prefixes of every kind: their ids, weights, and the tokens that plans reserve."""

import dataclasses

import numpy as np
import pytest

from bsft_jax.behaviors import DEFAULT_BEHAVIORS, PREFIX_KINDS, Behavior, extend_tokenizer
from bsft_jax.data.checks import check_records
from bsft_jax.errors import UserError
from bsft_jax.records.record import Message, Record

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
@pytest.mark.parametrize('prefix_kind', PREFIX_KINDS)
def test_the_first_weighted_ids_are_the_prefix(make_renderer, name, prefix_kind):
    renderer = make_renderer(name, prefix_kind=prefix_kind, behavior_weight=2.5)
    example, prompt = renderer.example(RECORD), renderer.prompt_ids(RECORD)
    expected = {
        'none': [],
        'tokens': renderer.tokenizer.convert_tokens_to_ids(['<|proactive|>']),
        'words': renderer.tokenizer.encode('Behavior: proactive\n', add_special_tokens=False),
        'neutral': renderer.tokenizer.convert_tokens_to_ids(['<|neutral|>']),
    }[prefix_kind]
    P, end = len(prompt), len(prompt) + len(expected)
    assert example.ids[:P].tolist() == prompt and not example.weights[:P].any()
    assert (
        example.ids[P:end].tolist() == expected == list(renderer.behaviors.prefix_ids('proactive'))
    )
    assert example.weights[P:end].sum() == pytest.approx(2.5 if expected else 0)
    assert len(set(example.weights[P:end])) <= 1
    plain = make_renderer(name, prefix_kind='none').example(RECORD)
    assert example.ids[end:].tolist() == plain.ids[P:].tolist()
    np.testing.assert_array_equal(example.weights[end:], plain.weights[P:])


@pytest.mark.parametrize('name', NAMES)
def test_every_prefix_kind_has_the_same_length_whatever_the_label(make_renderer, name):
    lengths = set()
    for prefix_kind in PREFIX_KINDS:
        for behavior in ('reactive', 'proactive'):
            example = make_renderer(name, prefix_kind=prefix_kind).example(
                dataclasses.replace(RECORD, behavior=behavior)
            )
            assert example.reserved >= 0
            lengths.add(len(example.ids) + example.reserved)
    assert len(lengths) == 1
    for prefix_kind in PREFIX_KINDS:
        bare = make_renderer(name, prefix_kind=prefix_kind).example(
            dataclasses.replace(RECORD, behavior='')
        )
        assert bare.reserved == 0 and len(bare.ids) < min(lengths)


def test_names_of_different_lengths_reserve_the_longest(fresh_tokenizer):
    behaviors = (*DEFAULT_BEHAVIORS, Behavior('looks_far_ahead_and_says_so', 0.5, 'a'))
    extended = extend_tokenizer(fresh_tokenizer('trained'), behaviors, 'words')
    assert extended.max_prefix_length == len(extended.prefixes[2]) > len(extended.prefixes[0])
    assert extended.ids == () and extended.prefix_names == tuple(b.name for b in behaviors)


def test_no_arm_trains_on_the_token_of_another(make_renderer):
    hostile = dataclasses.replace(RECORD, rationale='See <|neutral|>.')
    for prefix_kind in PREFIX_KINDS:
        with pytest.raises(UserError, match='neutral'):
            check_records(
                [hostile], make_renderer('trained', prefix_kind=prefix_kind), DEFAULT_BEHAVIORS
            )
