"""Tests of the fact sheets: every answer is what the sheet says, and small vocabularies lead."""

import collections
import random
import re

from bsft_jax.behaviorbench.pretraining import drills, fact_sheets
from tests.behaviorbench import solvers


def test_answers_are_what_the_sheet_says():
    kinds = collections.Counter()
    for index in range(500):
        turn, qa = fact_sheets.fact_sheet(random.Random(index))
        assert 3 <= len(set(qa)) == len(qa) <= fact_sheets.MAX_QUESTIONS
        has_patient = any('patient' in question for question, _, _ in qa)
        patient = solvers.patient(turn.content) if has_patient else ''
        for question, answer, _ in qa:
            fact = re.sub(r'^(Yes|No), |, so (yes|no)(?=\.$)', '', answer)
            has_verdict = fact != answer
            first_word = answer.split(' ')[0].rstrip(',') if has_verdict else question.split(' ')[0]
            kinds[first_word] += 1
            if question.startswith('Who is the '):
                name = fact.removesuffix('.')
                assert name in turn.content
                assert 'patient' not in question or name == patient
                continue
            assert fact in turn.content and len(fact.split()) > 2
            name = fact.split()[0]
            if question.startswith('Is it '):
                asked = patient if 'the patient' in question else question.split()[2]
                assert answer.startswith('Yes' if asked == name else 'No')
            elif ', is it ' in question:
                clause, asked = question.removeprefix('Who ').removesuffix('?').split(', is it ')
                assert answer == f'{name} {clause}, so {"yes" if asked == name else "no"}.'
            elif question.startswith('Who '):
                assert fact == f'{name} {question.removeprefix("Who ").removesuffix("?")}.'
            elif 'the patient' in question:
                assert name == patient
    assert min(kinds[word] for word in ('Yes', 'No', 'Who', 'What')) > 100


def test_a_few_names_and_facts_make_up_most_sheets():
    names = collections.Counter()
    for index in range(3000):
        words = re.findall(r'\w+', fact_sheets.fact_sheet(random.Random(index))[0].content)
        names.update(word for word in words if word in drills.NAMES)
    frequent = sum(names[name] for name in drills.NAMES[: drills.MIN_VOCABULARY_NAMES])
    assert frequent > 0.4 * names.total() and set(names) == set(drills.NAMES)
