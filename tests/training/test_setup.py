"""Tests of setup: how the model of a run and its state are read back."""

import gc
import shutil

import jax
import pytest

from bsft_jax.config import RunConfig
from bsft_jax.inference.open_model import ModelSource, open_model
from bsft_jax.training import fingerprints, loop, setup
from bsft_jax.training import workdir as workdir_lib
from tests import run as runs
from tests.training.small_run import loss_curve, small_run

TEMPLATE = '{% for m in messages %}{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}'


def test_a_run_is_read_with_the_chat_template_that_it_keeps(tmp_path, monkeypatch):
    template, workdir = tmp_path / 'given.jinja', tmp_path / 'run'
    template.write_text(TEMPLATE)
    config = RunConfig()
    config.data.chat_template = str(template)
    workdir_lib.create(workdir, config)
    template.unlink()

    class Opened(Exception):
        pass

    def raise_template(config):
        raise Opened(read_base(config).tokenizer.chat_template)

    read_base = setup.read_base
    monkeypatch.setattr(setup, 'read_base', raise_template)
    with pytest.raises(Opened) as opened:
        setup.load_run(workdir)
    assert str(opened.value) == TEMPLATE


@pytest.mark.parametrize('mode', ['full', 'lora'])
def test_no_restore_holds_anything_twice(base, mode, tmp_path, monkeypatch):
    """Tests the memory of restores.

    A model's holds its parameters alone. A resumed run's holds the state once, with its moments.
    """

    def live_bytes():
        gc.collect()
        return sum(array.nbytes for array in jax.live_arrays())

    def size(tree):
        return sum(array.nbytes for array in jax.tree.leaves(tree))

    shutil.copytree(base, tmp_path / 'base')
    config = small_run(tmp_path / 'base', mode)
    config.train.steps = 1
    runs.train(config, tmp_path / 'run')
    if mode == 'full':
        # A run that trains every parameter needs none of the base's weights.
        (tmp_path / 'base' / 'model.safetensors').unlink()
    peaks, before, compute, train_loop = [], live_bytes(), fingerprints.compute, loop.train

    def compute_and_measure(tree):
        peaks.append(live_bytes() - before)
        return compute(tree)

    monkeypatch.setattr(fingerprints, 'compute', compute_and_measure)
    loaded = open_model(ModelSource(workdir=str(tmp_path / 'run')))
    assert size(loaded.params) <= max(peaks) < 1.01 * size(loaded.params)
    del loaded
    peaks.clear()

    def check_resumed(context, state, *rest):
        assert size(state) <= max(peaks) < 1.01 * size(state)
        return train_loop(context, state, *rest)

    monkeypatch.setattr(loop, 'train', check_resumed)
    config.train.steps = 2
    runs.train(config, tmp_path / 'run')
    assert peaks and [step for step, *_ in loss_curve(tmp_path / 'run')] == [1, 2]
