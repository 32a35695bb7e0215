"""Tests macro-F1 by case against plain loops and scikit-learn."""

import numpy as np
import pytest
from sklearn import metrics as sk

from bsft_jax.evaluation import casewise


def data(seed, *, cases=9, categories=3, options=4, seeds=2, records=60, accuracy=0.5):
    """Returns (case, category, answer, predictions of two arms); every category has a record."""
    rng = np.random.default_rng(seed)
    case_R = rng.integers(cases, size=records)
    category_R = np.arange(records) % categories
    answer_R = rng.integers(options, size=records)
    arms = []
    for _ in range(2):
        guess_JR = rng.integers(options + 1, size=(seeds, records))
        arms.append(np.where(rng.random((seeds, records)) < accuracy, answer_R, guess_JR))
    return case_R, category_R, answer_R, arms


def counts(case_R, category_R, answer_R, predictions_JR):
    return casewise.count_by_case(
        case_R, category_R, answer_R, predictions_JR, categories=int(category_R.max()) + 1
    )


def sk_macro_f1(category_R, answer_R, prediction_R):
    return np.mean(
        [
            sk.f1_score(
                answer_R[category_R == c],
                prediction_R[category_R == c],
                average='macro',
                zero_division=0,
            )
            for c in np.unique(category_R)
        ]
    )


@pytest.mark.parametrize('seed', range(5))
def test_values_and_influences_equal_a_plain_jackknife(seed):
    case_R, category_R, answer_R, (predictions_JR, _) = data(seed)
    found = casewise.mean_macro_f1(counts(case_R, category_R, answer_R, predictions_JR), 9)
    expected_J = [sk_macro_f1(category_R, answer_R, row_R) for row_R in predictions_JR]
    assert found.values_J == pytest.approx(expected_J, abs=1e-12)
    assert found.value == pytest.approx(np.mean(expected_J))

    influence_U, bias, weight_U = np.zeros(9), 0.0, np.zeros(9)
    for c in range(3):
        chosen_R = category_R == c
        cases = np.unique(case_R[chosen_R])

        def mean_f1(kept_R, c=c):
            return np.mean(
                [
                    sk_macro_f1(category_R[kept_R], answer_R[kept_R], row[kept_R])
                    for row in predictions_JR
                ]
            )

        without = np.array([mean_f1(chosen_R & (case_R != case)) for case in cases])
        bias += (len(cases) - 1) * (mean_f1(chosen_R) - without.mean()) / 3
        influence_U[cases] += np.sqrt(1 - 1 / len(cases)) * (without.mean() - without) / 3
        weight_U[cases] += [(case_R[chosen_R] == case).mean() / 3 for case in cases]
    assert found.influence_U == pytest.approx(influence_U, abs=1e-12)
    assert found.weight_U == pytest.approx(weight_U) and weight_U.sum() == pytest.approx(1)
    assert bias - 1e-12 <= found.bias[0] <= found.bias[1]


def test_the_bias_of_a_ratio_is_that_of_many_samples():
    rng = np.random.default_rng(0)
    answer_TR = rng.integers(2, size=(4000, 24))
    right_TR = rng.random((4000, 24)) < 0.7
    predictions_TR = np.where(right_TR, answer_TR, 1 - answer_TR)
    zeros_R = np.zeros(24, int)
    found = [
        casewise.mean_macro_f1(counts(np.arange(24), zeros_R, answer, prediction[None]), 24)
        for answer, prediction in zip(answer_TR, predictions_TR, strict=True)
    ]
    bias = 0.7 - np.mean([one.value for one in found])
    assert 0.005 < bias < 0.02
    assert np.mean([one.bias[0] for one in found]) == pytest.approx(bias, rel=0.35)


def test_labels_that_are_never_right_may_be_unbiased():
    answer_R, zeros_R = np.arange(12) % 4, np.zeros(12, int)
    found = casewise.mean_macro_f1(counts(np.arange(12), zeros_R, answer_R, zeros_R[None]), 12)
    least, most = found.bias
    assert 0 < least < 0.01 < most


def test_categories_of_one_case_are_compared_with_one_another():
    category_R = np.repeat(np.arange(4), 5)
    answer_R = np.zeros(20, int)
    predictions_JR = np.where(np.arange(20) < 10, 0, 1)[None]
    found = casewise.mean_macro_f1(counts(category_R, category_R, answer_R, predictions_JR), 4)
    assert found.value == 0.5
    assert found.influence_U == pytest.approx([0.125, 0.125, -0.125, -0.125])


@pytest.mark.parametrize('paired', [True, False])
@pytest.mark.parametrize('seed', range(5))
def test_shares_add_up_to_the_difference(seed, paired):
    case_R, category_R, answer_R, (first_JR, second_JR) = data(seed)
    # Labels that only one side ever predicts, and sides with other numbers of options.
    first_JR[0, :2], second_JR[1, 5] = 7, 5
    if not paired:
        second_JR = np.concatenate([second_JR, second_JR[:1] ^ 1])
    first, second = (counts(case_R, category_R, answer_R, x) for x in (first_JR, second_JR))
    share_U = casewise.difference_by_case(first, second, 9, paired=paired)
    difference = casewise.mean_macro_f1(first, 9).value - casewise.mean_macro_f1(second, 9).value
    assert share_U.sum() == pytest.approx(difference, abs=1e-12)


def test_cases_answered_alike_have_no_share_and_exchange_changes_the_sign():
    case_R, category_R, answer_R, (first_JR, second_JR) = data(3, seeds=1)
    alike_R = np.isin(case_R, (2, 5))
    second_JR[:, alike_R] = first_JR[:, alike_R]
    first, second = (counts(case_R, category_R, answer_R, x) for x in (first_JR, second_JR))
    share_U = casewise.difference_by_case(first, second, 9, paired=True)
    assert (share_U[[2, 5]] == 0).all() and (share_U[[0, 1, 3, 4]] != 0).all()
    back_U = casewise.difference_by_case(second, first, 9, paired=True)
    assert back_U == pytest.approx(-share_U, abs=1e-15)


def test_shares_of_an_accuracy_like_difference_are_exact():
    """With two options that each side predicts equally often, shares count right answers."""
    answer_R = np.array([0, 0, 1, 1])
    first_JR, second_JR = np.array([[0, 0, 1, 1]]), np.array([[1, 0, 0, 1]])
    zeros_R = np.zeros(4, int)
    share_U = casewise.difference_by_case(
        *(counts(np.arange(4), zeros_R, answer_R, x) for x in (first_JR, second_JR)), 4, paired=True
    )
    assert share_U == pytest.approx([0.25, 0, 0.25, 0])
