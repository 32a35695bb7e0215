"""Lists: every answer follows from what is listed, recomputed from the words alone."""

import collections
import random
import re

from bsft_jax.behaviorbench import lists, medicine

ROUNDS = 300


def made(kind):
    return [kind(random.Random(index)) for index in range(ROUNDS)]


def items(text: str) -> list[list[str]]:
    return [item.split(' ', 1) for item in text.rstrip('.?').split(', ')]


def test_answers_about_lists_are_right_in_both_directions():
    directions, alone = collections.Counter(), 0
    for turn, asks in made(lists.pairs):
        listed = [item.split(' ', 1) for item in turn.content.removesuffix('.').split(', ')]
        told = [tuple(item) for item in listed if len(item) == 2]
        alone += len(listed) - len(told)
        assert lists.FEWEST_LISTED <= len(listed) <= lists.MOST_LISTED and len(asks) == lists.ROUNDS
        for question, answer in asks:
            asked = question.removeprefix('And ').removesuffix('?').split(', ')
            by_name = asked[0] in lists.NAMES
            other = dict(told if by_name else [pair[::-1] for pair in told])
            directions[by_name] += 1
            assert sorted(asked) == sorted(other)
            assert answer == f'It is {", ".join(f"{one} {other[one]}" for one in asked)}.'
    assert min(directions.values()) > 80 and alone > 200


def test_verdicts_are_right_and_as_often_yes_as_no():
    verdicts = collections.Counter()
    for turn, asks in made(lists.verdicts):
        told = dict(items(turn.content))
        for question, answer in asks:
            claims, said = items(question.removeprefix('Is it ')), items(answer.removeprefix('It is '))
            assert sorted(told) == sorted(name for name, _ in claims)
            assert said == [[name, 'yes' if told[name] == word else 'no'] for name, word in claims]
            verdicts.update(word for _, word in said)
    assert abs(verdicts['yes'] / verdicts.total() - 0.5) < 0.05


def test_values_are_on_the_side_that_is_printed_or_known():
    sides = collections.Counter()
    vitals = {vital.name: vital.limit for vital in medicine.RED_VITALS}
    for turn, ((question, answer),) in made(lists.values):
        expected = {}
        for part in turn.content.rstrip('.').split(' and '):
            if ranged := re.fullmatch(r'(.+) is ([\d.]+) \(([\d.]+) to ([\d.]+)\)', part):
                value, low, high = map(float, ranged.groups()[1:])
                expected[ranged[1]] = 'low' if value < low else 'high' if value > high else 'normal'
            elif limited := re.fullmatch(r'(.+) \(call (above|below) ([\d.]+)\) is ([\d.]+)', part):
                beyond = float(limited[4]) - float(limited[3])
                expected[limited[1]] = 'call' if (beyond > 0) == (limited[2] == 'above') else 'no call'
            else:
                name, value = part.split(' is ')
                expected[name] = 'urgent' if float(value) <= vitals[name] else 'fine'
        asked = question.removeprefix('And ').removesuffix('?').split(', ')
        assert sorted(asked) == sorted(expected)
        assert answer == f'It is {", ".join(f"{name} {expected[name]}" for name in asked)}.'
        sides.update(expected.values())
    assert set(sides) == {'low', 'normal', 'high', 'call', 'no call', 'urgent', 'fine'}
    assert min(sides.values()) > 20


def test_orders_go_by_day_in_both_directions():
    for turn, asks in made(lists.orders):
        day_of = {
            event: int(day)
            for event, day in (item.split(' on day ') for item in turn.content[:-1].split(', '))
        }
        assert len(set(day_of.values())) == len(day_of) and len(asks) == 2
        for question, answer in asks:
            said = [item.split(' on day ')[0] for item in answer.removeprefix('It is ')[:-1].split(', ')]
            assert said == sorted(day_of, key=day_of.get, reverse=question == 'And from the last?')


def test_roles_are_answered_for_the_one_who_has_them():
    verdicts = collections.Counter()
    for turn, asks in made(lists.roles):
        told = dict(re.findall(r'(?:^|[.,] )(\w+) ([a-z][\w ]*?)(?=[,.])', turn.content.rpartition('. ')[2]))
        assert len(told) >= 2
        for question, answer in asks:
            role, claims = re.fullmatch(r'For the (\w+), (.+)\?', question).groups()
            who = turn.content.rpartition('. ')[0] + '.'
            patterns = (
                (r'(\w+)(?: is the patient|, our patient| today, with)', r'came with (\w+), our patient')
                if role == 'patient'
                else (rf'(\w+)(?: is the {role}|, the {role})',)
            )
            name = next(found[1] for pattern in reversed(patterns) if (found := re.search(pattern, who)))
            said = [
                item.rsplit(' ', 1) for item in answer.removeprefix('It is ').removesuffix('.').split(', ')
            ]
            assert said == [[claim, 'yes' if told[name] == claim else 'no'] for claim in claims.split(' or ')]
            verdicts.update(word for _, word in said)
    assert 0.3 < verdicts['yes'] / verdicts.total() < 0.6
