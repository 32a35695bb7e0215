"""Tests that a wrong study is refused in one line before anything runs."""

import dataclasses

import pytest

from bsft_jax.data import sources
from bsft_jax.errors import UserError
from bsft_jax.records.record import write_jsonl
from bsft_jax.studies.study import Arm, Study, load_config
from tests.studies.test_launching import CONFIG, ENDPOINT, run


@pytest.fixture
def study(tmp_path):
    path = tmp_path / 'config.py'
    path.write_text(CONFIG.format(base='tiny-clinical'))
    return Study('tiny', str(path), (Arm('a', {'arm': 'general_sft'}), Arm('b')), endpoint=ENDPOINT)


@pytest.mark.parametrize(
    'changes, message',
    [
        ({'arms': ()}, 'distinct names'),
        ({'arms': (Arm('a'), Arm('a'))}, 'distinct names'),
        ({'arms': (Arm('a'), Arm('b'), Arm('base'))}, 'none is base'),
        ({'seeds': (1, 1)}, 'seeds must be distinct'),
        ({'seeds': ()}, 'seeds must be distinct'),
        ({'config': 'absent.py'}, 'absent.py'),
        ({'arms': (Arm('a', {'arm': 'nothing'}), Arm('b'))}, 'nothing'),
        ({'overrides': {'data.sourc': 'x'}}, "unknown config field 'data.sourc'"),
        ({'overrides': {'train.steps': 'x'}}, 'not of type int'),
        (
            {'overrides': {'optimizer.learning_rate': 1e-3}, 'learning_rates': (1e-3,)},
            'has a learning rate',
        ),
        ({'endpoint': ('overall', ('c', 'auto'), ('a', 'auto'))}, "no arm 'c'"),
        (
            {'endpoint': ('overall', ('b', 'autoo'), ('a', 'auto'))},
            "no policy 'autoo', known: auto, oracle",
        ),
        ({'endpoint': ('overall', ('b', 'forced:reactive'), ('a', 'auto'))}, 'no policy'),
        (
            {'endpoint': ('overall', ('b', 'oracle'), ('a', 'oracle'))},
            "arm 'a' has no behavior to choose",
        ),
        (
            {'endpoint': ('nonsense', *ENDPOINT[1:])},
            "no test record of the group 'nonsense', known: .*overall",
        ),
        ({'overrides': {'data.source': 'jsonl:absent'}}, 'absent'),
        ({'arms': (Arm('../../escaped'), Arm('b'))}, "name of an arm: '../../escaped' is not the"),
        ({'arms': (Arm('a/b'), Arm('b'))}, "name of an arm: 'a/b' is not the name of one folder"),
        ({'arms': (Arm('a' * 300), Arm('b'))}, 'a name of 300 bytes is too long'),
        ({'arms': (Arm('a\x1b[2J'), Arm('b'))}, 'is not a plain text'),
        ({'arms': ('a', 'b')}, r"study: arms\[0\]: 'a' is no Arm"),
        ({'arms': (Arm('a', None), Arm('b'))}, r'study: arms\[0\].overrides: None is not a dict'),
        ({'arms': None}, 'study: arms: None is not a tuple'),
        ({'seeds': ('0',)}, r"study: seeds\[0\]: '0' is not an integer"),
        ({'seeds': 3}, 'study: seeds: 3 is not a tuple'),
        ({'seeds': (-1,)}, '--config.seed: -1 is not in'),
        ({'learning_rates': ('x',)}, r"study: learning_rates\[0\]: 'x' is not a number"),
        ({'base_prompts': ('../x',)}, "unknown prompt style '../x'"),
        ({'test_limit': 'all'}, "study: test_limit: 'all' is not an integer"),
        ({'endpoint': ('overall',)}, 'study: endpoint: .* has not 3 parts'),
        ({'endpoint': ('overall', 'ab', 'cd')}, r"study: endpoint\[1\]: 'ab' is not a tuple"),
        ({'name': None}, 'study: name: None is not a text'),
        ({'over_rate': 0.0}, 'study: over_rate 0.0 is not between 0 and 1'),
        ({'over_rate': 5}, 'study: over_rate'),
    ],
)
def test_a_study_that_cannot_run_is_refused_before_anything_runs(study, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        run(dataclasses.replace(study, **changes), tmp_path / 'study')
    assert not (tmp_path / 'study').exists()


def test_a_torn_study_file_is_named(study, tmp_path):
    (tmp_path / 'study').mkdir()
    (tmp_path / 'study/study.json').write_text('{"study": "q')
    with pytest.raises(UserError, match='study/study.json: not valid JSON'):
        run(study, tmp_path / 'study')
    assert [path.name for path in (tmp_path / 'study').iterdir()] == ['study.json']


@pytest.mark.parametrize('text', ['[]', '3', '"x"', '{"study": "tiny"}', '{"x": 1}'])
def test_another_study_file_is_named(study, tmp_path, text):
    (tmp_path / 'study').mkdir()
    (tmp_path / 'study/study.json').write_text(text)
    if text != '[]':
        with pytest.raises(UserError, match='study/study.json: is not the file of a study'):
            run(study, tmp_path / 'study')


def on_file(study, path, records):
    write_jsonl(path, records)
    return dataclasses.replace(study, overrides={'data.source': f'jsonl:{path}'}, seeds=(0,))


def test_records_that_changed_since_need_another_folder(study, tmp_path, capsys):
    records, path = sources.load_records('synthetic:60', 'test'), tmp_path / 'data.jsonl'
    limited = on_file(study, path, records)
    run(limited, tmp_path / 'study')
    assert run(limited, tmp_path / 'study')[0].commands == []
    with pytest.raises(
        UserError, match=r'data.jsonl: other records than .* began with; name a new --workdir'
    ):
        run(on_file(study, path, records[1:]), tmp_path / 'study')
    assert 'warning' not in capsys.readouterr().err
    run(
        on_file(study, path, [dataclasses.replace(r, split='') for r in records]),
        tmp_path / 'other',
    )
    assert f'warning: {len(records)} records of {path} name no split' in capsys.readouterr().err


def test_two_test_records_with_one_id_are_refused_beforehand(study, tmp_path):
    task = dataclasses.replace(sources.load_records('synthetic:60', 'test')[0], id='q1')
    first = on_file(study, tmp_path / 'a.jsonl', [task])
    write_jsonl(tmp_path / 'b.jsonl', [task])
    mixture = f'1*{first.overrides["data.source"]} + 1*jsonl:{tmp_path / "b.jsonl"}'
    with pytest.raises(UserError, match="record id 'q1' is also in"):
        run(dataclasses.replace(first, overrides={'data.source': mixture}), tmp_path / 'study')


@pytest.mark.parametrize(
    'text, message',
    [
        ('def get_config(:', 'SyntaxError'),
        ('def get_config():\n    raise KeyError("x")', "KeyError: 'x'"),
        ('def get_config(must):\n    pass', 'TypeError: get_config'),
        ('import absent_module', "No module named 'absent_module'"),
        ('from bsft_jax.errors import UserError\nraise UserError("mine")', '^mine$'),
        ('', 'defines no get_config'),
        ('raise SystemExit(0)', r'calls sys.exit\(0\) instead of returning a Study'),
        ('import sys\ndef get_config():\n    sys.exit()', r'calls sys.exit\(None\)'),
        ('def get_config():\n    return 1', 'does not return a Study'),
    ],
)
def test_a_broken_study_config_is_one_line(tmp_path, text, message):
    (tmp_path / 'study.py').write_text(text)
    with pytest.raises(UserError, match=message):
        load_config(str(tmp_path / 'study.py'), Study)


def test_splits_that_share_a_case_are_refused_before_anything_runs(study, tmp_path):
    records = sources.load_records('synthetic:40', 'test')[:20]
    (tmp_path / 'set').mkdir()
    for split in ('train', 'validation', 'test'):
        own = [dataclasses.replace(r, id=f'{split}-{r.id}', split=split) for r in records]
        write_jsonl(tmp_path / 'set' / f'{split}.jsonl', own)
    torn = dataclasses.replace(study, overrides={'data.source': f'jsonl:{tmp_path}/set'})
    with pytest.raises(UserError, match="case 'syn-.*' is in train and in validation"):
        run(torn, tmp_path / 'study')
    assert not (tmp_path / 'study').exists()
