"""Tests runs on a quantized base: on meshes, from training to a merged checkpoint, and refused."""

import math

import jax
import numpy as np
import pytest

import bsft_jax
from bsft_jax.config import LoraConfig, MeshConfig
from bsft_jax.data import loader
from bsft_jax.errors import UserError
from bsft_jax.parallel import mesh as mesh_lib
from bsft_jax.pytrees import flatten
from bsft_jax.training import optimizer, setup, state, step
from tests import run as runs
from tests.tiny import NO_TORCH, assert_close, random_model
from tests.training.small_run import small_run
from tests.training.test_equality import batch_source


def quantized_run(base, base_dtype='nf4'):
    config = small_run(base, 'lora')
    config.model.base_dtype, config.lora = base_dtype, LoraConfig(2)
    return config


@pytest.mark.parametrize('base_dtype', ['nf4', 'fp8'])
def test_one_device_and_eight_agree(base_dtype, tmp_path):
    config = quantized_run(random_model(tmp_path / 'base', width=256), base_dtype)
    spec, curves, frozen = setup.read_base(config), [], []
    for sizes in ((1, 1, 1, 1), (1, 4, 1, 2)):
        mesh = mesh_lib.make_mesh(MeshConfig(*sizes), jax.devices()[: math.prod(sizes)])
        adamw = optimizer.make_optimizer(config.optimizer)
        params = setup.base_params(config, spec, mesh)
        current = state.create(params, config.trainable, adamw, mesh)
        frozen.append(jax.device_get(flatten(current.frozen)))
        with jax.set_mesh(mesh):
            train_step = step.make_train_step(spec.network.for_mesh(mesh), adamw, 1)
            losses = []
            for i in range(4):
                batch = loader.to_device(batch_source(packed=True)[i], mesh)
                current, metrics = train_step(current, batch)
                losses.append(float(metrics['loss']))
        curves.append(losses)
    for path, leaf in frozen[0].items():
        np.testing.assert_array_equal(frozen[1][path], leaf, err_msg=path)
    np.testing.assert_allclose(curves[0], curves[1], rtol=1e-5)
    assert abs(curves[0][0] - curves[0][-1]) > 1e-3


def test_a_run_becomes_a_checkpoint_of_the_unquantized_base(tmp_path, capfd):
    pytest.importorskip('torch', reason=NO_TORCH)
    import torch
    from transformers import AutoModelForCausalLM

    config = quantized_run(random_model(tmp_path / 'base', width=128))
    config.train.steps = 3
    runs.train(config, tmp_path / 'run')
    capfd.readouterr()
    run = {'workdir': str(tmp_path / 'run')}
    merged = runs.export(**run, output=str(tmp_path / 'merged'))
    line = 'logits on 8 prompts differ from those on the nf4 base by 0.'
    assert line in capfd.readouterr().err
    adapter = runs.export(**run, output=str(tmp_path / 'adapter'), format='peft')
    assert 'differ' not in capfd.readouterr().err
    # An adapter opens beside its base as the files hold it.
    unquantized = bsft_jax.load_model(adapter)
    tokens = np.array([[1, 5, 9, 300, 2, 77, *unquantized.behaviors.ids, 8]])
    theirs = AutoModelForCausalLM.from_pretrained(merged, dtype='float32').eval()
    with torch.no_grad():
        logits = theirs(torch.tensor(tokens)).logits.numpy()
    assert_close(logits, unquantized.logits(tokens), 1e-4)
    assert unquantized.spec.adapter.base == str(tmp_path / 'base')


def test_a_mesh_that_cuts_blocks_is_refused_before_weights_are_read(tmp_path, monkeypatch):
    config = quantized_run(random_model(tmp_path / 'base', width=128))
    config.mesh = MeshConfig(data=2, fsdp=4)
    monkeypatch.setattr(setup, 'base_params', lambda *_: pytest.fail('weights are read'))
    expected = r'mesh.fsdp: fsdp=4 does not divide the 2 blocks of inputs of layers/attention/k/'
    with pytest.raises(UserError, match=expected):
        runs.train(config, tmp_path / 'run')
    config = quantized_run(random_model(tmp_path / 'odd', width=32))
    with pytest.raises(UserError, match='base_dtype: nf4 has blocks of 64 inputs.* has 32; use'):
        runs.train(config, tmp_path / 'run')
