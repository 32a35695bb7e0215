"""Finding what fits: one line by arithmetic, and a search over plans."""

import subprocess
import sys

import jax
import pytest

from bsft_jax.config import REMAT, DataConfig, MeshConfig, RunConfig
from bsft_jax.errors import UserError
from bsft_jax.planning import compile_plan, search
from bsft_jax.planning.topology import parse_topology
from tests.conftest import ROOT

PLAN = {
    'topology': 'v5e:2x2',
    'devices': 4,
    'mesh': {'data': 1, 'fsdp': 4, 'context': 1, 'tensor': 1},
    'global_batch_rows': 16,
    'accumulation': 1,
    'remat': 'none',
    'memory': {
        'arguments': {'trainable': 4 << 30, 'moments': 8 << 30},
        'total': 40 << 30,
        'capacity': 16 << 30,
    },
}
ACCUMULATION = '--config.train.gradient_accumulation_steps'


@pytest.mark.parametrize(
    'changes, expected',
    [
        (
            {},
            'v5e:2x2 has 16.0 GiB per device, the step needs 40.0; it would fit with '
            '--config.train.remat=full, or smaller',
        ),
        (
            {},
            f'--config.train.remat=full, or smaller micro-batches ({ACCUMULATION}=2 or more), or',
        ),
        (
            {'remat': 'offload'},
            f'needs 40.0; it would fit with smaller micro-batches ({ACCUMULATION}=2',
        ),
        ({'global_batch_rows': 36}, f'({ACCUMULATION}=3 or more)'),
        ({'tried': []}, 'needs 40.0; it would fit with more devices (about 16)'),
        (
            {'remat': 'full', 'accumulation': 4},
            'needs 40.0; it would fit with more devices (about 16)',
        ),
        (
            {'memory': PLAN['memory'] | {'arguments': {'trainable': 8 << 30, 'moments': 16 << 30}}},
            'it would fit with more devices: parameters and moments alone need 6',
        ),
        (
            {'memory': {'total': None, 'capacity': None, 'message': 'out of something'}},
            'v5e:2x2: out of something',
        ),
    ],
)
def test_a_misfit_is_explained_with_what_would_fit(changes, expected):
    assert expected in search.explain_misfit(PLAN | changes)


@pytest.mark.parametrize(
    'room, chosen', [(9, ('none', 1)), (5, ('none', 2)), (2, ('full', 1)), (0, None)]
)
def test_the_search_finds_the_fastest_plan_that_fits(monkeypatch, room, chosen):
    """Uses a machine on which `none` keeps 8 over the micro-batches and `full` keeps 2.

    Both take longer in smaller micro-batches.
    """

    def make_plan(config, topology, devices):
        size, seconds = {'none': (8, 10), 'full': (2, 13)}.get(config.train.remat, (99, 1))
        accumulation = config.train.gradient_accumulation_steps
        seconds += accumulation * (1 if config.train.remat == 'full' else 1.5)
        return {
            'remat': config.train.remat,
            'accumulation': accumulation,
            'estimate': {'upper': {'step_seconds': seconds}},
            'verdict': {'fits': size / accumulation <= room},
        }

    monkeypatch.setattr(compile_plan, 'make_plan', make_plan)
    config = RunConfig(mesh=MeshConfig(1, 4), data=DataConfig(global_batch_rows=16))
    plan = search.search_plans(config, parse_topology('v5e:2x2'), range(4))
    assert {attempt['remat'] for attempt in plan['tried']} == set(REMAT)
    assert plan['verdict']['fits'] == (chosen is not None)
    if chosen:
        assert (plan['remat'], plan['accumulation']) == chosen
    assert config.train.remat == plan['remat']
    assert config.train.gradient_accumulation_steps == plan['accumulation']


def test_a_search_refuses_too_few_rows_for_the_devices_as_a_plan_does():
    config = RunConfig(mesh=MeshConfig(1, -1), data=DataConfig(global_batch_rows=4))
    with pytest.raises(UserError, match='4 rows do not divide by gradient accumulation steps × '):
        search.search_plans(config, parse_topology('h100:1x8'), jax.devices())


def test_simulated_devices_have_nothing_to_search():
    with pytest.raises(UserError, match='simulated devices have no memory limit'):
        search.search_plans(RunConfig(), parse_topology('cpu:8'), range(8))


def test_a_plan_that_does_not_fit_exits_3():
    code = (
        'from bsft_jax import cli, errors\n'
        'def main(_): raise errors.DoesNotFit("it needs 2 and has 1")\n'
        'cli.run(main)'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (3, 'does not fit: it needs 2 and has 1\n')
