"""Tests of the drills: every answer follows from the list, recomputed from the words alone."""

import collections
import random
import re

from bsft_jax.behaviorbench.pretraining import drills
from bsft_jax.behaviorbench.simulator import medicine

DRAWS = 300


def drawn(kind):
    return [kind(random.Random(index)) for index in range(DRAWS)]


def items(text: str) -> list[list[str]]:
    """Returns the items of a list, each split into its name and the rest."""
    return [item.split(' ', 1) for item in text.rstrip('.?').split(', ')]


def test_answers_about_pairs_are_right_in_both_directions():
    directions, without_word = collections.Counter(), 0
    for turn, qa in drawn(drills.pair_drill):
        listed = [item.split(' ', 1) for item in turn.content.removesuffix('.').split(', ')]
        pairs = [tuple(item) for item in listed if len(item) == 2]
        without_word += len(listed) - len(pairs)
        assert drills.MIN_LISTED <= len(listed) <= drills.MAX_LISTED
        assert len(qa) == drills.QUESTIONS_PER_LIST
        for question, answer, _ in qa:
            asked = question.removeprefix('And ').removesuffix('?').split(', ')
            by_name = asked[0] in drills.NAMES
            counterpart = dict(pairs if by_name else [pair[::-1] for pair in pairs])
            directions[by_name] += 1
            assert sorted(asked) == sorted(counterpart)
            assert answer == f'It is {", ".join(f"{key} {counterpart[key]}" for key in asked)}.'
    assert min(directions.values()) > 80 and without_word > 200


def test_verdicts_are_right_and_as_often_yes_as_no():
    verdicts = collections.Counter()
    for turn, qa in drawn(drills.verdict_drill):
        word_of = dict(items(turn.content))
        for question, answer, _ in qa:
            claims = items(question.removeprefix('Is it '))
            given = items(answer.removeprefix('It is '))
            assert sorted(word_of) == sorted(name for name, _ in claims)
            assert given == [
                [name, 'yes' if word_of[name] == word else 'no'] for name, word in claims
            ]
            verdicts.update(verdict for _, verdict in given)
    assert abs(verdicts['yes'] / verdicts.total() - 0.5) < 0.05


def test_values_are_on_the_side_that_is_printed_or_known():
    sides = collections.Counter()
    vitals = {vital.name: vital.limit for vital in medicine.VITAL_SIGNS}
    for turn, ((question, answer, _),) in drawn(drills.value_drill):
        expected = {}
        for fact in turn.content.rstrip('.').split(' and '):
            if ranged := re.fullmatch(r'(.+) is ([\d.]+) \(([\d.]+) to ([\d.]+)\)', fact):
                value, low, high = map(float, ranged.groups()[1:])
                expected[ranged[1]] = 'low' if value < low else 'high' if value > high else 'normal'
            elif limited := re.fullmatch(r'(.+) \(call (above|below) ([\d.]+)\) is ([\d.]+)', fact):
                beyond = float(limited[4]) - float(limited[3])
                is_critical = (beyond > 0) == (limited[2] == 'above')
                expected[limited[1]] = 'call' if is_critical else 'no call'
            else:
                name, value = fact.split(' is ')
                expected[name] = 'urgent' if float(value) <= vitals[name] else 'fine'
        asked = question.removeprefix('And ').removesuffix('?').split(', ')
        assert sorted(asked) == sorted(expected)
        assert answer == f'It is {", ".join(f"{name} {expected[name]}" for name in asked)}.'
        sides.update(expected.values())
    assert set(sides) == {'low', 'normal', 'high', 'call', 'no call', 'urgent', 'fine'}
    assert min(sides.values()) > 20


def test_orders_go_by_day_in_both_directions():
    for turn, qa in drawn(drills.order_drill):
        dated = (item.split(' on day ') for item in turn.content[:-1].split(', '))
        day_of = {event: int(day) for event, day in dated}
        assert len(set(day_of.values())) == len(day_of) and len(qa) == 2
        for question, answer, _ in qa:
            listed = answer.removeprefix('It is ')[:-1].split(', ')
            events = [item.split(' on day ')[0] for item in listed]
            reverse = question == 'And from the last?'
            assert events == sorted(day_of, key=day_of.get, reverse=reverse)


def person_in_role(people: str, role: str) -> str:
    """Returns the name of the person that a sentence gives the role."""
    patterns = [rf'(\w+)(?: is the {role}|, the {role})\b', rf'\bthe {role} is (\w+)']
    if role == 'patient':
        patterns += [r'(\w+)(?:, our patient| today, with)', r'The patient(?: today)? is (\w+)']
    (name,) = {match[1] for pattern in patterns if (match := re.search(pattern, people))}
    return name


def test_claims_about_roles_are_judged_for_the_person_in_the_role():
    verdicts = collections.Counter()
    for turn, qa in drawn(drills.role_drill):
        people, _, listed = turn.content.rpartition('. ')
        word_of = dict(re.findall(r'(?:^|[.,] )(\w+) ([a-z][\w ]*?)(?=[,.])', listed))
        assert len(word_of) >= 2
        for question, answer, _ in qa:
            role, claims = re.fullmatch(r'For the (\w+), (.+)\?', question).groups()
            name = person_in_role(f'{people}.', role)
            given = answer.removeprefix('It is ').removesuffix('.').split(', ')
            expected = [
                f'{claim} {"yes" if word_of[name] == claim else "no"}'
                for claim in claims.split(' or ')
            ]
            assert given == expected
            verdicts.update(item.rsplit(' ', 1)[1] for item in given)
    assert 0.3 < verdicts['yes'] / verdicts.total() < 0.6
