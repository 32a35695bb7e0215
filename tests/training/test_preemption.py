"""Tests of preemption before and during the steps of a run."""

import contextlib
import signal

import jax
import pytest
from jax.experimental import multihost_utils

from bsft_jax import signals
from bsft_jax.data import pipeline
from bsft_jax.errors import Preempted
from bsft_jax.training import loop, setup
from tests import run as runs
from tests.training.small_run import small_run


@pytest.mark.parametrize(
    ('module', 'name'), [(pipeline, 'training_examples'), (setup, 'initial_state')]
)
def test_a_signal_before_the_first_step_is_not_collected(base, module, name, tmp_path, monkeypatch):
    """Tests that the handler of commands still gets it, which ends them at once."""
    load = getattr(module, name)

    def handle(*_):
        raise KeyboardInterrupt

    def load_and_signal(*arguments, **options):
        signal.raise_signal(signal.SIGTERM)
        return load(*arguments, **options)

    monkeypatch.setattr(module, name, load_and_signal)
    previous = signal.signal(signal.SIGTERM, handle)
    try:
        with pytest.raises(KeyboardInterrupt):
            runs.train(small_run(base), tmp_path / 'run')
        assert signal.getsignal(signal.SIGTERM) is handle
    finally:
        signal.signal(signal.SIGTERM, previous)
    assert not list(tmp_path.glob('run/checkpoints/*'))
    assert not (tmp_path / 'run' / 'metrics.jsonl').exists()


def test_a_signal_during_a_step_is_collected_and_the_handler_comes_back(
    base, tmp_path, monkeypatch
):
    push, handler = loop.MetricsLogger.push, signal.getsignal(signal.SIGTERM)

    def push_and_signal(self, step, metrics):
        push(self, step, metrics)
        if step == 3:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(loop.MetricsLogger, 'push', push_and_signal)
    with pytest.raises(Preempted, match='step 3 is saved'):
        runs.train(small_run(base), tmp_path / 'run')
    assert (tmp_path / 'run' / 'checkpoints' / '3').is_dir()
    assert signal.getsignal(signal.SIGTERM) == handler and not signals.received()


def test_joined_processes_stop_before_the_first_step(base, tmp_path, monkeypatch):
    monkeypatch.setattr(jax.distributed, 'is_initialized', lambda: True)
    monkeypatch.setattr(multihost_utils, 'reached_preemption_sync_point', lambda step: step == 0)
    with pytest.raises(Preempted, match='before the first step'):
        runs.train(small_run(base), tmp_path / 'run')
    assert not list(tmp_path.glob('run/checkpoints/*'))


def test_joined_processes_are_asked_by_steps_since_their_start(base, tmp_path, monkeypatch):
    """Tests the numbers that the runtime is asked by.

    It reports a signal that came before the first question at number 1 alone.
    """
    asked = []

    @contextlib.contextmanager
    def preemption_signal():
        yield asked.append

    monkeypatch.setattr(loop, 'preemption_signal', preemption_signal)
    for steps in (1, 3):
        config = small_run(base)
        config.train.steps = steps
        runs.train(config, tmp_path / 'run')
    assert asked == [1, 1, 2]
