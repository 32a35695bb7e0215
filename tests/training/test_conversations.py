"""Tests of a run on tasks and conversations: stopped, continued, then scored on its tasks."""

import json

import pytest

from bsft_jax.config import EvaluationConfig
from bsft_jax.errors import UserError
from tests import run as runs
from tests.training.small_run import metric_lines, small_run


@pytest.fixture
def chats(tmp_path):
    """Returns a source of thirty conversations, ten per split, some longer than a row."""
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
    lines = [line for line in metric_lines(workdir) if 'loss' in line]
    return [(line['step'], line['loss'], line['tokens']) for line in lines]


def mixed_run(base, chats, steps=0):
    config = small_run(base)
    config.data.source = f'0.6*synthetic:40 + 0.4*{chats}'
    config.data.train_on, config.data.truncate_turns = 'turns', True
    config.data.unlabeled = 'refuse'
    config.evaluation = EvaluationConfig(interval=12, limit=9)
    config.train.steps = steps
    return config


def test_a_mixture_resumes_bit_equal_and_is_scored_on_its_tasks(base, chats, tmp_path, capsys):
    runs.train(mixed_run(base, chats), tmp_path / 'straight')
    printed = capsys.readouterr().err
    assert '5 more lost 10 of their oldest turns to fit' in printed
    assert 'records have no options to score, or no answer' in printed
    runs.train(mixed_run(base, chats, steps=5), tmp_path / 'resumed')
    runs.train(mixed_run(base, chats), tmp_path / 'resumed')
    straight, resumed = (losses(tmp_path / name) for name in ('straight', 'resumed'))
    assert straight == resumed and len(straight) == 12
    metrics = runs.evaluate(workdir=str(tmp_path / 'straight'), limit=6)
    assert 0 <= metrics['overall']['macro_f1'] <= 1
    with pytest.raises(
        UserError, match='no record has options and an answer to score; name a source of tasks'
    ):
        runs.evaluate(workdir=str(tmp_path / 'straight'), data=chats)


def test_records_without_a_behavior_stop_a_run_that_refuses_them(base, tmp_path):
    (tmp_path / 'bare.jsonl').write_text('{"id": "bare", "prompt": "q", "completion": "a"}\n')
    refused = mixed_run(base, f'jsonl:{tmp_path}/bare.jsonl')
    with pytest.raises(UserError, match=r"unlabeled=refuse: record 'bare'"):
        runs.train(refused, tmp_path / 'run')
    assert not (tmp_path / 'run').exists()
