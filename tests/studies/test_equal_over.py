"""Tests the second endpoint: missed interventions at equal over-intervention."""

import json

import numpy as np
import pytest

from bsft_jax.evaluation import metrics, statistics
from bsft_jax.evaluation.operating import OperatingCurve, find_choices
from bsft_jax.report import study_page
from bsft_jax.studies import equal_over, summary
from tests.studies.test_summary import result

ENDPOINT = ('proactive', ('behavior_sft', 'auto'), ('general_sft', 'auto'))
NAMES = ('reactive', 'proactive')
LEVELS = {'reactive': 0.0, 'proactive': 1.0}


def predictions(rng, skill, *, tokens, cases=40, records=6):
    """Returns rows of predictions.jsonl; due records have log-odds that are `skill` higher."""
    rows = []
    for case in range(cases):
        for n in range(records):
            label = NAMES[n % 2]
            stands_for = ['reactive', 'proactive', 'reactive', 'proactive']
            log_odds = rng.normal() + skill * (n % 2)
            of_option = {'none': rng.normal(-2, 0.1, size=4).tolist()}
            of_behavior = None
            if tokens:
                of_behavior = {'reactive': -1.0, 'proactive': -1.0 + 2 * log_odds}
                of_option['reactive'] = [0.0, -9.0, -1.0, -9.0]
                of_option['proactive'] = [-9.0, 0.0, -9.0, -1.0]
            else:
                of_option['none'][1] += log_odds
                of_option['none'][3] += log_odds
            rows.append(
                {
                    'id': f'{case}-{n}',
                    'case_id': f'c{case}',
                    'pair_id': '',
                    'category': ('omission_detection', 'error_correction')[n % 4 // 2],
                    'answer': n % 4,
                    'prediction': int(np.argmax(of_option[label if tokens else 'none'])),
                    'behavior': label,
                    'option_behaviors': stands_for,
                    'behavior_logprobs': of_behavior,
                    'option_logprobs': of_option,
                }
            )
    return rows


def study(skills, seeds=(0, 1, 2), seed=0, **options):
    rng = np.random.default_rng(seed)
    return [
        result(arm, s, predictions(rng, skill, tokens=arm == 'behavior_sft', **options))
        for arm, skill in skills.items()
        for s in seeds
    ]


def summarize(results, endpoint=ENDPOINT, **options):
    return summary.summarize_study(
        's', results, endpoint=endpoint, published=[], resamples=400, **options
    )


def test_the_difference_is_that_of_the_metrics():
    results = study({'general_sft': 0.5, 'behavior_sft': 2.0, 'control': 0.5})
    found = summarize(results)
    missed = found['missed_at_equal_over']
    assert (missed['over_rate'], missed['reason']) == (0.05, None)
    of_arm = {
        arm: [
            r['metrics']['stepping_in']['missed_at_5_percent'] for r in results if r['arm'] == arm
        ]
        for arm in ('general_sft', 'behavior_sft', 'control')
    }
    for row in found['rows']:
        assert row['missed_at_5'] == pytest.approx(np.mean(of_arm[row['arm']]))
    endpoint, control = missed['comparisons']
    assert [c['name'] for c in missed['comparisons']] == [
        'behavior_sft/auto - general_sft/auto',
        'control/auto - general_sft/auto',
    ]
    assert (endpoint['endpoint'], endpoint['p_holm']) == (True, None)
    assert (control['endpoint'], control['p_holm']) == (False, control['p'])
    for comparison, arm in ((endpoint, 'behavior_sft'), (control, 'control')):
        first, second = comparison['first'], comparison['second']
        assert (first['setting'], second['setting']) == (f'{arm}/auto', 'general_sft/auto')
        assert first['missed'] == pytest.approx(np.mean(of_arm[arm]))
        assert second['missed'] == pytest.approx(np.mean(of_arm['general_sft']))
        assert first['over'] == second['over'] == pytest.approx(0.05)
        assert comparison['difference'] == pytest.approx(first['missed'] - second['missed'])
        assert (comparison['cases'], comparison['trainings']) == (40, 3)
    assert endpoint['high'] < 0 and endpoint['p'] < 0.02
    assert control['low'] < 0 < control['high'] and control['p'] > 0.05
    assert json.loads(json.dumps(found, allow_nan=False)) == found


@pytest.mark.parametrize('paired', [True, False])
def test_intervals_are_those_of_the_statistics(paired):
    results = study({'general_sft': 0.5, 'behavior_sft': 1.5}, seeds=(0, 1), cases=15)
    if not paired:
        for r in results[2:]:
            r['seed'] += 7
    found = summarize(results, over_rate=0.1, seed=3)['missed_at_equal_over']['comparisons'][0]
    curves = [OperatingCurve.of(find_choices(r['predictions'], LEVELS)) for r in results]
    case_R = np.repeat(np.arange(15), 6)
    # The rows of a summary stand in the order of their ids.
    part_JU = np.array([c.missed_by_case(0.1, case_R, 15) for c in curves])
    missed_J = part_JU.sum(1)
    trainings = [missed_J[2:] - missed_J[:2]] if paired else [missed_J[2:], missed_J[:2]]
    expected = statistics.paired_difference(
        part_JU[2:].mean(0) - part_JU[:2].mean(0),
        np.full(15, 1 / 15),
        trainings=[part for x in trainings for part in statistics.Trainings.of_seeds(x)],
        resamples=400,
        seed=3,
    )
    assert found['difference'] == pytest.approx(expected.value)
    # Cases are numbered in another order, so other exchanges are drawn.
    assert (found['low'], found['high']) == pytest.approx(tuple(expected.interval), abs=0.1)


def test_arms_that_answer_alike_have_no_interval():
    results = study({'general_sft': 1.0}, seeds=(0,))
    results.append({**results[0], 'arm': 'control'})
    endpoint = ('proactive', ('control', 'auto'), ('general_sft', 'auto'))
    found = summarize(results, endpoint)
    (comparison,) = found['missed_at_equal_over']['comparisons']
    assert (comparison['difference'], comparison['low'], comparison['p']) == (0.0, None, 1.0)
    assert comparison['reason'] == 'the arms answer alike'
    assert (
        'as many (the arms answer alike): no difference can be estimated.'
        in (found['second_outcome'])
    )


def test_one_model_has_one_dial():
    results = study({'behavior_sft': 1.0}, seeds=(0,))
    none = result('behavior_sft', 0, results[0]['predictions'], 'none')
    endpoint = ('overall', ('behavior_sft', 'auto'), ('behavior_sft', 'none'))
    found = summarize([*results, none], endpoint)
    reason = 'both sides of the endpoint are one model, with one dial'
    assert found['missed_at_equal_over'] == {
        'over_rate': 0.05,
        'reason': reason,
        'comparisons': [],
    }
    assert found['second_outcome'] == f'No missed interventions at 5 % over-intervention: {reason}.'
    assert found['second_outcome'] in summary.format_summary(found)


def test_an_arm_without_scores_is_not_compared():
    results = study({'general_sft': 0.5, 'behavior_sft': 2.0, 'old': 0.5}, seeds=(0,))
    for row in results[2]['predictions']:
        del row['option_logprobs']
    found = summarize(results)['missed_at_equal_over']
    assert [c['name'] for c in found['comparisons']] == ['behavior_sft/auto - general_sft/auto']
    for row in results[0]['predictions']:
        row['option_behaviors'] = []
    found = summarize(results)['missed_at_equal_over']
    assert found['comparisons'] == [] and found['reason'].startswith(
        'general_sft/auto has no scores'
    )


def test_what_the_dial_cannot_reach_is_told():
    results = study({'general_sft': 1.0, 'behavior_sft': 1.0}, seeds=(0,))
    for row in results[1]['predictions']:
        # Whatever token is chosen, the best option steps in where it is not due.
        if row['behavior'] == 'reactive':
            row['option_logprobs']['reactive'] = row['option_logprobs']['proactive']
    found = summarize(results)
    assert any(
        note == 'behavior_sft/auto is above 5 % over-intervention at its lowest setting: 95 % of '
        'what steps in there is withheld at random.'
        for note in found['notes']
    )
    side = found['missed_at_equal_over']['comparisons'][0]['first']
    assert (side['over'], side['withheld']) == pytest.approx((0.05, 0.95))
    for row in results[1]['predictions']:
        # Now it never does, due or not.
        row['option_logprobs']['reactive'] = [0.0, -9.0, -1.0, -9.0]
        row['option_logprobs']['proactive'] = [0.0, -9.0, -1.0, -9.0]
    found = summarize(results)
    assert any(
        note == 'behavior_sft/auto misses least at 0.0 % over-intervention, below 5 %, and is '
        'compared there.'
        for note in found['notes']
    )
    assert found['missed_at_equal_over']['comparisons'][0]['first']['missed'] == 1.0


def test_the_text_and_the_page_show_it_beside_the_first(tmp_path):
    found = summarize(study({'general_sft': 0.5, 'behavior_sft': 2.0, 'control': 0.5}))
    endpoint, control = found['missed_at_equal_over']['comparisons']
    text = summary.format_summary(found)
    lines = text.splitlines()
    assert lines[-2:] == [found['second_outcome'], found['outcome']]
    at = next(i for i, line in enumerate(lines) if line.startswith('missed at 5 % over'))
    cells = lines[at + 2].split()
    assert lines[at + 2].startswith('behavior_sft/auto - general_sft/auto')
    assert lines[at + 2].endswith('second endpoint')
    for value in (endpoint['first']['missed'], endpoint['second']['missed'], endpoint['p']):
        assert f'{value:.3f}' in cells
    assert f'{endpoint["low"]:.3f} to {endpoint["high"]:.3f}' in lines[at + 2]
    assert lines[at + 3].endswith(f'{control["p_holm"]:.3f}')
    assert found['second_outcome'].startswith(
        'At 5 % over-intervention behavior_sft/auto misses '
        f'{100 * endpoint["first"]["missed"]:.1f} % of interventions and general_sft/auto '
    )
    assert 'points fewer (95 % interval' in found['second_outcome']

    (tmp_path / 'summary.json').write_text(json.dumps({**found, 'shortcuts': ''}))
    page = study_page.write_page(tmp_path).read_text(encoding='utf-8')
    assert '<h2>Missed interventions at 5 % over-intervention</h2>' in page
    assert 'behavior_sft/auto - general_sft/auto (second endpoint)' in page
    assert found['second_outcome'] in page


def test_levels_beyond_two_are_compared_by_the_label():
    levels = {'a': 0.0, 'b': 0.5, 'c': 1.0}
    rng, rows = np.random.default_rng(0), []
    for n in range(90):
        label = 'abc'[n % 3]
        rows.append(
            {
                'id': f'{n:02d}',
                'case_id': f'c{n // 9}',
                'pair_id': '',
                'category': 'omission_detection',
                'answer': n % 3,
                'prediction': 0,
                'behavior': label,
                'option_behaviors': list('abc'),
                'behavior_logprobs': None,
                'option_logprobs': {'none': rng.normal(-2, 1, size=3).tolist()},
            }
        )
    results = [
        {
            **result(arm, 0, rows),
            'metrics': metrics.metrics_from_predictions(
                rows, policy='auto', prompt='plain', positive='c', levels=levels
            ),
        }
        for arm in ('general_sft', 'behavior_sft')
    ]
    found = summarize(results, levels=levels)['missed_at_equal_over']['comparisons'][0]
    expected = results[0]['metrics']['stepping_in']['missed_at_5_percent']
    assert found['first']['missed'] == found['second']['missed'] == pytest.approx(expected)
    assert equal_over.OVER_RATE == found['first']['over'] == 0.05
