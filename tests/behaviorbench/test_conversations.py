"""Tests of the pretraining conversations: no task in them, right answers, and the round."""

import re

import pytest

from bsft_jax.behaviorbench.builders import BUILDERS, SPECS, scene
from bsft_jax.behaviorbench.pretraining import conversations
from bsft_jax.behaviorbench.simulator.cases import simulate
from bsft_jax.data import generated, sources
from tests.behaviorbench import comparisons, solvers

CASES = 1000


@pytest.mark.parametrize('scheme', generated.PRETRAINING)
def test_pretraining_text_has_no_task_in_it(scheme):
    requests = (*scene.REVIEW.seen, *scene.REVIEW.held_out)
    task_cases = {simulate(11, index).case_id for index in range(CASES)}
    records = sources.load_raw(f'{scheme}:{CASES}:11', 0)[0]
    assert len(records) == CASES and not task_cases & {record.case_id for record in records}
    for record in records:
        text = '\n'.join(message.content for message in record.messages)
        assert not any(request in text for request in requests)
        assert not re.search(r'Answer:|<\||(?m:^|[ \n])[A-D]\. ', text), text
        assert record.case_id.startswith(('pre-', 'list-', 'sheet-'))
        assert record.messages[-1].role == 'assistant'
        assert not (record.options or record.behavior or record.category or record.pair_id)
        assert not any(message.behavior for message in record.messages)


def test_answers_about_defects_are_right():
    questions = [q for q in conversations.gate_questions(100, 3) if q.gate.startswith('defect: ')]
    assert len(questions) == 100 * len(comparisons.TWINS)
    for question in questions:
        text = solvers.words_of(question.record)
        fix, _ = solvers.SOLVERS[question.gate.removeprefix('defect: ')](text, ())
        word, action = question.answer.removesuffix('.').split(': ')
        expected = (bool(fix), fix or solvers.sign_option(text))
        assert (word in ('Yes', 'First'), action) == expected, question
    first_words = {question.answer.split(':')[0] for question in questions}
    assert first_words == {'Yes', 'No', 'First', 'Nothing'}


def test_gates_are_the_named_skills_and_a_defect_of_each_category_with_twins():
    gates = {question.gate for question in conversations.gate_questions(50, 3)}
    assert gates == {*scene.Gate, *(f'defect: {category}' for category in comparisons.TWINS)}


def test_a_round_has_every_category_and_the_extra_ones_three_times():
    subjects = conversations._round()
    counts = {spec.name: 1 if spec.extra_position is None else 3 for spec in SPECS}
    assert {category: subjects.count(category) for category in BUILDERS} == counts
    assert len(subjects) == sum(counts.values()) + subjects.count('sheet') + subjects.count('drill')
    positions = [spec.extra_position for spec in SPECS if spec.extra_position is not None]
    assert sorted(positions) == list(range(1, len(positions) + 1))
