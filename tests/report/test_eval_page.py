"""Tests the page of evaluations: its figures, its escaping, and that it stands alone."""

import base64
import dataclasses
import hashlib
import json
import re

import numpy as np
import pytest

from bsft_jax.evaluation.metrics import metrics_from_predictions
from bsft_jax.inference import policies
from bsft_jax.records.record import Message
from bsft_jax.report import calibration, cases, coverage, dial, eval_page, html
from tests.report import fake

EVIL = '</script><script>alert(1)</script><!--"\'&\u2028'


@pytest.fixture(scope='module')
def evaluated(tmp_path_factory):
    return fake.write_evaluation(tmp_path_factory.mktemp('x') / 'run/eval/test', fake.records(12))


def page_of(*evaluations, path, **options):
    eval_page.write_page(path / 'report.html', 'A title', evaluations, **options)
    return (path / 'report.html').read_text(encoding='utf-8')


def data_of(page):
    (text,) = re.findall(r'<script type="application/json" id="page-data">(.*?)</script>', page)
    return json.loads(text)


def table_of(page, name):
    """Returns the texts of the cells of a table."""
    text = page[page.index(f'data-name="{name}"') :].split('</table>')[0]
    lines = re.findall(r'<tr.*?</tr>', text, re.DOTALL)
    cells = [re.findall(r'<t[dh].*?>(.*?)</t[dh]>', line, re.DOTALL) for line in lines]
    return [[re.sub('<.*?>', '', cell) for cell in line] for line in cells]


def test_the_page_asks_for_nothing_outside(evaluated, tmp_path):
    page = page_of(evaluated, path=tmp_path)
    for foreign in ('http:', 'https:', ' src=', '@import', 'url(', '<link', 'fetch(', 'import('):
        assert foreign not in page
    assert set(re.findall(r'href="(.)', page)) == {'#'}
    (code,) = re.findall(r'<script>(.*)</script>', page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    (allowed,) = re.findall(r'Content-Security-Policy" content="(.*?)">', page)
    assert allowed == (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    )


def test_links_within_the_page_lead_to_sections(evaluated, tmp_path):
    page = page_of(evaluated, path=tmp_path)
    anchors = set(re.findall(r'href="#([\w-]+)"', page))
    assert len(anchors) == 10 and anchors <= set(re.findall(r'<section id="([\w-]+)"', page))


def test_figures_are_those_of_the_metrics(evaluated, tmp_path):
    page, metrics = page_of(evaluated, path=tmp_path), evaluated.metrics
    _, *lines = table_of(page, 'results')
    named = {'overall': metrics['overall'], **metrics['groups']}
    assert [line[0] for line in lines] == list(named)
    for line, values in zip(lines, named.values(), strict=True):
        low, high = values['macro_f1_interval']
        expected = [f'{values["macro_f1"]:.3f}', f'{low:.3f}–{high:.3f}']
        expected += [f'{values["accuracy"]:.3f}', str(values['n']), str(values['cases'])]
        assert line[1:] == expected
    measures = {name: value for name, _, value in table_of(page, 'measures')[1:]}
    assert measures['missed'] == f'{metrics["intervention"]["missed_intervention_rate"]:.3f}'
    assert measures['auroc'] == f'{metrics["stepping_in"]["auroc"]:.3f}'
    categories = {line[0]: line for line in table_of(page, 'categories')[1:]}
    assert categories.keys() == metrics['categories'].keys()
    for name, line in categories.items():
        assert line[2] == f'{metrics["categories"][name]["macro_f1"]:.3f}'
    levels = table_of(page, 'difficulties')[1:]
    assert [line[1] for line in levels] == ['1', '2']
    for line in levels:
        assert line[3].startswith(f'{metrics["difficulties"][line[1]]["overall"]["macro_f1"]:.3f}')
    over = metrics['intervention']['over_intervention_rate']
    outcome = ' '.join(re.findall('<p class="outcome">(.*?)</p>', page))
    assert f'uninvited on {100 * over:.1f} %' in outcome
    within = [p for p in metrics['stepping_in']['points'] if p['over_intervention_rate'] <= 0.05]
    best = min(within, key=lambda point: point['missed_intervention_rate'])
    over, missed = best['over_intervention_rate'], best['missed_intervention_rate']
    sign = f'{best["dial"]:+.2f}'.replace('-', '−')
    assert f'dial at {sign}, it would step in uninvited on {100 * over:.1f} %' in outcome
    assert (
        f'({over * 36:.0f} of 36) and miss {100 * missed:.1f} % ({missed * 36:.0f} of 36)'
        in outcome
    )


def test_settings_of_the_dial_do_what_the_policy_does(evaluated):
    found = dial.dial_points(evaluated)
    rows, behaviors = (
        evaluated.predictions,
        policies.stored_behaviors(evaluated.predictions, fake.LEVELS),
    )
    points = evaluated.metrics['stepping_in']['points']
    assert len(found['points']) == len(points) > 20 and found['cases'] == 12
    for point, stored in zip(found['points'], points, strict=True):
        policy = policies.parse_policy(f'dial:{point["dial"]!r}', behaviors)
        values = metrics_from_predictions(
            policies.apply_policy(rows, policy), policy='dial', prompt='plain', levels=fake.LEVELS
        )
        assert point['groups'] == {n: v['macro_f1'] for n, v in values['groups'].items()}
        assert point['macro_f1'] == stored['macro_f1'] == values['overall']['macro_f1']
        rates = values['intervention']
        assert point['overs'] / 36 == point['over'] == rates['over_intervention_rate']
        assert point['misses'] / 36 == point['missed'] == rates['missed_intervention_rate']


def test_a_model_that_cannot_be_held_to_the_rate_has_no_setting(evaluated, tmp_path):
    points = [{'over': 0.06, 'missed': 0.1}, {'over': 0.9, 'missed': 0.0}]
    assert dial.setting_within(points) is None
    assert dial.setting_within([*points, {'over': 0.05, 'missed': 0.3}])['missed'] == 0.3
    section = evaluated.metrics['stepping_in']
    bold = [p for p in section['points'] if p['over_intervention_rate'] > 0.05 or p['dial'] == 0]
    metrics = {**evaluated.metrics, 'stepping_in': {**section, 'points': bold}}
    changed = dataclasses.replace(evaluated, metrics=metrics)
    assert 'No setting of its dial holds it to 5 %' in page_of(changed, path=tmp_path)
    assert dial.actions_within(changed) is None
    _, (shown,) = cases.reader_data([changed])
    assert not any('missed_5' in row['flags'] for row in shown['rows'])


def test_flags_count_what_the_rates_count(evaluated):
    _, (shown,) = cases.reader_data([evaluated])
    metrics, rows = evaluated.metrics, shown['rows']
    counts = {name: sum(name in row['flags'] for row in rows) for name in cases.FLAGS}
    assert counts['wrong'] == round((1 - metrics['overall']['accuracy']) * 72) > 0
    rates = metrics['intervention']
    assert counts['uninvited'] / 36 == rates['over_intervention_rate'] > 0
    assert counts['missed'] / 36 == rates['missed_intervention_rate'] > 0
    best = dial.setting_within(dial.dial_points(evaluated)['points'])
    assert counts['uninvited_5'] == best['overs'] and counts['missed_5'] == best['misses'] > 0
    right = [set() for _ in range(2)]
    for row in evaluated.predictions:
        right[row['answer'] == row['prediction']].add(row['pair_id'])
    assert counts['apart'] == 2 * len(right[0] & right[1]) > 0
    assert counts['low'] == sum(row['margin'] < 0.1 for row in rows) > 0


def test_worst_cases_come_first(evaluated):
    records, (shown,) = cases.reader_data([evaluated])
    rows = shown['rows']
    wrong = ['wrong' in row['flags'] for row in rows]
    assert wrong == sorted(wrong, reverse=True)
    of_wrong = [row['right'] for row in rows if 'wrong' in row['flags']]
    assert of_wrong == sorted(of_wrong)
    stored = {row['id']: row for row in evaluated.predictions}
    for row in rows:
        own = stored[records[row['record']]['id']]
        name = shown['branches'][row['branch']]
        assert name == own['behavior_prediction']
        prob_K = np.exp(own['option_logprobs'][name])
        assert row['options'][row['branch']] == [float(f'{p:.3f}') for p in prob_K]
        assert row['right'] == float(f'{prob_K[own["answer"]]:.3f}')


@pytest.mark.parametrize(('policy', 'branch'), [('none', 0), ('mixture', -1), ('auto', -2)])
def test_the_branch_that_answered_is_known_without_a_chosen_behavior(evaluated, policy, branch):
    rows = policies.apply_policy(evaluated.predictions, policies.Policy(policy, positions=(0, 1)))
    if policy == 'auto':
        # A model without a choice and with a constant prefix.
        for row in rows:
            scores = row['option_logprobs']
            row['option_logprobs'] = {'none': scores['none'], 'x': scores['proactive']}
            row |= {'behavior_logprobs': None, 'behavior_prediction': None}
            row['prediction'] = int(np.argmax(scores['proactive']))
        branch = 1
    changed = dataclasses.replace(
        evaluated, predictions=rows, metrics={**evaluated.metrics, 'policy': policy}
    )
    _, (shown,) = cases.reader_data([changed])
    assert {row['branch'] for row in shown['rows']} == {branch}
    if policy == 'mixture':
        row = shown['rows'][0]
        # Behaviors follow the branch without one.
        mixed_K = np.array(row['choice']) @ np.array(row['options'][1:])
        assert int(mixed_K.argmax()) == row['prediction']


def test_bins_add_up_to_the_calibration_error(evaluated):
    bins, section = calibration.reliability_bins(evaluated), evaluated.metrics['stepping_in']
    assert sum(b['n'] for b in bins) == section['n'] and len(bins) > 5
    assert sum(b['due'] for b in bins) == section['due']
    error = sum(b['n'] * abs(b['mean'] - b['share']) for b in bins) / section['n']
    assert error == pytest.approx(section['ece'], rel=1e-12)


def test_the_curve_of_coverage_passes_through_the_metrics(evaluated, tmp_path):
    points, section = coverage.coverage_points(evaluated), evaluated.metrics['selective']
    at = {point['percent']: point for point in points}
    assert list(at) == [*range(20, 101, 5)]
    for percent in (80, 90, 95):
        assert at[percent]['macro_f1'] == section[f'macro_f1_at_{percent}_percent']
    overall = evaluated.metrics['overall']
    assert (at[100]['n'], at[100]['macro_f1']) == (72, overall['macro_f1'])
    assert at[100]['wrong'] == pytest.approx(1 - overall['accuracy'])
    surest = sorted(evaluated.predictions, key=lambda row: -row['confidence'])[:36]
    wrong = sum(row['answer'] != row['prediction'] for row in surest)
    assert at[50]['wrong'] == wrong / 36 and at[50]['confidence'] == surest[-1]['confidence']
    page = page_of(evaluated, path=tmp_path)
    lines = table_of(page, f'coverage of {evaluated.name}')[1:]
    assert lines == [
        [
            f'{p["percent"]} %',
            str(p['n']),
            *(f'{p[k]:.3f}' for k in ('confidence', 'wrong', 'macro_f1')),
        ]
        for p in points
    ]
    assert f'of the surest half {100 * wrong / 36:.1f} %' in page
    section = page[page.index('id="coverage"') :].split('</section>')[0]
    (line, _) = re.findall('<polyline.*?points="(.*?)"', section)
    (box,) = set(re.findall('data-box="(.*?)"', section))
    left, right, bottom, top = map(float, box.split())
    for point, pair in zip(points, line.split(), strict=True):
        x, y = map(float, pair.split(','))
        assert (x - left) / (right - left) == pytest.approx(point['share'], abs=1e-3)
        assert (y - bottom) / (top - bottom) == pytest.approx(point['wrong'], abs=1e-3)


def test_equal_confidences_are_kept_together(evaluated):
    rows = [{**row, 'confidence': 0.5} for row in evaluated.predictions]
    points = coverage.coverage_points(dataclasses.replace(evaluated, predictions=rows))
    assert {(p['n'], p['share']) for p in points} == {(72, 1.0)}


def test_what_metrics_say_of_confusion_and_confidence_is_shown(evaluated, tmp_path):
    confused = {'behaviors': list(fake.LEVELS), 'answers': [[30, 6], [11, 25]], 'tokens': None}
    metrics = {
        **evaluated.metrics,
        'confusion': {**confused, 'groups': {'reactive': [[9, 3], [4, 8]], 'proactive': None}},
        'selective': {'aurc': 0.1234, 'macro_f1_at_80_percent': 0.5678},
        'calibration': {
            'n': 72,
            'ece': 0.01,
            'ece_before': 0.21,
            'brier': 0.1,
            'brier_before': 0.2,
        },
    }
    page = page_of(dataclasses.replace(evaluated, metrics=metrics), path=tmp_path)
    assert table_of(page, f'answers of {evaluated.name}') == [
        ['labelanswers', 'reactive', 'proactive', 'n'],
        ['reactive', '30', '6', '36'],
        ['proactive', '11', '25', '36'],
    ]
    assert table_of(page, f'reactive group of {evaluated.name}')[1] == ['reactive', '9', '3', '12']
    assert page.count('class="matrix"') == 2 and 'href="#confusion"' in page
    measures = {name: value for name, _, value in table_of(page, 'measures')[1:]}
    assert (measures['aurc'], measures['surest 80 %']) == ('0.123', '0.568')
    lines = table_of(page, f'calibrated {evaluated.name}')
    assert lines[1:] == [['ece', '0.210', '0.010'], ['brier', '0.200', '0.100']]
    older = {k: v for k, v in metrics.items() if k not in ('confusion', 'selective', 'calibration')}
    without = page_of(dataclasses.replace(evaluated, metrics=older), path=tmp_path)
    assert 'id="confusion"' not in without and 'id="coverage"' not in without
    assert 'aurc' not in {name for name, *_ in table_of(without, 'measures')}


def test_text_is_text(tmp_path):
    turns = (Message('user', EVIL, name=EVIL),)
    of = fake.records(3, messages=turns, options=(EVIL, 'b', 'c', 'd'), group=EVIL, category='')
    of = [dataclasses.replace(record, id=record.id + EVIL) for record in of]
    evaluated = fake.write_evaluation(tmp_path / 'run/eval/x', of, data=EVIL)
    evaluated = dataclasses.replace(evaluated, name=EVIL)
    page = page_of(evaluated, evaluated, path=tmp_path)
    assert page.count('<script') == page.count('</script>') == 2 and '<script>alert' not in page
    data = data_of(page)
    assert data['records'][0]['turns'] == [['user', EVIL, EVIL]]
    assert data['records'][0]['options'][0] == data['evaluations'][0]['name'] == EVIL
    assert f'<dd>{html.escape(EVIL)}</dd>' in page


def test_two_thousand_long_records_fit(tmp_path):
    of = fake.records(334, words=900)
    evaluated = fake.write_evaluation(tmp_path / 'run/eval/x', of)
    page = page_of(evaluated, path=tmp_path)
    assert 5e6 < len(page.encode()) < 10e6
    data = data_of(page)
    kept = ['turns' in data['records'][row['record']] for row in data['evaluations'][0]['rows']]
    # The worst are read, and so are their twins.
    assert 700 < sum(kept) < len(kept) == 2004 and all(kept[:350])
    first = data['records'][data['evaluations'][0]['rows'][0]['record']]
    twins = [record for record in data['records'] if record['pair'] == first['pair']]
    assert len(twins) == 2 and all('turns' in twin for twin in twins)
    assert f'{len(kept) - sum(kept):,} records are without their words' in page


def test_words_are_announced_or_asked_for(evaluated, tmp_path):
    assert 'the words of 72 records' in page_of(evaluated, path=tmp_path)
    page = page_of(dataclasses.replace(evaluated, records={}), path=tmp_path)
    assert 'the words of' not in page.split('<section')[0] and 'warfarin' not in page
    assert 'python -m bsft_jax.report' in page


def test_a_model_without_tokens_has_a_dial_too(tmp_path):
    evaluated = fake.write_evaluation(tmp_path / 'run/eval/x', fake.records(8), tokens=False)
    page = page_of(evaluated, path=tmp_path)
    assert len(data_of(page)['evaluations'][0]['dial']['points']) > 10
    assert 'No policy does that' in page and 'the model has no behavior tokens' in page


def test_what_is_not_there_is_said(tmp_path):
    of = fake.records(1, option_behaviors=(), behavior='', pair_id='', difficulty=None)
    rows = [{**row, 'behavior_logprobs': None} for row in fake.predictions(of)]
    evaluated = fake.write_evaluation(tmp_path / 'run/eval/x', fake.records(1))
    metrics = metrics_from_predictions(rows, policy='auto', prompt='plain', levels=fake.LEVELS)
    metrics |= {'split': 'test', 'data': 'jsonl:x', 'behaviors': fake.LEVELS}
    evaluated = dataclasses.replace(evaluated, predictions=rows, metrics=metrics)
    page = page_of(evaluated, path=tmp_path)
    for gap in ('No operating points', 'was not judged', 'Twins: there are none'):
        assert gap in page
    assert 'all records are of one case' in page and not re.search('>(None|nan)<', page)
