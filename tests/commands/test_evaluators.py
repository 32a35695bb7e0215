"""Tests of the evaluators: the records they take, their values, and how a run names them."""

import dataclasses
import subprocess
import sys

import jax
import numpy as np
import pytest

from bsft_jax.commands import evaluators
from bsft_jax.config import EvaluationConfig, MeshConfig, RunConfig
from bsft_jax.data import pipeline, sources
from bsft_jax.errors import UserError
from bsft_jax.hub import pretrained
from bsft_jax.parallel import mesh as mesh_lib
from bsft_jax.records import taxonomy
from bsft_jax.records.record import Message, Record, write_jsonl
from bsft_jax.training import setup
from tests import run as runs
from tests.conftest import ROOT
from tests.training.small_run import metric_lines, small_run

VALIDATION_LOSSES = ['validation/loss', 'validation/behavior_loss', 'validation/response_loss']


@pytest.fixture
def config(base):
    config = RunConfig()
    config.model.base, config.data.source = str(base), 'synthetic:40'
    return config


def make(evaluator, config, mesh):
    spec = setup.read_base(config)
    return evaluator(config, spec, spec.network.for_mesh(mesh), mesh)


def score_evaluator(config):
    return make(evaluators.ScoreEvaluator, config, mesh_lib.single_device_mesh())


@pytest.mark.parametrize('names', ['scores', 'scores,loss'])
def test_records_that_cannot_be_validated_on_say_how_to_train_without(config, tmp_path, names):
    texts = [Message('user', 'Hi'), Message('assistant', 'Hello')]
    for split in ('train', 'validation'):
        record = Record(tuple(texts), id=split, split=split)
        write_jsonl(tmp_path / f'{split}.jsonl', [record])
    config.data.source = f'jsonl:{tmp_path}'
    config.evaluation = EvaluationConfig(interval=1, evaluators=names)
    mesh, spec = mesh_lib.single_device_mesh(), setup.read_base(config)
    network = spec.network.for_mesh(mesh)
    with pytest.raises(UserError, match=r'or train without .*--config\.evaluation\.interval=0'):
        evaluators.make_evaluators(config, spec, network, mesh)
    config.evaluation.interval = 0
    assert evaluators.make_evaluators(config, spec, network, mesh) == ()


def test_a_category_is_left_out_of_validation(config):
    config.data.exclude_category = 'omission_detection'
    scored = score_evaluator(config)._scorer.categories
    assert sorted(scored) == sorted(set(taxonomy.CATEGORIES) - {'omission_detection'})


def test_validation_scores_are_of_records_from_everywhere_in_a_file(config, tmp_path):
    records = sources.load_records('synthetic:200', 'validation')
    records.sort(key=lambda record: record.category)
    alone = [dataclasses.replace(r, case_id='', pair_id='') for r in records]
    write_jsonl(tmp_path / 'validation.jsonl', alone)
    config.data.source, config.evaluation.limit = f'jsonl:{tmp_path}', 42
    assert score_evaluator(config)._scorer.categories == sorted(taxonomy.CATEGORIES)

    config.evaluation.limit = 4
    bare = [dataclasses.replace(r, category='', group='') for r in alone]
    write_jsonl(tmp_path / 'validation.jsonl', bare)
    params = setup.base_params(config, setup.read_base(config), mesh_lib.single_device_mesh())
    assert list(score_evaluator(config)(params)) == ['validation/macro_f1', 'validation/selection']


def test_validation_drops_as_many_long_records_as_training_may(config, tmp_path, capsys):
    records = sources.load_records('synthetic:200', 'validation')
    long = dataclasses.replace(records[0], messages=(Message('user', 'K 5.9? ' * 4000),))
    write_jsonl(tmp_path / 'validation.jsonl', [*records[1:], long])
    config.data.source, config.evaluation.limit = f'jsonl:{tmp_path}', 0
    config.data.max_dropped_fraction = 0.0
    with pytest.raises(UserError, match=r'--config\.data\.max_dropped_fraction: 1 of'):
        score_evaluator(config)
    config.data.max_dropped_fraction = 0.5
    score_evaluator(config)
    assert 'are too long and dropped' in capsys.readouterr().err


def write_levels(config, folder, levels, split='validation'):
    """Writes the records of a split with these levels in turn, and makes them the source."""
    records = sources.load_records('synthetic:40', split)
    records = [
        dataclasses.replace(record, difficulty=levels[i % len(levels)], case_id='', pair_id='')
        for i, record in enumerate(records)
    ]
    write_jsonl(folder / f'{split}.jsonl', records)
    config.data.source = f'jsonl:{folder}'
    return records


def random_params(config, seed=7):
    spec = setup.read_base(config)
    return spec, pretrained.random_params(spec, mesh_lib.single_device_mesh(), seed)


def test_scores_by_difficulty_are_those_of_the_records_of_each(config, tmp_path):
    config.evaluation.limit = 0
    records = write_levels(config, tmp_path, (1, 3, None, 3, 4))
    _, params = random_params(config)
    values = score_evaluator(config)(params)
    names = [f'{name}/difficulty_{n}' for n in (1, 3, 4) for name in ('macro_f1', 'selection')]
    assert [name for name in values if 'difficulty' in name] == [f'validation/{n}' for n in names]
    for level in (1, 3, 4):
        own = [record for record in records if record.difficulty == level]
        write_jsonl(tmp_path / 'validation.jsonl', own)
        alone = score_evaluator(config)(params)
        assert not any('difficulty' in name for name in alone)
        for name in ('validation/macro_f1', 'validation/selection'):
            assert values[f'{name}/difficulty_{level}'] == pytest.approx(alone[name], abs=1e-12)
    assert len({value for name, value in values.items() if 'macro_f1/difficulty' in name}) > 1


@pytest.mark.parametrize('arm', ['general_sft', 'neutral_token'])
def test_an_arm_without_a_choice_has_no_selection(config, arm, tmp_path):
    config.arm = arm
    write_levels(config, tmp_path, (1, 2))
    _, params = random_params(config)
    names = list(score_evaluator(config)(params))
    assert not any('selection' in name for name in names)
    assert 'validation/macro_f1/difficulty_2' in names


def losses_by_record(config, spec, params, records):
    """Returns the validation losses from full logits, one record at a time."""
    mesh = mesh_lib.single_device_mesh()
    model = pretrained.Model(spec, spec.network.for_mesh(mesh), params, mesh)
    renderer = pipeline.training_renderer(config, spec.tokenizer, spec.behaviors)
    weights, losses, targets = [], [], []
    for record in records:
        example = renderer.example(record)
        padded = np.zeros((1, config.data.sequence_length), np.int32)
        padded[0, : len(example.ids)] = example.ids
        logprob_TV = np.asarray(jax.nn.log_softmax(model.logits(padded)[0]), np.float64)
        targets.append(example.ids[1:])
        weights.append(example.weights[1:])
        losses.append(-logprob_TV[np.arange(len(example.ids) - 1), example.ids[1:]])
    weights, losses, targets = map(np.concatenate, (weights, losses, targets))
    is_behavior = np.isin(targets, spec.behaviors.ids)
    return {
        'validation/loss': np.sum(weights * losses) / np.sum(weights),
        'validation/behavior_loss': losses[(weights > 0) & is_behavior].mean(),
        'validation/response_loss': losses[(weights > 0) & ~is_behavior].mean(),
    }


@pytest.mark.parametrize('sizes', [(1, 1, 1, 1), (8, 1, 1, 1), (2, 2, 1, 2)])
def test_the_loss_is_that_of_the_records_one_by_one(config, sizes):
    # An odd number of rows per step, and a weight that tells behavior tokens from the rest.
    config.data.global_batch_rows, config.data.behavior_weight = 3, 2.5
    config.evaluation.limit = 30
    spec = setup.read_base(config)
    records = sources.load_records(config.data.source, 'validation')
    records = evaluators._validation_records(config, records)
    assert 20 < len(records) <= 30
    params = setup.base_params(config, spec, mesh_lib.single_device_mesh())
    expected = losses_by_record(config, spec, params, records)
    mesh = mesh_lib.make_mesh(MeshConfig(*sizes), jax.devices()[: int(np.prod(sizes))])
    evaluator = make(evaluators.LossEvaluator, config, mesh)
    values = evaluator(setup.base_params(config, spec, mesh))
    assert list(values) == VALIDATION_LOSSES
    for name, value in values.items():
        assert value == pytest.approx(expected[name], rel=1e-5), name


@pytest.mark.parametrize('sizes', [(1, 1, 1, 1), (2, 2, 1, 2)])
def test_losses_by_difficulty_are_those_of_the_records_of_each(config, sizes, tmp_path):
    config.data.global_batch_rows, config.evaluation.limit = 3, 0
    records = write_levels(config, tmp_path, (1, 3, None, 3))
    spec, params = random_params(config)
    mesh = mesh_lib.make_mesh(MeshConfig(*sizes), jax.devices()[: int(np.prod(sizes))])
    placed = pretrained.random_params(spec, mesh, 7)
    values = make(evaluators.LossEvaluator, config, mesh)(placed)
    names = [f'{name}/difficulty_{level}' for level in (1, 3) for name in VALIDATION_LOSSES]
    assert list(values) == [*VALIDATION_LOSSES, *names]
    for suffix, levels in (('', (1, 3, None)), ('/difficulty_1', (1,)), ('/difficulty_3', (3,))):
        own = [record for record in records if record.difficulty in levels]
        for name, value in losses_by_record(config, spec, params, own).items():
            assert values[f'{name}{suffix}'] == pytest.approx(value, rel=1e-5), (name, suffix)
    for records_of_one_level in ((2,), (2, None), (None,)):
        write_levels(config, tmp_path, records_of_one_level)
        evaluator = make(evaluators.LossEvaluator, config, mesh)
        assert list(evaluator(placed)) == VALIDATION_LOSSES


@pytest.mark.parametrize('devices', [1, 8])
def test_the_loss_is_that_of_a_train_step_on_the_same_records(base, devices, tmp_path, monkeypatch):
    """Tests a run with one step an epoch, whose records train and validate."""
    records = sources.load_records('synthetic:40', 'train')[:24]
    write_jsonl(tmp_path / 'records.jsonl', [dataclasses.replace(r, split='') for r in records])
    config = small_run(base)
    config.data.source = f'jsonl:{tmp_path / "records.jsonl"}'
    config.data.global_batch_rows = len(records)
    # A learning rate of 0 leaves the parameters of both steps as they are.
    config.optimizer.learning_rate, config.train.steps = 0.0, 2
    config.evaluation = EvaluationConfig(interval=1, evaluators='loss', limit=len(records))
    mesh = mesh_lib.make_mesh(config.mesh, jax.devices()[:devices])
    monkeypatch.setattr(mesh_lib, 'make_mesh', lambda _: mesh)
    runs.train(config, tmp_path / 'run')
    lines = metric_lines(tmp_path / 'run')
    trained = [line for line in lines if 'loss' in line]
    validated = [line for line in lines if 'validation/loss' in line]
    assert len(trained) == len(validated) == 2
    for name in VALIDATION_LOSSES:
        for before, after in zip(trained, validated, strict=True):
            value = before[name.removeprefix('validation/')]
            assert after[name] == pytest.approx(value, rel=1e-5), name


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(behavior='proactiv', option_behaviors=()), "unknown behavior 'proactiv'"),
        (dict(rationale='As <|proactive|> said.'), 'the token <|proactive|> inside a message'),
    ],
)
def test_the_loss_refuses_records_that_training_refuses(config, tmp_path, changes, message):
    records = sources.load_records('synthetic:40', 'validation')[:3]
    records[1] = dataclasses.replace(records[1], **changes)
    write_jsonl(tmp_path / 'validation.jsonl', records)
    config.data.source = f'jsonl:{tmp_path}'
    with pytest.raises(UserError) as error:
        make(evaluators.LossEvaluator, config, mesh_lib.single_device_mesh())
    assert message in str(error.value) and records[1].id in str(error.value)


def test_both_evaluators_write_their_metrics(base, tmp_path):
    config = small_run(base)
    config.train.steps, config.log_interval = 4, 4
    config.evaluation = EvaluationConfig(interval=2, evaluators='scores,loss', limit=9)
    runs.train(config, tmp_path / 'run')
    lines = metric_lines(tmp_path / 'run')
    for name in ('validation/macro_f1', *VALIDATION_LOSSES):
        values = [(line['step'], line[name]) for line in lines if name in line]
        assert [step for step, _ in values] == [2, 4], name
        assert all(np.isfinite(value) for _, value in values)


def test_no_evaluator_is_made_without_an_interval(config):
    spec, mesh = setup.read_base(config), mesh_lib.single_device_mesh()
    assert evaluators.make_evaluators(config, spec, spec.network, mesh) == ()
    config.evaluation = EvaluationConfig(interval=5, evaluators='loss,scores', limit=9)
    network = spec.network.for_mesh(mesh)
    loss, scores = evaluators.make_evaluators(config, spec, network, mesh)
    assert isinstance(loss, evaluators.LossEvaluator)
    assert isinstance(scores, evaluators.ScoreEvaluator)


@pytest.mark.parametrize('names', ['perplexity', 'scores,perplexity', 'loss perplexity', ''])
def test_an_unknown_evaluator_is_refused_before_the_base_is_read(
    config, names, tmp_path, monkeypatch
):
    def fail(*_, **__):
        pytest.fail('the base was read')

    monkeypatch.setattr(setup, 'read_base', fail)
    config.evaluation = EvaluationConfig(interval=5, evaluators=names)
    message = r'--config\.evaluation\.evaluators: .* is not one of scores, loss; write names'
    with pytest.raises(UserError, match=message):
        runs.train(config, tmp_path / 'run')
    assert not (tmp_path / 'run').exists()


def test_an_unknown_evaluator_is_one_line(tmp_path):
    flags = [
        '--config=configs/quickstart.py',
        '--config.model.base=absent',
        '--config.evaluation.evaluators=scores,perplexity',
        f'--workdir={tmp_path / "run"}',
    ]
    command = [sys.executable, '-m', 'bsft_jax.train', *flags]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2
    assert done.stderr == (
        "error: --config.evaluation.evaluators: 'perplexity' is not one of scores, loss; "
        'write names separated by commas\n'
    )
    assert not (tmp_path / 'run').exists()
