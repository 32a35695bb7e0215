"""Tests `model.shape`: what it reads, what it refuses, and the model that comes of it."""

import jax
import pytest

from bsft_jax.config import ModelConfig, RunConfig, validate
from bsft_jax.config.shape import Shape, parse_shape
from bsft_jax.errors import UserError
from bsft_jax.training import setup

TEXT = 'width=64,layers=3,heads=4,kv_heads=2,mlp=96,std=0.05'


def test_a_shape_is_read_in_any_order_and_written_back():
    shape = parse_shape(' mlp=96, width=64,layers=3,kv_heads=2,heads=4,std=0.05')
    assert shape == Shape(64, 3, 4, 2, 96, 0.05) and shape.head_dim == 16
    assert str(shape) == TEXT and parse_shape(str(shape)) == shape
    assert 'std' not in str(parse_shape(TEXT.removesuffix(',std=0.05')))


def test_the_model_has_the_sizes_and_the_deviation():
    config = validate(RunConfig(model=ModelConfig('tiny-clinical', init='random', shape=TEXT)))
    network = setup.read_base(config).network
    arch = network.arch
    assert (arch.embed_dim, arch.num_layers, arch.num_heads) == (64, 3, 4)
    assert (arch.num_kv_heads, arch.head_dim, arch.mlp_dim) == (2, 16, 96)
    params = network.init(jax.random.key(0))
    assert params['layers']['mlp']['up']['kernel'].shape == (3, 64, 96)
    assert params['layers']['mlp']['up']['kernel'].std() == pytest.approx(0.05, rel=0.05)


@pytest.mark.parametrize(
    'text, message',
    [
        ('width=64', 'layers is missing'),
        (TEXT + ',width=64', "cannot read 'width=64'"),
        (TEXT + ',depth=3', "cannot read 'depth=3'"),
        (TEXT.replace('64', 'wide'), "cannot read 'width=wide'"),
        (TEXT.replace('layers=3', 'layers=0'), 'layers must be above 0'),
        (TEXT.replace('0.05', 'nan'), 'std must be above 0'),
        (TEXT.replace('64', '60'), 'width 60 is not an even multiple of 4 heads'),
        (TEXT.replace('kv_heads=2', 'kv_heads=3'), '4 heads do not divide among 3 kv_heads'),
    ],
)
def test_what_is_no_shape_is_refused(text, message):
    with pytest.raises(UserError, match=f'--config.model.shape: {message}'):
        parse_shape(text)


def test_weights_of_a_checkpoint_keep_their_sizes():
    with pytest.raises(UserError, match='weights of a checkpoint have its own sizes'):
        validate(RunConfig(model=ModelConfig('tiny-clinical', shape=TEXT)))
