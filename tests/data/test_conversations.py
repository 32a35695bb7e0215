"""Tests conversations in training: four templates, a behavior per turn, truncation."""

import copy
import dataclasses

import numpy as np
import pytest

from bsft_jax.behaviors import DEFAULT_BEHAVIORS, extend_tokenizer
from bsft_jax.data import labels
from bsft_jax.data.checks import check_records
from bsft_jax.data.rendering import Renderer, render_examples
from bsft_jax.errors import UserError
from bsft_jax.records.record import Message, Record, record_from_dict

LLAMA = (
    '{{ bos_token }}{% for m in messages %}'
    "{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' }}"
    "{{ m.content | trim + '<|eot_id|>' }}{% endfor %}"
    '{% if add_generation_prompt %}'
    "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}"
    "{{ '[INST] ' + m.content + '[/INST]' }}"
    "{% else %}{{ ' ' + m.content | trim + '<|end|>' }}{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\\n' }}"
    "{{ m.content | trim + '<end_of_turn>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)
# Template, control tokens and end of turn; `own` is the tokenizer's template.
STYLES = {
    'own': ('', (), ''),
    'llama': (LLAMA, ('<|start_header_id|>', '<|end_header_id|>', '<|eot_id|>'), '<|eot_id|>'),
    'mistral': (MISTRAL, ('[INST]', '[/INST]', '<|end|>'), '<|end|>'),
    'gemma': (GEMMA, ('<start_of_turn>', '<end_of_turn>'), '<end_of_turn>'),
}
SAID = (
    ('user', 'K 5.9 mmol/L?', ''),
    ('assistant', 'High. ', 'reactive'),
    ('user', 'And 4.1 mmol/L?', ''),
    ('assistant', 'Normal; stop the lisinopril.', 'proactive'),
    ('user', 'Sure?', ''),
    ('assistant', 'Yes.', 'reactive'),
)
CHAT = Record(tuple(Message(role, text, behavior=name) for role, text, name in SAID), id='chat')


@pytest.fixture(scope='module')
def styled(request, trained):
    """Returns a function that loads a tokenizer with the template of a style."""

    def make(name, style):
        load = (
            (lambda _: trained) if name == 'trained' else request.getfixturevalue('fresh_tokenizer')
        )
        tokenizer = copy.deepcopy(load(name))
        template, tokens, _ = STYLES[style]
        if template:
            tokenizer.add_special_tokens(
                {'additional_special_tokens': list(tokens), 'bos_token': '<bos>'}
            )
            tokenizer.chat_template = template
        return tokenizer

    return make


@pytest.fixture(scope='module')
def renderer_of(styled):
    def make(name='trained', style='own', prefix_kind='tokens', **options):
        tokenizer = styled(name, style)
        behaviors = extend_tokenizer(tokenizer, DEFAULT_BEHAVIORS, prefix_kind)
        return Renderer(tokenizer, behaviors, **options)

    return make


def without(example, ids):
    keep = ~np.isin(example.ids, ids)
    return example.ids[keep].tolist()


@pytest.mark.parametrize('train_on', ['answer', 'turns'])
@pytest.mark.parametrize('style', STYLES)
@pytest.mark.parametrize('name', ['trained', 'qwen2.5'])
def test_ids_are_the_templates_plus_the_behavior_tokens(renderer_of, name, style, train_on):
    renderer = renderer_of(name, style, train_on=train_on)
    turns = [{'role': m.role, 'content': m.content} for m in CHAT.messages]
    text = renderer.tokenizer.apply_chat_template(turns, tokenize=False)
    ids = renderer.tokenizer.apply_chat_template(turns)['input_ids']
    assert ids == renderer.tokenizer.encode(text, add_special_tokens=False)
    example = renderer.example(CHAT)
    token_ids = renderer.behaviors.ids
    expected = ids[
        : len(ids) - ids[::-1].index(renderer.stop_id)
    ]  # some write a line break behind the end
    assert without(example, token_ids) == expected
    labelled = [renderer.behaviors.index(name) for _, _, name in SAID if name]
    assert [token_ids.index(i) for i in example.ids if i in token_ids] == labelled


@pytest.mark.parametrize('style', STYLES)
def test_a_prefix_stands_where_the_model_continues(renderer_of, style):
    renderer = renderer_of('trained', style, train_on='turns', behavior_weight=2.0)
    example, token_ids = renderer.example(CHAT), renderer.behaviors.ids
    for number in (1, 3, 5):
        asked = dataclasses.replace(CHAT, messages=CHAT.messages[:number])
        start = len(renderer.prompt_ids(asked))
        assert example.ids[:start].tolist() == renderer.prompt_ids(asked)
        assert example.ids[start] in token_ids and example.weights[start] == 2
        assert not example.weights[start - 1]
    stop = STYLES[style][2] or '<|im_end|>'
    said = renderer.tokenizer.decode(example.ids[example.weights == 1]).split(stop)
    assert [part.strip() for part in said] == ['High.', 'Normal; stop the lisinopril.', 'Yes.', '']


@pytest.mark.parametrize('style', ['own', 'llama', 'mistral'])
def test_a_conversation_may_begin_with_the_assistant(renderer_of, style):
    renderer = renderer_of('trained', style, train_on='turns')
    greeting = Message('assistant', 'Hello.', behavior='reactive')
    example = renderer.example(dataclasses.replace(CHAT, messages=(greeting, *CHAT.messages)))
    rest = renderer.example(CHAT).ids.tolist()
    trained = renderer.tokenizer.decode(example.ids[example.weights > 0])
    assert trained.split('<|reactive|>')[1].strip().startswith('Hello.')
    assert [i for i in example.ids if i in renderer.behaviors.ids][1:] == [
        i for i in rest if i in renderer.behaviors.ids
    ]
    assert example.ids[np.flatnonzero(example.weights)[0]] == renderer.behaviors.ids[0]


def test_loss_on_the_answer_keeps_earlier_prefixes_without_weight(renderer_of):
    on_answer, on_turns = (renderer_of(train_on=train_on) for train_on in ('answer', 'turns'))
    last, all_turns = on_answer.example(CHAT), on_turns.example(CHAT)
    np.testing.assert_array_equal(last.ids, all_turns.ids)
    size = len(on_answer.prompt_ids(CHAT))
    assert not last.weights[:size].any() and last.weights[size:].all()
    np.testing.assert_array_equal(last.weights[size:], all_turns.weights[size:])


@pytest.mark.parametrize('prefix_kind', ['none', 'tokens', 'words', 'neutral'])
def test_all_arms_reserve_the_same_length(renderer_of, prefix_kind):
    longest, example = (
        renderer_of(prefix_kind='words').example(CHAT),
        renderer_of(prefix_kind=prefix_kind).example(CHAT),
    )
    assert example.length == longest.length == len(longest.ids)
    unlabelled = dataclasses.replace(
        CHAT, messages=tuple(dataclasses.replace(m, behavior='') for m in CHAT.messages)
    )
    assert renderer_of(prefix_kind=prefix_kind).example(unlabelled).reserved == 0


def test_words_begin_each_turn_and_share_the_weight(renderer_of):
    renderer = renderer_of(prefix_kind='words', train_on='turns')
    example = renderer.example(CHAT)
    text = renderer.tokenizer.decode(example.ids)
    assert (
        'assistant\nBehavior: proactive\nNormal;' in text
        and text.count('Behavior: reactive\n') == 2
    )
    plain = renderer_of(prefix_kind='none', train_on='turns').example(CHAT)
    assert example.weights.sum() == pytest.approx(plain.weights.sum() + 3)


def test_a_space_before_answers_belongs_to_the_stem(renderer_of):
    renderer = renderer_of('trained', 'mistral')
    record = Record((Message('user', 'q'),), options=('a', 'b'), answer=1, behavior='reactive')
    ids = renderer.example(record).ids.tolist()
    prompt = renderer.prompt_ids(record)
    stem = renderer.tokenizer.encode(' Answer:', add_special_tokens=False)
    assert renderer.stem_ids == stem
    scored = [renderer.behaviors.ids[0], *stem, *renderer.option_ids(record)[1]]
    assert ids == [*prompt, *scored, renderer.stop_id]


def test_speakers_survive(renderer_of):
    named = {
        'conversations': [
            {'from': 'human', 'value': 'K 5.9?', 'name': 'Dr. Ito'},
            {'from': 'gpt', 'value': 'High.', 'name': 'Aid'},
            {'from': 'human', 'value': 'Sure?', 'name': 'RN Okafor'},
            {'from': 'gpt', 'value': 'Yes.'},
        ]
    }
    renderer = renderer_of()
    text = renderer.tokenizer.decode(renderer.example(record_from_dict(named)).ids)
    assert all(
        f'{turn}' in text for turn in ('user\nDr. Ito: K 5.9?', 'RN Okafor: Sure?', 'Aid: High.')
    )


def test_consecutive_user_turns_are_merged_where_the_template_needs_it(renderer_of):
    asked = (
        Message('user', 'K 5.9?', name='Dr. Ito'),
        Message('user', 'And Na?', name='RN Okafor'),
    )
    record = Record(asked, options=('high', 'low'), answer=0, behavior='reactive')
    one = Record(
        (Message('user', 'Dr. Ito: K 5.9?\n\nRN Okafor: And Na?'),),
        options=record.options,
        answer=0,
    )
    gemma, llama = renderer_of('trained', 'gemma'), renderer_of('trained', 'llama')
    assert gemma.prompt_ids(record) == gemma.prompt_ids(one)
    assert llama.prompt_ids(record) != llama.prompt_ids(one)
    turns = gemma.tokenizer.decode(gemma.prompt_ids(record)).count('<start_of_turn>user')
    assert (
        turns == 1
        and llama.tokenizer.decode(llama.prompt_ids(record)).count('user<|end_header') == 2
    )
    spoken = dataclasses.replace(CHAT, messages=(*asked, *CHAT.messages[1:]))
    assert [i for i in gemma.example(spoken).ids if i in gemma.behaviors.ids] == [
        i for i in gemma.example(CHAT).ids if i in gemma.behaviors.ids
    ]


def test_a_template_that_raises_names_the_record(renderer_of):
    said = (
        ('user', 'a'),
        ('assistant', 'b'),
        ('assistant', 'c'),
        ('user', 'd'),
        ('assistant', 'e'),
    )
    twice = Record(tuple(Message(*turn) for turn in said), id='twice')
    with pytest.raises(UserError, match=r"chat template: record 'twice': .*roles must alternate"):
        renderer_of('trained', 'gemma').example(twice)


def names(records):
    turns = [m.behavior for record in records for m in record.messages[1:4:2]]
    return turns + [record.behavior or record.messages[-1].behavior for record in records]


def test_permuted_and_flipped_labels_reach_every_turn():
    records = [dataclasses.replace(CHAT, id=str(i)) for i in range(20)]
    permuted = labels.shuffle_labels(records, 0)
    assert sorted(names(permuted)) == sorted(names(records))
    for i in (1, 3):
        assert len({record.messages[i].behavior for record in permuted}) == 2
    flipped = labels.add_label_noise(records, 1.0, ('reactive', 'proactive'), 0)
    assert all(a != b for a, b in zip(names(flipped), names(records), strict=True))


def test_records_without_a_behavior_train_plain_or_are_refused(renderer_of):
    plain = Record((Message('user', 'a'), Message('assistant', 'b')), id='bare')
    renderer, on_turns = renderer_of(), renderer_of(train_on='turns')
    check_records([CHAT, plain], renderer, DEFAULT_BEHAVIORS)
    assert not set(renderer.behaviors.ids) & set(renderer.example(plain).ids.tolist())
    with pytest.raises(
        UserError, match=r"'bare' has an answer without .*|unlabeled=refuse.*'bare'"
    ):
        check_records([CHAT, plain], renderer, DEFAULT_BEHAVIORS, 'refuse')
    half = dataclasses.replace(CHAT, id='half', messages=(*plain.messages, *CHAT.messages))
    check_records([half], renderer, DEFAULT_BEHAVIORS, 'refuse')
    with pytest.raises(UserError, match="'half'"):
        check_records([half], on_turns, DEFAULT_BEHAVIORS, 'refuse')


def long_chat(rounds, system=True):
    turns = [Message('system', 'You help.')] if system else []
    for i in range(rounds):
        turns += [Message('user', f'question {i}', name='Dr. Ito'), Message('user', 'please')]
        turns += [Message('assistant', f'answer {i}', behavior='reactive')]
    return Record(tuple(turns), id=f'long-{rounds}')


def test_truncation_drops_the_oldest_rounds_and_counts_them(renderer_of):
    renderer = renderer_of(train_on='turns')
    records = [long_chat(2), long_chat(9), long_chat(12, system=False)]
    limit = renderer.example(long_chat(5)).length
    store, report = render_examples(renderer, records, limit, 0.0, truncate=True)
    assert len(store) == 3 and max(store.lengths) <= limit
    assert report.startswith('0 of 3 records are longer ')
    dropped = 0
    for record, example in zip(records[1:], (store[1], store[2]), strict=True):
        text = renderer.tokenizer.decode(example.ids)
        rounds = [i for i in range(12) if f'question {i}<' in text]
        asked = sum(m.content.startswith('question') for m in record.messages)
        assert rounds == list(range(rounds[0], asked)) and len(rounds) >= 4
        assert ('You help.' in text) == (record.messages[0].role == 'system')
        whole = renderer.example(record)
        size = min(20, len(example.ids))
        np.testing.assert_array_equal(example.ids[-size:], whole.ids[-size:])
        one_more = record.messages[: len(record.messages) - 3 * asked]
        one_more += record.messages[len(one_more) + 3 * (rounds[0] - 1) :]
        assert renderer.example(dataclasses.replace(record, messages=one_more)).length > limit
        dropped += 3 * rounds[0]
    assert report.endswith(f'; 2 more lost {dropped} of their oldest turns to fit')


def test_a_record_too_long_after_truncation_is_left_out_and_counted(renderer_of):
    renderer = renderer_of()
    note = dataclasses.replace(
        CHAT, messages=(Message('user', 'low ' * 90), Message('assistant', 'x'))
    )
    records = [CHAT] * 9 + [note]
    limit = renderer.example(CHAT).length
    with pytest.raises(UserError, match='1 of 10 records are longer'):
        render_examples(renderer, records, limit, 0.0, truncate=True)
    store, report = render_examples(renderer, records, limit, 0.1, truncate=True)
    assert len(store) == 9
    assert report.startswith('1 of 10 records are longer') and '; 0 more lost 0 of' in report


def test_every_arm_truncates_the_same_turns(renderer_of):
    limit = renderer_of(prefix_kind='words').example(long_chat(5)).length
    reports = {
        render_examples(
            renderer_of(prefix_kind=prefix_kind), [long_chat(9)], limit, 0.0, truncate=True
        )[1]
        for prefix_kind in ('none', 'tokens', 'words', 'neutral')
    }
    assert len(reports) == 1


@pytest.mark.parametrize('style', ['llama', 'mistral', 'gemma'])
def test_control_tokens_of_a_template_inside_a_conversation(renderer_of, style):
    renderer = renderer_of('trained', style, train_on='turns')
    tokens = (*STYLES[style][1], '<bos>', '<|proactive|>')

    def with_note(note):
        said = [
            dataclasses.replace(m, content=f'{m.content} {note} {m.content}') for m in CHAT.messages
        ]
        return dataclasses.replace(CHAT, messages=tuple(said))

    def controls(record):
        return [
            i for i in renderer.example(record).ids if i in renderer.tokenizer.added_tokens_decoder
        ]

    for token in tokens:
        with pytest.raises(UserError, match=r"record 'chat': the token .* inside a message"):
            check_records([with_note(token)], renderer, DEFAULT_BEHAVIORS)
        assert controls(with_note(token)) == controls(with_note('xx'))
        assert renderer.tokenizer.decode(renderer.example(with_note(token)).ids).count(token) >= 6
