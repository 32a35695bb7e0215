"""Tests of moments in bfloat16: half of the bytes, the same first step, nearly the same run."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bsft_jax.config import OptimizerConfig
from bsft_jax.config.checks import MAX_BFLOAT16_B2
from bsft_jax.parallel import mesh as mesh_lib
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
