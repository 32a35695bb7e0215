"""Tests the fits of losses on planted surfaces and on published points."""

import csv
import dataclasses

import numpy as np
import pytest
from scipy import optimize

from bsft_jax.scaling import intervals, losses, solver, surface
from bsft_jax.scaling import points as points_lib
from tests.scaling.planted import BUDGETS, TRUTH, iso_flop, loss_of, make_points, optimum_of

A_OF_C = TRUTH['beta'] / (TRUTH['alpha'] + TRUTH['beta'])
FAST = losses.FitOptions(resamples=200)


def test_the_batch_solver_finds_each_minimum_and_keeps_fixed_variables():
    targets = np.array([[1.0, -2.0], [30.0, 0.5]])

    def objective(index, x):
        gap = x - targets[index]
        return (gap**4).sum(1) + (gap**2 * [1, 100]).sum(1), 4 * gap**3 + 2 * gap * [1, 100]

    start, free = np.zeros((2, 2)), np.repeat(np.eye(2)[None], 2, 0)
    assert solver.minimise_all(objective, start, free) == pytest.approx(targets, abs=1e-4)
    fixed = free * np.diag([0, 1])
    found = solver.minimise_all(objective, start, fixed)
    assert (found[:, 0] == 0).all()
    assert found[:, 1] == pytest.approx(targets[:, 1], abs=1e-4)


@pytest.mark.parametrize('delta', [1e-3, np.inf])
def test_gradients_are_those_of_the_objective(delta):
    criterion = surface.Criterion(iso_flop(noise=0.01), delta)
    theta = np.array([0.5, 0.1, -0.3, 0.3, 0.4])
    _, gradient = criterion(theta[None])
    numeric = optimize.approx_fprime(theta, lambda x: criterion(x[None])[0][0], 1e-7)
    assert gradient[0] == pytest.approx(numeric, rel=1e-4, abs=1e-5)


def test_planted_parameters_are_recovered():
    fits = losses.fit_losses(iso_flop(), FAST)
    for method in ('approach3', 'vpnls'):
        found = fits.content[method]
        for name, value in TRUTH.items():
            assert found[name] == pytest.approx(value, rel=1e-3), (method, name)
        assert found['params_exponent'] == pytest.approx(A_OF_C, abs=1e-4)
        assert found['params_exponent'] + found['tokens_exponent'] == pytest.approx(1)
    # A parabola is not the curve of the surface, so the minimum is a little beside it.
    found = fits.content['approach2']
    assert found['params_exponent'] == pytest.approx(A_OF_C, abs=2e-3)
    assert found['tokens_exponent'] == pytest.approx(1 - A_OF_C, abs=2e-3)
    assert [b['flops'] for b in found['budgets']] == pytest.approx(BUDGETS)
    for budget in found['budgets']:
        best = optimum_of(budget['flops'])
        assert budget['params_optimum'] == pytest.approx(best, rel=0.03)
        assert 6 * budget['params_optimum'] * budget['tokens_optimum'] == pytest.approx(
            budget['flops']
        )
        tokens = budget['flops'] / (6 * best)
        assert budget['loss_optimum'] == pytest.approx(loss_of(best, tokens), rel=1e-4)
    assert (fits.refused, fits.content['disagreements']) == ({}, [])


def test_intervals_hold_the_truth_and_depend_on_the_seed_alone():
    points = iso_flop(noise=0.003)
    fits = [losses.fit_losses(points, dataclasses.replace(FAST, seed=seed)) for seed in (1, 1, 2)]
    assert fits[0] == fits[1]
    for method in losses.METHODS[1:]:
        for name in TRUTH:
            first, _, other = (fit.content[method] for fit in fits)
            low, high = first[f'{name}_interval']
            assert low < TRUTH[name] < high
            assert low < first[name] < high
            assert first[name] == other[name]
            assert first[f'{name}_interval'] != other[f'{name}_interval']
    assert list(fits[0].content['leave_one_budget_out']) == [f'{c:g}' for c in BUDGETS]


def test_leaving_out_is_fitting_without():
    points = iso_flop(noise=0.003)
    fits = losses.fit_losses(points, FAST)
    strongest = fits.content['influence'][0]
    i = points.where_P.index(strongest['where'])
    kept = np.arange(len(points)) != i
    without = make_points(points.params_P[kept], points.tokens_P[kept])
    without.loss_P[:] = points.loss_P[kept]
    theta = surface.fit_huber(without)
    for k, name in ((3, 'alpha'), (4, 'beta')):
        change = theta[k] - fits.content['approach3'][name]
        assert strongest[f'{name}_change'] == pytest.approx(change, abs=2e-5)
    budget = points.budgets['1e+18']
    without = make_points(points.params_P[~budget], points.tokens_P[~budget])
    without.loss_P[:] = points.loss_P[~budget]
    theta = surface.fit_squares(without)
    left_out = fits.content['leave_one_budget_out']['1e+18']['vpnls']
    assert left_out['alpha'] == pytest.approx(theta[3], abs=1e-4)
    assert left_out['beta'] == pytest.approx(theta[4], abs=1e-4)


def test_weights_are_those_of_clusters():
    weight_EP = intervals.draw_weights(np.array([0, 0, 1, 2]), 2000, 0)
    assert (weight_EP[:, 0] == weight_EP[:, 1]).all()
    assert (weight_EP > 0).all()
    assert weight_EP.mean(0) == pytest.approx(np.ones(4), abs=0.06)
    # Of three clusters: (3 - 1) / (3 + 1).
    assert weight_EP.var(0) == pytest.approx(np.full(4, 0.5), abs=0.05)


def test_a_mean_interval_is_that_of_student():
    values = np.random.default_rng(0).standard_normal(400_000)
    found = intervals.interval(values, clusters=5, points=5, parameters=1)
    # t of 4 degrees of freedom, times sqrt(5 / 4).
    assert found == pytest.approx([-3.104, 3.104], abs=0.06)
    assert intervals.interval(values, clusters=5, points=5, parameters=5) is None


def test_budgets_without_a_minimum_are_refused_by_name():
    good = iso_flop()
    few = iso_flop(sizes=3, budgets=(1e17,))
    outside = iso_flop(shift=30.0, budgets=(1e22,))
    parts = [good, few, outside]
    points = make_points(
        *(np.concatenate([getattr(p, f'{n}_P') for p in parts]) for n in ('params', 'tokens')),
        budgets=[name for p in parts for name in p.budget_P],
    )
    upside_down = points.budgets['1e+19']
    points.loss_P[upside_down] = 6 - points.loss_P[upside_down]
    fits = losses.fit_losses(points, FAST)
    refused = {k: v for k, v in fits.refused.items() if k.startswith('approach2')}
    assert refused.keys() == {f'approach2.budgets.{c}' for c in ('1e+17', '1e+19', '1e+22')}
    assert refused['approach2.budgets.1e+17'] == '3 sizes; a parabola needs 4'
    assert 'wrong curvature' in refused['approach2.budgets.1e+19']
    assert 'outside of the sizes tried' in refused['approach2.budgets.1e+22']
    assert [b['budget'] for b in fits.content['approach2']['budgets']] == [
        '1e+18',
        '1e+20',
        '1e+21',
    ]


def test_few_sizes_are_refused():
    params, tokens = np.meshgrid([1e7, 1e8, 1e9, 1e10], [1e9, 1e10, 1e11])
    fits = losses.fit_losses(make_points(params.ravel(), tokens.ravel()), FAST)
    assert fits.content['approach3'] is None and fits.content['vpnls'] is None
    assert fits.refused['approach3'] == '4 sizes; a surface needs 5'
    assert fits.refused['approach2'].startswith('0 of 1 budgets have a parabola')
    params, tokens = np.meshgrid([1e7, 3e7, 1e8, 1e9, 1e10], [1e9, 1e10])
    fits = losses.fit_losses(make_points(params.ravel(), tokens.ravel()), FAST)
    assert fits.refused['vpnls'] == '2 numbers of tokens; a surface needs 3'


@pytest.mark.parametrize('noise', [0.0, 0.003])
def test_a_grid_with_data_in_proportion_to_size_identifies_no_exponent(noise):
    params = np.repeat(np.geomspace(1e8, 1e9, 8), 3)
    points = make_points(params, 20 * params, noise=noise)
    fits = losses.fit_losses(points, FAST)
    for method in ('approach3', 'vpnls'):
        found = fits.content[method]
        assert found['alpha'] is None or found['beta'] is None
        assert found['params_exponent'] is None
        reasons = [fits.refused.get(f'{method}.{name}', '') for name in ('alpha', 'beta')]
        assert any(reason.startswith('not identified') for reason in reasons)


def test_a_term_that_is_not_there_is_at_its_bound():
    params, tokens = (x.ravel() for x in np.meshgrid(np.geomspace(1e7, 1e10, 6), [1e9, 1e10, 1e11]))
    points = make_points(params, tokens)
    points.loss_P[:] = 2 + 480 * params**-0.34 + 1e-12 * tokens**0.1
    fits = losses.fit_losses(points, FAST)
    for method in ('approach3', 'vpnls'):
        assert fits.content[method]['alpha'] == pytest.approx(0.34, abs=1e-3)
        assert fits.content[method]['beta'] is None and fits.content[method]['B'] is None
        assert 'not identified' in fits.refused[f'{method}.beta']


def test_methods_that_disagree_are_flagged():
    found = {
        'approach2': {'params_exponent_interval': [0.4, 0.45]},
        'approach3': {'params_exponent_interval': [0.46, 0.5], 'alpha_interval': [0.3, 0.4]},
        'vpnls': {'params_exponent_interval': [0.44, 0.47], 'alpha_interval': None},
    }
    assert losses.disagreements(found) == [
        {
            'exponent': 'params_exponent',
            'methods': ['approach2', 'approach3'],
            'intervals': [[0.4, 0.45], [0.46, 0.5]],
        }
    ]


def test_one_ladder_for_every_budget_misleads_parabolas():
    ladder = np.geomspace(optimum_of(BUDGETS[0]) / 2, optimum_of(BUDGETS[-1]) * 2, 9)
    params, flops = (x.ravel() for x in np.meshgrid(ladder, BUDGETS))
    points = make_points(
        params, flops / (6 * params), noise=0.002, budgets=[f'{c:g}' for c in flops]
    )
    fits = losses.fit_losses(points, FAST)
    assert fits.content['approach2']['params_exponent'] == pytest.approx(A_OF_C - 0.04, abs=0.01)
    for method in ('approach3', 'vpnls'):
        assert fits.content[method]['params_exponent'] == pytest.approx(A_OF_C, abs=0.01)
        found = [d['exponent'] for d in fits.content['disagreements'] if method in d['methods']]
        assert found == ['params_exponent', 'tokens_exponent']


@pytest.fixture(scope='module')
def published(shared):
    """Returns the rows of Besiroglu et al. 2024, read off figure 4 of Hoffmann et al. 2022."""
    path = shared / 'data/scaling/chinchilla_points.csv'
    if not path.is_file():
        pytest.skip(f'no {path}')
    with path.open(encoding='utf-8') as file:
        columns = {'params': 'Model Size', 'flops': 'Training FLOP', 'loss': 'loss'}
        cells = [{k: float(row[v]) for k, v in columns.items()} for row in csv.DictReader(file)]
    return [
        {'where': f'points.csv:{n}', **row, 'tokens': row['flops'] / (6 * row['params'])}
        for n, row in enumerate(cells, 2)
    ]


def test_the_published_fit_is_reproduced(published):
    points = points_lib.loss_points(published, 'points.csv', drop_highest=5)
    assert len(points) == 240
    fits = losses.fit_losses(points, losses.FitOptions(resamples=1000))
    found = fits.content['approach3']
    assert found['objective'] == pytest.approx(0.0010182740, abs=1e-8)
    assert found['alpha'] == pytest.approx(0.34731, abs=2e-4)
    assert found['beta'] == pytest.approx(0.36718, abs=2e-4)
    assert found['E'] == pytest.approx(1.81724, abs=1e-4)
    assert found['A'] == pytest.approx(477.8, rel=0.01)
    assert found['B'] == pytest.approx(2143.9, rel=0.01)
    for name, ends in {
        'alpha': (0.317, 0.373),
        'beta': (0.331, 0.415),
        'E': (1.769, 1.871),
    }.items():
        low, high = found[f'{name}_interval']
        assert low < ends[1] and high > ends[0]
        # The same data give nearly the same width.
        assert 0.6 < (high - low) / (ends[1] - ends[0]) < 1.5
    assert not fits.content['depends_on_few']['depends']
    # Digitized points lie on no budgets.
    assert 'column budget' in fits.refused['approach2']


def test_all_published_points_depend_on_five(published):
    fits = losses.fit_losses(points_lib.loss_points(published, 'points.csv'), FAST)
    assert fits.content['approach3']['beta'] == pytest.approx(0.453, abs=1e-3)
    few = fits.content['depends_on_few']
    assert few['depends'] and few['exponent'] == 'beta' and few['are_highest_losses']
    assert few['points'] == 5
    assert few['without'] == pytest.approx(0.36718, abs=2e-4)


def test_the_mean_of_the_losses_ends_where_it_starts(published):
    points = points_lib.loss_points(published, 'points.csv', drop_highest=5)
    criterion = surface.Criterion(points, 1e-3)
    # Both exponents 0.5, with e = 0.5 and a = b = 5 as in the grid of Hoffmann et al.
    centre = np.array(criterion.centre)
    start = np.array([0.5, *(5 - 0.5 * centre), 0.5, 0.5])

    def minimise(divisor):
        def function(theta):
            values, gradients = criterion(theta[None])
            return values[0] / divisor, gradients[0] / divisor

        # Default tolerances.
        return optimize.minimize(function, start, jac=True, method='BFGS')

    mean, total = minimise(len(points)), minimise(1)
    assert mean.success
    assert mean.x[3:] == pytest.approx([0.5, 0.5], abs=5e-3)
    assert mean.fun * len(points) > 15 * 0.0010182740
    assert total.fun == pytest.approx(0.0010182740, abs=1e-8)
    assert total.x[3:] == pytest.approx([0.34731, 0.36718], abs=2e-4)
