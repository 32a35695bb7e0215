"""The thirteen builders: labels from the words alone, twins, splits, and what words give away."""

import collections
import dataclasses
import functools
import importlib
import re

import pytest

from bsft_jax.behaviorbench import sources, taxonomy, text
from bsft_jax.behaviorbench.builders import BUILDERS, records_of, scene
from bsft_jax.behaviorbench.cases import simulate
from bsft_jax.behaviorbench.records import record_from_dict, record_to_dict
from tests.behaviorbench import solvers

CASES = 1000
SINGLE = list(solvers.SOLVERS)[:5]
TWINS = list(solvers.SOLVERS)[5:]
# What changes places in the twin. The rest stays where it is, so that no order tells the behavior.
MOVED = {
    'medication_safety': r'[a-z ]+',
    'follow_up_planning': r'\d|pending|final',
    'deterioration_check': r'\d+',
    'omission_detection': r'[A-Z][a-z]+',
    'error_correction': r'[a-z]+',
    'consistency_check': r'\d+',
    'critical_value_alert': r'\d+\.\d',
    'ambiguity_clarification': r'\d+ mg|unknown dose|dose unknown|dose not known',
}


@functools.cache
def records(held_out=False, cases=CASES, seed=11):
    return [r for index in range(cases) for r in records_of(simulate(seed, index), held_out=held_out)]


def of(category, held_out=False):
    return [record for record in records(held_out) if record.category == category]


def pairs(category, held_out=False):
    made = of(category, held_out)
    return list(zip(made[::2], made[1::2], strict=True))


@pytest.fixture(scope='module')
def splits():
    made, _ = sources.load_raw(f'synthetic:{CASES}:5', 5)
    return {name: [r for r in made if r.split == name] for name in ('train', 'validation', 'test')}


@pytest.mark.parametrize('held_out', [False, True], ids=['seen', 'held_out'])
@pytest.mark.parametrize('category', solvers.SOLVERS)
def test_labels_follow_from_the_words(category, held_out):
    made = of(category, held_out)
    assert len(made) == CASES * (2 if category in TWINS else 1)
    for record in made:
        assert solvers.solve(record) == (record.answer, record.behavior, record.hard), record
        behaviors = tuple(solvers.behavior_of(category, option) for option in record.options)
        assert record.option_behaviors == behaviors
        assert record.group == taxonomy.group_of(category)


def test_every_category_is_solved_and_every_record_is_valid():
    assert list(BUILDERS) == list(solvers.SOLVERS) == list(taxonomy.CATEGORIES)
    assert [taxonomy.group_of(category) == 'reactive' for category in BUILDERS] == [True] * 5 + [False] * 8
    for record in records(cases=100):
        assert record_from_dict(record_to_dict(record)) == record
        assert all(message.role == 'user' and message.name for message in record.messages)
        said = ' '.join(message.content for message in record.messages)
        assert not re.search(r'[{}]|  | [.,;:]|\.\.|None', said), said


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
            moved = solvers.exchanged(solvers.tokens(one), solvers.tokens(other))
            assert moved and all(re.fullmatch(MOVED[category], part) for part in moved), (one, other)


def test_who_is_told_of_first_tells_nothing():
    first = [0, 0]
    for twins in pairs('omission_detection'):
        told = [record.messages[0].content for record in twins]
        sentences = [re.findall(r'\w[^.]*\.', words) for words in told]
        for i in (0, 1):
            fact = next(sentence for sentence in sentences[i] if sentence not in sentences[1 - i])
            first[i] += fact.startswith(f'{solvers.patient(told[i])} ')
    assert all(abs(n - CASES / 2) < 4 * (CASES / 4) ** 0.5 for n in first)


def test_ids_are_distinct_and_only_twins_have_a_pair():
    made = records()
    assert len({record.id for record in made}) == len(made)
    assert {record.category for record in made if not record.pair_id} == set(SINGLE)
    assert set(collections.Counter(record.pair_id for record in made if record.pair_id).values()) == {2}


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
def test_exchanged_tells_one_exchange_from_others(one, other, expected):
    assert solvers.exchanged(solvers.tokens(one), solvers.tokens(other)) == expected


def test_splits_keep_cases_and_twins_together(splits):
    for key in ('case_id', 'pair_id'):
        owners = [{getattr(r, key) for r in made} - {''} for made in splits.values()]
        assert sum(map(len, owners)) == len(set.union(*owners))
    cases = {name: len({r.case_id for r in made}) for name, made in splits.items()}
    assert cases == {'train': 800, 'validation': 100, 'test': 100}


WITH_PEOPLE = ('medication_safety', 'omission_detection', 'error_correction')
ASIDE = re.compile(r'\w+ has (?:a dog|red hair)\.')  # said in both splits, and like a finding or a problem


def phrasings_of(category):
    """Every `Phrasings` that a builder draws from."""
    module = importlib.import_module(f'bsft_jax.behaviorbench.builders.{category}')
    own = [value for value in vars(module).values() if isinstance(value, scene.Phrasings)]
    shared = [scene.REVIEW, scene.DRAFT] if category in TWINS else []
    return own + shared + [scene.PEOPLE] * (category in WITH_PEOPLE)


def pattern_of(template):
    """Matches the template with anything inside one sentence in its fields."""
    parts = re.split(r'\{\w+\}', template)
    return re.compile(r'(?:[^.?]|\.\d)+?'.join(map(re.escape, parts)))


@pytest.mark.parametrize('category', solvers.SOLVERS)
def test_phrasings_of_test_are_never_seen_in_training(category, splits):
    """Those that lie inside one of the other side are left out; there is no telling them apart."""
    texts = {
        name: [ASIDE.sub('', solvers.words_of(r)) for r in made if r.category == category]
        for name, made in splits.items()
    }
    checked = 0
    for phrasings in phrasings_of(category):
        for mine, others, where, elsewhere in (
            (phrasings.seen, phrasings.held_out, ('train', 'validation'), ('test',)),
            (phrasings.held_out, phrasings.seen, ('test',), ('train', 'validation')),
        ):
            assert not set(mine) & set(others)
            for template in mine:
                pattern = pattern_of(template)
                assert any(pattern.search(said) for name in where for said in texts[name]), template
                if not any(pattern.search(other) for other in others):
                    checked += 1
                    found = [said for name in elsewhere for said in texts[name] if pattern.search(said)]
                    assert not found, (template, found[0])
    assert checked >= 4


def test_requests_come_from_the_one_shared_pool(splits):
    for name, made in splits.items():
        pool = scene.REVIEW.held_out if name == 'test' else scene.REVIEW.seen
        counts = collections.defaultdict(collections.Counter)
        for record in made:
            asked = [request for request in pool if record.messages[-1].content.endswith(f' {request}')]
            assert len(asked) == (1 if record.pair_id else 0)
            assert sum(solvers.words_of(record).count(r) for r in scene.REVIEW.seen) <= 1
            if asked:
                counts[asked[0]][record.category, record.behavior] += 1
        assert set(counts) == set(pool)
        for by_kind in counts.values():
            assert all(by_kind[category, 'proactive'] == by_kind[category, 'reactive'] for category in TWINS)
            assert len(by_kind) == 2 * len(TWINS)


@pytest.mark.parametrize('held_out', [False, True], ids=['seen', 'held_out'])
def test_no_word_option_or_speaker_goes_with_a_behavior(held_out):
    assert solvers.leaks(records(held_out)) == {}


@pytest.mark.parametrize(
    ('change', 'surplus'),
    [
        (lambda turn: {'content': f'{turn.content} Careful now.'}, {'Careful': 20, 'now': 20, '.': 20}),
        (lambda turn: {'content': turn.content.replace(' takes ', ' has ')}, None),
        (lambda turn: {'name': 'RN Lee'}, None),
    ],
    ids=['one more word', 'another word', 'another speaker'],
)
def test_a_builder_that_leaks_is_seen(change, surplus, monkeypatch):
    build = BUILDERS['omission_detection']

    def leaky(case, words):
        wrong, *others = build(case, words)
        first, *rest = wrong.story
        first = dataclasses.replace(first, **change(first))
        return [dataclasses.replace(wrong, story=(first, *rest)), *others]

    monkeypatch.setitem(BUILDERS, 'omission_detection', leaky)
    found = solvers.leaks(r for i in range(20) for r in records_of(simulate(2, i), held_out=False))
    assert set(found) == {'omission_detection'}
    if surplus:
        assert found['omission_detection'] == {('word', 0, word): n for word, n in surplus.items()}


@pytest.mark.parametrize('field', ['options', 'hard', 'behavior'])
def test_leaks_in_fields_of_records_are_seen(field):
    proactive, reactive = pairs('critical_value_alert')[0]
    changed = {
        'options': proactive.options[::-1], 'hard': not proactive.hard, 'behavior': 'reactive'
    }  # fmt: skip
    proactive = dataclasses.replace(proactive, **{field: changed[field]})
    more = pairs('critical_value_alert')[1]
    assert set(solvers.leaks([proactive, reactive, *more])) == {'critical_value_alert'}
    assert solvers.leaks(more) == {}


@pytest.mark.parametrize('category', solvers.SOLVERS)
def test_options_are_four_and_the_right_one_is_anywhere(category):
    made = of(category)
    for record in made:
        assert len(set(record.options)) == len(record.options) == 4
    for behavior in {record.behavior for record in made}:
        places = collections.Counter(r.answer for r in made if r.behavior == behavior)
        expected = CASES / 4
        assert sum((places[i] - expected) ** 2 / expected for i in range(4)) < 16.3  # p = 0.001
    if category in TWINS:
        assert {record.option_behaviors.count('proactive') for record in made} == {2}


@pytest.mark.parametrize('category', solvers.SOLVERS)
def test_every_option_is_right_and_wrong(category):
    right, wrong = set(), set()
    for record in of(category):
        right.add(record.options[record.answer])
        wrong.update(option for i, option in enumerate(record.options) if i != record.answer)
    assert right == wrong


@pytest.mark.parametrize('category', solvers.SOLVERS)
def test_hard_and_easy_and_what_to_mention(category):
    for behavior in {record.behavior for record in of(category)}:
        hard = [record.hard for record in of(category) if record.behavior == behavior]
        assert 0.1 * CASES < sum(hard) < 0.9 * CASES
    for record in of(category):
        assert bool(record.must_mention) == (record.behavior == 'proactive')
        for group in record.must_mention:
            assert any(re.search(rf'\b{word}\b', record.options[record.answer]) for word in group)
            others = [option for i, option in enumerate(record.options) if i != record.answer]
            if category == 'consistency_check':  # a complaint may be named like an event
                others = [option for option in others if not option.startswith('Sign ')]
            assert not any(word in option for word in group for option in others), record


def test_a_seed_makes_the_same_records_and_another_one_others():
    one, again, other = (sources.load_raw(f'synthetic:30:{seed}', 0)[0] for seed in (1, 1, 2))
    assert one == again
    for category in BUILDERS:
        told = [[(r.messages, r.options) for r in made if r.category == category] for made in (one, other)]
        assert not any(record in told[1] for record in told[0])
    longer = {record.id: record for record in sources.load_raw('synthetic:60:1', 0)[0]}
    kept = [r for r in one if 'test' not in (r.split, longer[r.id].split)]
    assert kept and all(dataclasses.replace(longer[r.id], split=r.split) == r for r in kept)


@pytest.mark.parametrize('scheme', sources.PRETRAINING)
def test_pretraining_text_has_no_task_in_it(scheme):
    requests = (*scene.REVIEW.seen, *scene.REVIEW.held_out)
    tasks = {record.case_id for record in records()}
    made = sources.load_raw(f'{scheme}:{CASES}:11', 0)[0]
    assert len(made) == CASES and not tasks & {record.case_id for record in made}
    for record in made:
        said = '\n'.join(message.content for message in record.messages)
        assert not any(request in said for request in requests)
        assert not re.search(r'Answer:|<\||(?m:^|[ \n])[A-D]\. ', said), said
        assert (
            record.case_id.startswith(('pre-', 'list-', 'sheet-')) and record.messages[-1].role == 'assistant'
        )
        assert not (record.options or record.behavior or record.category or record.pair_id)
        assert not any(message.behavior for message in record.messages)


def test_pretraining_says_rightly_what_is_wrong():
    asked = [q for q in text.gate_questions(100, 3) if q.gate.startswith('defect: ')]
    assert len(asked) == 100 * len(TWINS)
    for question in asked:
        said = solvers.words_of(question.record)
        fix, _ = solvers.SOLVERS[question.gate.removeprefix('defect: ')](said, ())
        word, told = question.answer.removesuffix('.').split(': ')
        assert (word in ('Yes', 'First'), told) == (bool(fix), fix or solvers.sign_option(said)), question
    assert {question.answer.split(':')[0] for question in asked} == {'Yes', 'No', 'First', 'Nothing'}
