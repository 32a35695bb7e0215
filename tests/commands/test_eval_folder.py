"""Tests the page that an evaluation writes into its folder."""

import pytest

from bsft_jax.commands import eval_folder
from tests.report import fake


@pytest.mark.parametrize(
    ('data', 'has_words'),
    [
        ('synthetic:9', True),
        ('jsonl:notes', False),
        ('0.5*synthetic:9 + 0.5*synthetic:8', True),
        ('0.5*synthetic:9 + 0.5*jsonl:notes', False),
    ],
)
def test_words_are_in_the_page_only_where_a_generator_made_them(tmp_path, data, has_words):
    of = fake.records(2)
    found = fake.write_evaluation(tmp_path / 'run/eval/x', of, data=data)
    page = found.directory / 'report.html'
    page.write_text('of earlier predictions')
    eval_folder.write(found.directory, found.predictions, found.metrics, of)
    text = page.read_text(encoding='utf-8')
    assert '<h1>Evaluation run/x</h1>' in text and ('warfarin' in text) == has_words
    assert eval_folder.read(found.directory, 'x') == (found.predictions, found.metrics)
