"""Tests the rows that a study compares."""

import json

from bsft_jax.studies import reporting


def row(arm):
    return {
        'arm': arm,
        'seed': 0,
        'workdir': arm,
        'evaluation': {'name': 'test-auto', 'prompt': 'plain'},
    }


def write(directory, arm, behaviors, ids=('a', 'b')):
    logprobs = {'reactive': -1.0, 'proactive': -2.0}
    predictions = [
        {
            'id': name,
            'category': '',
            'group': 'reactive',
            'case_id': '',
            'pair_id': '',
            'answer': 0,
            'prediction': 0,
            'behavior': behavior,
            'behavior_prediction': 'reactive',
            'behavior_logprobs': logprobs,
            'option_logprobs': {'reactive': [0.0, -1.0], 'proactive': [-1.0, 0.0]},
            'option_behaviors': [],
        }
        for name, behavior in zip(ids, behaviors, strict=True)
    ]
    path = directory / arm / 'eval' / 'test-auto' / 'predictions.jsonl'
    path.parent.mkdir(parents=True)
    path.write_text(
        ''.join(json.dumps(p, ensure_ascii=False) + '\n' for p in predictions), encoding='utf-8'
    )


def test_an_arm_without_every_label_has_no_oracle_and_a_note_says_so(tmp_path):
    write(tmp_path, 'complete', ['reactive', 'proactive'])
    write(tmp_path, 'partial', ['reactive', None])
    rows, notes = reporting.with_oracle_rows(
        [row('complete'), row('partial')], tmp_path, 'proactive'
    )
    found = [(r['arm'], r['evaluation'].get('policy')) for r in rows]
    assert found == [('complete', None), ('complete', 'oracle'), ('partial', None)]
    assert [p['prediction'] for p in rows[1]['predictions']] == [0, 1]
    assert notes == [
        'partial is not shown under the policy oracle '
        "(--policy=oracle: record 'b' has no behavior of this model)."
    ]


def test_ids_may_hold_other_line_separators(tmp_path):
    ids = ('a\u2028b', 'c\x85d')
    write(tmp_path, 'odd', ['reactive', 'proactive'], ids)
    rows, _ = reporting.with_oracle_rows([row('odd')], tmp_path, 'proactive')
    assert tuple(p['id'] for p in rows[0]['predictions']) == ids
