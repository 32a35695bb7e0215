"""Tests the page of a study and its charts."""

import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import pytest

from bsft_jax.errors import UserError
from bsft_jax.report import study_page, svg

GROUPS = {'reactive': 0.81, 'bridging': 0.655, 'proactive': 0.527}


def estimate(value):
    return {'value': value, 'low': value - 0.0412, 'high': value + 0.0391}


def row(arm, policy, shift, selection=0.911):
    return {
        'arm': arm,
        'policy': policy,
        'prompt': 'plain',
        'seeds': 2,
        'n': 1650,
        'overall': estimate(0.664 + shift),
        'groups': {group: estimate(value + shift) for group, value in GROUPS.items()},
        'categories': {'omission_detection': 0.712 + shift, 'temporal_ordering': 0.803 + shift},
        'selection': selection,
        'over': 0.102 + shift,
        'missed': 0.051 + shift,
        'twins': 0.604 + shift,
    }


def fake():
    name = 'proactive: behavior_sft/auto - general_sft/auto'
    ends = {'difference': -0.011, 'low': -0.0222, 'high': 0.0433}
    return {
        'study': 'quickstart',
        'outcome': 'The interval of the endpoint contains 0.',
        'rows': [
            row('behavior_sft', 'auto', 0.0),
            row('behavior_sft', 'proactive', 0.017),
            row('general_sft', 'auto', 0.033, selection=None),
        ],
        'comparisons': [
            {'name': name, **ends, 'p': 0.412, 'p_holm': None, 'endpoint': True},
            {'name': 'overall: the same', **ends, 'p': 0.0001, 'p_holm': 0.823, 'endpoint': False},
        ],
        'smallest_effect': {'difference': 0.0314, 'proactive_records': 1600},
        'published': [
            {'method': 'M', 'proactive': 0.965, 'overall': None, 'source': 'arXiv 2505.21757'}
        ],
        'shortcuts': 'view   accuracy\nwords  0.512 <',
        'notes': ['One note.'],
        'runs': [
            {'arm': arm, 'seed': seed, 'workdir': f'points/{arm}-s{seed}'}
            for arm in ('behavior_sft', 'general_sft')
            for seed in (0, 1)
        ],
    }


def curve(folder, run, steps=40):
    workdir = folder / run['workdir']
    workdir.mkdir(parents=True)
    lines = []
    for n in range(1, steps + 1):
        values = {'step': 10 * n, 'loss': 7 / n + 0.1 * run['seed'], 'response_accuracy': 0.5}
        tokens = run['arm'] == 'behavior_sft'
        values.update(
            behavior_accuracy=1 - 1 / n if tokens else 0.0, behavior_loss=1 / n if tokens else -0.0
        )
        lines.append(json.dumps(values))
        if n % 10 == 0:
            lines.append(json.dumps({'step': 10 * n, 'validation/macro_f1': 0.4 + n / 100}))
    (workdir / 'metrics.jsonl').write_text('\n'.join([*lines, '{"step": 41', '']))


def written(folder, summary, runs=None):
    (folder / 'summary.json').write_text(json.dumps(summary))
    for run in summary['runs'] if runs is None else runs:
        curve(folder, run)
    path = study_page.write_page(folder)
    assert path == folder / 'report.html'
    return path.read_text(encoding='utf-8')


def drawings(page):
    return [ElementTree.fromstring(text) for text in re.findall(r'<svg.*?</svg>', page, re.DOTALL)]


def charts(page):
    return {
        drawing.get('aria-label'): drawing
        for drawing in drawings(page)
        if drawing.get('aria-label')
    }


def test_the_page_stands_alone_and_has_every_number(tmp_path):
    page = written(tmp_path, fake())
    for foreign in ('http:', 'https:', 'src=', '@import', 'url(', '<link', 'href='):
        assert foreign not in page
    table = page[page.index('<h2>Results') : page.index('<h2>Macro-F1 by group')]
    for line in fake()['rows']:
        assert f'>{line["arm"]}<small>{line["policy"]} / plain<' in table and '>1,650<' in table
        values = [
            value[end] for value in (line['overall'], *line['groups'].values()) for end in value
        ]
        values += [line[name] for name in ('over', 'missed', 'twins')]
        assert all(f'{value:.3f}' in table for value in values)
        assert all(f'>{value:.3f}<' in page for value in line['categories'].values())
    for text in (
        fake()['outcome'],
        '−0.011',
        '−0.022 to +0.043',
        '>0.412<',
        '&lt; 0.001',
        '>0.823<',
        '0.031',
    ):
        assert text in page
    assert (
        'another data set, not comparable' in page
        and '>0.965<' in page
        and '<li>One note.</li>' in page
    )
    assert 'words  0.512 &lt;' in page


def test_bars_are_as_long_as_their_values_and_whiskers_end_at_the_interval(tmp_path):
    drawn = charts(written(tmp_path, fake()))
    assert list(drawn)[:4] == ['Reactive', 'Bridging', 'Proactive', 'Overall']
    chart = drawn['Proactive']
    grid = {line.get('class'): float(line.get('x1')) for line in chart.iter('line')}
    zero, one = grid['axis'], grid['grid']
    boxes, whiskers = list(chart.iter('rect')), [path.get('d') for path in chart.iter('path')]
    assert [box.get('class') for box in boxes] == ['b0', 'b0', 'b1']
    for box, whisker, shift in zip(boxes, whiskers, (0.0, 0.017, 0.033), strict=True):
        value = estimate(GROUPS['proactive'] + shift)
        assert float(box.get('width')) / (one - zero) == pytest.approx(value['value'], abs=1e-3)
        low, high = (float(x) for x in re.findall(r'M([\d.]+) [\d.]+v', whisker))
        assert (low - zero) / (one - zero) == pytest.approx(value['low'], abs=1e-3)
        assert (high - zero) / (one - zero) == pytest.approx(value['high'], abs=1e-3)


def test_curves_have_a_mean_per_arm_and_a_thin_line_per_seed(tmp_path):
    drawn = charts(written(tmp_path, fake()))
    kinds = {
        title: [line.get('class') for line in drawn[title].iter('polyline')]
        for title in list(drawn)[4:]
    }
    both = ['seed l0', 'seed l0', 'seed l1', 'seed l1', 'mean l0', 'mean l1']
    assert kinds == {
        'Training loss': both,
        'Behavior accuracy in training': ['seed l0', 'seed l0', 'mean l0'],
        'Validation macro-F1': both,
    }
    lines = list(drawn['Training loss'].iter('polyline'))
    heights = [[float(p.split(',')[1]) for p in line.get('points').split()] for line in lines]
    seed_0, seed_1, mean = heights[0], heights[1], heights[4]
    assert all(b < m < a for a, m, b in zip(seed_0[5:], mean[5:], seed_1[5:], strict=True))


def test_norms_of_behavior_rows_have_a_chart_for_each(tmp_path):
    (tmp_path / 'summary.json').write_text(json.dumps(fake()))
    for run in fake()['runs']:
        curve(tmp_path, run)
        if run['arm'] == 'behavior_sft':
            path = tmp_path / run['workdir'] / 'metrics.jsonl'
            lines = [
                {'step': step, f'behavior_{part}_norm/{name}': k + run['seed'] + step / 10}
                for k, name in enumerate(('calm', 'bold'))
                for part in ('input', 'output')
                for step in (1, 2)
            ]
            path.write_text(''.join(json.dumps(line) + '\n' for line in lines))
    page = study_page.write_page(tmp_path).read_text(encoding='utf-8')
    titles = [
        f'Norm of the {part} row of {name}'
        for part in ('input', 'output')
        for name in ('calm', 'bold')
    ]
    drawn = charts(page)
    assert [title for title in drawn if title.startswith('Norm')] == titles
    for title in titles:
        kinds = [line.get('class') for line in drawn[title].iter('polyline')]
        assert kinds == ['seed l0', 'seed l0', 'mean l0']
    table = page[page.index('data-name="training"') :].split('</table>')[0]
    for k, title in enumerate(titles):
        cells = re.search(f'>{title}</td>(.*?)</tr>', table).group(1)
        # The mean of the seeds 0 and 1.
        bold = k % 2
        expected = ['behavior_sft', '1', f'{bold + 0.6:.3f}', '2', f'{bold + 0.7:.3f}']
        assert re.findall('<td.*?>(.*?)</td>', cells) == expected


def test_text_is_escaped(tmp_path):
    summary = fake()
    bad = '<b>"&\'</b>'
    for item in [*summary['rows'], *summary['runs']]:
        item['arm'] = bad if item['arm'] == 'general_sft' else item['arm']
    summary['runs'][2]['workdir'] = summary['runs'][3]['workdir'] = 'points/bad'
    summary.update(study=bad, outcome=bad, notes=[bad], shortcuts=bad)
    summary['comparisons'][0]['name'] = summary['published'][0]['method'] = bad
    page = written(tmp_path, summary, runs=summary['runs'][:3])
    assert bad not in page and '<b>' not in page
    assert page.count('&lt;b&gt;&quot;&amp;&#x27;&lt;/b&gt;') >= 10
    assert any(bad in text for text in charts(page)['Overall'].itertext())


def test_missing_values_do_not_break_the_page(tmp_path):
    summary = fake()
    summary.update(comparisons=[], smallest_effect=None, published=[], shortcuts='', notes=[])
    for line in summary['rows']:
        line.update(selection=None, over=None, missed=None, twins=None)
    summary['rows'][0]['groups'].pop('bridging')
    summary['published'] = [{'method': 'M', 'source': 'S', 'overall': 0.5}]
    summary['rows'][1]['overall'].update(low=None, high=None)
    page = written(tmp_path, summary, runs=[])
    assert 'No metrics.jsonl' in page and 'Shortcut' not in page and 'None' not in page
    assert list(charts(page)) == ['Reactive', 'Bridging', 'Proactive', 'Overall']
    assert len(list(charts(page)['Bridging'].iter('rect'))) == 2
    path = tmp_path / summary['runs'][0]['workdir'] / 'metrics.jsonl'
    path.parent.mkdir(parents=True)
    path.write_text(
        '{"step": 10, "loss": NaN}\n{"step": 20, "loss": 2.0}\n{"step": 20, "loss": null}\n'
    )
    drawn = charts(study_page.write_page(tmp_path).read_text(encoding='utf-8'))
    assert [
        len(line.get('points').split()) for line in drawn['Training loss'].iter('polyline')
    ] == [1]


def test_many_rows_share_several_tables_of_categories(tmp_path):
    summary = fake()
    summary['rows'] = [row('behavior_sft', f'policy{n}', n / 1000) for n in range(13)]
    page = written(tmp_path, summary, runs=[])
    table = page[page.index('<h2>Macro-F1 by category') : page.index('<h2>Published')]
    assert table.count('<table') == 3
    assert all(table.count(f'>policy{n} / plain<') == 1 for n in range(13))
    assert all(table.count(f'>{0.712 + n / 1000:.3f}<') == 1 for n in range(13))


def test_long_runs_are_thinned_to_means_of_neighbours(tmp_path):
    summary = fake()
    summary['runs'] = summary['runs'][:1]
    (tmp_path / 'summary.json').write_text(json.dumps(summary))
    curve(tmp_path, summary['runs'][0], steps=5000)
    page = study_page.write_page(tmp_path).read_text(encoding='utf-8')
    (line,) = charts(page)['Training loss'].iter('polyline')
    assert 150 < len(line.get('points').split()) <= 200


def test_ticks_are_round_and_few():
    assert svg.ticks(0, 1000) == [0, 200, 400, 600, 800, 1000]
    assert svg.ticks(0, 37) == [0, 10, 20, 30]
    assert svg.ticks(3, 3) == [3]


def test_no_summary_is_the_users_error(tmp_path):
    with pytest.raises(UserError, match='summary.json'):
        study_page.write_page(tmp_path)
    (tmp_path / 'summary.json').write_text('{')
    with pytest.raises(UserError, match='not valid JSON'):
        study_page.write_page(tmp_path)


def test_the_page_imports_no_jax_and_no_numpy():
    code = (
        'import sys, bsft_jax.report.study_page; '
        'sys.exit("jax" in sys.modules or "numpy" in sys.modules)'
    )
    assert subprocess.run([sys.executable, '-c', code], check=False).returncode == 0
