"""Tests operating points against plain loops, scikit-learn and by hand."""

import numpy as np
import pytest
from sklearn import metrics as sk

from bsft_jax.evaluation import operating, probabilities
from bsft_jax.evaluation.operating import Choices, DialPath, OperatingCurve

LEVELS = {'reactive': 0.0, 'proactive': 1.0}


def make_choices(logprob_Rn, label_R, level_n=(0.0, 1.0), level_Rn=None):
    """Returns choices whose answers do what the choice says, unless `level_Rn` says otherwise."""
    logprob_Rn, level_n = np.asarray(logprob_Rn, float), np.asarray(level_n, float)
    level_Rn = np.tile(level_n, (len(logprob_Rn), 1)) if level_Rn is None else np.asarray(level_Rn)
    return Choices(
        'tokens',
        level_n,
        logprob_Rn,
        np.zeros(logprob_Rn.shape, int),
        level_Rn,
        np.asarray(label_R, float),
        np.ones(len(logprob_Rn), bool),
    )


def by_log_odds(log_odds_R, label_R, **options):
    log_odds_R = np.asarray(log_odds_R, float)
    return make_choices(np.stack([0 * log_odds_R, log_odds_R], 1), label_R, **options)


def random_choices(seed, level_n, records=60):
    rng = np.random.default_rng(seed)
    # Multiples of 1/8, so that records are tied and differences are exact.
    logprob_Rn = (8 * rng.normal(-3, 2, size=(records, len(level_n)))).round() / 8
    logprob_Rn[rng.random(logprob_Rn.shape) < 0.2] = -np.inf
    logprob_Rn[np.arange(records), rng.integers(len(level_n), size=records)] = -1.0
    level_Rn = rng.choice(level_n, size=logprob_Rn.shape)
    return make_choices(logprob_Rn, rng.choice(level_n, size=records), level_n, level_Rn)


SCALES = [(0.0, 1.0), (0.3, 0.5), (0.0, 0.25, 0.5, 0.75, 1.0), (0.1, 0.1, 0.7, 0.9, 0.9)]


@pytest.mark.parametrize('level_n', SCALES)
@pytest.mark.parametrize('seed', range(4))
def test_the_path_is_that_of_the_dial(seed, level_n):
    choices = random_choices(seed, level_n)
    path = DialPath.of(choices)
    position_n = (choices.level_n - level_n[0]) / (level_n[-1] - level_n[0])
    assert (np.diff(path.dial_E) > 0).all() and (np.diff(position_n[path.choice_RN]) >= 0).all()
    apart = np.diff(path.dial_E[1:]) > 1e-9
    between = (path.dial_E[1:-1] + path.dial_E[2:])[apart] / 2
    for dial in [-1e3, *between, 1e3]:
        best_R = (choices.logprob_Rn + dial * position_n).argmax(1)
        assert path.choice_at(dial).tolist() == best_R.tolist()
    value_Rn = np.random.default_rng(seed).normal(size=choices.logprob_Rn.shape)
    expected = [value_Rn[np.arange(60), path.choice_at(dial)].sum() for dial in path.dial_E]
    assert path.sums(value_Rn) == pytest.approx(expected, abs=1e-12)


def test_at_a_setting_where_two_choices_are_equal_the_higher_is_taken():
    path = DialPath.of(by_log_odds([-1.5, 2.0], [0, 1]))
    assert path.dial_E.tolist() == [-np.inf, -2.0, 1.5]
    assert path.choice_at(1.5).tolist() == [1, 1]
    assert path.choice_at(np.nextafter(1.5, 0)).tolist() == [0, 1]
    three = DialPath.of(make_choices([[0.0, -1.0, -2.0]], [0], (0.0, 0.5, 1.0)))
    assert three.choice_at(2.0).tolist() == [2] and three.choice_at(1.99).tolist() == [0]


@pytest.mark.parametrize('ties', [False, True])
@pytest.mark.parametrize('seed', range(5))
def test_the_curve_is_the_roc_curve_of_scikit_learn(seed, ties):
    rng = np.random.default_rng(seed)
    label_R = (rng.random(120) < 0.4).astype(int)
    log_odds_R = rng.normal(size=120) + label_R
    log_odds_R = log_odds_R.round(0 if ties else 9)
    curve = OperatingCurve.of(by_log_odds(log_odds_R, label_R))
    over, hit, _ = sk.roc_curve(label_R, log_odds_R, drop_intermediate=False)
    assert curve.over_S[1:] == pytest.approx(over) and 1 - curve.missed_S[1:] == pytest.approx(hit)
    area = np.trapezoid(1 - curve.missed_S, curve.over_S)
    assert area == pytest.approx(sk.roc_auc_score(label_R, log_odds_R), abs=1e-12)
    assert area == pytest.approx(probabilities.auroc(label_R == 1, log_odds_R), abs=1e-12)
    # Where the curve rises at one rate the fewest missed interventions count.
    best = {x: hit[over <= x].max() for x in over}
    for rate in (0.0, 0.03, 0.05, 0.1, 0.33, 1.0):
        found = curve.at_rate(rate)
        expected = 1 - np.interp(rate, list(best), list(best.values()))
        if rate < over.max():
            grid = np.unique(over)
            low = grid[grid <= rate].max()
            high = grid[grid > rate].min()
            ends = hit[over <= low].max(), hit[over == high].min()
            expected = 1 - np.interp(rate, [low, high], ends)
        assert found.missed == pytest.approx(expected, abs=1e-12)
        assert found.over == pytest.approx(rate, abs=1e-12)


def test_rates_between_settings_are_interpolated():
    # Log-odds of two records that are due and two that are not; one of each is tied.
    curve = OperatingCurve.of(by_log_odds([3.0, 1.0, 1.0, 0.0], [1, 1, 0, 0]))
    assert curve.over_S.tolist() == [0.0, 0.0, 0.0, 0.5, 1.0]
    assert curve.missed_S.tolist() == [1.0, 1.0, 0.5, 0.0, 0.0]
    for rate, missed in ((0.0, 0.5), (0.1, 0.4), (0.25, 0.25), (0.5, 0.0), (0.7, 0.0)):
        assert curve.at_rate(rate).missed == pytest.approx(missed)
    assert curve.at_rate(0.1).share == pytest.approx(0.2)


def test_a_curve_that_is_always_above_the_rate_is_joined_to_silence():
    # Whatever is chosen, one of two records that are not due gets an answer that steps in.
    level_Rn = [[1, 1], [0, 1], [0, 1], [1, 1]]
    curve = OperatingCurve.of(by_log_odds([0, 1, 2, 3], [0, 0, 1, 1], level_Rn=level_Rn))
    assert curve.over_S.tolist() == [0.0, 0.5, 0.5, 0.5, 1.0, 1.0]
    assert curve.missed_S.tolist() == [1.0, 0.5, 0.5, 0.0, 0.0, 0.0]
    found = curve.at_rate(0.1)
    # A fifth of the answers at the lowest setting is given, the others are withheld.
    assert (found.settings, found.share) == ((0, 1), pytest.approx(0.2))
    assert found.missed == pytest.approx(0.9) and found.over == 0.1
    assert curve.at_rate(0.0).missed == 1.0
    assert curve.at_rate(0.5).missed == 0.0


def test_a_curve_that_never_reaches_the_rate_is_taken_where_it_misses_least():
    level_Rn = [[0, 0], [0, 0], [0, 1], [0, 0]]
    curve = OperatingCurve.of(by_log_odds([0, 1, 2, 3], [0, 0, 1, 1], level_Rn=level_Rn))
    found = curve.at_rate(0.05)
    assert (found.over, found.missed, found.share) == (0.0, 0.5, 0.0)


def test_answers_that_do_not_follow_the_choice_may_bend_the_curve_back():
    # The first record steps in only below its change; the best setting with few is beyond it.
    level_Rn = [[1, 0], [0, 0], [0, 1], [0, 1]]
    curve = OperatingCurve.of(by_log_odds([0, 1, 2, -1], [0, 0, 1, 1], level_Rn=level_Rn))
    assert curve.over_S.tolist() == [0.0, 0.5, 0.5, 0.5, 0.0, 0.0]
    assert curve.at_rate(0.0).missed == 0.0


def test_without_a_record_that_counts_there_is_no_curve():
    for label_R in ([0, 0], [1, 1], [np.nan, 1], [np.nan, np.nan]):
        assert OperatingCurve.of(by_log_odds([0, 1], label_R)) is None


def test_rates_of_more_than_two_levels_compare_with_the_label():
    level_n = (0.0, 0.5, 1.0)
    choices = make_choices(np.log([[0.5, 0.3, 0.2]] * 3), level_n, level_n)
    curve = OperatingCurve.of(choices)
    # All records move at once: silence, nothing, all to the middle, all to the highest.
    position = [(0.0, 1.0), (0.5, 0.5), (1.0, 0.0)]
    path = DialPath.of(choices)
    for dial in path.dial_E[1:]:
        taken = int(path.choice_at(dial)[0])
        s = 1 + list(path.dial_E).index(dial)
        assert (curve.over_S[s], curve.missed_S[s]) == position[taken]


@pytest.mark.parametrize('level_n', SCALES[2:])
@pytest.mark.parametrize('seed', range(4))
def test_parts_by_case_add_up_to_the_missed_interventions(seed, level_n):
    choices = random_choices(seed, level_n)
    curve, case_R = OperatingCurve.of(choices), np.arange(60) % 11
    for rate in (0.0, 0.05, 0.2, 0.9):
        part_U = curve.missed_by_case(rate, case_R, 11)
        assert part_U.sum() == pytest.approx(curve.at_rate(rate).missed, abs=1e-12)


def test_parts_of_a_model_on_another_scale_are_the_same():
    rng = np.random.default_rng(0)
    label_R, case_R = rng.integers(2, size=200), np.arange(200) % 20
    log_odds_R = rng.normal(size=200) + label_R
    parts = [
        OperatingCurve.of(by_log_odds(x, label_R)).missed_by_case(0.05, case_R, 20)
        for x in (log_odds_R, 7 * log_odds_R - 30)
    ]
    assert parts[0] == pytest.approx(parts[1], abs=1e-12)


def test_over_interventions_of_a_case_count_by_the_slope_of_the_curve():
    """On a straight curve each over-intervention costs as many missed ones everywhere."""
    # From (0, 1) to (1, 0): every step is one record of each kind, tied.
    log_odds_R = np.repeat(np.arange(40.0), 2)
    label_R = np.tile([0, 1], 40)
    case_R = np.arange(80) % 8
    curve = OperatingCurve.of(by_log_odds(log_odds_R, label_R))
    found = curve.at_rate(0.25)
    assert found.missed == pytest.approx(0.75)
    taken_R = log_odds_R >= 30
    missed_U = np.bincount(case_R, ~taken_R & (label_R == 1), 8) / 40
    excess_U = np.bincount(case_R, (taken_R - 0.25) * (label_R == 0), 8) / 40
    part_U = curve.missed_by_case(0.25, case_R, 8)
    assert part_U == pytest.approx(missed_U + 1.0 * excess_U, abs=1e-9)


def row(option_logprobs, behavior_logprobs=None, stands_for=(), label='reactive'):
    return {
        'option_logprobs': option_logprobs,
        'behavior_logprobs': behavior_logprobs,
        'option_behaviors': list(stands_for),
        'behavior': label,
    }


def test_choices_of_tokens_are_judged_by_the_options_that_follow():
    rows = [
        row(
            {'none': [0, 0, 0], 'reactive': [-1, -2, -3], 'proactive': [-3, -2, -1]},
            {'reactive': -0.5, 'proactive': -1.5},
            ['reactive', 'reactive', 'proactive'],
        ),
        row(
            {'none': [0, 0], 'reactive': [-2, -1], 'proactive': [-1, -2]},
            {'reactive': -2.5, 'proactive': -0.5},
            ['reactive', 'reactive'],
            'proactive',
        ),
        row({'none': [0], 'reactive': [-1], 'proactive': [-1]}, {'reactive': -1, 'proactive': -1}),
    ]
    choices = operating.find_choices(rows, LEVELS)
    assert choices.source == 'tokens'
    assert choices.prediction_Rn.tolist() == [[0, 2], [1, 0], [0, 0]]
    assert choices.level_Rn[:2].tolist() == [[0, 1], [0, 0]] and np.isnan(choices.level_Rn[2]).all()
    assert choices.log_odds_R == pytest.approx([-1.0, 2.0, 0.0])
    assert choices.open_R.tolist() == [True, False, False]
    assert choices.label_R.tolist() == [0, 1, 0]
    # Nothing says what options stand for: the tokens count.
    bare = operating.find_choices([{**r, 'option_behaviors': []} for r in rows], LEVELS)
    assert bare.level_Rn.tolist() == [[0, 1]] * 3 and bare.open_R.all()


def test_choices_without_tokens_are_groups_of_options():
    stands_for = ['reactive', 'proactive', 'proactive', 'reactive']
    probs = np.array([0.2, 0.15, 0.25, 0.1])
    rows = [
        row({'none': np.log(probs).tolist()}, None, stands_for),
        row({'none': [-1.0, -2.0]}, None, ['reactive', 'reactive']),
        row({'none': [-2.0, -1.0]}),
    ]
    choices = operating.find_choices(rows, LEVELS)
    assert choices.source == 'options'
    assert choices.prediction_Rn.tolist() == [[0, 2], [0, 0], [1, 1]]
    assert choices.log_odds_R[0] == pytest.approx(np.log(0.4 / 0.3))
    assert choices.log_odds_R[1] == choices.log_odds_R[2] == -np.inf
    assert choices.open_R.tolist() == [True, False, False]
    path = DialPath.of(choices)
    assert path.choice_at(1e9).tolist() == [1, 0, 0]
    # A constant prefix is what such a model answers with.
    neutral = [
        {**r, 'option_logprobs': {'none': [0] * 4, 'x': r['option_logprobs']['none']}} for r in rows
    ]
    again = operating.find_choices(neutral, LEVELS)
    assert again.logprob_Rn.tolist() == choices.logprob_Rn.tolist()


def test_there_are_no_choices_without_scores_or_what_they_stand_for():
    scored = row({'none': [0.0, -1.0]})
    assert operating.find_choices([scored], LEVELS) is None
    stands_for = ['reactive', 'proactive']
    assert operating.find_choices([row(None, None, stands_for)], LEVELS) is None
    some = [row({'none': [0.0, -1.0]}, None, stands_for)]
    assert operating.find_choices(some, LEVELS) is not None
    assert operating.find_choices(some, dict.fromkeys(LEVELS, 0.5)) is None
