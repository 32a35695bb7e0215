"""Tests of RunConfig itself: its size, and the values that it derives from its fields."""

import dataclasses

import pytest

from bsft_jax import config as config_lib
from bsft_jax.config import ComputeConfig, LoraConfig, ModelConfig, RunConfig, TrainConfig


def test_size_of_the_config():
    assert len(config_lib.flatten(RunConfig().to_dict())) <= 80
    assert set(config_lib.flatten(RunConfig().to_dict())) > config_lib.FREE_FIELDS
    assert dataclasses.fields(RunConfig)


def test_compute_gathers_the_options_of_the_network():
    model = ModelConfig(dtype='bfloat16', base_dtype='int8', attention='blockwise')
    lora = LoraConfig(rank=4, dropout=0.1)
    config = RunConfig(model=model, train=TrainConfig(mode='lora', remat='dots'), lora=lora)
    assert config.compute == ComputeConfig(
        dtype='bfloat16', base_dtype='int8', lora=lora, remat='dots', attention='blockwise'
    )
    assert config.compute.quantized and not RunConfig().compute.quantized


@pytest.mark.parametrize('mode', ['full', 'behavior_rows'])
def test_compute_has_adapters_in_lora_mode_alone(mode):
    config = RunConfig(train=TrainConfig(mode=mode))
    assert config.compute.lora is None


def test_compute_holds_its_own_adapters():
    """Tests that a later change of the config does not change the hash of a network."""
    config = RunConfig(train=TrainConfig(mode='lora'))
    compute, other = config.compute, config.compute
    assert compute == other and hash(compute) == hash(other)
    config.lora.rank = 2 * compute.lora.rank
    assert compute == other and config.compute != compute


def test_evaluators_are_named_in_one_string():
    config = RunConfig()
    assert config.evaluation.names == ('scores',)
    config.evaluation.evaluators = 'scores, loss'
    assert config.evaluation.names == ('scores', 'loss')
