"""Tests what a file of points may be, and what is refused in one line."""

import numpy as np
import pytest

from bsft_jax.errors import UserError
from bsft_jax.scaling import points as points_lib


def write(tmp_path, text):
    path = tmp_path / 'points.csv'
    path.write_text(text, encoding='utf-8')
    return path


def test_tokens_follow_from_compute_and_the_other_way_round(tmp_path):
    rows = points_lib.read_rows(write(tmp_path, 'params,flops,loss\n1e6,1.2e14,3\n2e6,6e13,4\n'))
    assert [row['tokens'] for row in rows] == [2e7, 5e6]
    rows = points_lib.read_rows(write(tmp_path, 'params,tokens,loss\n1e6,2e7,3\n'))
    assert rows[0]['flops'] == 1.2e14
    # Compute that was counted otherwise stays as it is.
    rows = points_lib.read_rows(write(tmp_path, 'params,tokens,flops,loss\n1e6,2e7,1e14,3\n'))
    assert (rows[0]['tokens'], rows[0]['flops']) == (2e7, 1e14)


def test_points_of_one_size_and_seed_are_a_cluster(tmp_path):
    text = 'params,tokens,loss,seed\n1e6,1e7,3,0\n1e6,2e7,3,0\n1e6,1e7,3,1\n2e6,1e7,3,0\n'
    rows = points_lib.read_rows(write(tmp_path, text))
    points = points_lib.loss_points(rows, 'points.csv')
    assert points.cluster_P.tolist() == [0, 0, 1, 2] and points.clusters == 3
    assert points.where_P[1] == 'points.csv:3'
    without = [{k: v for k, v in row.items() if k != 'seed'} for row in rows]
    assert points_lib.loss_points(without, 'points.csv').clusters == 4


def test_equal_compute_makes_a_budget_and_names_go_before_it(tmp_path):
    text = 'params,flops,loss\n1e6,1.02e15,3\n2e6,1e15,3\n1e6,3e15,3\n'
    rows = points_lib.read_rows(write(tmp_path, text))
    points = points_lib.loss_points(rows, 'points.csv')
    assert points.budget_P == ('1e+15', '1e+15', '3e+15') and not points.named_budgets
    named = [row | {'budget': name} for row, name in zip(rows, 'aba', strict=True)]
    points = points_lib.loss_points(named, 'points.csv')
    assert points.budget_P == ('a', 'b', 'a') and points.named_budgets
    assert {k: v.tolist() for k, v in points.budgets.items()} == {
        'b': [False, True, False],
        'a': [True, False, True],
    }


def test_the_highest_losses_are_left_out_in_the_order_of_the_file(tmp_path):
    text = 'params,tokens,loss\n' + ''.join(f'1e6,1e7,{x}\n' for x in (3, 9, 2, 9.5, 4))
    rows = points_lib.read_rows(write(tmp_path, text))
    points = points_lib.loss_points(rows, 'points.csv', drop_highest=2)
    assert np.array_equal(points.loss_P, [3, 2, 4])
    assert points.where_P == ('points.csv:2', 'points.csv:4', 'points.csv:6')
    with pytest.raises(UserError, match='--drop_highest=5: leaves none of 5 points'):
        points_lib.loss_points(rows, 'points.csv', drop_highest=5)


@pytest.mark.parametrize(
    'text, message',
    [
        ('', 'points.csv: holds no point'),
        ('params,tokens,loss\n', 'points.csv: holds no point'),
        ('params,tokens,loss\n1e6,1e7,nan\n', 'points.csv:2: loss is empty or NaN'),
        ('params,tokens,loss\n1e6,1e7,\n', 'points.csv:2: loss is empty or NaN'),
        ('params,tokens,loss\n1e6,1e7,3\n0,1e7,3\n', 'points.csv:3: params 0 is not above 0'),
        ('params,tokens,loss\n1e6,-1,3\n', 'points.csv:2: tokens -1 is not above 0'),
        ('params,tokens,loss\n1e6,inf,3\n', 'points.csv:2: tokens inf is not a finite number'),
        ('params,tokens,loss\n1e6,1B,3\n', "points.csv:2: tokens '1B' is not a number"),
        ('params,tokens,loss\n1e6,1e7\n', 'points.csv:2: 2 cells below 3 columns'),
        ('params,tokens,macro_f1\n1e6,1e7,71\n', 'macro_f1 71 is not between 0 and 1'),
        ('params,gain\n1e6,-2\n', 'gain -2 is not between -1 and 1'),
        ('params,tokens,loss\n0.1,1e7,3\n', 'params 0.1 is not between 1 and 1e\\+40'),
        ('params,tokens,loss\n1,1e7,3e7\n', 'loss 3e7 is not between 1e-06 and 1e\\+06'),
        ('params,flops,loss\n1e9,6e8,3\n', 'points.csv:2: 6e\\+08 flops are less than a token'),
        ('params,tokens,loss,seed\n1e6,1e7,3,\n', 'points.csv:2: seed is empty'),
    ],
)
def test_bad_files_are_refused(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        points_lib.read_rows(write(tmp_path, text))
    with pytest.raises(UserError, match='no such file'):
        points_lib.read_rows(tmp_path / 'absent.csv')


@pytest.mark.parametrize(
    'text, message',
    [
        ('tokens,loss\n1e7,3\n', 'has no column params; add params'),
        ('params,loss\n1e7,3\n', 'has neither a column tokens nor flops'),
        ('params,tokens\n1e7,3\n', 'has no column loss'),
        (
            'params,tokens,loss,arm\n1,1,1,a\n1,1,1,b\n',
            r'has losses of several arms \(a, b\); choose',
        ),
    ],
)
def test_missing_columns_are_named(tmp_path, text, message):
    rows = points_lib.read_rows(write(tmp_path, text))
    with pytest.raises(UserError, match=f'points.csv: {message}'):
        points_lib.loss_points(rows, 'points.csv')


def test_one_of_several_arms(tmp_path):
    rows = points_lib.read_rows(write(tmp_path, 'params,tokens,loss,arm\n1,1,1,a\n1,1,2,b\n'))
    assert points_lib.loss_points(rows, 'points.csv', arm='b').loss_P.tolist() == [2.0]
    with pytest.raises(UserError, match='--arm=c: no row of points.csv; arms: a, b'):
        points_lib.loss_points(rows, 'points.csv', arm='c')
