"""Tests of behavior rows that are fitted to the base: probable at heads, and nothing else moved."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from bsft_jax.config import MeshConfig
from bsft_jax.data import loader
from bsft_jax.parallel import mesh as mesh_lib
from bsft_jax.parallel import sharding
from bsft_jax.pytrees import flatten
from bsft_jax.training import loss, row_init, setup
from tests import run as runs
from tests.tiny import assert_close, random_model
from tests.training.small_run import metric_lines, small_run


@pytest.fixture(scope='module', params=[True, False], ids=['tied', 'untied'])
def base(request, tmp_path_factory):
    return random_model(tmp_path_factory.mktemp('base'), tied=request.param)


def prepared(base, sizes=(1, 1, 1, 1), **fields):
    """Returns spec, plan and batches of a run with these mesh sizes and fields of the config."""
    config = small_run(base)
    config.mesh = MeshConfig(*sizes)
    for path, value in fields.items():
        holder, name = path.split('__')
        setattr(getattr(config, holder), name, value)
    spec = setup.read_base(config)
    store, packed = runs.examples_of(config, spec)
    network = dataclasses.replace(spec.network, max_segments=packed.max_records_per_row)
    devices = jax.devices()[: int(np.prod(sizes))]
    mesh = mesh_lib.make_mesh(config.mesh, devices)
    network = network.for_mesh(mesh)
    shapes = setup.abstract_state(config, network, mesh)
    plan = setup.StatePlan(mesh, network, shapes, setup.row_multiple(config, mesh))
    local_rows = functools.partial(sharding.local_rows, mesh)
    source = loader.BatchSource(
        store, packed, row_multiple=plan.row_multiple, local_rows=local_rows
    )
    return config, spec, plan, source


def initial(base, kind, sizes=(1, 1, 1, 1), **fields):
    """Returns the initial parameters, flat, with the context that they were made in."""
    context = prepared(base, sizes, model__row_init=kind, **fields)
    return flatten(setup.initial_state(*context).params), context


def behavior_loss(params, context, step):
    """Returns the mean behavior loss of a step's batch."""
    from bsft_jax.pytrees import unflatten

    _, _, plan, source = context
    with jax.set_mesh(plan.mesh):
        sums = loss.weighted_sums(plan.network, unflatten(params), source[step])
    return float(sums['behavior_loss'] / sums['behavior_count'])


def test_fitted_rows_are_probable_in_records_not_looked_at():
    described, context = initial('tiny-clinical', 'description')
    fitted, _ = initial('tiny-clinical', 'fitted')
    # The fit looks at the first batch alone.
    unseen = range(1, 10)
    assert min(behavior_loss(described, context, step) for step in unseen) > 10
    # Knowing nothing but that one of two tokens comes, with 0.9 for both, costs 0.80.
    assert np.mean([behavior_loss(fitted, context, step) for step in unseen]) < 1.5


def test_only_the_rows_of_the_head_move(base):
    described, _ = initial(base, 'description')
    fitted, _ = initial(base, 'fitted')
    moved = {path for path in described if not np.array_equal(described[path], fitted[path])}
    assert moved == {'behavior/output' if 'behavior/output' in described else 'behavior/input'}


def test_the_fit_is_the_same_on_any_mesh(base):
    one, _ = initial(base, 'fitted', train__gradient_accumulation_steps=2)
    many, _ = initial(base, 'fitted', (2, 1, 2, 2), train__gradient_accumulation_steps=2)
    for path in one:
        if path.startswith('behavior/'):
            assert_close(many[path], one[path], 1e-4)


def test_no_device_gets_the_hidden_states_of_all(base):
    config, spec, plan, source = prepared(base, (4, 2, 1, 1))
    params = setup.base_params(config, spec, plan.mesh)
    with jax.set_mesh(plan.mesh):
        batch = loader.to_device(source[0], plan.mesh)
        observe = jax.jit(functools.partial(row_init._observe, plan.network, 1))
        program = observe.lower(params, batch).compile().as_text()
    (B, T), D = batch.tokens_BT.shape, plan.network.arch.embed_dim
    assert f'[1,{T},{D}]' in program
    assert f'[{B},{T},{D}]' not in program and f'[{B * T},{D}]' not in program


def test_rows_that_the_base_holds_stay(base):
    config, spec, plan, source = prepared(base)
    params = setup.base_params(config, spec, plan.mesh)
    fit = functools.partial(row_init.fit_rows, plan.network, params, plan.mesh, source, 1)
    assert fit([False, False]) is params
    some, every = fit([True, False])['behavior'], fit([True, True])['behavior']
    name = 'output' if 'output' in some else 'input'
    assert np.array_equal(some[name][1], params['behavior'][name][1])
    assert np.array_equal(some[name][0], every[name][0])
    assert not np.array_equal(some[name][0], params['behavior'][name][0])


def test_records_without_behavior_tokens_fit_nothing(base):
    config, spec, plan, source = prepared(base)
    params = setup.base_params(config, spec, plan.mesh)

    class Unlabeled:
        rows, local_rows = source.rows, source.local_rows

        def __getitem__(self, step):
            batch = source[step]
            is_token = np.isin(batch.targets_BT, plan.network.behavior_ids)
            return batch._replace(weights_BT=np.where(is_token, 0, batch.weights_BT))

    assert row_init.fit_rows(plan.network, params, plan.mesh, Unlabeled(), 1, [True] * 2) is params


@pytest.mark.parametrize('arm', ['neutral_token', 'text_sft'])
def test_a_run_of_every_kind_of_prefix_starts(base, arm, tmp_path):
    config = small_run(base)
    config.arm, config.model.row_init, config.train.steps = arm, 'fitted', 1
    runs.train(config, tmp_path)
    (line,) = metric_lines(tmp_path)
    if arm == 'neutral_token':
        assert line['behavior_loss'] < 0.5


@pytest.mark.parametrize('softcap', [0.0, 30.0])
def test_the_fit_is_ridge_regression(softcap):
    rng = np.random.default_rng(0)
    heads, others, D, n = 5, 7, 6, 3
    seen = row_init._Observed(
        rng.normal(size=(9, D)),
        rng.normal(size=(9, D)),
        rng.uniform(5, 9, size=9),
        rng.normal(size=D),
        rng.normal(size=(n, D)),
        np.int32(heads),
        np.int32(others),
    )
    rows_nD = row_init.fit(seen, softcap)
    X = np.concatenate([seen.heads_hD[:heads], seen.others_oD[:others] * np.sqrt(heads / others)])
    penalty = row_init.RIDGE * np.square(X).sum(1).mean()
    for row, first in zip(rows_nD, seen.rows_nD, strict=True):
        start = seen.expected_D + first - seen.rows_nD.mean(0)
        wanted = seen.log_sum_exp_h[:heads] + np.log(0.9 / 0.1 / n)
        if softcap:
            wanted = softcap * np.arctanh(wanted / softcap)
        # The primal form, with the penalty as further equations.
        A = np.concatenate([X, np.sqrt(penalty) * np.eye(D)])
        b = np.concatenate([wanted - X[:heads] @ start, np.zeros(others + D)])
        assert_close(row, start + np.linalg.lstsq(A, b, rcond=None)[0], 1e-9)
