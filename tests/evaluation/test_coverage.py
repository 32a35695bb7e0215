"""Simulates how often intervals hold the truth, and how often tests reject where there is nothing.

The fast tests run a few designs briefly, the slow ones all of them; `pytest -s` prints the rates.
"""

import numpy as np
import pytest

from bsft_jax.evaluation import casewise, metrics, statistics
from bsft_jax.records import taxonomy

# Rates of an interval of 95 %: too low is a false claim, too high says less than the data do.
LOWEST, HIGHEST = 0.90, 0.99
# (categories, records of each, options, accuracy, cases or None for one per record, correlation
# of right answers within a case)
DESIGNS = {
    '13 x 30': (13, 30, 4, 0.64, 30, 0.0),
    '13 x 30, each its own case': (13, 30, 4, 0.64, None, 0.0),
    '13 x 48': (13, 48, 4, 0.64, 48, 0.0),
    '13 x 48 of 30 cases': (13, 48, 4, 0.64, 30, 0.1),
    '13 x 2 of 30 cases': (13, 60, 4, 0.64, 30, 0.1),
    '13 x 120': (13, 120, 4, 0.64, 120, 0.0),
    '13 x 10': (13, 10, 4, 0.64, 10, 0.0),
    '13 x 10, each its own case': (13, 10, 4, 0.64, None, 0.0),
    '5 x 12': (5, 12, 4, 0.5, 12, 0.0),
    '13 x 48, 2 options': (13, 48, 2, 0.64, 48, 0.0),
    '1 x 200': (1, 200, 4, 0.64, 200, 0.0),
    '1 x 200, 2 options': (1, 200, 2, 0.64, 200, 0.0),
    '13 x 10, 8 options': (13, 10, 8, 0.64, 10, 0.0),
    '13 x 5': (13, 5, 4, 0.64, 5, 0.0),
    '1 x 30': (1, 30, 4, 0.64, 30, 0.0),
    '1 x 12': (1, 12, 4, 0.64, 12, 0.0),
    '1 x 100, nearly all right': (1, 100, 4, 0.97, 100, 0.0),
    '13 x 30, nearly all right': (13, 30, 4, 0.97, 30, 0.0),
    '13 x 30, at chance': (13, 30, 4, 0.25, 30, 0.0),
    '13 x 2 of 30 cases that agree': (13, 60, 4, 0.64, 30, 0.4),
    '4 x 20 of 3 cases': (4, 20, 4, 0.64, 3, 0.2),
    '4 x 20 of 5 cases': (4, 20, 4, 0.64, 5, 0.2),
    '4 x 20 of 10 cases': (4, 20, 4, 0.64, 10, 0.2),
}
# (cases, seeds of each arm, standard deviation of the accuracy between trainings)
PAIRED = [
    (3, 1, 0.0),
    (5, 1, 0.0),
    (6, 1, 0.0),
    (10, 1, 0.0),
    (30, 1, 0.0),
    (100, 1, 0.0),
    (30, 2, 0.05),
    (30, 3, 0.05),
    (30, 5, 0.05),
    (30, 5, 0.0),
    (10, 2, 0.02),
    (100, 5, 0.02),
]


def draw(rng, categories, records, options, accuracy, cases, correlation):
    """Returns (case, category, answer, prediction) of records whose macro-F1 is `accuracy`."""
    position_R = np.tile(np.arange(records), categories)
    category_R = np.repeat(np.arange(categories), records)
    case_R = np.arange(len(category_R)) if cases is None else position_R % cases
    right_U = np.full(case_R.max() + 1, accuracy)
    if correlation:
        scale = (1 - correlation) / correlation
        right_U = rng.beta(accuracy * scale, (1 - accuracy) * scale, size=len(right_U))
    answer_R = rng.integers(options, size=len(case_R))
    prediction_R = answered(rng, right_U[case_R], answer_R, options)
    return case_R, category_R, answer_R, prediction_R


def answered(rng, probability_R, answer_R, options):
    wrong_R = (answer_R + rng.integers(1, options, size=len(answer_R))) % options
    return np.where(rng.random(len(answer_R)) < probability_R, answer_R, wrong_R)


def coverage(design, trials, seed=0):
    rng, (categories, _, _, accuracy, _, _) = np.random.default_rng(seed), design
    inside = 0
    for _ in range(trials):
        case_R, category_R, answer_R, prediction_R = draw(rng, *design)
        counts = casewise.count_by_case(
            case_R, category_R, answer_R, prediction_R[None], categories=categories
        )
        mean = casewise.mean_macro_f1(counts, int(case_R.max()) + 1)
        low, high = statistics.unit_interval(mean.value, mean.bias, mean.influence_U, mean.weight_U)
        assert 0 <= low <= mean.value <= high <= 1
        inside += low <= accuracy <= high
    return inside / trials


def rates(cases, seeds, between, trials, seed=0):
    """Returns how often p < 0.05, and how often the interval holds 0, for two arms of one skill.

    Answers of a case agree, cases are harder for one arm than for the other, and trainings differ.
    """
    rng, rejected, inside = np.random.default_rng(seed), 0, 0
    case_R, category_R = np.repeat(np.arange(cases), 8), np.tile(np.repeat(np.arange(4), 2), cases)
    for _ in range(trials):
        answer_R = rng.integers(4, size=len(case_R))
        skill_U = rng.beta(2.4, 1.6, size=cases)
        arms = []
        for _ in range(2):
            of_arm_U = skill_U + rng.normal(0, 0.15, size=cases)
            trained_J = rng.normal(0, between, size=seeds) if between else np.zeros(seeds)
            predictions_JR = np.array(
                [answered(rng, of_arm_U[case_R] + t, answer_R, 4) for t in trained_J]
            )
            arms.append(
                casewise.count_by_case(case_R, category_R, answer_R, predictions_JR, categories=4)
            )
        means = [casewise.mean_macro_f1(counts, cases) for counts in arms]
        found = statistics.paired_difference(
            casewise.difference_by_case(*arms, cases, paired=True),
            means[0].weight_U,
            trainings=statistics.Trainings.of_seeds(means[0].values_J - means[1].values_J),
        )
        assert found.p >= 2 / 2.0**cases
        rejected += found.p < 0.05
        inside += found.interval is None or found.interval[0] <= 0 <= found.interval[1]
    return rejected / trials, inside / trials


def within(rate, trials):
    """Returns whether a rate of rejection may be 5 % or less, by 3 standard errors."""
    return rate <= 0.05 + 3 * (0.05 * 0.95 / trials) ** 0.5


@pytest.mark.parametrize('name', ['13 x 10', '5 x 12', '1 x 30', '4 x 20 of 3 cases'])
def test_intervals_hold_the_truth(name):
    assert coverage(DESIGNS[name], 200) >= LOWEST - 0.02


@pytest.mark.parametrize(('cases', 'seeds', 'between'), [PAIRED[0], PAIRED[3], PAIRED[6]])
def test_nothing_is_found_where_there_is_nothing(cases, seeds, between):
    rejected, inside = rates(cases, seeds, between, 150)
    assert within(rejected, 150) and within(1 - inside, 150)


@pytest.mark.slow
@pytest.mark.parametrize('name', DESIGNS)
def test_intervals_of_every_design_hold_the_truth(name):
    rate = coverage(DESIGNS[name], 1000, seed=1)
    print(f'{name}: {rate:.3f}')
    assert LOWEST <= rate <= HIGHEST


@pytest.mark.slow
@pytest.mark.parametrize(('cases', 'seeds', 'between'), PAIRED)
def test_tests_of_every_design_keep_their_level(cases, seeds, between):
    rejected, inside = rates(cases, seeds, between, 1000, seed=1)
    print(f'{cases} cases, {seeds} seeds, between trainings {between}: {rejected:.3f} {inside:.3f}')
    assert within(rejected, 1000) and within(1 - inside, 1000)


@pytest.mark.slow
def test_groups_categories_and_pooled_intervals_of_metrics_hold_the_truth():
    rng, names, trials = np.random.default_rng(0), list(taxonomy.CATEGORIES), 300
    inside = {}
    for _ in range(trials):
        columns = draw(rng, 13, 20, 4, 0.64, 20, 0.1)
        rows = [
            {'case_id': f'c{u}', 'category': names[c], 'answer': int(a), 'prediction': int(p)}
            for u, c, a, p in zip(*columns, strict=True)
        ]
        found = metrics.metrics_from_predictions(rows, policy='auto', prompt='plain')
        intervals = {'pooled': found['overall']['macro_f1_pooled_interval']}
        intervals |= {
            f'{part} {name}': entry['macro_f1_interval']
            for part in ('groups', 'categories')
            for name, entry in found[part].items()
        }
        for name, (low, high) in intervals.items():
            inside[name] = inside.get(name, 0) + (low <= 0.64 <= high)
    shares = {name: number / trials for name, number in inside.items()}
    print(shares)
    assert len(shares) == 1 + 3 + 13
    # 17 rates of 300 trials: the smallest and largest lie some standard errors outside.
    assert all(share >= LOWEST - 0.03 for share in shares.values())
    assert LOWEST <= np.mean(list(shares.values())) <= HIGHEST
