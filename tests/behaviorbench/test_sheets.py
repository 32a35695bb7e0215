"""Sheets: every answer is what the sheet says, and small vocabularies lead."""

import collections
import random
import re

from bsft_jax.behaviorbench import lists, sheets


def test_answers_are_what_the_sheet_says():
    kinds = collections.Counter()
    for index in range(500):
        turn, asks = sheets.sheet(random.Random(index))
        assert 3 <= len(set(asks)) == len(asks) <= sheets.QUESTIONS
        patient = re.search(r'(\w+)(?: is the patient|, our patient| today, with)', turn.content)
        for question, answer in asks:
            told = re.sub(r'^(Yes|No), |, so (yes|no)(?=\.$)', '', answer)
            kinds[answer.split(' ')[0].rstrip(',') if told != answer else question.split(' ')[0]] += 1
            if question.startswith('Who is the '):
                wanted = patient[1] if 'patient' in question else None
                assert told.removesuffix('.') == (wanted or told.removesuffix('.')) in turn.content
                continue
            assert told in turn.content and len(told.split()) > 2
            name = told.split()[0]
            if question.startswith('Is it '):
                asked = patient[1] if 'the patient' in question else question.split()[2]
                assert answer.startswith('Yes' if asked == name else 'No')
            elif ', is it ' in question:
                fact, asked = question.removeprefix('Who ').removesuffix('?').split(', is it ')
                assert answer == f'{name} {fact}, so {"yes" if asked == name else "no"}.'
            elif question.startswith('Who '):
                assert told == f'{name} {question.removeprefix("Who ").removesuffix("?")}.'
            elif 'the patient' in question:
                assert name == patient[1]
    assert min(kinds[word] for word in ('Yes', 'No', 'Who', 'What')) > 100


def test_few_names_and_facts_make_up_most_sheets():
    names = collections.Counter()
    for index in range(3000):
        told = re.findall(r'\w+', sheets.sheet(random.Random(index))[0].content)
        names.update(word for word in told if word in lists.NAMES)
    few = sum(names[name] for name in lists.NAMES[: lists.FEWEST_NAMES])
    assert few > 0.4 * names.total() and set(names) == set(lists.NAMES)
