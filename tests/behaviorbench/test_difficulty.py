"""Tests of the difficulty levels: labels from the words alone, twins, and what levels share."""

import collections
import functools
import re

import pytest

from bsft_jax.behaviorbench.builders import BUILDERS, notes, records_of, remarks
from bsft_jax.behaviorbench.builders.difficulty import DIFFICULTIES, TESTED_DIFFICULTIES
from bsft_jax.behaviorbench.simulator.cases import simulate
from bsft_jax.records.record import record_from_dict, record_to_dict
from tests.behaviorbench import comparisons, difficulty_solvers, solvers

CASES, MANY_CASES = 40, 1000
HELD_OUT = pytest.mark.parametrize('held_out', [False, True], ids=['seen', 'held_out'])
LEVELS = pytest.mark.parametrize('difficulty', DIFFICULTIES)


@functools.cache
def records(difficulty, held_out=False, cases=CASES):
    return [
        r
        for index in range(cases)
        for r in records_of(simulate(11, index), held_out=held_out, difficulty=difficulty)
    ]


def pairs(difficulty, held_out=False):
    """Returns the twins, the proactive one first."""
    own = [r for r in records(difficulty, held_out) if r.pair_id]
    return list(zip(own[::2], own[1::2], strict=True))


def check_labels(built):
    for record in built:
        assert difficulty_solvers.solve(record) == (
            record.answer,
            record.behavior,
            record.hard,
        ), record


@HELD_OUT
@LEVELS
def test_labels_follow_from_the_words(difficulty, held_out):
    check_labels(records(difficulty, held_out))


@pytest.mark.slow
@HELD_OUT
@LEVELS
def test_labels_of_many_cases_follow_from_the_words(difficulty, held_out):
    check_labels(records(difficulty, held_out, MANY_CASES))


def test_a_wrong_label_is_detected():
    for difficulty in DIFFICULTIES:
        for proactive, reactive in pairs(difficulty)[:8]:
            answer, *_ = difficulty_solvers.solve(proactive)
            assert answer == proactive.answer != reactive.answer
    note = records(4)[0].messages[0].content
    assert difficulty_solvers.translate_note(f'{note}\n- Ana: latex allergy.').endswith(
        ' - Ana is allergic to latex.'
    )


@LEVELS
def test_levels_share_draft_request_options_and_answer(difficulty):
    for record, full in zip(records(difficulty), records(3), strict=True):
        suffix = '' if difficulty == 3 else f'-d{difficulty}'
        base = full.pair_id or full.id
        assert record.id == base + suffix + full.id[len(base) :]
        assert record.pair_id == (full.pair_id and full.pair_id + suffix)
        assert (record.case_id, record.difficulty) == (full.case_id, difficulty)
        for field in ('options', 'option_behaviors', 'answer', 'behavior', 'must_mention'):
            assert getattr(record, field) == getattr(full, field)
        assert record.hard == (full.hard and difficulty > 2)
        if record.pair_id:
            assert record.messages[-1] == full.messages[-1]
        else:
            question = re.split(r'(?<=[.?]) ', full.messages[-1].content)[-1]
            assert re.search(rf'\s{re.escape(question)}$', record.messages[-1].content)


@LEVELS
def test_every_record_is_valid(difficulty):
    built = records(difficulty)
    assert len(built) == 21 * CASES == len({record.id for record in built})
    assert [r.category for r in built[:21]] == [c for c in BUILDERS for _ in range(count(c))]
    for record in built:
        assert record_from_dict(record_to_dict(record)) == record
        text = ' '.join(message.content for message in record.messages)
        assert not re.search(r'[{}]|  | [.,;:]|\.\.|None', text), text


def count(category):
    return 2 if category in comparisons.TWINS else 1


@HELD_OUT
@LEVELS
def test_twins_differ_in_one_turn_alone(difficulty, held_out):
    for proactive, reactive in pairs(difficulty, held_out):
        assert (proactive.behavior, reactive.behavior) == ('proactive', 'reactive')
        assert proactive.options == reactive.options and proactive.pair_id == reactive.pair_id
        turns = list(zip(proactive.messages, reactive.messages, strict=True))
        assert all(a.name == b.name for a, b in turns)
        assert sum(a != b for a, b in turns) == 1


@HELD_OUT
def test_twins_exchange_two_spans_of_a_note(held_out):
    for proactive, reactive in pairs(4, held_out):
        contents = proactive.messages[0].content, reactive.messages[0].content
        category = proactive.category
        assert difficulty_solvers.exchanged_in_note(category, *contents), contents


@HELD_OUT
def test_no_word_of_a_note_goes_with_a_behavior(held_out):
    assert comparisons.leaks(records(4, held_out)) == {}


@HELD_OUT
def test_words_beside_a_value_of_a_note_do_not_tell_whose_it_is(held_out):
    """Otherwise pairs of neighboring words, which shortcut baselines see, give it away."""
    checked = collections.Counter()
    for twins in pairs(4, held_out):
        one, other = (re.findall(r'\d+\.\d+|\w+', r.messages[0].content) for r in twins)
        places = [i for i, (a, b) in enumerate(zip(one, other, strict=True)) if a != b]
        is_value = all(
            word.replace('.', '').isdigit() for i in places for word in (one[i], other[i])
        )
        # The day of an event stands behind a word that all events have, before the event.
        if is_value and twins[0].category != 'consistency_check':
            assert len({one[i - 1] for i in places}) == 1
            assert len({one[i + 1] == 'mm' for i in places}) == 1
            checked[twins[0].category] += 1
    assert checked['critical_value_alert'] == checked['deterioration_check'] == CASES
    assert 0 < checked['follow_up_planning'] < CASES


def test_the_simplest_levels_are_short_and_hold_one_fact():
    for alone, padded, full in zip(records(1), records(2), records(3), strict=True):
        assert len(alone.messages) == (2 if alone.pair_id else 1)
        assert len(solvers.words_of(alone)) < len(solvers.words_of(padded))
        if full.category in ('medication_safety', 'omission_detection', 'treatment_selection'):
            held = [len(solvers.holders(solvers.words_of(r))) for r in (alone, padded, full)]
            assert held[0] == held[1] <= 1 <= held[2]


@LEVELS
@pytest.mark.parametrize('category', ['temporal_ordering', 'consistency_check'])
def test_places_of_events_do_not_tell_their_order(category, difficulty):
    own = [r for r in records(difficulty) if r.category == category]
    texts = [' '.join(message.content for message in record.messages) for record in own]
    days = [[int(day) for day in re.findall('[Dd]ay ([0-9]+)', text)] for text in texts]
    in_order = sum(listed.index(min(listed)) == 0 for listed in days)
    # Of four events the earliest stands first in a quarter of the charts, of two or three in more.
    assert 0.1 < in_order / len(own) < 0.6, in_order / len(own)


@HELD_OUT
def test_notes_have_150_to_400_words_in_every_style(held_out):
    styles = notes.HELD_OUT_STYLES if held_out else notes.SEEN_STYLES
    for category in BUILDERS:
        own = [r for r in records(4, held_out) if r.category == category]
        texts = [r.messages[0].content for r in own]
        assert all(150 <= len(text.split()) <= 400 for text in texts)
        lengths = [len(text.split()) for text in texts]
        assert max(lengths) - min(lengths) > 60
        for style in styles:
            first, *_ = (heading for heading in style.headings.values())
            assert any(
                text.startswith(style.opening.partition('{')[0]) and first in text for text in texts
            )


def pattern_of(template):
    """Returns a pattern of a remark."""
    parts = re.split(r'(\{.*?\})', template)
    return ''.join(
        rf'(?:\d+|{"|".join(map(re.escape, part[1:-1].split("|")))})'
        if part.startswith('{')
        else re.escape(part)
        for part in parts
    )


def test_remarks_and_styles_of_test_are_never_seen_in_training():
    seen, held_out = (
        '\n'.join(record.messages[0].content for record in records(4, side))
        for side in (False, True)
    )
    for phrasings in remarks.REMARKS.values():
        for own, mine, others in (
            (phrasings.seen, seen, held_out),
            (phrasings.held_out, held_out, seen),
        ):
            for template in own:
                assert re.search(pattern_of(template), mine), template
                assert not re.search(pattern_of(template), others), template
    for own, mine, others in (
        (notes.SEEN_STYLES, seen, held_out),
        (notes.HELD_OUT_STYLES, held_out, seen),
    ):
        headings = {h for style in own for h in style.headings.values() if h}
        assert headings and all(h in mine and h not in others for h in headings)


def test_remarks_name_nothing_that_a_task_asks_for():
    """Words of options, of hazards and of asides are in no remark."""
    words = {
        word
        for record in records(3, cases=300)
        for option in record.options
        for word in re.findall(r'[a-z]{4,}', option.lower())
    }
    words -= {'sign', 'note', 'plan', 'call', 'about', 'high', 'first', 'change', 'left', 'lens'}
    text = ' '.join(
        template.lower()
        for phrasings in remarks.REMARKS.values()
        for template in (*phrasings.seen, *phrasings.held_out)
    )
    found = {word for word in words if re.search(rf'\b{word}\b', text)}
    assert not found


def test_remarks_that_may_contradict_the_facts_are_left_out():
    for record in records(4):
        text = record.messages[0].content
        if record.category == 'deterioration_check':
            assert not re.search(r'mmHg, HR|SpO2 \d|RR \d', text), text
        if record.category in ('critical_value_alert', 'laboratory_interpretation'):
            assert not re.search('WBC|TSH|ALT', text), text
        if record.category in ('differential_diagnosis', 'image_reasoning'):
            assert not re.search('WBC|T 36|Abdomen|Vesicular', text), text


def test_only_difficult_levels_are_tested():
    assert set(TESTED_DIFFICULTIES) == {3, 4} and set(DIFFICULTIES) == {1, 2, 3, 4}
