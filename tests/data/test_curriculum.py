"""Tests curricula: exact shares of the levels in each stage, and steps that depend on nothing else.

Records are chats whose names tell their level and number.
"""

import collections
import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest

from bsft_jax.behaviors import DEFAULT_BEHAVIORS
from bsft_jax.commands.doctor import FAIL, OK, Doctor
from bsft_jax.config import DataConfig, RunConfig, validate
from bsft_jax.data import curriculum, example_cache, pipeline
from bsft_jax.data.loader import BatchSource
from bsft_jax.data.mixture import Mixture
from bsft_jax.data.packing import PackPlan, pack
from bsft_jax.errors import UserError
from bsft_jax.hub import pretrained
from tests.conftest import ROOT
from tests.run import examples_of

STEPS = 120
# Level → number of records.
SIZES = {1: 40, 2: 24, 4: 8}


@pytest.fixture(scope='module')
def base():
    return pretrained.read_pretrained('tiny-clinical', behaviors=DEFAULT_BEHAVIORS)


def write_chats(path, sizes=SIZES, name='chat', long=0, **changes):
    """Writes records of every level, in an order of chance; those of level 4 have `long` words."""
    rows = [
        {
            'id': f'{name}-{level}-{number}',
            'case_id': f'{name}-{level}-{number}',
            'prompt': f'{name} {level} {number}?' + ' word' * (long if level == 4 else number % 5),
            'completion': 'Yes.',
            'behavior': 'reactive',
            'split': 'train',
            'difficulty': level,
            **changes,
        }
        for level, count in sizes.items()
        for number in range(count)
    ]
    order = np.random.default_rng(0).permutation(len(rows))
    path.write_text(''.join(json.dumps(rows[i]) + '\n' for i in order))
    return f'jsonl:{path}'


@pytest.fixture
def source(tmp_path):
    return write_chats(tmp_path / 'chats.jsonl')


def run_config(source, text, **changes):
    config = RunConfig(
        data=DataConfig(
            source=source, sequence_length=64, global_batch_rows=4, curriculum=text, **changes
        )
    )
    config.optimizer.schedule_steps, config.optimizer.warmup_steps = STEPS, 2
    return validate(config)


def epochs(plan, steps=STEPS):
    """Returns the first step and the records of each epoch that begins within `steps`."""
    found, step = [], 0
    while step < steps:
        epoch, index = plan._locate(step)
        found += [(step, [])] if index == 0 else []
        found[epoch][1].extend(item for row in plan.rows(step) for item in row)
        step += 1
    return found


def levels(store, items):
    return dict(sorted(collections.Counter(store.levels[items].tolist()).items()))


def test_constant_shares_are_exact_in_every_epoch(source, base, capsys):
    store, plan = examples_of(run_config(source, '1=1,2=3'), base)
    # Level 4, which no stage draws, is left out.
    assert len(store) == 64 and set(store.levels) == {1, 2}
    whole = epochs(plan)[:-1]
    assert len(whole) > 2
    for _, items in whole:
        assert levels(store, items) == {1: 16, 2: 48}
    seen = collections.Counter(item for _, items in whole for item in items)
    for level in (1, 2):
        times = [seen[i] for i in np.flatnonzero(store.levels == level)]
        assert max(times) - min(times) <= 1
    log = capsys.readouterr().err
    assert 'an epoch of the mixture draws 16 of 40 (level 1) + 48 of 24 (level 2) records' in log
    assert 'training on 64 records, ' in log


def test_every_stage_draws_its_levels_from_its_step_on(source, base, capsys):
    config = run_config(source, '1=1/0.3:1=1,2=1/0.7:2=1,4=3')
    store, plan = examples_of(config, base)
    assert len(store) == 72
    expected = {0: {1}, 36: {1, 2}, 84: {2, 4}}
    for step in range(STEPS):
        drawn = {int(store.levels[item]) for row in plan.rows(step) for item in row}
        assert drawn and drawn <= expected[max(start for start in expected if start <= step)]
    # An epoch never reaches into the next stage, and one that does not end early is exact.
    begun = epochs(plan)
    starts = [step for step, _ in begun]
    assert {0, 36, 84} <= set(starts)
    shares = {0: {1: 40}, 36: {1: 32, 2: 32}, 84: {2: 8, 4: 24}}
    exact = collections.Counter()
    for (start, items), end in zip(begun, [*starts[1:], STEPS], strict=True):
        stage = max(s for s in shares if s <= start)
        if end not in (36, 84, STEPS):
            assert levels(store, items) == shares[stage]
            exact[stage] += 1
    assert exact.keys() == shares.keys()
    lines = capsys.readouterr().err.splitlines()
    assert 'an epoch of the mixture draws 40 of 40 (level 1) records' in lines
    end = 'an epoch of the mixture draws 8 of 24 (level 2) + 24 of 8 (level 4) records'
    assert f'from step 84 on {end}' in lines
    tokens = f'{store.lengths[store.levels == 1].sum():,}'
    assert plan.describe().startswith(f'72 records, in the first epoch {tokens} tokens, 10 steps, ')
    assert plan.describe_run(STEPS) == '120 steps in 3 stages'
    assert plan.describe_run(36) == '36 steps = 3.6 epochs'
    assert plan.describe_run(37) == '37 steps in 2 stages'


def test_a_step_is_a_function_of_seed_and_step(source, base):
    config = run_config(source, '1=1/0.3:1=1,2=1/0.7:2=1,4=3')
    store, plan = examples_of(config, base)
    forward = [plan.rows(step) for step in range(STEPS)]
    assert len({str(rows) for rows in forward}) == STEPS
    for step in (119, 0, 83, 84, 36, 35):
        assert examples_of(config, base)[1].rows(step) == forward[step]
    for step in np.random.default_rng(1).permutation(STEPS):
        assert plan.rows(int(step)) == forward[step]
    assert all(store.lengths[row].sum() <= 64 for rows in forward for row in rows)
    assert max(map(len, forward)) <= 4
    config.seed = 1
    assert examples_of(config, base)[1].rows(0) != forward[0]
    assert plan.max_records_per_step(STEPS) == max(sum(map(len, rows)) for rows in forward)


def test_packed_or_not_on_any_number_of_processes_a_step_has_the_same_records(source, base):
    store, plan = examples_of(run_config(source, '1=1/0.5:2=1,4=1'), base)
    whole, unpacked = (BatchSource(store, plan, packed=p, steps=STEPS) for p in (True, False))
    halves = [
        BatchSource(store, plan, local_rows=lambda rows, i=i: range(2 * i, 2 * i + 2))
        for i in range(2)
    ]

    def segments(batch):
        return sorted(
            tuple(row[ids == segment])
            for row, ids in zip(batch.tokens_BT.tolist(), batch.segment_ids_BT, strict=True)
            for row in [np.asarray(row)]
            for segment in range(1, ids.max() + 1)
        )

    for step in (0, 59, 60, 119):
        assert segments(unpacked[step]) == segments(whole[step])
        joined = np.concatenate([half[step].tokens_BT for half in halves])
        np.testing.assert_array_equal(joined, whole[step].tokens_BT)


def test_the_levels_divide_the_share_of_each_part(tmp_path, base, capsys):
    one = write_chats(tmp_path / 'a.jsonl', {1: 30, 2: 10}, 'a')
    two = write_chats(tmp_path / 'b.jsonl', {2: 10, 3: 10}, 'b')
    config = run_config(f'0.75*{one} + 0.25*{two}', '1=2,2=1,3=4')
    store, plan = examples_of(config, base)
    first = collections.Counter(
        (item >= 40, int(store.levels[item])) for item in epochs(plan)[0][1]
    )
    assert first == {(False, 1): 30, (False, 2): 15, (True, 2): 3, (True, 3): 12}
    assert f'30 of 30 (level 1 of {one}) + 15 of 10 (level 2 of {one})' in capsys.readouterr().err
    message = f'the stage from step 60 on draws no level that {one} has a record of'
    with pytest.raises(UserError, match=message):
        examples_of(run_config(config.data.source, '1=1,2=1/0.5:3=1'), base)


def test_pairs_share_rows_in_shares_of_their_levels(tmp_path, base, capsys):
    for name in 'ab':
        write_chats(tmp_path / f'{name}.jsonl', name=name)
    lines = [x for name in 'ab' for x in (tmp_path / f'{name}.jsonl').read_text().splitlines()]
    rows = [json.loads(line) for line in lines]
    for row in rows:
        row['pair_id'] = row['case_id'] = row['id'][2:]
    (tmp_path / 'both.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
    config = run_config(f'jsonl:{tmp_path / "both.jsonl"}', '1=3,2=1')
    config.data.pairs_together, config.data.sequence_length = True, 128
    store, plan = examples_of(config, base)
    pair_rows = [row for step in range(plan.steps_per_epoch) for row in plan.rows(step)]
    for row in pair_rows:
        assert set(collections.Counter(store.pairs[row].tolist()).values()) == {2}
    # 40 + 24 pairs are drawn, three of level 1 for each of level 2.
    levels = collections.Counter(store.levels[np.concatenate(pair_rows)].tolist())
    assert levels == {1: 96, 2: 32}
    assert (
        '48 of 40 (level 1) + 16 of 24 (level 2) pairs and single records'
        in capsys.readouterr().err
    )


def test_pairs_of_two_sources_stay_apart(tmp_path, base):
    sources = []
    for name in 'ab':
        sources.append(write_chats(tmp_path / f'{name}.jsonl', {1: 12}, name))
        rows = [json.loads(x) for x in (tmp_path / f'{name}.jsonl').read_text().splitlines()]
        # The same ids in both files, and no pair in common.
        for row in rows:
            row['pair_id'] = str(int(row['id'].rsplit('-', 1)[1]) // 2)
        (tmp_path / f'{name}.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
    config = run_config(f'0.5*{sources[0]} + 0.5*{sources[1]}', '')
    config.data.pairs_together, config.data.sequence_length = True, 128
    store, plan = examples_of(config, base)
    pairs_N = np.asarray(store.pairs)
    assert sorted(pairs_N) == sorted(2 * list(range(12))) and set(pairs_N[:12]) == set(range(6))
    records = [r for step in range(plan.steps_per_epoch) for row in plan.rows(step) for r in row]
    assert sorted(records) == list(range(24))
    for row in (row for step in range(plan.steps_per_epoch) for row in plan.rows(step)):
        assert set(collections.Counter(pairs_N[row].tolist()).values()) == {2}


def test_without_a_curriculum_levels_change_nothing(tmp_path, base):
    with_levels = write_chats(tmp_path / 'a.jsonl')
    without = write_chats(tmp_path / 'b.jsonl', difficulty=None)
    (store, plan), (same, same_plan) = (
        examples_of(run_config(s, ''), base) for s in (with_levels, without)
    )
    assert (store.hash, plan.hash) == (same.hash, same_plan.hash)
    assert plan.hash == PackPlan(store.lengths, 4, 64, 0).hash
    assert collections.Counter(store.levels.tolist()) == SIZES and not same.levels.any()


def test_other_levels_are_another_plan(tmp_path, base):
    first = write_chats(tmp_path / 'a.jsonl', {1: 40, 2: 40})
    plan = examples_of(run_config(first, '1=1,2=1'), base)[1]
    text = (tmp_path / 'a.jsonl').read_text()
    swapped = text.replace('"difficulty": 1', '"difficulty": 3')
    swapped = swapped.replace('"difficulty": 2', '"difficulty": 1')
    (tmp_path / 'a.jsonl').write_text(swapped.replace('"difficulty": 3', '"difficulty": 2'))
    other = examples_of(run_config(first, '1=1,2=1'), base)[1]
    assert np.array_equal(plan.lengths_N, other.lengths_N) and plan.hash != other.hash


def test_the_cache_keeps_the_levels(source, base, tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    monkeypatch.setattr(example_cache, 'MIN_RENDER_SECONDS', 0.0)
    config = run_config(source, '1=1,2=3')
    store, plan = examples_of(config, base)
    loads, load = [], example_cache.load
    monkeypatch.setattr(example_cache, 'load', lambda name: loads.append(load(name)) or loads[-1])
    again, same_plan = examples_of(config, base)
    assert loads[0] is not None
    np.testing.assert_array_equal(store.levels, again.levels)
    assert plan.hash == same_plan.hash
    # Another curriculum has other records.
    assert len(examples_of(run_config(source, '4=1'), base)[0]) == 8 and loads[1] is None


def test_levels_that_no_stage_draws_were_not_trained_on(source, base):
    def trained_on(text):
        config, positions = run_config(source, text), base.network.arch.max_positions
        return pipeline.training_examples(
            config, base.tokenizer, base.behaviors, positions
        ).trained_on

    some, every = trained_on('1=1/0.5:2=1'), trained_on('1=1,2=1,4=1')
    assert len(some.cases) == 64 and len(every.cases) == 72
    # The digest is of the whole source, whatever is drawn of it.
    assert some.digest_of(source) == every.digest_of(source) != ''


def test_a_level_whose_records_are_too_long_is_an_error(tmp_path, base):
    source = write_chats(tmp_path / 'a.jsonl', long=200)
    config = run_config(source, '1=1,4=1', max_dropped_fraction=1.0)
    message = 'no training record has level 4, which the first stage draws; there are levels 1$'
    with pytest.raises(UserError, match=message):
        examples_of(config, base)
    # The levels are those of the records that stay.
    config = run_config(source, '1=1,2=1', max_dropped_fraction=1.0)
    assert levels(*[examples_of(config, base)[0], slice(None)]) == {1: 40, 2: 24}
    store, _ = examples_of(run_config(source, '', max_dropped_fraction=1.0), base)
    assert levels(store, slice(None)) == {1: 40, 2: 24}


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('1=1,3=1', 'no training record has level 3, .* the first stage .* levels 1, 2, 4$'),
        ('1=1/0.5:7=1', 'no training record has level 7, which the stage from step 60 on draws'),
        ('1=1000,4=1', r'the first stage has no record of level 4 in an epoch of 48; raise'),
        ('1=1/0.5:1=1,2=0.001', 'the stage from step 60 on has no record of level 2 in an epoch'),
    ],
)
def test_levels_that_cannot_be_drawn_are_an_error_before_anything_is_rendered(
    text, message, source, base, monkeypatch
):
    monkeypatch.setattr(pipeline.rendering, 'render_examples', None)
    with pytest.raises(UserError, match=rf'^--config\.data\.curriculum: {message}') as error:
        examples_of(run_config(source, text), base)
    assert '\n' not in str(error.value)


def test_records_without_a_level_are_an_error(source, base, tmp_path):
    bare = write_chats(tmp_path / 'bare.jsonl', {1: 3}, 'bare', difficulty=None)
    with pytest.raises(
        UserError, match=r"curriculum: 3 of 3 records have no difficulty, .* record 'bare-1-"
    ):
        examples_of(run_config(f'1*{source} + 1*{bare}', '1=1'), base)


def test_every_stage_must_fill_its_rows(source, base):
    config = run_config(source, '1=1/0.5:4=1')
    store, plan = examples_of(config, base)
    rows = len(pack(store.lengths[store.levels == 4], 64))
    assert plan.min_rows_per_epoch == rows < plan.rows_per_epoch
    assert examples_of(run_config(source, '4=1'), base)[1].min_rows_per_epoch == rows
    config.data.global_batch_rows = 65
    with pytest.raises(UserError, match=rf'more than the records of an epoch fill \({rows}\); low'):
        examples_of(config, base)


def test_doctor_checks_the_levels_of_all_records_and_names_them(source, tmp_path, monkeypatch):
    monkeypatch.setattr('bsft_jax.commands.doctor.MAX_SAMPLE', 5)
    config = run_config(source, '1=5,4=1')

    def findings():
        return {finding.name: finding for finding in Doctor(config, tmp_path / 'run')()}

    found = findings()
    assert found['data'].verdict == OK and '5 records rendered' in found['data'].message
    drawn = 'the curriculum draws on 40 of level 1, 8 of level 4'
    assert f'train 72, validation 0, test 0; {drawn}' in found['splits'].message
    config.data.curriculum = '1=1,3=1'
    assert findings()['data'].verdict == FAIL
    assert 'no training record has level 3' in findings()['data'].message


def test_mixtures_of_chance_records():
    """Tests stages of a mixture against a count by hand, with records in an order of chance."""
    order = np.random.default_rng(0).permutation(60)
    config = run_config('jsonl:x', '1=1,2=2/0.5:2=1')
    store_levels = np.zeros(60, np.int8)
    store_levels[order[:20]], store_levels[order[20:]] = 1, 2
    mixtures = curriculum.stage_mixtures(config, [store_levels])
    assert list(mixtures) == [0, 60]
    assert mixtures[0].sizes == (20, 40) and mixtures[0].counts == [20, 40]
    assert mixtures[60].sizes == (40,) and mixtures[60].counts == [40]
    for mixture in mixtures.values():
        drawn = mixture.epoch(0, 3)
        assert sorted(drawn) == sorted(mixture.records_N)
    assert set(store_levels[mixtures[60].epoch(5, 1)]) == {2}
    assert dataclasses.replace(mixtures[60], records_N=None).epoch(5, 1).max() == 39
    assert isinstance(mixtures[0], Mixture)


def test_the_flag_needs_no_quotes(tmp_path):
    done = subprocess.run(
        f'{sys.executable} -m bsft_jax.doctor --config=configs/quickstart.py:behavior_sft '
        f'--workdir={tmp_path} --config.data.curriculum=1=3,2=1/0.5:1=1,2=1,3=2,9=1/2:4=1',
        shell=True,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert 'error: --config.data.curriculum: stage 3 begins at 2, at step' in done.stderr
