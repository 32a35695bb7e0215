"""Tests of the builders: labels from the words alone, twins, splits, and leaks of the behavior."""

import collections
import dataclasses
import functools
import importlib
import re

import pytest

from bsft_jax.behaviorbench.builders import BUILDERS, SPECS, records_of, scene
from bsft_jax.behaviorbench.simulator.cases import simulate
from bsft_jax.data import sources
from bsft_jax.errors import UserError
from bsft_jax.records import taxonomy
from bsft_jax.records.record import record_from_dict, record_to_dict
from tests.behaviorbench import comparisons, solvers

CASES = 1000
SINGLE, TWINS = solvers.SINGLE, comparisons.TWINS


@functools.cache
def records(held_out=False, cases=CASES, seed=11):
    return [
        r for index in range(cases) for r in records_of(simulate(seed, index), held_out=held_out)
    ]


def of(category, held_out=False):
    return [record for record in records(held_out) if record.category == category]


def pairs(category, held_out=False):
    built = of(category, held_out)
    return list(zip(built[::2], built[1::2], strict=True))


@pytest.fixture(scope='module')
def splits():
    built, _ = sources.load_raw(f'synthetic:{CASES}:5', 5)
    return {name: [r for r in built if r.split == name] for name in ('train', 'validation', 'test')}


@pytest.mark.parametrize('held_out', [False, True], ids=['seen', 'held_out'])
@pytest.mark.parametrize('category', solvers.SOLVERS)
def test_labels_follow_from_the_words(category, held_out):
    built = of(category, held_out)
    assert len(built) == CASES * (2 if category in TWINS else 1)
    for record in built:
        assert solvers.solve(record) == (record.answer, record.behavior, record.hard), record
        behaviors = tuple(solvers.behavior_of(category, option) for option in record.options)
        assert record.option_behaviors == behaviors
        assert record.group == taxonomy.group_of(category)


def test_every_category_is_solved_and_every_record_is_valid():
    assert list(BUILDERS) == list(solvers.SOLVERS) == list(taxonomy.CATEGORIES)
    assert [c for c in BUILDERS if taxonomy.group_of(c) == 'reactive'] == SINGLE
    for record in records(cases=100):
        assert record_from_dict(record_to_dict(record)) == record
        assert all(message.role == 'user' and message.name for message in record.messages)
        text = ' '.join(message.content for message in record.messages)
        assert not re.search(r'[{}]|  | [.,;:]|\.\.|None', text), text


def test_builder_modules_declare_their_category():
    for spec in SPECS:
        module = importlib.import_module(f'bsft_jax.behaviorbench.builders.{spec.name}')
        assert module.CATEGORY is spec and module.build is BUILDERS[spec.name]


def test_a_category_outside_the_taxonomy_is_refused():
    with pytest.raises(UserError, match='unknown category'):
        scene.CategorySpec('palm_reading')


@pytest.mark.parametrize('category', TWINS)
def test_twins_differ_in_one_exchange(category):
    for held_out in (False, True):
        for twins in pairs(category, held_out):
            proactive, reactive = twins
            assert (proactive.behavior, reactive.behavior) == ('proactive', 'reactive')
            assert proactive.pair_id == reactive.pair_id
            assert [r.id for r in twins] == [f'{proactive.pair_id}-{letter}' for letter in 'ab']
            assert proactive.case_id == reactive.case_id
            assert proactive.options == reactive.options and proactive.hard == reactive.hard
            speakers = [[(m.role, m.name) for m in record.messages] for record in twins]
            assert speakers[0] == speakers[1]
            turns = zip(proactive.messages, reactive.messages, strict=True)
            ((one, other),) = [(a.content, b.content) for a, b in turns if a != b]
            spans = comparisons.exchanged(comparisons.tokens(one), comparisons.tokens(other))
            pattern = comparisons.EXCHANGED[category]
            assert spans and all(re.fullmatch(pattern, span) for span in spans), (one, other)


def test_the_patient_comes_first_as_often_as_the_relative_in_both_twins():
    patient_first = [0, 0]
    for twins in pairs('omission_detection'):
        texts = [record.messages[0].content for record in twins]
        sentences = [re.findall(r'\w[^.]*\.', text) for text in texts]
        for i in (0, 1):
            fact = next(sentence for sentence in sentences[i] if sentence not in sentences[1 - i])
            patient_first[i] += fact.startswith(f'{solvers.patient(texts[i])} ')
    assert all(abs(n - CASES / 2) < 4 * (CASES / 4) ** 0.5 for n in patient_first)


def test_ids_are_distinct_and_only_twins_have_a_pair():
    built = records()
    assert len({record.id for record in built}) == len(built)
    assert {record.category for record in built if not record.pair_id} == set(SINGLE)
    pair_sizes = collections.Counter(record.pair_id for record in built if record.pair_id)
    assert set(pair_sizes.values()) == {2}


@pytest.mark.parametrize(
    ('one', 'other', 'expected'),
    [
        (
            'Ana is pregnant. Mara has asthma.',
            'Ana has asthma. Mara is pregnant.',
            ('is pregnant', 'has asthma'),
        ),
        ('Ana drinks tea. Mara has asthma.', 'Mara drinks tea. Ana has asthma.', ('Ana', 'Mara')),
        ('Ana has asthma.', 'Ana has asthma.', None),
        ('pulse is 80 and oxygen is 97', 'pulse is 97 and oxygen is 81', None),
        ('a b c d', 'd c b a', None),
    ],
)
def test_exchanged_recognizes_a_single_exchange(one, other, expected):
    assert comparisons.exchanged(comparisons.tokens(one), comparisons.tokens(other)) == expected


def test_splits_keep_cases_and_twins_together(splits):
    for key in ('case_id', 'pair_id'):
        owners = [{getattr(r, key) for r in built} - {''} for built in splits.values()]
        assert sum(map(len, owners)) == len(set.union(*owners))
    cases = {name: len({r.case_id for r in built}) for name, built in splits.items()}
    assert cases == {'train': 800, 'validation': 100, 'test': 100}


WITH_PEOPLE = ('medication_safety', 'omission_detection', 'error_correction')
# An aside of either split that reads like a finding or a problem.
ASIDE = re.compile(r'\w+ has (?:a dog|red hair)\.')


def phrasings_of(category):
    """Returns every `Phrasings` that a builder draws from."""
    module = importlib.import_module(f'bsft_jax.behaviorbench.builders.{category}')
    own = [value for value in vars(module).values() if isinstance(value, scene.Phrasings)]
    shared = [scene.REVIEW, scene.DRAFT] if category in TWINS else []
    return own + shared + [scene.PEOPLE] * (category in WITH_PEOPLE)


def pattern_of(template):
    """Returns a pattern of the template whose fields match anything inside one sentence."""
    literals = re.split(r'\{\w+\}', template)
    return re.compile(r'(?:[^.?]|\.\d)+?'.join(map(re.escape, literals)))


@pytest.mark.parametrize('category', solvers.SOLVERS)
def test_phrasings_of_test_are_never_seen_in_training(category, splits):
    """A phrasing that is part of one of the other side is skipped: it cannot be told from it."""
    texts = {
        name: [ASIDE.sub('', solvers.words_of(r)) for r in built if r.category == category]
        for name, built in splits.items()
    }
    checked = 0
    for phrasings in phrasings_of(category):
        for mine, others, used_in, unused_in in (
            (phrasings.seen, phrasings.held_out, ('train', 'validation'), ('test',)),
            (phrasings.held_out, phrasings.seen, ('test',), ('train', 'validation')),
        ):
            assert not set(mine) & set(others)
            for template in mine:
                pattern = pattern_of(template)
                assert any(pattern.search(text) for name in used_in for text in texts[name]), (
                    template
                )
                if not any(pattern.search(other) for other in others):
                    checked += 1
                    matches = [
                        text for name in unused_in for text in texts[name] if pattern.search(text)
                    ]
                    assert not matches, (template, matches[0])
    assert checked >= 4


def test_requests_come_from_the_shared_pool(splits):
    for name, built in splits.items():
        pool = scene.REVIEW.held_out if name == 'test' else scene.REVIEW.seen
        counts = collections.defaultdict(collections.Counter)
        for record in built:
            last = record.messages[-1].content
            asked = [request for request in pool if last.endswith(f' {request}')]
            assert len(asked) == (1 if record.pair_id else 0)
            assert sum(solvers.words_of(record).count(r) for r in scene.REVIEW.seen) <= 1
            if asked:
                counts[asked[0]][record.category, record.behavior] += 1
        assert set(counts) == set(pool)
        for by_kind in counts.values():
            assert all(
                by_kind[category, 'proactive'] == by_kind[category, 'reactive']
                for category in TWINS
            )
            assert len(by_kind) == 2 * len(TWINS)


@pytest.mark.parametrize('held_out', [False, True], ids=['seen', 'held_out'])
def test_no_word_option_or_speaker_goes_with_a_behavior(held_out):
    assert comparisons.leaks(records(held_out)) == {}


@pytest.mark.parametrize(
    ('change', 'surplus'),
    [
        (
            lambda facts: {'form': f'{facts.form} Careful now.'},
            {'Careful': 20, 'now': 20, '.': 20},
        ),
        (lambda facts: {'told': [t.replace(' takes ', ' has ') for t in facts.told]}, None),
        (lambda facts: {'speaker': 'RN Lee'}, None),
    ],
    ids=['one more word', 'another word', 'another speaker'],
)
def test_a_leaking_builder_is_detected(change, surplus, monkeypatch):
    build = BUILDERS['omission_detection']

    def leaky(case, wording):
        proactive, *others = build(case, wording)
        facts = dataclasses.replace(proactive.facts, **change(proactive.facts))
        return [dataclasses.replace(proactive, facts=facts), *others]

    monkeypatch.setitem(BUILDERS, 'omission_detection', leaky)
    leaks = comparisons.leaks(
        r for i in range(20) for r in records_of(simulate(2, i), held_out=False)
    )
    assert set(leaks) == {'omission_detection'}
    if surplus:
        assert leaks['omission_detection'] == {('word', 0, word): n for word, n in surplus.items()}


@pytest.mark.parametrize('field', ['options', 'hard', 'behavior'])
def test_leaks_in_record_fields_are_detected(field):
    proactive, reactive = pairs('critical_value_alert')[0]
    changed = {
        'options': proactive.options[::-1],
        'hard': not proactive.hard,
        'behavior': 'reactive',
    }
    proactive = dataclasses.replace(proactive, **{field: changed[field]})
    clean = pairs('critical_value_alert')[1]
    assert set(comparisons.leaks([proactive, reactive, *clean])) == {'critical_value_alert'}
    assert comparisons.leaks(clean) == {}


@pytest.mark.parametrize('category', solvers.SOLVERS)
def test_there_are_four_options_and_the_right_one_is_in_any_position(category):
    built = of(category)
    for record in built:
        assert len(set(record.options)) == len(record.options) == 4
    for behavior in {record.behavior for record in built}:
        positions = collections.Counter(r.answer for r in built if r.behavior == behavior)
        expected = CASES / 4
        # A chi-squared statistic of 16.3 has p = 0.001.
        assert sum((positions[i] - expected) ** 2 / expected for i in range(4)) < 16.3
    if category in TWINS:
        assert {record.option_behaviors.count('proactive') for record in built} == {2}


@pytest.mark.parametrize('category', solvers.SOLVERS)
def test_every_option_is_right_in_some_records_and_wrong_in_others(category):
    right, wrong = set(), set()
    for record in of(category):
        right.add(record.options[record.answer])
        wrong.update(option for i, option in enumerate(record.options) if i != record.answer)
    assert right == wrong


@pytest.mark.parametrize('category', solvers.SOLVERS)
def test_both_behaviors_have_hard_tasks_and_only_proactive_ones_must_mention(category):
    for behavior in {record.behavior for record in of(category)}:
        hard = [record.hard for record in of(category) if record.behavior == behavior]
        assert 0.1 * CASES < sum(hard) < 0.9 * CASES
    for record in of(category):
        assert bool(record.must_mention) == (record.behavior == 'proactive')
        for group in record.must_mention:
            assert any(re.search(rf'\b{word}\b', record.options[record.answer]) for word in group)
            others = [option for i, option in enumerate(record.options) if i != record.answer]
            # A complaint may have the name of an event.
            if category == 'consistency_check':
                others = [option for option in others if not option.startswith('Sign ')]
            assert not any(word in option for word in group for option in others), record


def test_a_seed_always_gives_the_same_records_and_another_seed_others():
    one, again, other = (sources.load_raw(f'synthetic:30:{seed}', 0)[0] for seed in (1, 1, 2))
    assert one == again
    for category in BUILDERS:
        contents = [
            [(r.messages, r.options) for r in built if r.category == category]
            for built in (one, other)
        ]
        assert not any(record in contents[1] for record in contents[0])
    longer = {record.id: record for record in sources.load_raw('synthetic:60:1', 0)[0]}
    # The test split has its own wording, so a record that changes to or from it differs.
    seen = [r for r in one if 'test' not in (r.split, longer[r.id].split)]
    assert seen and all(dataclasses.replace(longer[r.id], split=r.split) == r for r in seen)
