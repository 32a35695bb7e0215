"""Tests the summary of a study: values, intervals, comparisons, caveats."""

import time

import numpy as np
import pytest

from bsft_jax.errors import UserError
from bsft_jax.evaluation import casewise, metrics, statistics
from bsft_jax.studies import summary

ENDPOINT = ('proactive', ('behavior_sft', 'auto'), ('general_sft', 'auto'))
CATEGORIES = ('temporal_ordering', 'medication_safety', 'omission_detection', 'error_correction')


def predictions(rng, right, *, cases=40, categories=CATEGORIES, options=4, tokens=True, twins=True):
    """Rows of predictions.jsonl; `right`: probability of the answer by category, or one for all."""
    rows = []
    for category in categories:
        p = right.get(category, 0.6) if isinstance(right, dict) else right
        for n in range(2 * cases):
            answer = (n // 2 + n) % options
            wrong = (answer + 1 + int(rng.integers(options - 1))) % options
            prediction = answer if rng.random() < p else wrong
            scores = [0.0 if k == prediction else -4.0 - k / 8 for k in range(options)]
            rows.append(
                {
                    'id': f'{category}-{n}',
                    'case_id': f'{category[:1]}-{n // 2}',
                    'pair_id': f'{category}-{n // 2}' if twins else '',
                    'category': category,
                    'answer': answer,
                    'prediction': prediction,
                    'behavior': 'proactive' if n % 2 else 'reactive',
                    'option_behaviors': ['reactive', 'proactive'] * (options // 2),
                    'behavior_logprobs': {'reactive': -1.0, 'proactive': -2.0} if tokens else None,
                    'option_logprobs': dict.fromkeys(
                        ('none', 'reactive', 'proactive') if tokens else ('none',), scores
                    ),
                }
            )
    return rows


def result(arm, seed, rows, policy='auto', prompt='plain'):
    return {
        'study': 's',
        'point': f'points/{arm}-s{seed}',
        'arm': arm,
        'seed': seed,
        'evaluation': {'policy': policy, 'prompt': prompt, 'name': f'test-{policy}'},
        'workdir': f'points/{arm}-s{seed}',
        'metrics': metrics.metrics_from_predictions(rows, policy=policy, prompt=prompt),
        'predictions': rows,
    }


def study(arms, seeds=(0, 1, 2), **options):
    rng = np.random.default_rng(0)
    return [
        result(arm, s, predictions(rng, right, **options))
        for arm, right in arms.items()
        for s in seeds
    ]


def summarize(results, endpoint=ENDPOINT, **options):
    return summary.summarize_study('s', results, endpoint=endpoint, published=[], **options)


def test_values_are_means_over_seeds_of_the_evaluation_metrics():
    results = study({'general_sft': 0.5, 'behavior_sft': 0.7})
    found = summarize(results, resamples=20)
    assert [row['arm'] for row in found['rows']] == ['general_sft', 'behavior_sft']
    for row in found['rows']:
        expected = [r['metrics'] for r in results if r['arm'] == row['arm']]
        assert (row['seeds'], row['n']) == (3, 320)

        def mean(read, expected=expected):
            return pytest.approx(np.mean([read(m) for m in expected]), abs=1e-12)

        assert row['overall']['value'] == mean(lambda m: m['overall']['macro_f1'])
        assert list(row['groups']) == ['reactive', 'bridging', 'proactive']
        for group, figure in row['groups'].items():
            assert figure['value'] == mean(lambda m, g=group: m['groups'][g]['macro_f1'])
        for name, x in row['categories'].items():
            assert x == mean(lambda m, c=name: m['categories'][c]['macro_f1'])
        assert row['selection'] == mean(lambda m: m['selection']['macro_f1'])
        assert row['over'] == mean(lambda m: m['intervention']['over_intervention_rate'])
        assert row['missed'] == mean(lambda m: m['intervention']['missed_intervention_rate'])
        assert row['twins'] == mean(lambda m: m['intervention']['twin_score'])
    assert len(found['runs']) == 6
    assert found['runs'][0] == {'arm': 'general_sft', 'seed': 0, 'workdir': 'points/general_sft-s0'}


def test_intervals_and_the_smallest_effect_are_those_of_the_statistics():
    results = study({'general_sft': 0.5, 'behavior_sft': 0.7}, seeds=(3, 5), cases=10)
    found = summarize(results, seed=7)
    categories = CATEGORIES[2:]
    ids = sorted(r['id'] for r in results[0]['predictions'] if r['category'] in categories)
    row_of = [{row['id']: row for row in r['predictions']} for r in results]
    case_R = statistics.cluster_ids([row_of[0][i]['case_id'] for i in ids])
    category_R = np.array([categories.index(row_of[0][i]['category']) for i in ids])
    answer_R = np.array([row_of[0][i]['answer'] for i in ids])
    general, behavior = (
        casewise.count_by_case(
            case_R,
            category_R,
            answer_R,
            np.array([[rows[i]['prediction'] for i in ids] for rows in row_of[n : n + 2]]),
            categories=2,
        )
        for n in (0, 2)
    )
    cases = int(case_R.max()) + 1
    means = [casewise.mean_macro_f1(counts, cases) for counts in (general, behavior)]
    for row, mean in zip(found['rows'], means, strict=True):
        expected = statistics.unit_interval(
            mean.value,
            mean.bias,
            mean.influence_U,
            mean.weight_U,
            trainings=statistics.Trainings.of_seeds(mean.values_J),
        )
        figure = row['groups']['proactive']
        assert (figure['low'], figure['high']) == pytest.approx(tuple(expected))
        assert 0 <= figure['low'] < figure['value'] < figure['high'] <= 1
    expected = statistics.paired_difference(
        casewise.difference_by_case(behavior, general, cases, paired=True),
        means[0].weight_U,
        trainings=statistics.Trainings.of_seeds(means[1].values_J - means[0].values_J),
        seed=7,
    )
    endpoint = found['comparisons'][0]
    assert (endpoint['low'], endpoint['high']) == pytest.approx(tuple(expected.interval), abs=0.02)
    assert endpoint['p'] == pytest.approx(expected.p, abs=0.02)
    assert endpoint['difference'] == pytest.approx(means[1].value - means[0].value)
    assert (endpoint['cases'], endpoint['trainings'], endpoint['reason']) == (20, 2, None)
    smallest = 2.80 / 1.96 * (endpoint['high'] - endpoint['low']) / 2
    assert found['smallest_effect'] == {
        'difference': pytest.approx(smallest),
        'reason': None,
        'proactive_records': 40,
    }


def test_a_planted_effect_is_found_and_a_null_is_not():
    better = {'omission_detection': 0.8, 'error_correction': 0.8}
    arms = {'general_sft': 0.6, 'behavior_sft': better, 'other': 0.6}
    found = summarize(study(arms, seeds=range(6), cases=100))
    names = {c['name']: c for c in found['comparisons']}
    endpoint = found['comparisons'][0]
    assert endpoint['endpoint'] and endpoint['p_holm'] is None
    assert endpoint['name'] == 'proactive: behavior_sft/auto - general_sft/auto'
    assert 0.15 < endpoint['difference'] < 0.25 and endpoint['low'] > 0.1
    assert endpoint['p'] == 1 / 2000
    assert 'points above general_sft on proactive' in found['outcome']
    assert 'p <= 0.0005): the interval excludes zero' in found['outcome']
    assert list(names) == [
        'proactive: behavior_sft/auto - general_sft/auto',
        'reactive: behavior_sft/auto - general_sft/auto',
        'bridging: behavior_sft/auto - general_sft/auto',
        'overall: behavior_sft/auto - general_sft/auto',
        'reactive: other/auto - general_sft/auto',
        'bridging: other/auto - general_sft/auto',
        'proactive: other/auto - general_sft/auto',
        'overall: other/auto - general_sft/auto',
    ]
    overall = names['overall: behavior_sft/auto - general_sft/auto']
    assert 1 / 2000 <= overall['p'] < 0.005
    assert overall['p_holm'] == pytest.approx(7 * overall['p'])
    for name, c in names.items():
        if 'other' in name or 'bridging' in name:
            assert c['low'] < 0 < c['high'] and c['p_holm'] > 0.05, name


def test_the_outcome_tells_a_null_and_a_loss():
    null = summarize(study({'general_sft': 0.6, 'behavior_sft': 0.6}))
    assert 'the interval does not exclude zero.' in null['outcome']
    loss = summarize(study({'general_sft': 0.8, 'behavior_sft': 0.5}))
    assert 'points below general_sft' in loss['outcome'] and 'excludes zero' in loss['outcome']
    assert loss['comparisons'][0]['high'] < 0


def test_p_is_below_five_per_cent_about_as_often_as_it_should_be():
    rng = np.random.default_rng(0)
    rejected = 0
    for _ in range(100):
        results = [
            result(arm, s, predictions(rng, 0.6, categories=CATEGORIES[2:3], cases=60))
            for arm in ('general_sft', 'behavior_sft')
            for s in (0, 1)
        ]
        rejected += summarize(results, resamples=200)['comparisons'][0]['p'] < 0.05
    assert rejected <= 12


def test_seeds_are_paired_where_arms_share_them():
    """Arms that vary together over the seeds have a constant gain; only pairs of seeds show it."""
    rng = np.random.default_rng(0)
    by_seed = [predictions(rng, p, categories=CATEGORIES[2:3]) for p in (0.3, 0.6, 0.9)]

    def width(seeds):
        results = [result('general_sft', s, rows) for s, rows in enumerate(by_seed)]
        results += [result('behavior_sft', s, rows) for s, rows in zip(seeds, by_seed, strict=True)]
        found = summarize(results[::-1], resamples=200)
        return found['comparisons'][0], found['notes']

    joint, notes = width((0, 1, 2))
    assert (joint['low'], joint['high'], joint['p']) == (None, None, 1)
    assert not any('vary independently' in note for note in notes)
    apart, notes = width((3, 4, 5))
    assert apart['low'] < -0.2 and apart['high'] > 0.2
    assert any('vary independently' in note for note in notes)


def test_the_base_has_one_seed_and_missing_metrics_are_null():
    rng = np.random.default_rng(0)
    results = study({'general_sft': 0.5, 'behavior_sft': 0.7}, seeds=(0,))
    results.append(result('base', None, predictions(rng, 0.3, tokens=False, twins=False)))
    found = summarize(results, resamples=50)
    base = found['rows'][2]
    assert (base['arm'], base['seeds'], base['selection'], base['twins']) == ('base', 1, None, None)
    assert found['runs'][2]['seed'] is None
    assert 'Only 160 proactive records' in found['notes'][0]
    assert 'one seed' in found['notes'][1]
    assert base['overall']['low'] < base['overall']['value'] < base['overall']['high']


def test_other_policies_and_prompts_are_rows_and_without_the_baseline_there_is_only_the_endpoint():
    rng = np.random.default_rng(0)
    results = study({'behavior_sft': 0.6})
    results += [
        result('behavior_sft', 0, predictions(rng, 0.6), 'none'),
        result('behavior_sft', 0, predictions(rng, 0.6), 'auto', 'explicit'),
    ]
    endpoint = ('overall', ('behavior_sft', 'auto'), ('behavior_sft', 'none'))
    found = summarize(results, endpoint=endpoint, resamples=50)
    assert [(row['policy'], row['prompt']) for row in found['rows']] == [
        ('auto', 'plain'),
        ('none', 'plain'),
        ('auto', 'explicit'),
    ]
    assert [c['name'] for c in found['comparisons']] == [
        'overall: behavior_sft/auto - behavior_sft/none'
    ]
    assert 'behavior_sft with none on overall macro-F1' in found['outcome']


def test_records_must_be_the_same_and_results_unique():
    results = study({'general_sft': 0.5, 'behavior_sft': 0.7}, seeds=(0,), cases=5)
    with pytest.raises(UserError, match='a second result of behavior_sft/auto, seed 0'):
        summarize([*results, results[1]])
    fewer = result('behavior_sft', 1, results[1]['predictions'][:-3])
    with pytest.raises(UserError, match='points/behavior_sft-s1.*other records'):
        summarize([*results, fewer])
    rows = results[1]['predictions']
    other = result('behavior_sft', 1, [{**rows[0], 'answer': rows[0]['answer'] ^ 1}, *rows[1:]])
    with pytest.raises(UserError, match='other records'):
        summarize([*results, other])
    with pytest.raises(UserError, match='no result of behavior_sft/auto'):
        summarize(results[:1])
    with pytest.raises(UserError, match='no result with an answer'):
        summarize([])
    with pytest.raises(UserError, match="no record of the group 'bridge'"):
        summarize(results, endpoint=('bridge', *ENDPOINT[1:]))


def test_records_that_a_longer_prompt_left_out_are_left_out_everywhere():
    results = study({'general_sft': 0.5, 'behavior_sft': 0.7}, seeds=(0,), cases=10)
    rng = np.random.default_rng(1)
    base = predictions(rng, 0.4, cases=10)
    complete = summarize([*results, result('base', None, base)], resamples=50)
    del base[3], base[40]
    left = summarize([*results, result('base', None, base, prompt='few_shot:2')], resamples=50)
    assert [row['n'] for row in complete['rows']] == [80] * 3 and [
        row['n'] for row in left['rows']
    ] == [78] * 3
    assert any('2 records are left out' in note for note in left['notes'])
    assert not any('left out' in note for note in complete['notes'])
    cut = [r['predictions'][:3] + r['predictions'][4:41] + r['predictions'][42:] for r in results]
    again = [{**r, 'predictions': rows} for r, rows in zip(results, cut, strict=True)]
    assert summarize(again, resamples=50)['rows'] == left['rows'][:2]


def test_records_without_an_id_stay_apart():
    results = study({'general_sft': 0.5, 'behavior_sft': 0.7}, seeds=(0,), cases=10)
    nameless = [
        {**r, 'predictions': [{**row, 'id': ''} for row in r['predictions']]} for r in results
    ]
    values = [
        summarize(r, resamples=50)['rows'][1]['overall']['value'] for r in (results, nameless)
    ]
    assert values[0] == values[1]


def test_records_are_never_paired_with_another_one():
    results = study({'general_sft': 0.5, 'behavior_sft': 0.7}, seeds=(0,), cases=10)
    rows = results[0]['predictions']
    twice = [{**r, 'predictions': [*rows, {**rows[1], 'prediction': 0}]} for r in results]
    with pytest.raises(UserError, match="two records have the id 'temporal_ordering-1'"):
        summarize(twice)
    nameless = [
        {**r, 'predictions': [{**row, 'id': ''} for row in r['predictions']]} for r in results
    ]
    nameless[1]['predictions'] = nameless[1]['predictions'][2:]
    with pytest.raises(UserError, match='records without an id, and not as many in every result'):
        summarize(nameless)


def test_the_order_of_records_and_results_does_not_matter():
    results = study({'general_sft': 0.5, 'behavior_sft': 0.7}, cases=5)
    shuffled = [{**r, 'predictions': r['predictions'][::-1]} for r in results]
    assert summarize(results, resamples=50) == summarize(shuffled, resamples=50)
    other = summarize(results[::-1], resamples=50)
    assert other['comparisons'][0] == summarize(results, resamples=50)['comparisons'][0]


def test_a_summary_as_text():
    figure = {'method': 'SFT', 'proactive': 0.95, 'overall': None, 'source': 'a paper'}
    results = study({'general_sft': 0.5, 'behavior_sft': 0.7}, cases=5, tokens=False)
    found = summary.summarize_study(
        'tokens', results, endpoint=ENDPOINT, published=[figure], resamples=50
    )
    lines = summary.format_summary(found).splitlines()
    assert lines[0] == 'Study tokens' and lines[-1] == found['outcome']
    header, rule, general = lines[2:5]
    assert header.split()[:6] == ['arm', 'policy', 'prompt', 'seeds', 'n', 'overall']
    assert len(header) == len(rule) == len(general)
    assert general.split()[5] == f'{found["rows"][0]["overall"]["value"]:.3f}'
    assert any(
        line.startswith('proactive: behavior_sft/auto') and line.endswith('endpoint')
        for line in lines
    )
    at = next(i for i, line in enumerate(lines) if 'another data set' in line)
    assert lines[at + 1] == '  SFT: proactive 0.950 (a paper)'
    assert any(line.startswith('Smallest effect') for line in lines)


def test_a_study_of_full_size_takes_seconds():
    arms = {arm: 0.6 for arm in ('general_sft', 'behavior_sft', 'a', 'b', 'c')}
    names = tuple(f'category-{c}' for c in range(13))
    results = study(arms, seeds=range(2), categories=names, cases=175)
    for r in results:
        for row in r['predictions']:
            row |= {'group': 'proactive', 'case_id': row['id']}
    start = time.process_time()
    summarize(results)
    assert time.process_time() - start < 20
