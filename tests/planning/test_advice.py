"""What would fit: one sentence by arithmetic, and a search over plans."""

import subprocess
import sys

import jax
import pytest

from bsft_jax.config import REMAT, DataSection, MeshSection, RunConfig
from bsft_jax.errors import UserError
from bsft_jax.planning import account, advice, topology
from tests.conftest import ROOT

PLAN = {
    'topology': 'v5e:2x2', 'devices': 4, 'mesh': {'data': 1, 'fsdp': 4, 'context': 1, 'tensor': 1},
    'rows_per_step': 16, 'accumulation': 1, 'remat': 'none',
    'memory': {'arguments': {'trainable': 4 << 30, 'moments': 8 << 30}, 'total': 40 << 30, 'capacity': 16 << 30},
}  # fmt: skip


@pytest.mark.parametrize(
    'changes, said',
    [
        (
            {},
            'v5e:2x2 needs 40.0 GiB a device and has 16.0; what would: --config.train.remat=full, or smaller',
        ),
        (
            {},
            '--config.train.remat=full, or smaller micro-batches (--config.train.accumulation=2 or more), or',
        ),
        ({'remat': 'offload'}, 'has 16.0; what would: smaller micro-batches (--config.train.accumulation=2'),
        ({'rows_per_step': 36}, '(--config.train.accumulation=3 or more)'),
        ({'tried': []}, 'has 16.0; what would: more devices (about 16)'),
        ({'remat': 'full', 'accumulation': 4}, 'has 16.0; what would: more devices (about 16)'),
        (
            {'memory': PLAN['memory'] | {'arguments': {'trainable': 8 << 30, 'moments': 16 << 30}}},
            'what would: more devices: parameters and moments alone need 6',
        ),
        (
            {'memory': {'total': None, 'capacity': None, 'message': 'out of something'}},
            'v5e:2x2: out of something',
        ),
    ],
)
def test_what_would_fit(changes, said):
    assert said in advice.sentence(PLAN | changes)


@pytest.mark.parametrize('room, chosen', [(9, ('none', 1)), (5, ('none', 2)), (2, ('full', 1)), (0, None)])
def test_the_fastest_that_fits(monkeypatch, room, chosen):
    """Of a machine where `none` keeps 8 over the micro-batches and `full` 2, and both take longer in smaller ones."""

    def plan(config, topology, devices):
        keeps, slow = {'none': (8, 10), 'full': (2, 13)}.get(config.train.remat, (99, 1))
        accumulation = config.train.accumulation
        seconds = {
            'upper': {'step_seconds': slow + accumulation * (1 if config.train.remat == 'full' else 1.5)}
        }
        return {
            'remat': config.train.remat, 'accumulation': accumulation, 'estimate': seconds,
            'verdict': {'fits': keeps / accumulation <= room},
        }  # fmt: skip

    monkeypatch.setattr(account, 'plan', plan)
    config = RunConfig(mesh=MeshSection(1, 4), data=DataSection(rows_per_step=16))
    found = advice.search(config, topology.parse('v5e:2x2'), range(4))
    assert {one['remat'] for one in found['tried']} == set(REMAT)
    assert found['verdict']['fits'] == (chosen is not None)
    if chosen:
        assert (found['remat'], found['accumulation']) == chosen
    assert (config.train.remat, config.train.accumulation) == (found['remat'], found['accumulation'])


def test_too_few_rows_for_the_devices_are_said_by_a_search_as_by_a_plan():
    config = RunConfig(mesh=MeshSection(1, -1), data=DataSection(rows_per_step=4))
    with pytest.raises(UserError, match='4 rows do not divide by accumulation × the devices'):
        advice.search(config, topology.parse('h100:1x8'), jax.devices())


def test_simulated_devices_have_nothing_to_search():
    with pytest.raises(UserError, match='simulated devices have no memory'):
        advice.search(RunConfig(), topology.parse('cpu:8'), range(8))


def test_what_does_not_fit_ends_with_3():
    code = (
        'from bsft_jax import cli, errors\n'
        'def main(_): raise errors.DoesNotFit("it needs 2 and has 1")\n'
        'cli.run(main)'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (3, 'does not fit: it needs 2 and has 1\n')
