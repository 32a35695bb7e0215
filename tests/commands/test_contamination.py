"""Tests that commands know what a model was trained on: train, export, evaluate and doctor."""

import dataclasses
import json

import pytest

from bsft_jax.commands.prepare import prepare
from bsft_jax.config import DataConfig, EvaluationConfig
from bsft_jax.data import example_cache, pipeline, sources, trained_on
from bsft_jax.data.trained_on import TrainedOn
from bsft_jax.errors import UserError
from bsft_jax.records.record import evenly_spaced_subset, write_jsonl
from bsft_jax.report import table
from bsft_jax.training import setup
from tests import run as runs
from tests.data.test_contamination import tasks
from tests.training.small_run import small_run


@pytest.fixture(scope='module')
def run(base, tmp_path_factory):
    """Returns the folder of a run of two steps, `run`, its `data` and the raw file."""
    folder = tmp_path_factory.mktemp('trained')
    write_jsonl(folder / 'mine.jsonl', tasks(behavior='reactive'))
    prepare([f'jsonl:{folder}/mine.jsonl'], folder / 'data', seed=0)
    config = small_run(base)
    config.train.steps = 2
    config.evaluation = EvaluationConfig(interval=0)
    config.data = DataConfig(
        source=f'jsonl:{folder}/data', sequence_length=128, global_batch_rows=8
    )
    runs.train(config, folder / 'run')
    return folder


def test_a_run_and_its_export_know_their_records(run, tmp_path, capsys):
    trained = trained_on.read(run / 'run')
    assert trained.overlap(tasks()).records == 48
    workdir = str(run / 'run')
    metrics = runs.evaluate(workdir=workdir)
    assert metrics['trained_on'] == dict(records=0, ids=0, cases=0, texts=0)
    assert '\n0 of 6 scored records were trained on\n' in capsys.readouterr().err
    assert 'warning' not in table.format_table([('one', metrics)])
    # The training split is scored on purpose.
    assert runs.evaluate(workdir=workdir, split='train')['trained_on']['records'] == 48

    runs.export(workdir, str(tmp_path / 'export'))
    raw = f'jsonl:{run}/mine.jsonl'
    for model in ({'workdir': workdir}, {'model': str(tmp_path / 'export')}):
        options = {'workdir': str(tmp_path / 'eval'), **model}
        metrics = runs.evaluate(**options, data=raw, name='raw')
        assert metrics['trained_on'] == dict(records=48, ids=48, cases=48, texts=48)
        assert 'warning: 48 of 60 scored records were trained on' in capsys.readouterr().err
        # The turns that a prompt style adds are not the record's.
        shown = runs.evaluate(**options, data=raw, name='shown', prompt='instructed', limit=6)
        assert (
            shown['trained_on']
            == trained.overlap(evenly_spaced_subset(tasks(behavior='reactive'), 6)).to_dict()
        )
        assert 'warning: one: 48 of 60 records were trained on' in table.format_table(
            [('one', metrics)]
        )

    prepare([raw], run / 'data', seed=1)
    try:
        for model in ({'workdir': workdir}, {'model': str(tmp_path / 'export')}):
            options = {'workdir': str(tmp_path / 'eval'), 'data': f'jsonl:{run}/data', **model}
            with pytest.raises(UserError, match=r'again since .* 5 of 6 scored records'):
                runs.evaluate(**options, name='again')
            assert not (tmp_path / 'eval' / 'eval' / 'again').exists()
            metrics = runs.evaluate(**options, name='allowed', allow_trained_on=True)
            assert metrics['trained_on']['records'] == 5
    finally:
        prepare([raw], run / 'data', seed=0)


def test_a_run_from_an_export_knows_the_records_of_both(run, base, tmp_path):
    runs.export(str(run / 'run'), str(tmp_path / 'export'))
    other = [dataclasses.replace(r, id=f'x{r.id}', case_id=f'x{r.id}') for r in tasks(80)[60:]]
    write_jsonl(tmp_path / 'other.jsonl', [dataclasses.replace(r, split='train') for r in other])
    config = small_run(tmp_path / 'export')
    config.arm, config.train.steps = 'general_sft', 1
    config.evaluation = EvaluationConfig(interval=0)
    config.data = DataConfig(
        source=f'jsonl:{tmp_path}/other.jsonl', sequence_length=128, global_batch_rows=8
    )
    runs.train(config, tmp_path / 'second')
    trained = trained_on.read(tmp_path / 'second')
    assert trained.overlap(tasks(80)).texts == 48 + 20


def test_a_model_without_the_file_is_not_known_to_be_untouched(base, tmp_path, capsys):
    data = f'jsonl:{tmp_path}/mine.jsonl'
    write_jsonl(tmp_path / 'mine.jsonl', tasks(6))
    metrics = runs.evaluate(workdir=str(tmp_path), model=str(base), data=data)
    assert metrics['trained_on'] is None
    assert 'is not known' in capsys.readouterr().err
    stored = json.loads(next(tmp_path.glob('eval/*/metrics.json')).read_text())
    assert stored['trained_on'] is None
    assert 'warning' not in table.format_table([('one', stored)])


def test_validation_records_that_are_trained_on_are_warned_of(base, tmp_path, capsys):
    write_jsonl(tmp_path / 'mine.jsonl', tasks(behavior='reactive'))
    config = small_run(base)
    config.train.steps = 1
    config.data = DataConfig(
        source=f'jsonl:{tmp_path}/mine.jsonl', sequence_length=128, global_batch_rows=8
    )
    config.evaluation = EvaluationConfig(interval=5, evaluators='loss')
    runs.train(config, tmp_path / 'run')
    assert 'warning: 60 records of' in capsys.readouterr().err


def test_an_excluded_category_is_not_trained_on(base, monkeypatch, tmp_path):
    """Tests it with rendered examples and with those that the cache has."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    monkeypatch.setattr(example_cache, 'MIN_RENDER_SECONDS', 0.0)
    config = small_run(base)
    config.data = dataclasses.replace(config.data, exclude_category='omission_detection')
    spec = setup.read_base(config)
    records = sources.load_records('synthetic:40', 'train')
    kept = [r for r in records if r.category != 'omission_detection']
    for _ in range(2):
        positions = spec.network.arch.max_positions
        trained = pipeline.training_examples(
            config, spec.tokenizer, spec.behaviors, positions
        ).trained_on
        assert trained.overlap(records).records == len(kept) < len(records)
        # The digest is of all training records: it tells whether the set was made again.
        assert trained.digest_of('synthetic:40') == TrainedOn.of_records(records).digest
    assert len(list(tmp_path.glob('bsft_jax/examples/*'))) == 1
