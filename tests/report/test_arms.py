"""Tests the slider of a study's page: what arms miss at equal over-intervention, and its links."""

import copy
import re
import urllib.parse

import pytest

from bsft_jax import files
from bsft_jax.report import arms, study_page
from tests.report import fake
from tests.report.test_eval_page import table_of


@pytest.fixture(scope='module')
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp('study')
    return fake.write_study(folder, fake.records(8)), folder


def page_of(folder, summary):
    files.write_json(folder / 'summary.json', summary)
    return study_page.write_page(folder).read_text(encoding='utf-8')


def test_rates_are_those_of_each_evaluation(study):
    summary, folder = study
    found = summary['missed_by_rate']
    assert found['rates'] == [n / 100 for n in range(51)]
    assert [(arm['arm'], arm['prompt'], arm['seeds']) for arm in found['arms']] == [
        ('behavior_sft', 'plain', 2),
        ('general_sft', 'plain', 2),
    ]
    for arm in found['arms']:
        for percent in (5, 10):
            of_seeds = [
                files.read_json(folder / f'points/{arm["arm"]}-s{seed}/eval/test-auto/metrics.json')
                for seed in (0, 1)
            ]
            missed = [m['stepping_in'][f'missed_at_{percent}_percent'] for m in of_seeds]
            shown = [arm[key][percent] for key in ('missed', 'low', 'high')]
            assert shown == pytest.approx([sum(missed) / 2, min(missed), max(missed)], abs=1e-12)
        assert all(
            over <= rate + 1e-9 for over, rate in zip(arm['over'], found['rates'], strict=True)
        )
        # More over-intervention never has to miss more.
        assert all(b <= a + 1e-9 for a, b in zip(arm['missed'], arm['missed'][1:], strict=False))
    endpoint = summary['missed_at_equal_over']['comparisons'][0]
    at_5 = [endpoint[side]['missed'] for side in ('first', 'second')]
    assert [arm['missed'][5] for arm in found['arms']] == pytest.approx(at_5, abs=1e-12)


def test_tables_show_the_rates(study):
    summary, folder = study
    page, found = page_of(folder, summary), summary['missed_by_rate']

    def texts(arm, i):
        mean, low, high, over = (
            f'{100 * arm[k][i]:.1f} %' for k in ('missed', 'low', 'high', 'over')
        )
        return [f'{mean}{low} to {high}', over]

    _, *lines = table_of(page, 'arms')
    for line, arm in zip(lines, found['arms'], strict=True):
        assert line[:4] == [arm['arm'], '2', *texts(arm, 5)]
        assert line[4] == 'seed 0, test-auto, seed 1, test-auto'
    _, *lines = table_of(page, 'arms by rate')
    assert len(lines) == 51
    for i, line in enumerate(lines):
        assert line == [f'{i}.0 %', *(text for arm in found['arms'] for text in texts(arm, i))]


def test_links_lead_to_pages_that_exist(study):
    summary, folder = study
    page = page_of(folder, summary)
    anchor, *addresses = re.findall('href="(.*?)"', page)
    assert anchor == '#arms' and '<section id="arms">' in page
    assert len(addresses) == 4 and all(address.startswith('./points/') for address in addresses)
    assert all((folder / urllib.parse.unquote(address)).is_file() for address in addresses)
    odd = folder / 'points/a:b "#%/eval/x<y'
    odd.mkdir(parents=True)
    (odd / 'report.html').write_text('')
    ((text, address),) = arms.page_links(
        folder, [{'arm': 'a', 'seed': None, 'workdir': 'points/a:b "#%'}]
    )['a']
    assert (text, address) == ('x<y', './points/a%3Ab%20%22%23%25/eval/x%3Cy/report.html')


def test_a_study_without_scores_or_from_before_has_no_slider(study):
    summary, folder = copy.deepcopy(study[0]), study[1]
    del summary['missed_by_rate']
    assert 'id="arms"' not in page_of(folder, summary)
    summary['missed_by_rate'] = {'rates': [0.0], 'arms': []}
    assert 'id="arms"' not in page_of(folder, summary)


def test_the_rate_of_the_study_is_shown_first(study):
    summary, folder = copy.deepcopy(study[0]), study[1]
    summary['missed_at_equal_over']['over_rate'] = 0.1
    page = page_of(folder, summary)
    assert '<output>10.0 %</output>' in page and 'max="50" step="1" value="10"' in page
    missed = summary['missed_by_rate']['arms'][0]['missed'][10]
    assert table_of(page, 'arms')[1][2].startswith(f'{100 * missed:.1f} %')


def test_an_arm_under_two_prompts_stands_twice_and_a_policy_once():
    from bsft_jax.studies import summary as summary_lib

    of, results = fake.records(4), []
    for arm, policy, prompt, seed in (
        ('behavior_sft', 'auto', 'plain', 0),
        ('behavior_sft', 'none', 'plain', 0),
        ('behavior_sft', 'auto', 'few_shot', 0),
        ('general_sft', 'auto', 'plain', 1),
    ):
        rows = fake.predictions(of, seed)
        evaluation = {'policy': policy, 'prompt': prompt, 'name': policy}
        metrics = fake.metrics_from_predictions(
            rows, policy=policy, prompt=prompt, levels=fake.LEVELS
        )
        results.append({'arm': arm, 'seed': 0, 'workdir': arm, 'evaluation': evaluation})
        results[-1] |= {'metrics': metrics, 'predictions': rows}
    endpoint = ('overall', ('behavior_sft', 'auto'), ('general_sft', 'auto'))
    found = summary_lib.summarize_study(
        's', results, endpoint=endpoint, published=[], levels=fake.LEVELS, resamples=20
    )
    shown = [(arm['arm'], arm['prompt']) for arm in found['missed_by_rate']['arms']]
    assert shown == [
        ('behavior_sft', 'plain'),
        ('behavior_sft', 'few_shot'),
        ('general_sft', 'plain'),
    ]
