"""Tests what a study may claim of one case, few cases, one seed, and arms that answer alike."""

import itertools
import json

import pytest

from bsft_jax.evaluation import metrics
from bsft_jax.report import study_page, table
from bsft_jax.studies import summary

ENDPOINT = ('proactive', ('behavior_sft', 'auto'), ('general_sft', 'auto'))


def result(arm, seed, predictions, cases, category='omission_detection'):
    rows = [
        {
            'id': f'r{n:03d}',
            'case_id': case,
            'pair_id': '',
            'category': category,
            'group': 'proactive',
            'behavior': 'proactive',
            'answer': n % 2,
            'prediction': prediction ^ (n % 2),
            'behavior_prediction': None,
            'behavior_logprobs': None,
            'option_behaviors': ['reactive', 'proactive'],
            'option_logprobs': {},
        }
        for n, (prediction, case) in enumerate(zip(predictions, cases, strict=True))
    ]
    return {
        'arm': arm,
        'seed': seed,
        'workdir': f'{arm}-{seed}',
        'evaluation': {'name': 'e', 'policy': 'auto', 'prompt': 'plain'},
        'predictions': rows,
        'metrics': metrics.metrics_from_predictions(rows, policy='auto', prompt='plain'),
    }


def summarize(behavior, general, cases, seeds=(0, 1, 2)):
    """Summarizes a study of two arms; 0 is a right prediction, 1 a wrong one."""
    results = [result('behavior_sft', s, behavior, cases) for s in seeds]
    results += [result('general_sft', s, general, cases) for s in seeds]
    found = summary.summarize_study('s', results, endpoint=ENDPOINT, published=[])
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    return found


@pytest.mark.parametrize('seeds', [(0,), (0, 1, 2)])
@pytest.mark.parametrize(
    ('behavior', 'general'),
    [([0], [1]), ([0] * 38 + [1] * 2, [0] * 36 + [1] * 4), ([0] * 20 + [1] * 20, [1] * 40)],
)
def test_one_case_has_no_interval_and_no_claim(behavior, general, seeds):
    found = summarize(behavior, general, ['hospital'] * len(behavior), seeds)
    for comparison in found['comparisons']:
        assert (comparison['low'], comparison['high'], comparison['p']) == (None, None, 1)
    assert 'one case: no interval' in found['outcome']
    assert '1 case is too few to tell a difference from chance' in found['outcome']
    assert 'zero' not in found['outcome']
    assert found['smallest_effect']['difference'] is None
    for row in found['rows']:
        for figure in (row['overall'], *row['groups'].values()):
            assert (figure['low'], figure['high']) == (None, None)
    text = summary.format_summary(found)
    assert 'endpoint: cannot be estimated: one case: no interval' in text
    assert 'None' not in text and 'nan' not in text


@pytest.mark.parametrize('cases', [2, 3, 4, 5])
def test_a_handful_of_cases_cannot_exclude_zero(cases):
    wrong = [1] * (8 * cases)
    wrong[0] = 0
    found = summarize([0] * (8 * cases), wrong, [f'c{n % cases}' for n in range(8 * cases)])
    endpoint = found['comparisons'][0]
    assert endpoint['p'] >= 2 / 2**cases and endpoint['cases'] == cases
    assert endpoint['low'] <= 0 <= endpoint['high']
    assert f'{cases} cases are too few to tell a difference from chance' in found['outcome']
    assert 'excludes zero' not in found['outcome']
    assert found['smallest_effect']['difference'] is None


def test_six_cases_that_agree_can_exclude_zero():
    wrong = [1] * 48
    wrong[0] = 0
    found = summarize([0] * 48, wrong, [f'c{n % 6}' for n in range(48)])
    assert found['comparisons'][0]['p'] == 2 / 2**6
    assert 'the interval excludes zero' in found['outcome']
    assert found['smallest_effect']['difference'] > 0


def test_one_seed_says_that_it_cannot_speak_of_trainings():
    behavior, general = [0] * 80 + [1] * 20, [0] * 40 + [1] * 60
    cases = [f'c{n}' for n in range(100)]
    one = summarize(behavior, general, cases, seeds=(0,))
    assert 'One training of an arm cannot speak of other trainings.' in one['outcome']
    assert 'excludes zero' not in one['outcome'] and 'exclude zero' not in one['outcome']
    assert one['comparisons'][0]['trainings'] == 1
    assert any('one seed' in note for note in one['notes'])
    several = summarize(behavior, general, cases)
    assert 'the interval excludes zero' in several['outcome']
    assert 'trainings' not in several['outcome']


def test_models_that_were_not_trained_have_no_trainings_to_speak_of():
    behavior, general = [0] * 80 + [1] * 20, [0] * 40 + [1] * 60
    cases = [f'c{n}' for n in range(100)]
    results = [result('base', None, behavior, cases), result('other', None, general, cases)]
    endpoint = ('proactive', ('base', 'auto'), ('other', 'auto'))
    found = summary.summarize_study('s', results, endpoint=endpoint, published=[])
    assert found['comparisons'][0]['trainings'] is None
    assert 'the interval excludes zero' in found['outcome']
    assert not any('seed' in note for note in found['notes'])
    results.append(result('trained', 0, general, cases))
    endpoint = ('proactive', ('base', 'auto'), ('trained', 'auto'))
    found = summary.summarize_study('s', results, endpoint=endpoint, published=[])
    assert 'cannot speak of other trainings' in found['outcome']


@pytest.mark.parametrize('answers', [[0] * 40, [0] * 25 + [1] * 15])
@pytest.mark.parametrize('seeds', [(0,), (0, 1, 2)])
def test_arms_that_answer_alike_have_no_estimate(answers, seeds):
    found = summarize(answers, answers, [f'c{n}' for n in range(40)], seeds)
    assert 'is equal to general_sft on proactive macro-F1' in found['outcome']
    assert 'the arms answer alike' in found['outcome']
    assert 'no difference can be estimated' in found['outcome']
    assert found['smallest_effect'] == {
        'difference': None,
        'reason': 'the arms answer alike',
        'proactive_records': 40,
    }
    text = summary.format_summary(found)
    assert '0.0 points' not in text and '+0.000' not in text and '0.000 to' not in text


def test_a_constant_difference_has_no_estimate():
    found = summarize([0] * 40, [1] * 40, [f'c{n}' for n in range(40)])
    assert '100.0 points above' in found['outcome']
    assert 'every case shows the same difference' in found['outcome']
    assert 'zero' not in found['outcome']
    assert found['comparisons'][0]['low'] is found['smallest_effect']['difference'] is None


def test_a_difference_that_rounds_to_nothing_is_not_called_zero_points():
    behavior = [1, 0, *itertools.repeat(0, 2998)]
    general = [0, 1, *itertools.repeat(0, 2998)]
    general[3] = 1
    found = summarize(behavior, general, [f'c{n}' for n in range(3000)])
    assert 'is within 0.1 points of general_sft' in found['outcome']
    assert '0.0 points' not in found['outcome'].split('(')[0]


def test_the_page_shows_a_dash_where_there_is_no_interval(tmp_path):
    found = summarize([0] * 40, [0] * 40, [f'c{n}' for n in range(40)])
    (tmp_path / 'summary.json').write_text(json.dumps({**found, 'shortcuts': ''}))
    page = study_page.write_page(tmp_path).read_text(encoding='utf-8')
    assert 'cannot be estimated (the arms answer alike)' in page
    assert '<td class="">0.000</td><td class="">–</td>' in page
    assert 'None' not in page and '0.0 points' not in page


def test_the_table_shows_a_dash_for_one_case(tmp_path):
    one = result('a', 0, [0, 1, 1, 0], ['c'] * 4)['metrics']
    assert one['overall']['macro_f1_interval'] is None
    assert one['overall']['macro_f1_pooled_interval'] is None
    several = result('a', 0, [0, 1, 1, 0], list('abcd'))['metrics']
    lines = table.format_table([('one', one), ('several', several)]).splitlines()
    assert lines[2].split()[:5] == ['one', 'auto', '4', '0.500', '-']
    assert lines[3].split()[4] != '-'


def test_a_category_of_one_case_has_no_interval_beside_others_that_have():
    rows = result('a', 0, [0, 1, 1, 0], ['a'] * 4)['predictions']
    rows += result('a', 0, [0, 1, 1, 0] * 3, list('abcdefabcdef'), 'error_correction')[
        'predictions'
    ]
    found = metrics.metrics_from_predictions(rows, policy='auto', prompt='plain')
    assert found['categories']['omission_detection']['macro_f1_interval'] is None
    low, high = found['categories']['error_correction']['macro_f1_interval']
    assert 0 <= low < 0.5 < high <= 1
    low, high = found['overall']['macro_f1_interval']
    assert 0 <= low < high <= 1
