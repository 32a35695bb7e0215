"""Tests of `evaluate --generate`: answers in words, what they choose and mention, and its flags."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from sklearn.metrics import f1_score

import bsft_jax
from bsft_jax import files
from bsft_jax.behaviors import DEFAULT_BEHAVIORS
from bsft_jax.commands import generated_answers
from bsft_jax.commands.rescore import RescoreOptions, rescore
from bsft_jax.data import sources
from bsft_jax.errors import UserError
from bsft_jax.inference import decoding, letters, scoring
from bsft_jax.inference.decoding import Sampling
from bsft_jax.records.record import evenly_spaced_subset, write_jsonl
from tests import run as runs
from tests.conftest import ROOT

SOURCE, LIMIT, LENGTH = 'synthetic:40', 12, 16
LEVELS = {'reactive': 0.0, 'proactive': 1.0}


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    """Returns the folder of a model that knows the behaviors and names some options in words."""
    model = bsft_jax.load_model('tiny-clinical', behaviors=DEFAULT_BEHAVIORS)
    return str(bsft_jax.save_model(model, tmp_path_factory.mktemp('models') / 'model'))


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
    """Returns the folder of the results."""
    return str(tmp_path_factory.mktemp('results'))


@pytest.fixture(scope='module')
def records():
    return evenly_spaced_subset(sources.load_records(SOURCE, 'test'), LIMIT)


@pytest.fixture(scope='module')
def evaluated(workdir, model):
    """Returns a call that evaluates with generation, once under each policy."""
    known = {}

    def evaluate(policy):
        if policy not in known:
            known[policy] = evaluate_in_words(workdir, model=model, policy=policy)
        return known[policy]

    return evaluate


def evaluate_in_words(workdir, temperature=0.0, seed=0, **options):
    """Returns the rows and metrics of an evaluation, in a folder that its settings name."""
    sampling = Sampling(LENGTH, temperature=temperature, seed=seed)
    options = {'limit': LIMIT, 'name': 'words', 'data': SOURCE, **options}
    metrics = runs.evaluate(workdir=workdir, sampling=sampling, **options)
    folder = pathlib.Path(workdir) / 'eval' / options['name']
    rows = files.read_lines(folder / 'predictions.jsonl')
    return rows, metrics


def letter_in(text, record):
    option = letters.read_choice(text, (), record.options).option
    return None if option is None else 'ABCDEFGH'[option]


def texts_of(rows):
    return [row['generated']['text'] for row in rows]


@pytest.mark.parametrize('policy', ['auto', 'none', 'oracle', 'forced:proactive'])
def test_greedy_answers_are_those_of_generate(model, records, evaluated, tmp_path, policy):
    rows, _ = evaluated(policy)
    write_jsonl(tmp_path / 'asked.jsonl', records)
    answers = runs.generate(
        model=model,
        input_file=str(tmp_path / 'asked.jsonl'),
        policy=policy,
        sampling=Sampling(LENGTH),
    )
    assert [row['id'] for row in rows] == [answer['id'] for answer in answers]
    assert texts_of(rows) == [answer['text'] for answer in answers]
    expected = [letter_in(a['text'], r) for a, r in zip(answers, records, strict=True)]
    assert [row['generated']['letter'] for row in rows] == expected
    # Some name an option, and some do not.
    assert policy not in ('auto', 'none') or set(expected) > {None}


def test_macro_f1_is_that_of_the_letters(records, evaluated):
    rows, metrics = evaluated('auto')
    section = metrics['generated']
    taken = [
        letters.wrong_option(record, LEVELS)
        if row['generated']['letter'] is None
        else 'ABCDEFGH'.index(row['generated']['letter'])
        for row, record in zip(rows, records, strict=True)
    ]
    of_category = {}
    for row, option in zip(rows, taken, strict=True):
        of_category.setdefault((row['group'], row['category']), []).append((row['answer'], option))
    scores = {
        key: f1_score(*zip(*pairs, strict=True), average='macro', zero_division=0)
        for key, pairs in of_category.items()
    }
    assert section['macro_f1'] == pytest.approx(np.mean(list(scores.values())), abs=1e-12)
    for group, part in section['groups'].items():
        expected = [score for (name, _), score in scores.items() if name == group]
        assert part['macro_f1'] == pytest.approx(np.mean(expected), abs=1e-12)
    assert len(section['groups']) == 3 and section['n'] == LIMIT
    nothing = [row['generated']['letter'] is None for row in rows]
    assert section['unparsed'] == sum(nothing) / LIMIT
    same = [row['generated']['letter'] == 'ABCDEFGH'[row['prediction']] for row in rows]
    assert section['agreement'] == sum(same) / LIMIT
    settings = {'max_new_tokens': LENGTH, 'temperature': 0.0, 'top_p': 1.0, 'seed': 0}
    assert {**section, **settings, 'left_out': 0} == section
    # The scores beside them are those of an evaluation without generation.
    assert metrics['overall']['n'] == LIMIT and metrics['policy'] == 'auto'


def test_no_option_counts_as_wrong_and_mentions_are_counted(model, workdir, tmp_path, monkeypatch):
    said = {'A': 'Answer: A. Check the INR first.', 'none': 'I cannot say.'}
    path = tmp_path / 'asked.jsonl'
    source = [r for r in sources.load_records(SOURCE, 'test') if not r.must_mention][:4]
    fields = [
        {'must_mention': (('inr', 'clotting'), ('CHECK',)), 'answer': 0},
        {'must_mention': (('warfarin',),), 'must_not_mention': (('potassium',), ('Check the',))},
        {'must_not_mention': (('heck',),), 'answer': 1},
        {},
    ]
    asked = [
        dataclasses.replace(record, **more, split='')
        for record, more in zip(source, fields, strict=True)
    ]
    write_jsonl(path, asked)
    replies = [said['A'], said['A'], said['none'], said['none']]

    def answer_prompts(model, ids, prompt_ids, **options):
        return [{'text': text, 'ids': [0]} for text in replies]

    monkeypatch.setattr(bsft_jax.api, 'answer_prompts', answer_prompts)
    rows, metrics = evaluate_in_words(
        workdir, model=model, data=f'jsonl:{path}', limit=0, name='mentions'
    )
    # These records are somebody's: their answers' words are not kept.
    assert [row['generated'] for row in rows] == [
        {'letter': 'A', 'mentions': True, 'false_alarm': None},
        {'letter': 'A', 'mentions': False, 'false_alarm': True},
        {'letter': None, 'mentions': None, 'false_alarm': False},
        {'letter': None, 'mentions': None, 'false_alarm': None},
    ]
    section = metrics['generated']
    assert (section['mention_rate'], section['mention_n']) == (0.5, 2)
    assert (section['false_alarm_rate'], section['false_alarm_n']) == (0.5, 2)
    assert section['unparsed'] == 0.5
    assert section['accuracy'] == ([r.answer for r in asked[:2]].count(0)) / 4


def test_devices_and_batches_change_no_greedy_answer(model, records, evaluated):
    rows, _ = evaluated('auto')
    model = bsft_jax.load_model(model)
    assert model.mesh.size == 1
    answers = bsft_jax.generate_answers(model, records, max_new_tokens=LENGTH)
    assert [answer['text'] for answer in answers] == texts_of(rows)
    renderer = scoring.renderer_of(model)
    alone = decoding.generate(
        model,
        renderer.prompt_ids_of(records[:4]),
        policy='auto',
        stop_id=renderer.stop_id,
        sampling=Sampling(LENGTH),
        tokens_per_batch=1,
    )
    assert [answer.ids for answer in alone] == [answer['ids'] for answer in answers[:4]]


def test_a_drawn_answer_depends_on_the_seed_and_on_its_record_alone(model, workdir):
    draw = dict(workdir=workdir, model=model, temperature=1.0, policy='none')
    all_rows, _ = evaluate_in_words(**draw)
    few, _ = evaluate_in_words(**draw, limit=6, subset='hard')
    texts = dict(zip([row['id'] for row in all_rows], texts_of(all_rows), strict=True))
    shared = [row for row in few if row['id'] in texts]
    # It is the third record of the one file and the first of the other.
    assert [row['id'] for row in shared] == [all_rows[2]['id']] == [few[0]['id']]
    assert texts_of(shared) == [texts[row['id']] for row in shared]
    other, _ = evaluate_in_words(**draw, seed=1)
    assert texts_of(other) != texts_of(all_rows)


def test_a_dial_by_category_begins_answers_as_it_scored_them(model, workdir, evaluated):
    silent, _ = evaluate_in_words(workdir, model=model, policy='dial:-1000,omission_detection=1000')
    forced, _ = evaluated('forced:proactive')
    chosen = [row['category'] == 'omission_detection' for row in silent]
    assert 0 < sum(chosen) < len(silent)
    for row, beside, is_raised in zip(silent, forced, chosen, strict=True):
        assert row['behavior_prediction'] == ('proactive' if is_raised else 'reactive')
        if is_raised:
            assert row['generated'] == beside['generated']
    quiet, _ = evaluated('forced:reactive')
    assert [
        row['generated'] for row, is_raised in zip(silent, chosen, strict=True) if not is_raised
    ] == [row['generated'] for row, is_raised in zip(quiet, chosen, strict=True) if not is_raised]


def test_another_policy_on_stored_scores_has_no_generated_answers(model, workdir):
    rows, _ = evaluate_in_words(workdir, model=model, limit=2, name='stored')
    assert 'generated' in rows[0]
    folder, metrics = rescore(RescoreOptions(f'{workdir}/eval/stored', 'none', 'again'))
    assert 'generated' not in metrics
    assert not any('generated' in row for row in files.read_lines(folder / 'predictions.jsonl'))


def test_records_that_leave_no_room_are_left_out_or_refused(model, records, capsys):
    opened = bsft_jax.load_model(model)
    lengths = list(map(len, scoring.renderer_of(opened).prompt_ids_of(records)))
    positions = opened.network.arch.max_positions
    # The longest prompts do not fit.
    new = positions - max(lengths) + 1
    fitting = [length + new <= positions for length in lengths]
    dropped = fitting.count(False)
    assert 0 < dropped < len(records)
    prompts = generated_answers.make_prompts(opened, records, new, 0.9)
    kept = [record for record, fits in zip(records, fitting, strict=True) if fits]
    assert prompts.records == kept and len(prompts.ids) == len(kept)
    line = f'{dropped} of 12 records are too long to be answered in words\n'
    assert capsys.readouterr().err == line
    match = (
        f'--max_new_tokens: {dropped} of 12 records leave no room for {new} new tokens in the '
        f'{positions} positions of the model, the longest has {max(lengths)}; lower it'
    )
    with pytest.raises(UserError, match=match):
        generated_answers.make_prompts(opened, records, new, 0.0)
    with pytest.raises(UserError, match='12 of 12 records leave no room'):
        generated_answers.make_prompts(opened, records, positions, 1.0)


def test_a_policy_without_a_beginning_is_refused(model, tmp_path):
    with pytest.raises(UserError, match='--policy=mixture: chooses no behavior to begin'):
        runs.evaluate(
            workdir=str(tmp_path), model=model, data=SOURCE, policy='mixture', sampling=Sampling(4)
        )


@pytest.mark.parametrize(
    ('flags', 'line'),
    [
        (['--rescore=x', '--policy=none', '--generate'], '--generate: does not go with --rescore'),
        (['--endpoint=http://h', '--generate'], '--generate: does not go with --endpoint, whose'),
        (['--endpoint=http://h', '--seed=1'], '--seed: does not go with --endpoint, whose'),
        (['--workdir=x', '--temperature=1'], '--temperature: goes with --generate alone'),
        (['--workdir=x', '--max_new_tokens=9'], '--max_new_tokens: goes with --generate or --end'),
        (['--workdir=x', '--generate', '--top_p=0'], '--top_p: 0.0 is not in (0, 1]'),
        (['--workdir=x', '--generate', '--concurrency=2'], '--concurrency: goes with --endpoint'),
    ],
)
def test_flags_that_do_not_go_together_are_refused(flags, line, tmp_path):
    done = subprocess.run(
        [sys.executable, '-m', 'bsft_jax.evaluate', *flags],
        cwd=tmp_path,
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr.count('\n')) == (2, 1)
    assert done.stderr.startswith(f'error: {line}') and not list(tmp_path.iterdir())


def test_the_command_says_what_the_answers_choose(model, tmp_path):
    flags = [f'--workdir={tmp_path}', f'--model={model}', f'--data={SOURCE}', '--name=words']
    flags += ['--generate', '--max_new_tokens=4', '--limit=3', '--policy=oracle']
    done = subprocess.run(
        [sys.executable, '-m', 'bsft_jax.evaluate', *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    section = json.loads((tmp_path / 'eval/words/metrics.json').read_text())['generated']
    share = f'{section["unparsed"]:.1%} of 3 answers name no option'
    assert f'generated: macro-F1 {section["macro_f1"]:.3f} (' in done.stderr
    assert share in done.stderr and (section['cut'], section['max_new_tokens']) == (3, 4)


def test_the_name_of_a_folder_holds_what_is_not_the_default():
    assert generated_answers.name_parts(None) == []
    assert generated_answers.name_parts(Sampling(64)) == ['generate']
    sampling = Sampling(64, temperature=0.5, seed=3)
    assert generated_answers.name_parts(sampling) == ['generate', 'temperature0.5', 'seed3']
