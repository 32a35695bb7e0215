"""FLOPs by formula against the matmuls of a jaxpr, and FLOPs read from programs."""

import dataclasses
import math

import jax
import numpy as np
import pytest

from bsft_jax.data.examples import Batch
from bsft_jax.hub import configs, presets
from bsft_jax.models.network import Network
from bsft_jax.planning import compile_plan, flops
from bsft_jax.planning.hlo import parse_hlo
from bsft_jax.training import step as step_lib
from bsft_jax.training.state import TrainState
from tests.planning.configs import make_config


def matmul_flops(jaxpr) -> int:
    """Returns the FLOPs of the matmuls of a jaxpr.

    The branches of a conditional are platforms. The last one, which is for no platform in
    particular, counts.
    """
    total = 0
    for equation in jaxpr.eqns:
        inner = [
            getattr(x, 'jaxpr', x)
            for value in equation.params.values()
            for x in (value if isinstance(value, (tuple, list)) else (value,))
            if hasattr(getattr(x, 'jaxpr', x), 'eqns')
        ]
        counts = [matmul_flops(sub_jaxpr) for sub_jaxpr in inner]
        if equation.primitive.name == 'dot_general':
            ((contracted, _), _) = equation.params['dimension_numbers']
            left = equation.invars[0].aval.shape
            shape = equation.outvars[0].aval.shape
            total += 2 * math.prod(shape) * math.prod(left[axis] for axis in contracted)
        elif equation.primitive.name == 'cond':
            total += counts[-1]
        else:
            total += sum(counts) * equation.params.get('length', 1)
    return total


@pytest.mark.parametrize('preset', ['qwen2.5-0.5b', 'qwen2.5-7b'])
def test_the_formula_counts_the_matmuls_of_a_training_step(preset):
    """Uses one layer and rows of one block, where dense attention computes every pair."""
    arch = dataclasses.replace(
        configs.architecture_of(presets.preset(preset)),
        num_layers=1,
        vocab_size=640,
        embed_dim=64,
        mlp_dim=96,
    )
    network, tokens, rows = Network(arch, (638, 639)), 48, 2
    params = network.abstract()
    dtypes = (int, int, float, int, int)
    batch = Batch(*(jax.ShapeDtypeStruct((rows, tokens), dtype) for dtype in dtypes))
    jaxpr = jax.make_jaxpr(lambda p, b: step_lib.batch_gradients(network, p, {}, b, 1))(
        params, batch
    )
    state = TrainState(None, params, {}, None)
    pairs = 4 * arch.num_heads * arch.head_dim * tokens
    config = make_config(rows=rows, tokens=tokens)
    by_formula = compile_plan.formula_flops(config, network, state, 1)['per_token']
    dense = by_formula + 3 * (pairs - flops.attention_flops(arch, tokens))
    assert matmul_flops(jaxpr.jaxpr) == dense * rows * tokens


@pytest.mark.parametrize('window, keys', [(0, [1, 2, 3, 4, 5, 6]), (2, [1, 2, 2, 2, 2, 2])])
def test_attention_counts_the_keys_that_queries_attend_to(window, keys):
    arch = configs.architecture_of(presets.preset('qwen2.5-0.5b'))
    kind = dataclasses.replace(arch.kinds[0], window=window)
    arch = dataclasses.replace(arch, num_layers=3, num_heads=5, head_dim=7, kinds=(kind,))
    assert flops.attention_flops(arch, 6) == pytest.approx(3 * 4 * 5 * 7 * np.mean(keys))


@pytest.mark.parametrize(
    'left, right, out, matmul, expected',
    [
        (
            '8,3,5',
            '8,5,7',
            '8,3,7',
            'dot(%l, %r), lhs_batch_dims={0}, lhs_contracting_dims={2}, rhs_contracting_dims={1}',
            2 * 8 * 3 * 5 * 7,
        ),
        # For each output one of the four positions of the window lies inside the input.
        (
            '6,6,1',
            '4,10,6',
            '4,10,6',
            'convolution(%l, %r), window={size=4 pad=3_3 rhs_reversal=1}, dim_labels=fb0_0oi->0fb',
            2 * 4 * 10 * 6 * 6,
        ),
        # A window as wide as the input sums over it.
        (
            '2,4,3',
            '7,4,3',
            '2,1,7',
            'convolution(%l, %r), window={size=4}, dim_labels=b0f_o0i->b0f',
            2 * 2 * 7 * 4 * 3,
        ),
        (
            '3,5',
            '5,7',
            '3,7',
            'custom-call(%l, %r), custom_call_target="__cublas$lt$matmul", backend_config='
            '{"gemm_backend_config":'
            '{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"]}}}',
            2 * 3 * 5 * 7,
        ),
    ],
)
def test_flops_of_matmuls_in_a_program(left, right, out, matmul, expected):
    text = f'ENTRY %main (l: f32[{left}], r: f32[{right}]) -> f32[{out}] {{\n'
    text += f'  %l = f32[{left}] parameter(0)\n  %r = f32[{right}] parameter(1)\n'
    text += f'  ROOT %o = f32[{out}] {matmul}\n}}\n'
    assert flops.compiled_flops(parse_hlo(text)) == expected
