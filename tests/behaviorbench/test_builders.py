"""Labels recomputed from the words of each record, twins, and what shortcuts can know."""

import re

import pytest

from bsft_jax.behaviorbench import text
from bsft_jax.behaviorbench.builders import BUILDERS, omission_detection, requests, temporal_ordering
from bsft_jax.behaviorbench.cases import IDLE_FACTS, LABS, SAFETY_FACTS, simulate
from bsft_jax.behaviorbench.records import record_from_dict, record_to_dict

CASES = 400
SAFETY = {
    'is allergic to penicillin': 'penicillin allergy', 'is allergic to sulfa': 'sulfa allergy',
    'is allergic to latex': 'latex allergy', 'is allergic to iodine': 'iodine allergy',
    'takes warfarin': 'warfarin', 'takes apixaban': 'apixaban', 'takes heparin': 'heparin',
    'has a pacemaker': 'pacemaker',
    'has a heart valve': 'heart valve', 'is pregnant': 'pregnancy', 'has one kidney': 'one kidney',
    'needs dialysis': 'dialysis',
}  # fmt: skip


def twins(index):
    return omission_detection.build(simulate(3, index))


def patient_of(intake):
    for pattern in (r'(\w+) is the patient', r'Seeing (\w+) today', r'came with (\w+), our patient'):
        if found := re.search(pattern, intake):
            return found[1]
    raise AssertionError(intake)


def test_omission_labels_follow_from_the_words():
    for index in range(CASES):
        for record in twins(index):
            intake, draft = (message.content for message in record.messages)
            holders = {
                short: found[1]
                for clause, short in SAFETY.items()
                if (found := re.search(rf'(\w+) {clause}\.', intake))
            }
            missing = [short for short, holder in holders.items() if holder == patient_of(intake)]
            assert not any(short in draft for short in SAFETY.values())
            complaint = re.match(r'Draft: ([^,]+),', draft)[1]
            expected = f'Add {missing[0]}' if missing else f'Sign {complaint} note'
            assert record.options[record.answer] == expected
            assert record.behavior == ('proactive' if missing else 'reactive')
            for option, behavior in zip(record.options, record.option_behaviors, strict=True):
                assert behavior == ('proactive' if option.startswith('Add ') else 'reactive')


def test_twins_differ_in_who_the_facts_are_true_of_and_nothing_else():
    for index in range(CASES):
        first, second = twins(index)
        assert first.pair_id == second.pair_id and first.options == second.options
        assert first.messages[1] == second.messages[1]
        assert any(first.messages[1].content.endswith(request) for request in requests.REVIEW)
        words = [sorted(re.findall(r'[\w-]+', r.messages[0].content)) for r in (first, second)]
        assert words[0] == words[1] and first.messages[0] != second.messages[0]


def test_temporal_labels_follow_from_the_words():
    for index in range(CASES):
        (record,) = temporal_ordering.build(simulate(3, index))
        chart = record.messages[0].content
        events = sorted((int(day), event) for event, day in re.findall(r'([a-z ]+?) on day (\d+)', chart))
        order = [event.strip() for _, event in events]
        assert len({day for day, _ in events}) == 4
        if after := re.search(r'right after the (.+)\?', chart):
            expected = order[order.index(after[1]) + 1]
        else:
            expected = order[0 if 'first?' in chart else -1]
        assert record.options[record.answer] == expected
        assert sorted(record.options) == sorted(order)
        assert record.hard == (events[-1][0] - events[0][0] <= 5)


def test_every_record_is_valid_short_and_deterministic():
    for index in range(CASES):
        for name, build in BUILDERS.items():
            for record in build(simulate(7, index)):
                assert record_from_dict(record_to_dict(record)) == record
                assert record.category == name
                size = sum(len(m.content) for m in record.messages) + sum(map(len, record.options))
                assert size < 330
            assert build(simulate(7, index)) == build(simulate(7, index))
    assert twins(0) != omission_detection.build(simulate(4, 0))


@pytest.mark.parametrize('ngrams', [(1, 1), (1, 2)])
@pytest.mark.parametrize('view', ['everything', 'options', 'request'])
def test_shortcuts_do_not_give_the_behavior_away(view, ngrams):
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression

    def words(record):
        return {
            'everything': ' '.join([*(m.content for m in record.messages), *record.options]),
            'options': ' '.join(record.options),
            'request': record.messages[-1].content,
        }[view]

    records = [record for index in range(1200) for record in twins(index)]
    train, held_out = records[:2000], records[2000:]
    vectorizer = CountVectorizer(ngram_range=ngrams, min_df=2)
    model = LogisticRegression(C=0.1, max_iter=300).fit(
        vectorizer.fit_transform(map(words, train)), [r.behavior for r in train]
    )
    accuracy = model.score(vectorizer.transform(map(words, held_out)), [r.behavior for r in held_out])
    assert accuracy <= 0.60


def test_the_shortcut_test_sees_a_leak():
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression

    records = [record for index in range(300) for record in twins(index)]
    leaky = [
        r.messages[0].content.replace(' is the patient', ' (no allergy) is the patient') for r in records
    ]
    words = [
        t if r.behavior == 'reactive' else r.messages[0].content for t, r in zip(leaky, records, strict=True)
    ]
    features = CountVectorizer().fit_transform(words)
    assert (
        LogisticRegression()
        .fit(features, [r.behavior for r in records])
        .score(features, [r.behavior for r in records])
        > 0.60
    )


def test_facts_of_both_kinds_and_ranges_that_contain_values():
    assert {fact.clause for fact in SAFETY_FACTS} == set(SAFETY)
    assert not {fact.clause for fact in IDLE_FACTS} & set(SAFETY)
    assert all(smallest < low < high < largest for _, low, high, _, smallest, largest in LABS)
    for index in range(200):
        for lab in simulate(5, index).labs:
            number, low, high = (float(x) for x in re.findall(r'\d+(?:\.\d+)?', lab.text))
            assert lab.flag == ('low' if number < low else 'high' if number > high else 'normal')


def test_pretraining_text_is_no_task():
    tasks = {
        m.content
        for i in range(300)
        for build in BUILDERS.values()
        for r in build(simulate(0, i))
        for m in r.messages
    }
    for record in text.text_records(300, 0):
        assert record.text not in tasks and len(record.text) <= 450
        assert 'Answer:' not in record.text and '<|' not in record.text and '\nA. ' not in record.text
