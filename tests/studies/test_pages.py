"""Tests the command `report`: the page of folders."""

import dataclasses
import json
import re
import subprocess
import sys

import pytest

from bsft_jax import files
from bsft_jax.errors import UserError
from bsft_jax.records.record import Message, write_jsonl
from bsft_jax.studies.pages import ReportOptions, report_folders
from tests.conftest import ROOT
from tests.report import fake

OF = fake.records(8)


def evaluation(folder, **options):
    return fake.write_evaluation(
        folder, OF, data=f'jsonl:{folder.parents[2]}/data.jsonl', **options
    )


@pytest.fixture
def place(tmp_path):
    """Returns a folder with a data set, two runs and one evaluation of each."""
    write_jsonl(tmp_path / 'data.jsonl', [dataclasses.replace(r, split='test') for r in OF])
    evaluation(tmp_path / 'one/eval/test-auto')
    evaluation(tmp_path / 'two/eval/test-auto', seed=1)
    return tmp_path


def page_of(place, *folders, **options):
    folders = [str(place / folder) for folder in folders]
    report_folders(ReportOptions(folders, str(place / 'page.html'), **options))
    return (place / 'page.html').read_text(encoding='utf-8')


def data_of(page):
    return json.loads(re.findall(r'id="page-data">(.*?)</script>', page)[0])


def test_an_evaluation_has_the_words_of_its_records(place):
    page = page_of(place, 'one/eval/test-auto')
    assert '<h1>Evaluation one/test-auto</h1>' in page
    data = data_of(page)
    assert [e['name'] for e in data['evaluations']] == ['one/test-auto']
    assert len(data['records']) == 48 and all(
        r['turns'][0][1] == 'Dr. Ito' for r in data['records']
    )
    page = page_of(place, 'one/eval/test-auto', words=False)
    assert not any('turns' in r for r in data_of(page)['records'])


def test_changed_words_are_left_out(place, capsys):
    changed = [dataclasses.replace(r, split='test') for r in OF]
    changed[3] = dataclasses.replace(changed[3], messages=(Message('user', 'other'),))
    write_jsonl(place / 'data.jsonl', changed)
    data = data_of(page_of(place, 'one/eval/test-auto'))
    assert [n for n, r in enumerate(data['records']) if 'turns' not in r] == [3]
    (place / 'data.jsonl').unlink()
    data = data_of(page_of(place, 'one/eval/test-auto'))
    assert not any('turns' in r for r in data['records'])
    assert 'words of the records are left out' in capsys.readouterr().err


def test_two_evaluations_are_compared(place):
    page = page_of(place, 'one/eval/test-auto', 'two/eval/test-auto', 'one/eval/test-auto')
    data = data_of(page)
    assert [e['name'] for e in data['evaluations']] == ['one', 'two'] and len(data['records']) == 48
    section = page[page.index('id="comparison"') :].split('</section>')[0]
    assert 'one − two' in section and 'missed at 5 % uninvited' in section
    both = [
        files.read_json(place / f'{name}/eval/test-auto/metrics.json') for name in ('one', 'two')
    ]
    difference = both[0]['overall']['macro_f1'] - both[1]['overall']['macro_f1']
    assert f'>{difference:+.3f}<'.replace('-', '−') in section


def test_evaluations_of_other_records_are_not_compared(place):
    fake.write_evaluation(place / 'x/eval/other', fake.records(2, words=3))
    page = page_of(place, 'one/eval/test-auto', 'x/eval/other')
    assert 'Not compared: ' in page and len(data_of(page)['records']) == 60


def test_a_run_has_all_its_evaluations_and_its_curves(place):
    rows = [{'step': n, 'loss': 1 / n} for n in range(1, 9)]
    files.write_lines(place / 'one/metrics.jsonl', rows)
    files.write_json(place / 'one/config.json', {'arm': 'behavior_sft', 'model': {'base': 'b'}})
    again = evaluation(place / 'one/eval/test-none', seed=3)
    for name in ('test-auto', 'test-none'):
        files.write_json(place / f'one/eval/{name}/metrics.json', {**again.metrics, 'model': ''})
    page = page_of(place, 'one')
    assert '<h1>Run one</h1>' in page and 'Training loss' in page
    assert [e['name'] for e in data_of(page)['evaluations']] == ['test-auto', 'test-none']
    assert '<dt>arm</dt><dd>behavior_sft</dd>' in page


def test_a_study_has_the_first_seed_of_each_arm(place):
    (place / 'study/points').mkdir(parents=True)
    rows = []
    for arm, seed, workdir in (('a', 0, 'one'), ('a', 1, 'two'), ('b', 0, 'two')):
        name = {'name': 'test-auto', 'policy': 'auto', 'prompt': 'plain'}
        rows.append({'arm': arm, 'seed': seed, 'workdir': f'../{workdir}', 'evaluation': name})
    files.write_lines(place / 'study/results.jsonl', rows)
    summary = {'study': 's', 'outcome': 'An outcome.', 'rows': [], 'runs': [], 'comparisons': []}
    summary |= {'smallest_effect': None, 'published': [], 'shortcuts': '', 'notes': ['A note.']}
    files.write_json(place / 'study/summary.json', summary)
    page = page_of(place, 'study')
    assert '<h1>Study study</h1>' in page and 'An outcome.' in page and 'A note.' in page
    assert [e['name'] for e in data_of(page)['evaluations']] == ['one', 'two']


@pytest.mark.parametrize(
    ('folders', 'line'),
    [
        ([], 'no folder is named'),
        (['one', 'nowhere'], 'nowhere: holds no evaluation'),
        (['one/eval'], 'eval: holds no evaluation'),
    ],
)
def test_what_is_no_evaluation_is_refused(place, folders, line):
    with pytest.raises(UserError, match=line):
        page_of(place, *folders)
    assert not (place / 'page.html').exists()


def test_a_place_that_cannot_be_written_is_refused(place):
    (place / 'page.html').mkdir()
    with pytest.raises(UserError, match='--output=.*page.html: is not a file'):
        page_of(place, 'one')


def run(place, *arguments):
    command = [sys.executable, '-m', 'bsft_jax.report', *arguments]
    return subprocess.run(
        command,
        cwd=place,
        env={'PYTHONPATH': str(ROOT), 'PATH': ''},
        capture_output=True,
        text=True,
    )


def test_the_command_takes_folders_and_flags_in_any_order(place):
    done = run(place, 'one', '--output=page.html', 'two', '--nowords')
    assert (done.returncode, done.stdout, done.stderr) == (0, '', 'written: page.html\n')
    data = data_of((place / 'page.html').read_text(encoding='utf-8'))
    assert len(data['evaluations']) == 2 and 'turns' not in data['records'][0]
    done = run(place, 'one', '--outptu=page.html')
    assert done.returncode == 2 and 'outptu' in done.stderr
    done = run(place, 'one')
    assert (done.returncode, done.stderr) == (2, 'error: flag --output is missing\n')
