"""The command `plan`, for simulated devices and for topologies that are not there."""

import importlib.util
import json
import os
import subprocess
import sys

import jax
import pytest

from tests.conftest import ROOT

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec('libtpu') is None,
    reason="compiled by libtpu: pip install -e '.[plan]'",
)


def run(*arguments, **env) -> subprocess.CompletedProcess:
    command = [sys.executable, '-m', 'bsft_jax.plan', *arguments]
    env = {key: value for key, value in os.environ.items() if key != 'XLA_FLAGS'} | env
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=env)


def test_the_command_plans_for_simulated_devices(tmp_path):
    output = tmp_path / 'plans' / 'plan.json'
    done = run(
        '--config=configs/quickstart.py',
        '--topology=cpu:8',
        f'--output={output}',
        '--config.mesh.fsdp=4',
        '--config.mesh.data=2',
        '--config.data.global_batch_rows=16',
        '--config.data.sequence_length=64',
    )
    assert done.returncode == 0, done.stderr
    assert 'verdict: not judged' in done.stdout and 'all-gather' in done.stdout
    plan = json.loads(output.read_text())
    assert plan['compiler'] == {'jaxlib': jax.lib.__version__}
    assert plan['devices'] == 8 and plan['config']['mesh']['fsdp'] == 4
    assert {row['axes'] for row in plan['collectives']} >= {'fsdp', 'data'}


def test_an_unknown_topology_exits_2():
    done = run('--config=configs/quickstart.py', '--topology=v9:2')
    assert done.returncode == 2
    assert done.stderr.startswith(
        "error: --topology: 'v9:2' is not a topology; use one like v5e:4x4"
    )


@needs_libtpu
def test_a_model_that_is_too_large_exits_3():
    done = run('--config=configs/qwen2_5_7b.py:full', '--topology=v5e:2x2')
    assert done.returncode == 3
    (line,) = done.stderr.splitlines()
    assert line.startswith('does not fit: v5e:2x2 has 15.8 GiB per device, the step needs ')
    assert '; it would fit with ' in line
    assert 'verdict: does not fit (the compiler)' in done.stdout
