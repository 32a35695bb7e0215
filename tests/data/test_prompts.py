"""Tests prompt styles: the messages before the question, and the choice of solved records."""

import dataclasses

import pytest

from bsft_jax.behaviors import DEFAULT_BEHAVIORS, Behavior, extend_tokenizer
from bsft_jax.data import prompts, sources
from bsft_jax.data.rendering import Renderer
from bsft_jax.errors import UserError
from bsft_jax.records.record import Message, Record

from .conftest import NAMES
from .test_rendering import CHOICE, TEXT, WORDS

SYSTEM_TEXT = CHOICE.messages[0].content


@pytest.fixture(scope='module')
def pool():
    return sources.load_records('synthetic:40', 'train')


@pytest.fixture(scope='module')
def asked():
    return sources.load_records('synthetic:40', 'test')


def styled(record, style, renderer, pool=(), behaviors=DEFAULT_BEHAVIORS):
    return prompts.apply_prompt_style(
        prompts.parse_prompt_style(style), [record], renderer, behaviors=behaviors, pool=pool
    )[0]


def chosen(pool, shots, answered=(), behaviors=DEFAULT_BEHAVIORS):
    return prompts.choose_exemplars(pool, shots, behaviors=behaviors, answered=answered)


@pytest.mark.parametrize(
    'style',
    ['poem', '', 'few_shot', 'few_shot:', 'few_shot:0', 'few_shot:-1', 'few_shot:x', 'plain:1'],
)
def test_unknown_styles_are_refused(style):
    with pytest.raises(UserError, match='^--prompt: unknown prompt style'):
        prompts.parse_prompt_style(style)


def test_a_style_has_one_name():
    assert prompts.parse_prompt_style('few_shot:03') == prompts.PromptStyle('few_shot:3', 3)


def test_plain_changes_nothing(make_renderer, asked):
    assert prompts.apply_prompt_style(
        prompts.parse_prompt_style('plain'), [*asked, TEXT], make_renderer(), behaviors=()
    ) == [
        *asked,
        TEXT,
    ]


def test_instructions_explain_the_behaviors_and_spell_no_token(make_renderer):
    behaviors = (*DEFAULT_BEHAVIORS, Behavior('curious', 0.5, 'ask what is unclear'))
    shown = styled(WORDS, 'instructed', make_renderer(), behaviors=behaviors)
    assert [m.role for m in shown.messages] == ['system', 'user', 'assistant']
    text = shown.messages[0].content
    for behavior in behaviors:
        assert f'{behavior.name}: {behavior.description}' in text and behavior.token not in text
    assert shown.messages[1:] == WORDS.messages


def test_instructions_are_appended_to_an_existing_system_turn(make_renderer):
    shown = styled(CHOICE, 'instructed', make_renderer())
    assert [m.role for m in shown.messages] == ['system', 'user']
    assert (
        shown.messages[0].content == f'{SYSTEM_TEXT}\n\n{prompts.instructions(DEFAULT_BEHAVIORS)}'
    )
    assert dataclasses.replace(shown, messages=CHOICE.messages) == CHOICE


@pytest.mark.parametrize(
    'template',
    [
        "{% for m in messages if m.role != 'system' %}"
        '<|im_start|>{{ m.content }}<|im_end|>{% endfor %}',
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('none') }}"
        '{% endif %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}',
    ],
)
def test_a_template_without_system_turns_cannot_instruct(fresh_tokenizer, pool, template):
    tokenizer = fresh_tokenizer('trained')
    tokenizer.chat_template = template + '{% if add_generation_prompt %}<|im_start|>{% endif %}'
    renderer = Renderer(tokenizer, extend_tokenizer(tokenizer, DEFAULT_BEHAVIORS))
    with pytest.raises(UserError, match='writes no system turn'):
        styled(WORDS, 'instructed', renderer)
    assert renderer.prompt_ids(styled(WORDS, 'few_shot:2', renderer, pool))


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('answer_format', ['letter', 'text'])
def test_examples_are_written_as_training_writes_them(
    make_renderer, pool, asked, name, answer_format
):
    renderer = make_renderer(name, answer_format=answer_format)
    plain = make_renderer(name, tokens=False, answer_format=answer_format)
    record, end = asked[1], 0

    def words(ids):
        """Returns text with single spaces: some tokenizers write one between prompt and answer."""
        return ' '.join(renderer.tokenizer.decode(ids).split())

    shown = words(renderer.prompt_ids(styled(record, 'few_shot:2', renderer, pool)))
    for one in [*chosen(pool, 2, [record]), record]:
        part = words(plain.prompt_ids(one) if one is record else plain.example(one).ids)
        part = part[part.index(one.messages[0].content) :]
        assert part in shown[end:]
        end = shown.index(part, end) + len(part)
    assert end == len(shown)
    assert not any(behavior.token in shown for behavior in DEFAULT_BEHAVIORS)


def test_the_system_turn_stays_first_and_there_is_one(make_renderer, pool):
    solved = [dataclasses.replace(r, messages=(Message('system', 'x'), *r.messages)) for r in pool]
    shown = styled(CHOICE, 'few_shot:3', make_renderer(), solved).messages
    assert shown[0] == CHOICE.messages[0] and shown[-1] == CHOICE.messages[1]
    assert [m.role for m in shown].count('system') == 1
    assert [m.role for m in shown].count('assistant') == 3


def test_behaviors_and_categories_take_turns_and_twins_stay_apart(pool):
    kinds = [(r.behavior, r.category) for r in chosen(pool, 4)]
    assert [behavior for behavior, _ in kinds] == ['reactive', 'proactive'] * 2
    assert len({category for _, category in kinds}) == 4
    pairs = [r.pair_id for r in chosen(pool, 30) if r.pair_id]
    assert len(pairs) == len(set(pairs))
    assert chosen(pool, 4) == chosen(list(pool), 4) == chosen(pool, 6)[:4]


def test_twins_alone_are_not_enough(pool):
    twins = [r for r in pool if r.pair_id][:2]
    assert twins[0].pair_id == twins[1].pair_id and len(chosen(twins, 1)) == 1
    with pytest.raises(UserError, match='--prompt=few_shot:2: only 1 solved'):
        chosen(twins, 2)


def test_no_example_is_of_a_case_that_is_asked(pool):
    first = chosen(pool, 4)
    cases = {r.case_id for r in first}
    assert not cases & {r.case_id for r in chosen(pool, 4, first)}
    numbered = [dataclasses.replace(r, id='1', case_id='', pair_id='') for r in pool[:2]]
    assert chosen(numbered[:1], 1, numbered[1:]) == numbered[:1]  # files count from 1 each
    bare = [dataclasses.replace(r, id='', case_id='', pair_id='') for r in pool]
    with pytest.raises(UserError, match='only 0 solved'):
        chosen(bare, 1, bare)


def test_no_example_has_the_words_of_one_that_is_asked(pool):
    bare = [dataclasses.replace(r, id='', case_id='', pair_id='') for r in pool[:6]]
    copies = [
        dataclasses.replace(
            r,
            messages=tuple(
                dataclasses.replace(m, content=f' {m.content.upper()}\n') for m in r.messages
            ),
            options=r.options[::-1],
            answer=len(r.options) - 1 - r.answer,
        )
        for r in bare
    ]
    with pytest.raises(UserError, match='only 0 solved'):
        chosen(bare, 1, copies)
    # One question that all ask, about what their options say, is no reason.
    asked = [
        Record((Message('user', 'Which is right?'),), options=(f'a{i}', f'b{i}'), answer=0)
        for i in range(8)
    ]
    assert len(chosen(asked[:4], 4, asked[4:])) == 4
    with pytest.raises(UserError, match='only 3 solved'):
        chosen(asked[:4], 4, asked[3:])


def test_only_solved_records_are_shown(make_renderer, pool):
    open_ended = Record((Message('user', 'Well?'),))
    unanswered = dataclasses.replace(pool[0], answer=None)
    with pytest.raises(UserError, match='only 0 solved'):
        chosen([open_ended, unanswered, TEXT], 1)
    shown = styled(CHOICE, 'few_shot:1', make_renderer(), [WORDS, open_ended])
    assert shown.messages[1:3] == WORDS.messages
    assert chosen([WORDS, pool[0]], 1) == [pool[0]]


def test_a_record_without_a_question_is_an_error(make_renderer, pool):
    for style in ('instructed', 'few_shot:1'):
        with pytest.raises(UserError, match="'text-1' has no user turn"):
            styled(TEXT, style, make_renderer(), pool)
