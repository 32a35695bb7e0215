"""Tests of the loop itself: its transfers, its trace marks, and a loss that is not finite."""

import jax
import pytest

from bsft_jax.errors import UserError
from bsft_jax.training import loop
from tests.run import train
from tests.training.small_run import loss_curve, metric_lines, small_run


def test_the_loop_makes_explicit_transfers_only(base, tmp_path, monkeypatch):
    """An implicit transfer would wait for the devices, or copy a batch twice."""
    original, guarded = loop.train, []

    def train_under_guard(*arguments):
        guarded.append(1)
        with jax.transfer_guard('disallow'):
            return original(*arguments)

    monkeypatch.setattr(loop, 'train', train_under_guard)
    train(small_run(base), tmp_path / 'run')
    assert guarded and len(loss_curve(tmp_path / 'run')) == 12


def test_steps_are_marked_in_traces(base, tmp_path, monkeypatch):
    marks, annotation = [], jax.profiler.StepTraceAnnotation

    def mark(name, step_num):
        marks.append((name, step_num))
        return annotation(name, step_num=step_num)

    monkeypatch.setattr(jax.profiler, 'StepTraceAnnotation', mark)
    short = small_run(base)
    short.train.steps = 2
    train(short, tmp_path / 'run')
    assert marks == [('train', 1), ('train', 2)]


@pytest.mark.parametrize(
    ('arm', 'names'),
    [
        ('behavior_sft', {'reactive', 'proactive'}),
        ('neutral_token', {'neutral'}),
        ('general_sft', set()),
    ],
)
def test_lines_hold_the_norm_of_each_behavior_row(base, tmp_path, arm, names):
    config = small_run(base)
    config.arm, config.train.steps = arm, 3
    config.optimizer.learning_rate = 0.1
    train(config, tmp_path / 'run')
    lines = metric_lines(tmp_path / 'run')
    found = [
        {k: x for k, x in line.items() if k.startswith('behavior_input_norm/')} for line in lines
    ]
    assert all({name.split('/')[1] for name in line} == names for line in found)
    # Warm-up starts from zero: the first step leaves the rows where they are.
    assert all(x > 0 and found[2][name] != x for name, x in found[0].items())


def test_a_loss_that_is_not_finite_ends_the_run(base, tmp_path):
    config = small_run(base)
    config.optimizer.learning_rate, config.checkpoint.interval = 1e38, 1
    with pytest.raises(UserError, match='step 3 has loss .* not saved') as error:
        train(config, tmp_path / 'run')
    assert 'nan' in str(error.value) or 'inf' in str(error.value)
    assert sorted(p.name for p in (tmp_path / 'run' / 'checkpoints').iterdir()) == ['1', '2']
    assert [step for step, *_ in loss_curve(tmp_path / 'run')] == [1, 2]
