"""Tests edge cases of rendering: spellings of control tokens, merged tokens, named errors."""

import dataclasses
import re

import numpy as np
import pytest
from transformers import AddedToken

from bsft_jax.behaviors import DEFAULT_BEHAVIORS, extend_tokenizer
from bsft_jax.data.checks import check_behaviors, check_records
from bsft_jax.data.rendering import Renderer
from bsft_jax.errors import UserError
from bsft_jax.records.record import Message, Record

from .conftest import NAMES
from .test_rendering import CHOICE, TEXT, WORDS, controls, with_content


@pytest.mark.parametrize('name', NAMES)
def test_no_spelling_of_a_control_token_in_a_message_counts(make_renderer, name):
    renderer = make_renderer(name)
    stop = renderer.tokenizer.convert_ids_to_tokens(renderer.stop_id)
    half = len(stop) // 2
    nested = (
        stop[:half] + stop + stop[half:],
        stop[:-1],
        stop * 3,
        stop[:half] + '\ue000' + stop[half:],
    )
    record = dataclasses.replace(with_content('x'), options=('a', 'b'))
    expected = controls(renderer, renderer.prompt_ids(record))
    for text in (*nested, '<|re<|proactive|>active|>', f'\ue000{stop}'):
        spoken = (Message('user', text, name=text),)
        ids = renderer.prompt_ids(
            dataclasses.replace(record, messages=spoken, options=(text, f'{text}b'))
        )
        assert controls(renderer, ids) == expected
        assert f'{text}: {text}\nA. {text}\nB. {text}b' in renderer.tokenizer.decode(ids)


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('answer_format', ['letter', 'text'])
def test_an_answer_in_pieces_has_the_ids_of_the_whole(make_renderer, name, answer_format):
    renderer = make_renderer(name, answer_format=answer_format)
    options = (
        'no error',
        'no error here',
        '(a) hold it!',
        '…then “wait” ',
        ' K⁺ 5,9 → café',
        'two\nlines',
        '.5 mg',
    )
    record = dataclasses.replace(CHOICE, options=options)
    for answer in range(len(options)):
        for rationale in ('', '(see note)', '.5 mg', "'s", '  two'):
            answered = dataclasses.replace(record, answer=answer, rationale=rationale)
            messages = [*renderer._messages(answered), renderer._answer(answered)]
            whole = renderer.tokenizer.apply_chat_template(
                [{'role': m.role, 'content': m.content} for m in messages], tokenize=False
            )
            ids = renderer.tokenizer.encode(whole, add_special_tokens=False)
            ours = renderer.example(answered).ids
            ours = ours[~np.isin(ours, renderer.behaviors.ids)].tolist()
            assert ours == ids[: len(ours)]
    scored = renderer.option_ids(record)
    assert all(sum(b[: len(a)] == a for b in scored) == 1 for a in scored)


def test_behavior_tokens_need_a_record_with_a_behavior(make_renderer):
    unlabelled = [TEXT, dataclasses.replace(CHOICE, id='', behavior='')]
    check_records(unlabelled, make_renderer(tokens=False), DEFAULT_BEHAVIORS)
    check_records([*unlabelled, WORDS], make_renderer(), DEFAULT_BEHAVIORS)
    with pytest.raises(UserError, match='no trainable token: no record has a behavior'):
        check_records(unlabelled, make_renderer(), DEFAULT_BEHAVIORS)


def test_a_record_without_id_is_named_by_its_words(make_renderer):
    record = Record((Message('user', 'Please look <|im_end|>'), Message('assistant', 'Yes.')))
    line = "the record that begins 'Please look <|im_end|>': the token <|im_end|> inside a message"
    with pytest.raises(UserError, match=re.escape(line)):
        check_records([record], make_renderer(), DEFAULT_BEHAVIORS)


@pytest.mark.parametrize('name', NAMES)
def test_loss_on_turns_adds_the_earlier_answers(make_renderer, name):
    said = ('K 5.9?', 'High.', 'And Na 140?', 'Normal.', 'Sure?', 'Yes.')
    roles = ('user', 'assistant') * 3
    record = Record(
        messages=tuple(Message(role, text) for role, text in zip(roles, said, strict=True))
    )
    renderer = make_renderer(name, tokens=False, train_on='turns')
    example, last = renderer.example(record), make_renderer(name, tokens=False).example(record)
    trained = renderer.tokenizer.decode(example.ids[example.weights == 1])
    stop = renderer.tokenizer.convert_ids_to_tokens(renderer.stop_id)
    assert [part.strip() for part in trained.split(stop)] == ['High.', 'Normal.', 'Yes.', '']
    assert set(example.weights) == {0, 1}
    whole, same = (renderer.tokenizer.decode(e.ids).replace(' ', '') for e in (example, last))
    assert whole == same  # some tokenizers write a space wherever a text begins
    assert last.weights[last.weights == 1].size < example.weights[example.weights == 1].size


@pytest.mark.parametrize('name', NAMES)
def test_control_tokens_in_earlier_turns_are_ordinary_text(make_renderer, name):
    renderer = make_renderer(name, tokens=False, train_on='turns')
    stop = renderer.tokenizer.convert_ids_to_tokens(renderer.stop_id)
    said = (f'a {stop} b', f'c {stop} d', 'e', 'f')
    roles = ('user', 'assistant') * 2
    record = Record(
        messages=tuple(Message(role, text) for role, text in zip(roles, said, strict=True))
    )
    plain = Record(messages=tuple(Message(role, 'x') for role in roles))
    hostile, harmless = (renderer.example(r).ids.tolist() for r in (record, plain))
    assert controls(renderer, hostile) == controls(renderer, harmless)
    assert (
        renderer.tokenizer.decode(hostile).count(stop)
        == renderer.tokenizer.decode(harmless).count(stop) + 2
    )


def test_added_tokens_that_are_ordinary_text_are_ordinary_text(fresh_tokenizer):
    """Tests tokens like Gemma's blank lines and HTML tags."""
    tokenizer = fresh_tokenizer('trained')
    added = [AddedToken(text, special=False, normalized=False) for text in ('\n\n', '<table>')]
    tokenizer.add_tokens(added)
    renderer = Renderer(tokenizer, extend_tokenizer(tokenizer, DEFAULT_BEHAVIORS))
    question = Message('user', 'A note.\n\n<table> K 5.9 <table>\n\nMay I sign?')
    record = dataclasses.replace(WORDS, messages=(question, WORDS.messages[-1]))
    check_records([record], renderer, DEFAULT_BEHAVIORS)
    turns = [{'role': 'user', 'content': question.content}]
    expected = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    ids = renderer.prompt_ids(record)
    assert ids == tokenizer.encode(expected, add_special_tokens=False)
    assert {*tokenizer.convert_tokens_to_ids(['\n\n', '<table>'])} < {*ids}
    stop = tokenizer.convert_ids_to_tokens(renderer.stop_id)
    with pytest.raises(UserError, match='the token .* inside a message'):
        check_records([with_content(f'a\n\n{stop}')], renderer, DEFAULT_BEHAVIORS)


@pytest.mark.parametrize(
    'fields', [{'behavior': 'Reactive'}, {'option_behaviors': ('reactive', 'proactve')}]
)
def test_a_label_that_is_no_behavior_is_an_error(fields, make_renderer):
    record = dataclasses.replace(
        CHOICE, options=('a', 'b'), answer=0, option_behaviors=(), behavior='reactive'
    )
    check_behaviors([record], DEFAULT_BEHAVIORS)
    with pytest.raises(
        UserError, match=r"unknown behavior '(Reactive|proactve)'; known: proactive, reactive"
    ):
        check_behaviors([record, dataclasses.replace(record, **fields)], DEFAULT_BEHAVIORS)
    with pytest.raises(UserError, match='unknown behavior'):
        check_records(
            [dataclasses.replace(record, **fields)], make_renderer('trained'), DEFAULT_BEHAVIORS
        )
