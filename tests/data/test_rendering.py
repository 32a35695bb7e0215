"""Tests rendering: ids and weights of whole examples, and the same tokens for scoring."""

import dataclasses
import unicodedata

import numpy as np
import pytest

from bsft_jax.behaviors import DEFAULT_BEHAVIORS
from bsft_jax.data.checks import check_records
from bsft_jax.data.rendering import STEM, render_examples
from bsft_jax.data.tokenizer import Marks, token_pattern
from bsft_jax.errors import UserError
from bsft_jax.records.record import Message, Record

from .conftest import NAMES

CHOICE = Record(
    id='choice-1',
    messages=(
        Message('system', 'You help a clinician.'),
        Message('user', 'Potassium 5.9 mmol/L after lisinopril 20 mg. What next?'),
    ),
    behavior='proactive',
    options=('Stop the lisinopril.', 'Give 40 mmol potassium', 'No change'),
    answer=1,
    rationale='The value is 5.9.',
)
WORDS = Record(
    id='words-1',
    messages=(
        Message('user', 'Which value is high?'),
        Message('assistant', 'Potassium, 5.9 mmol/L.'),
    ),
    behavior='reactive',
)
TEXT = Record(id='text-1', text='Ms. Okafor takes apixaban 5 mg.\nPotassium was 4.1 mmol/L.')
HOSTILE = (
    '<|proactive|>',
    '<|reactive|>',
    '<|im_start|>',
    '<|im_end|>',
    '<|endoftext|>',
    '</s>',
    '<s>',
)
PROMPT = (
    'Potassium 5.9 mmol/L after lisinopril 20 mg. What next?\n'
    'A. Stop the lisinopril.\nB. Give 40 mmol potassium\nC. No change'
)
NO_MARKS = Marks(token_pattern(()), {})


def with_content(content, record=CHOICE):
    return dataclasses.replace(record, messages=(Message('user', content),))


def controls(renderer, ids):
    """Returns the control ids among `ids`."""
    return [i for i in ids if i in renderer.tokenizer.added_tokens_decoder]


def test_behavior_tokens_take_the_first_spare_ids(make_renderer):
    assert make_renderer('qwen2.5').behaviors.ids == (151665, 151666)


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('record', [CHOICE, WORDS])
def test_the_first_weighted_id_is_the_behavior_token(make_renderer, name, record):
    renderer = make_renderer(name)
    example = renderer.example(record)
    first = np.flatnonzero(example.weights)[0]
    assert example.ids[first] == renderer.behaviors.ids[renderer.behaviors.index(record.behavior)]
    assert first == len(renderer.prompt_ids(record))
    assert (example.weights[first:] == 1).all()


@pytest.mark.parametrize('name', NAMES)
def test_without_tokens_the_answer_itself_comes_first(make_renderer, name):
    plain, extended = make_renderer(name, tokens=False), make_renderer(name)
    example, other = plain.example(CHOICE), extended.example(CHOICE)
    first = np.flatnonzero(example.weights)[0]
    assert example.ids[first : first + len(plain.stem_ids)].tolist() == plain.stem_ids
    np.testing.assert_array_equal(example.ids, np.delete(other.ids, first))
    np.testing.assert_array_equal(example.weights, np.delete(other.weights, first))


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('record', [CHOICE, WORDS, TEXT])
def test_the_last_id_ends_the_turn_and_is_trained_on(make_renderer, name, record):
    renderer = make_renderer(name)
    stop = '</s>' if name == 'stories260k' else '<|im_end|>'
    assert renderer.stop_id == renderer.tokenizer.convert_tokens_to_ids(stop)
    example = renderer.example(record)
    assert example.ids[-1] == renderer.stop_id
    assert example.weights[-1] == 1
    assert example.ids.dtype == np.int32 and example.weights.dtype == np.float32
    assert len(example.ids) == len(example.weights)


@pytest.mark.parametrize('weight', [0.0, 3.5])
def test_the_behavior_weight_lies_on_the_behavior_token_alone(make_renderer, weight):
    one, other = make_renderer(), make_renderer(behavior_weight=weight)
    a, b = one.example(CHOICE), other.example(CHOICE)
    index = a.ids.tolist().index(151666)
    assert b.weights[index] == np.float32(weight)
    np.testing.assert_array_equal(np.delete(a.weights, index), np.delete(b.weights, index))
    np.testing.assert_array_equal(a.ids, b.ids)


@pytest.mark.parametrize('name', NAMES)
def test_prompt_ids_are_the_templates(make_renderer, name):
    renderer = make_renderer(name)
    messages = [
        {'role': 'system', 'content': CHOICE.messages[0].content},
        {'role': 'user', 'content': PROMPT},
    ]
    options = dict(tokenize=False, add_generation_prompt=True)
    text = renderer.tokenizer.apply_chat_template(messages, **options)
    ids = renderer.tokenizer.apply_chat_template(messages, **options | {'tokenize': True})[
        'input_ids'
    ]
    if name == 'stories260k':  # its post-processor adds a second <s>
        ids = renderer.tokenizer.encode(text, add_special_tokens=False)
    assert renderer.prompt_ids(CHOICE) == ids


@pytest.mark.parametrize('name', NAMES)
def test_an_example_reads_as_the_template_writes_it(make_renderer, name):
    renderer = make_renderer(name, tokens=False)
    turns = [{'role': m.role, 'content': m.content} for m in CHOICE.messages]
    turns[-1]['content'] = PROMPT
    answer = {'role': 'assistant', 'content': 'Answer: B. The value is 5.9.'}
    whole = renderer.tokenizer.apply_chat_template([*turns, answer], tokenize=False)
    prompt = renderer.tokenizer.apply_chat_template(
        turns, tokenize=False, add_generation_prompt=True
    )
    example = renderer.example(CHOICE)
    size = len(renderer.prompt_ids(CHOICE))
    encode, decode = renderer.tokenizer.encode, renderer.tokenizer.decode
    assert example.ids[:size].tolist() == encode(prompt, add_special_tokens=False)
    assert decode(example.ids[size:]).strip() == whole[len(prompt) :].strip()


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('answer_format', ['letter', 'text'])
@pytest.mark.parametrize('tokens', [True, False])
def test_scored_options_are_the_trained_ones(make_renderer, name, answer_format, tokens):
    renderer = make_renderer(name, tokens, answer_format=answer_format)
    options = renderer.option_ids(CHOICE)
    written = (
        ('A', 'B', 'C')
        if answer_format == 'letter'
        else ('Stop the lisinopril', *CHOICE.options[1:])
    )
    for answer, (ids, text) in enumerate(zip(options, written, strict=True)):
        record = dataclasses.replace(CHOICE, answer=answer)
        trained = renderer.example(record).ids[len(renderer.prompt_ids(record)) + tokens :].tolist()
        option_ids = renderer.stem_ids + ids
        assert trained[: len(option_ids)] == option_ids
        decoded = renderer.tokenizer.decode(option_ids).strip()
        assert decoded == f'{STEM} {text}.'
        no_reason = dataclasses.replace(record, rationale='')
        end = renderer.example(no_reason).ids[-len(option_ids) - 1 :].tolist()
        assert end == [*option_ids, renderer.stop_id]


def test_letters_of_one_record_differ_in_one_id(make_renderer):
    options = make_renderer().option_ids(CHOICE)
    assert {len(ids) for ids in options} == {2}
    assert len({ids[0] for ids in options}) == 3


def test_a_rationale_that_merges_with_the_full_stop_does_not_change_the_option(make_renderer):
    renderer = make_renderer('trained', answer_format='text')
    for rationale in ('\n\nWell.', '...', '\t', 'é'):
        record = dataclasses.replace(CHOICE, rationale=rationale)
        option_ids = renderer.stem_ids + renderer.option_ids(record)[1]
        ids = renderer.example(record).ids[len(renderer.prompt_ids(record)) + 1 :].tolist()
        assert ids[: len(option_ids)] == option_ids
        assert renderer.tokenizer.decode(ids[:-1]).endswith(f'potassium. {rationale}')


def test_words_are_answered_with_the_last_message(make_renderer):
    renderer = make_renderer()
    ids = renderer.example(WORDS).ids[len(renderer.prompt_ids(WORDS)) :]
    assert renderer.tokenizer.decode(ids) == '<|reactive|>Potassium, 5.9 mmol/L.<|im_end|>'
    own = (WORDS.messages[0], dataclasses.replace(WORDS.messages[1], behavior='proactive'))
    record = dataclasses.replace(WORDS, behavior='', messages=own)
    assert 151666 in renderer.example(record).ids
    nothing = dataclasses.replace(WORDS, behavior='')
    assert not set(renderer.behaviors.ids) & set(renderer.example(nothing).ids.tolist())


@pytest.mark.parametrize('name', NAMES)
def test_text_is_trained_on_whole(make_renderer, name):
    renderer = make_renderer(name)
    example = renderer.example(TEXT)
    bos = [1] if name == 'stories260k' else []
    body = renderer.tokenizer.encode(TEXT.text, add_special_tokens=False)
    assert example.ids.tolist() == [*bos, *body, renderer.stop_id]
    assert (example.weights == 1).all()


def test_many_records_are_rendered_as_each_alone(make_renderer):
    renderer = make_renderer()
    records = [CHOICE, TEXT, WORDS, with_content('a <|im_end|> b'), TEXT, CHOICE]
    for together, record in zip(renderer.examples(records), records, strict=True):
        alone = renderer.example(record)
        np.testing.assert_array_equal(together.ids, alone.ids)
        np.testing.assert_array_equal(together.weights, alone.weights)


@pytest.mark.parametrize(
    'record',
    [
        dataclasses.replace(CHOICE, answer=None),
        dataclasses.replace(WORDS, messages=WORDS.messages[:1]),
        dataclasses.replace(WORDS, messages=WORDS.messages[1:]),
        dataclasses.replace(CHOICE, messages=CHOICE.messages[:1]),
    ],
)
def test_a_record_without_question_or_answer_is_named(make_renderer, record):
    with pytest.raises(UserError, match=r"record '\w+-1'"):
        make_renderer().example(record)


@pytest.mark.parametrize('token', HOSTILE)
@pytest.mark.parametrize('field', ['content', 'name', 'option', 'rationale', 'text'])
def test_training_refuses_control_tokens_in_a_record(make_renderer, token, field):
    renderer = make_renderer('stories260k' if token in ('</s>', '<s>') else 'qwen2.5', tokens=False)
    text = f'before {token} after'
    record = {
        'content': with_content(text),
        'name': dataclasses.replace(CHOICE, messages=(Message('user', 'q', name=text),)),
        'option': dataclasses.replace(CHOICE, options=('one', text)),
        'rationale': dataclasses.replace(CHOICE, rationale=text),
        'text': Record(id='choice-1', text=text),
    }[field]
    check_records([CHOICE, WORDS, TEXT], renderer, DEFAULT_BEHAVIORS)
    with pytest.raises(UserError) as caught:
        check_records([CHOICE, record], renderer, DEFAULT_BEHAVIORS)
    assert 'choice-1' in str(caught.value) and token in str(caught.value)


def test_training_refuses_unknown_behaviors(make_renderer):
    named = (*CHOICE.messages, Message('assistant', 'x', behavior='bold'))
    for record in (
        dataclasses.replace(CHOICE, behavior='bold'),
        dataclasses.replace(CHOICE, messages=named),
    ):
        with pytest.raises(UserError, match=r"'choice-1'.*'bold'.*reactive"):
            check_records([record], make_renderer(), DEFAULT_BEHAVIORS)


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('token', HOSTILE)
def test_control_tokens_in_a_message_are_ordinary_text(make_renderer, name, token):
    renderer = make_renderer(name)
    harmless, content = 'Note: xx, K 5.9.xx', f'Note: {token}, K 5.9.{token}'
    expected = controls(renderer, renderer.prompt_ids(with_content(harmless)))
    ids = renderer.prompt_ids(with_content(content))
    assert controls(renderer, ids) == expected
    assert content in renderer.tokenizer.decode(ids)


@pytest.mark.parametrize('name', NAMES)
def test_a_prompt_in_pieces_has_the_ids_of_the_whole(make_renderer, name):
    renderer = make_renderer(name)
    text = renderer.chat_template.write(renderer._messages(CHOICE), [], answered=False).text
    assert renderer.encoder.encode_marked(text, NO_MARKS) == renderer.prompt_ids(CHOICE)


@pytest.mark.parametrize('name', NAMES)
def test_control_tokens_in_options_and_answers_are_ordinary_text(make_renderer, name):
    renderer = make_renderer(name, answer_format='text')
    stop = renderer.tokenizer.convert_ids_to_tokens(renderer.stop_id)
    record = dataclasses.replace(
        CHOICE, options=(f'<|proactive|>{stop}', 'b'), answer=0, rationale=stop
    )
    options = renderer.option_ids(record)
    assert not any(controls(renderer, ids) for ids in options)
    assert len(controls(renderer, renderer.prompt_ids(record))) == len(
        controls(renderer, renderer.prompt_ids(dataclasses.replace(record, options=('a', 'b'))))
    )
    example = renderer.example(record)
    answer = example.ids[len(renderer.prompt_ids(record)) :].tolist()
    assert controls(renderer, answer) == [renderer.behaviors.ids[1], renderer.stop_id]
    option_ids = renderer.stem_ids + options[0]
    assert answer[1 : 1 + len(option_ids)] == option_ids


def test_private_characters_of_the_content_survive(make_renderer):
    renderer = make_renderer()
    content = '\ue000<|im_end|>\ue001\ue002 <|im_start|>\uf8ff'
    assert content in renderer.tokenizer.decode(renderer.prompt_ids(with_content(content)))


def test_composed_characters_are_the_only_change(make_renderer):
    content = 'Cafe\u0301 <|im_end|>'
    decoded = make_renderer().tokenizer.decode(make_renderer().prompt_ids(with_content(content)))
    assert unicodedata.normalize('NFC', content) in decoded


@pytest.fixture(scope='module')
def records():
    """Returns ten records, two of which are long."""
    return [dataclasses.replace(TEXT, text='low ' * n) for n in (5, 6, 90, 7, 8, 9, 10, 80, 11, 12)]


def test_long_records_are_left_out_whole_and_counted(make_renderer, records):
    renderer = make_renderer()
    everything, report = render_examples(renderer, records, 100, 0.0)
    assert len(everything) == 10 and report.startswith('0 of 10 records')
    longest = max(everything.lengths)
    for limit in (longest - 1, 60):
        store, report = render_examples(renderer, records, limit, 0.2)
        fitting = [i for i, n in enumerate(everything.lengths) if n <= limit]
        assert report.startswith(f'{10 - len(fitting)} of 10 records ')
        assert report.endswith(f'longer than {limit} tokens, the longest has {longest}')
        for index, i in enumerate(fitting):
            np.testing.assert_array_equal(store[index].ids, everything[i].ids)
            np.testing.assert_array_equal(store[index].weights, everything[i].weights)


def test_too_many_long_records_are_an_error(make_renderer, records):
    with pytest.raises(UserError, match=r'2 of 10 records .*longer than 60') as caught:
        render_examples(make_renderer(), records, 60, 0.1)
    assert '--config.data.max_dropped_fraction=0.1' in str(caught.value)
    assert '--config.data.sequence_length' in str(caught.value)


def test_nothing_to_train_on_is_an_error(make_renderer, records):
    with pytest.raises(UserError, match='no trainable token'):
        render_examples(make_renderer(), records, 3, 1.0)
