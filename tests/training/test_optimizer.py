"""Tests of AdamW: its parts, moments in bfloat16, and the learning rate of the behavior rows.

Such moments have half of the bytes, the same first step and nearly the same run.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bsft_jax.config import OptimizerConfig
from bsft_jax.config.checks import MAX_BFLOAT16_B2
from bsft_jax.parallel import mesh as mesh_lib
from bsft_jax.pytrees import flatten, unflatten
from bsft_jax.training import fingerprints, optimizer, state
from bsft_jax.training.checkpoint import Checkpoints

DTYPES = ('float32', 'bfloat16')


def optimizer_config(**changes) -> OptimizerConfig:
    return OptimizerConfig(
        learning_rate=0.05, warmup_steps=0, schedule_steps=100, clip_norm=10.0, **changes
    )


def run_adamw(moment_dtype: str, steps: int):
    """Steps toward a target with noisy gradients; returns parameters and optimizer state."""
    adamw = optimizer.make_optimizer(optimizer_config(moment_dtype=moment_dtype))
    rng = np.random.default_rng(0)
    params = {'kernel': jnp.asarray(rng.normal(size=(16, 8)), jnp.float32)}
    target, opt_state = jnp.ones((16, 8)), adamw.init(params)

    @jax.jit
    def step(params, opt_state, noise):
        gradients = {'kernel': params['kernel'] - target + noise}
        updates, opt_state = adamw.update(gradients, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    for _ in range(steps):
        noise = jnp.asarray(rng.normal(size=(16, 8)), jnp.float32)
        params, opt_state = step(params, opt_state, noise)
    return np.asarray(params['kernel']), opt_state


def floats(tree) -> list:
    return [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]


def test_updates_are_those_of_clipped_adamw_to_the_bit():
    config = OptimizerConfig(learning_rate=0.05, warmup_steps=3, schedule_steps=9)
    reference = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(
            optax.warmup_cosine_decay_schedule(0.0, 0.05, 3, 9, 0.05 * 0.1),
            b1=0.9,
            b2=0.95,
            eps=1e-8,
            weight_decay=0.01,
            mask={'bias': False, 'kernel': True},
        ),
    )
    rng = np.random.default_rng(0)
    shapes = {'bias': (8,), 'kernel': (16, 8)}
    params = {path: jnp.asarray(rng.normal(size=shape)) for path, shape in shapes.items()}
    states = [made.init(params) for made in (optimizer.make_optimizer(config), reference)]
    assert jax.tree.map(jnp.shape, floats(states[0])) == jax.tree.map(jnp.shape, floats(states[1]))
    for _ in range(6):
        gradient = {path: jnp.asarray(rng.normal(size=shape)) for path, shape in shapes.items()}
        updates, states[0] = optimizer.make_optimizer(config).update(gradient, states[0], params)
        expected, states[1] = reference.update(gradient, states[1], params)
        for actual, wanted in zip(
            jax.tree.leaves((updates, states[0])),
            jax.tree.leaves((expected, states[1])),
            strict=True,
        ):
            np.testing.assert_array_equal(actual, wanted)


def test_both_moments_have_the_dtype_of_the_config():
    sizes = {}
    for dtype in DTYPES:
        moments = floats(run_adamw(dtype, 1)[1])
        assert [x.dtype for x in moments] == [jnp.dtype(dtype)] * 2
        sizes[dtype] = sum(x.nbytes for x in moments)
    assert sizes['bfloat16'] == sizes['float32'] / 2


def test_the_first_step_is_the_same_and_a_run_nearly():
    start = run_adamw('float32', 0)[0]
    for steps, tolerance in ((1, 0.0), (60, 0.02)):
        (wide, _), (narrow, _) = (run_adamw(dtype, steps) for dtype in DTYPES)
        assert np.linalg.norm(wide - narrow) <= tolerance * np.linalg.norm(wide - start)


def test_the_largest_b2_still_lets_a_second_moment_fall():
    def second_moment_left(b2: float) -> float:
        """Returns the second moment after 100 steps without a gradient, over its first value."""
        adamw = optimizer.make_optimizer(optimizer_config(moment_dtype='bfloat16', b2=b2))
        params = {'bias': jnp.ones(4)}
        opt_state = adamw.init(params)
        for gradient in (100.0, *[0.0] * 100):
            _, opt_state = adamw.update({'bias': jnp.full(4, gradient)}, opt_state, params)
        # The gradient is clipped to a norm of 10, which is 5 an element.
        return float(floats(opt_state)[1][0]) / ((1 - b2) * 25.0)

    # Exact arithmetic gives 0.37 and 0.90.
    assert second_moment_left(MAX_BFLOAT16_B2) < 0.6
    assert second_moment_left(0.999) > 0.99


@pytest.mark.parametrize('moment_dtype', DTYPES)
def test_behavior_rows_move_by_a_factor_and_the_rest_as_without(moment_dtype):
    rng = np.random.default_rng(0)
    shapes = {
        'behavior/input': (2, 8),
        'behavior/output': (2, 8),
        'embed/table': (16, 8),
        'layers/mlp/up/kernel': (8, 4),
    }

    def tree():
        return unflatten({p: jnp.asarray(rng.normal(size=s)) for p, s in shapes.items()})

    params, gradients = tree(), [tree() for _ in range(3)]

    def run(factor):
        adamw = optimizer.make_optimizer(
            optimizer_config(moment_dtype=moment_dtype, weight_decay=0.1, behavior_lr_factor=factor)
        )
        opt_state, all_updates = adamw.init(params), []
        for gradient in gradients:
            updates, opt_state = adamw.update(gradient, opt_state, params)
            all_updates.append(flatten(updates))
        return all_updates, floats(opt_state)

    (plain, plain_moments), (scaled, scaled_moments) = run(1.0), run(3.0)
    for before, after in zip(plain, scaled, strict=True):
        for path in shapes:
            factor = np.float32(3.0 if path.startswith('behavior/') else 1.0)
            assert np.abs(before[path]).max() > 0
            np.testing.assert_array_equal(after[path], factor * before[path], err_msg=path)
    for one, other in zip(plain_moments, scaled_moments, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_factor_of_one_is_no_part_of_the_optimizer():
    params = {'behavior': {'input': jnp.ones((2, 4))}}
    states = [
        jax.tree.structure(optimizer.make_optimizer(optimizer_config(**changes)).init(params))
        for changes in ({}, {'behavior_lr_factor': 1.0}, {'behavior_lr_factor': 2.0})
    ]
    assert states[0] == states[1] != states[2]


def test_a_checkpoint_keeps_bfloat16_moments(tmp_path):
    adamw = optimizer.make_optimizer(optimizer_config(moment_dtype='bfloat16'))
    params = {'kernel': jnp.ones((16, 8))}
    saved = state.create(params, ('.*',), adamw, mesh_lib.single_device_mesh())
    _, opt_state = adamw.update({'kernel': jnp.full((16, 8), 0.3)}, saved.opt_state, params)
    saved = saved.replace(opt_state=opt_state)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(saved, data={'step': 0}, clock={'seconds': 1.0}, config={})
    checkpoints.wait()
    restored = checkpoints.restore(saved.replace(opt_state=adamw.init(params)))
    checkpoints.close()
    assert fingerprints.compute(restored.state.opt_state) == fingerprints.compute(opt_state)
    assert {x.dtype for x in floats(restored.state.opt_state)} == {jnp.dtype('bfloat16')}
