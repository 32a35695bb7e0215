"""Tests saturating power laws of macro-F1 and of paired gains."""

import numpy as np
import pytest

from bsft_jax.errors import UserError
from bsft_jax.scaling import saturating

TOKENS = np.geomspace(1e6, 1e9, 10)


def rows_of(values, arm='a', seed='0', score='macro_f1'):
    return [
        {'where': f'x.csv:{n}', 'tokens': x, 'arm': arm, 'seed': seed, score: y}
        for n, (x, y) in enumerate(zip(TOKENS.tolist(), values.tolist(), strict=True), 2)
    ]


def fit(rows, score='macro_f1'):
    return saturating.fit_scores(rows, score, resamples=300, seed=0)


def test_a_planted_law_is_recovered():
    fits, refused = fit(rows_of(0.82 - 40 * TOKENS**-0.35))
    assert refused == {}
    found = fits['tokens']
    assert found['limit'] == pytest.approx(0.82, abs=1e-4)
    assert found['exponent'] == pytest.approx(0.35, rel=1e-3)
    assert found['scale'] == pytest.approx(40, rel=0.01)
    assert found['points'] == 10 and found['rmse'] < 1e-4


def test_intervals_hold_the_truth():
    rng = np.random.default_rng(0)
    rows = [
        row
        for seed in '012'
        for row in rows_of(0.82 - 40 * TOKENS**-0.35 + 0.004 * rng.standard_normal(10), seed=seed)
    ]
    fits, refused = fit([row | {'params': row['tokens']} for row in rows])
    assert refused == {} and fits['params'] == fits['tokens']
    for name, truth in (('limit', 0.82), ('exponent', 0.35)):
        low, high = fits['tokens'][f'{name}_interval']
        assert low < truth < high and high - low < truth
        assert low < fits['tokens'][name] < high
    assert fit(rows) == fit(rows)


@pytest.mark.parametrize(
    'values, reason',
    [
        (0.1 + 0.03 * np.log(TOKENS), 'not identified: no sign of saturation'),
        (np.full(10, 0.6), 'does not change with tokens beyond its noise'),
        (0.3 + 1e-4 * TOKENS**0.3, 'not identified: no sign of saturation'),
        (1.3 - 40 * TOKENS**-0.25, 'the limit 1.3 is not a macro-F1'),
        (np.where(TOKENS > 1.5e6, 0.7, 0.2), 'no rise below the limit'),
    ],
)
def test_what_does_not_saturate_has_no_limit(values, reason):
    fits, refused = fit(rows_of(values))
    assert fits == {} and reason in refused['tokens']


def test_few_values_are_refused():
    fits, refused = fit(rows_of(0.8 - 40 * TOKENS**-0.3)[:4])
    assert (fits, refused) == ({}, {'tokens': '4 values of tokens; a fit needs 5'})


def test_a_gain_is_of_pairs_and_may_fall():
    general = rows_of(0.7 - 40 * TOKENS**-0.35, 'general_sft')
    behavior = rows_of(0.72 + 2 * TOKENS**-0.3 - 40 * TOKENS**-0.35, 'behavior-sft')
    unpaired = behavior[3] | {'seed': '7'}
    rows = [*general, *reversed(behavior), unpaired]
    paired = saturating.pair_gains(rows, 'behavior-sft-general_sft', 'x.csv')
    assert len(paired) == 10
    assert sorted(row['gain'] for row in paired) == pytest.approx(sorted(0.02 + 2 * TOKENS**-0.3))
    fits, _ = fit(paired, 'gain')
    assert fits['tokens']['limit'] == pytest.approx(0.02, abs=1e-4)
    assert fits['tokens']['scale'] == pytest.approx(-2, rel=0.01)
    back = saturating.pair_gains(rows, 'general_sft-behavior-sft', 'x.csv')
    assert sum(row['gain'] for row in back) == pytest.approx(-sum(row['gain'] for row in paired))


def test_gains_that_cannot_be_paired_are_refused():
    rows = [*rows_of(TOKENS / 1e9, 'a'), *rows_of(TOKENS / 1e9, 'b')]

    def refused(rows, message, gain='a-b'):
        with pytest.raises(UserError, match=message):
            saturating.pair_gains(rows, gain, 'x.csv')

    refused(rows, '--gain=a-c: is not ARM-ARM; arms of x.csv: a, b', 'a-c')
    refused([*rows, rows[0]], 'x.csv:2: a has another row of this size, data and seed')
    refused([rows[0], rows[11]], '--gain=a-b: no rows of the two arms pair')
    refused([{'arm': 'a', 'where': 'x'}], 'x.csv: has no column macro_f1')
