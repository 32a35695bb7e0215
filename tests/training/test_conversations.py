"""A run on a mixture of tasks and conversations: stopped and continued, then scored on its tasks."""

import json

import pytest

from bsft_jax import runs
from bsft_jax.config import EvaluationSection
from bsft_jax.errors import UserError
from tests.tiny import random_model
from tests.training.test_restarts import config


@pytest.fixture(scope='module')
def base(tmp_path_factory):
    return random_model(tmp_path_factory.mktemp('base'))


@pytest.fixture
def chats(tmp_path):
    """Thirty conversations, ten in each split, some of them longer than a row."""
    lines = [
        {
            'split': ('train', 'validation', 'test')[i % 3],
            'conversations': [
                {'from': 'human', 'value': 'potassium was low ' * (1 + 60 * (i % 2))},
                {'from': 'gpt', 'value': 'Then repeat it.', 'behavior': 'reactive'},
                {'from': 'human', 'value': f'And sodium, {i}?', 'name': 'Dr. Ito'},
                {'from': 'gpt', 'value': 'Normal.', 'behavior': 'proactive'},
            ],
        }
        for i in range(30)
    ]
    (tmp_path / 'chats.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in lines))
    return f'jsonl:{tmp_path}/chats.jsonl'


def losses(workdir):
    lines = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    return [(line['step'], line['loss'], line['tokens']) for line in lines if 'loss' in line]


def mixed(base, chats, steps=0):
    made = config(base)
    made.data.source = f'0.6*synthetic:40 + 0.4*{chats}'
    made.data.loss_on, made.data.truncate, made.data.without_behavior = 'turns', True, 'refuse'
    made.evaluation = EvaluationSection(interval=12, limit=9)
    made.train.steps = steps
    return made


def test_a_mixture_resumes_bit_equal_and_is_scored_on_its_tasks(base, chats, tmp_path, capsys):
    runs.train(mixed(base, chats), tmp_path / 'whole')
    said = capsys.readouterr().err
    assert '5 more lost 10 of their oldest turns to fit' in said
    assert 'records have no options to score, or no answer' in said
    runs.train(mixed(base, chats, steps=5), tmp_path / 'parts')
    runs.train(mixed(base, chats), tmp_path / 'parts')
    whole, parts = (losses(tmp_path / name) for name in ('whole', 'parts'))
    assert whole == parts and len(whole) == 12
    metrics = runs.evaluate(workdir=str(tmp_path / 'whole'), limit=6)
    assert 0 <= metrics['overall']['macro_f1'] <= 1
    with pytest.raises(
        UserError, match='no record has options and an answer to score; name a source of tasks'
    ):
        runs.evaluate(workdir=str(tmp_path / 'whole'), data=chats)


def test_records_without_a_behavior_stop_a_run_that_refuses_them(base, tmp_path):
    (tmp_path / 'bare.jsonl').write_text('{"id": "bare", "prompt": "q", "completion": "a"}\n')
    refused = mixed(base, f'jsonl:{tmp_path}/bare.jsonl')
    with pytest.raises(UserError, match=r"without_behavior=refuse: record 'bare'"):
        runs.train(refused, tmp_path / 'run')
    assert not (tmp_path / 'run').exists()
