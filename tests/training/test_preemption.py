"""Tests of preemption before and during the steps of a run."""

import contextlib
import signal

import pytest

from bsft_jax.commands import train
from bsft_jax.data import pipeline
from bsft_jax.errors import Preempted
from bsft_jax.training import setup
from tests import run as runs
from tests.training.small_run import small_run


@pytest.mark.parametrize(
    ('module', 'name'), [(pipeline, 'training_examples'), (setup, 'initial_state')]
)
def test_a_signal_before_the_first_step_stops_at_once(base, module, name, tmp_path, monkeypatch):
    load, handler = getattr(module, name), signal.getsignal(signal.SIGTERM)

    def load_and_signal(*arguments, **options):
        signal.raise_signal(signal.SIGTERM)
        return load(*arguments, **options)

    monkeypatch.setattr(module, name, load_and_signal)
    with pytest.raises(Preempted, match='before the first step'):
        runs.train(small_run(base), tmp_path / 'run')
    assert not list(tmp_path.glob('run/checkpoints/*'))
    assert not (tmp_path / 'run' / 'metrics.jsonl').exists()
    assert signal.getsignal(signal.SIGTERM) == handler


def test_joined_processes_are_asked_by_steps_since_their_start(base, tmp_path, monkeypatch):
    """Tests the numbers that the runtime is asked by.

    It reports a signal that came before the first question at number 1 alone.
    """
    asked = []

    @contextlib.contextmanager
    def preemption_signal():
        yield asked.append

    monkeypatch.setattr(train, 'preemption_signal', preemption_signal)
    for steps in (1, 3):
        config = small_run(base)
        config.train.steps = steps
        runs.train(config, tmp_path / 'run')
    assert asked == [0, 0, 1, 0, 0, 1, 2]
