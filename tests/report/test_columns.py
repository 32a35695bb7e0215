"""Tests that one column shows a metric in every report."""

import json
import re

import pytest

from bsft_jax.evaluation.metrics import metrics_from_predictions
from bsft_jax.report import columns, study_page, table
from bsft_jax.report.columns import Column
from bsft_jax.studies import summary
from tests.studies.test_summary import study, summarize

FLIPS = Column(
    key='flips',
    header='flipped',
    meaning='share of answers that depend on the forced behavior',
    section='intervention',
    metric='flip_rate',
)


def test_a_column_reads_its_section_which_may_be_null():
    column = columns.COLUMNS[0]
    assert column.value({'selection': {'macro_f1': 0.25}}) == 0.25
    assert column.value({'selection': None}) is None


def test_every_column_is_a_metric():
    rows = study({'behavior_sft': 0.5}, seeds=(0,))[0]['predictions']
    metrics = metrics_from_predictions(rows, policy='auto', prompt='plain')
    for column in columns.COLUMNS:
        assert column.value(metrics) is not None, column.key
    assert len({column.key for column in columns.COLUMNS}) == len(columns.COLUMNS)


@pytest.mark.parametrize('added', [False, True])
def test_one_column_puts_a_metric_into_every_report(monkeypatch, tmp_path, added):
    if added:
        monkeypatch.setattr(columns, 'COLUMNS', (*columns.COLUMNS, FLIPS))
    results = study({'general_sft': 0.5, 'behavior_sft': 0.7}, seeds=(0,), cases=5)
    for result in results:
        result['metrics']['intervention']['flip_rate'] = 0.125

    text = table.format_table([('run', results[0]['metrics'])])
    header, _, line = text.splitlines()[:3]
    assert (header.endswith('  flipped'), line.endswith('  0.125')) == (added, added)
    assert ('flipped: share of answers that' in ' '.join(text.split())) == added

    found = summarize(results, resamples=10)
    assert [row.get('flips') for row in found['rows']] == [0.125 if added else None] * 2
    lines = summary.format_summary(found).splitlines()
    assert (lines[2].endswith('  flipped'), lines[4].endswith('  0.125')) == (added, added)

    (tmp_path / 'summary.json').write_text(json.dumps({**found, 'shortcuts': ''}))
    page = study_page.write_page(tmp_path).read_text(encoding='utf-8')
    assert bool(re.search('>flipped</abbr></th>', page.replace('\n', ''))) == added
    assert (page.count('<td class="">0.125</td>') == 2) == added
    assert (FLIPS.meaning in page) == added


def test_a_page_can_be_made_from_a_summary_older_than_a_column(monkeypatch, tmp_path):
    results = study({'general_sft': 0.5, 'behavior_sft': 0.7}, seeds=(0,), cases=5)
    found = summarize(results, resamples=10)
    monkeypatch.setattr(columns, 'COLUMNS', (*columns.COLUMNS, FLIPS))
    (tmp_path / 'summary.json').write_text(json.dumps({**found, 'shortcuts': ''}))
    page = study_page.write_page(tmp_path).read_text(encoding='utf-8')
    assert 'flipped' in page and 'None' not in page
