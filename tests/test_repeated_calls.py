"""Tests that a second call with the same shapes compiles nothing, and that memory stays flat."""

import dataclasses
import os
import subprocess
import sys

import jax
import pytest

import bsft_jax
from bsft_jax.commands import evaluators
from bsft_jax.config import LoraConfig, RunConfig
from bsft_jax.data import sources
from bsft_jax.parallel import mesh as mesh_lib
from bsft_jax.training import setup
from tests import run as runs
from tests.compilations import count_compilations, open_base
from tests.conftest import ROOT
from tests.tiny import random_model

# Calls one function 25 times in a process of its own and prints the compilations of each call and
# the resident memory after it in KiB: the arguments are a folder and the function.
SOAK = """
import sys, time
import bsft_jax
from bsft_jax.data import sources
from tests import run as runs
from tests.compilations import count_compilations, open_base

folder, function = sys.argv[1:]
model, records = open_base(folder), sources.load_records('synthetic:40', 'test')[:24]
calls = {
    'score_records': lambda: bsft_jax.score_records(model, records, policy='auto'),
    'generate_answers': lambda: bsft_jax.generate_answers(model, records[:4], max_new_tokens=8),
    'evaluate': lambda: runs.evaluate(
        model=f'{folder}/export', workdir=folder, data='synthetic:40', limit=24, name='x'
    ),
}
for _ in range(25):
    with count_compilations() as compilations:
        calls[function]()
    # XLA's threads release the buffers of a computation shortly after its results are there.
    time.sleep(0.1)
    status = dict(line.split(':', 1) for line in open('/proc/self/status'))
    print(len(compilations), status['VmRSS'].split()[0])
"""


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('models')
    (folder / 'base').mkdir()
    random_model(folder / 'base')
    bsft_jax.save_model(open_base(folder), folder / 'export')
    return folder


@pytest.fixture(scope='module')
def records():
    return sources.load_records('synthetic:40', 'test')[:12]


def assert_compiles_once(call):
    # What another test compiled would hide that the first call compiles.
    jax.clear_caches()
    with count_compilations() as first:
        call()
    with count_compilations() as second:
        call()
    assert first and not second


def test_scores(folder, records):
    model = open_base(folder)
    for policy in (None, 'auto', 'oracle'):
        assert_compiles_once(
            lambda policy=policy: bsft_jax.score_records(model, records, policy=policy)
        )


def test_models_of_one_folder_share_programs(folder, records):
    def call():
        model = open_base(folder)
        bsft_jax.score_records(model, records, policy='forced:proactive')
        bsft_jax.generate_answers(model, records[:3], max_new_tokens=4)

    assert_compiles_once(call)


def test_another_model_of_the_same_shapes_has_its_own_scores(folder, records):
    model = open_base(folder)
    scores = bsft_jax.score_records(model, records)
    halved = dataclasses.replace(model, params=jax.tree.map(lambda x: x / 2, model.params))
    with count_compilations() as compilations:
        others = bsft_jax.score_records(halved, records)
    assert not compilations
    assert abs(scores.option_logprob_RWK - others.option_logprob_RWK).max() > 0.01


def test_sampled_answers(folder, records):
    model = open_base(folder)
    answers = []

    def call():
        options = dict(max_new_tokens=4, temperature=1.5, top_p=0.9, seed=len(answers))
        answers.append(bsft_jax.generate_answers(model, records[:3], **options))

    assert_compiles_once(call)
    assert answers[0] != answers[1]


def test_evaluate(folder, tmp_path):
    assert_compiles_once(
        lambda: runs.evaluate(
            model=str(folder / 'export'),
            workdir=str(tmp_path),
            data='synthetic:40',
            limit=12,
            name='x',
        )
    )


@pytest.mark.parametrize('name', list(evaluators.EVALUATORS))
def test_evaluators_of_one_process(folder, name):
    config = RunConfig()
    config.model.base, config.data.source = str(folder / 'base'), 'synthetic:40'
    config.evaluation.limit = 12
    mesh = mesh_lib.single_device_mesh()
    spec = setup.read_base(config)
    network = spec.network.for_mesh(mesh)
    params = setup.base_params(config, spec, mesh)
    assert_compiles_once(lambda: evaluators.EVALUATORS[name](config, spec, network, mesh)(params))


@pytest.mark.parametrize('base_dtype', ['float32', 'int8'])
@pytest.mark.parametrize('row_init', ['description', 'mean', 'normal'])
def test_parameters_that_a_checkpoint_lacks(folder, base_dtype, row_init):
    config = RunConfig()
    config.model.base, config.model.row_init = str(folder / 'base'), row_init
    config.model.base_dtype, config.train.mode = base_dtype, 'lora'
    config.lora = LoraConfig(rank=2)
    mesh = mesh_lib.single_device_mesh()
    assert_compiles_once(lambda: setup.base_params(config, setup.read_base(config), mesh))


@pytest.mark.slow
@pytest.mark.parametrize('function', ['score_records', 'generate_answers', 'evaluate'])
def test_25_calls_keep_memory_flat(folder, function):
    command = [sys.executable, '-c', SOAK, str(folder), function]
    # A user's process has as many threads as the machine has cores, and no simulated devices.
    environment = {k: v for k, v in os.environ.items() if k not in ('NPROC', 'XLA_FLAGS')}
    # With an arena per thread, free memory of one is no use to another and looks like growth.
    environment['MALLOC_ARENA_MAX'] = '1'
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        timeout=600,
        check=True,
    )
    compilations, memory = zip(
        *(map(int, line.split()) for line in done.stdout.splitlines()), strict=True
    )
    assert len(memory) == 25 and compilations[0] and not any(compilations[1:])
    assert max(memory[2:]) <= 1.03 * memory[1]
