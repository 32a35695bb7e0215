"""Tests cached examples: equal to rendered ones, and found only by a run that would render them."""

import dataclasses
import os
import pathlib
import time

import numpy as np
import pytest

from bsft_jax.config import DataConfig, RunConfig
from bsft_jax.data import example_cache, rendering, sources
from bsft_jax.records.record import write_jsonl
from bsft_jax.training import setup
from tests.run import examples_of


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    monkeypatch.setattr(example_cache, 'MIN_RENDER_SECONDS', 0.0)
    return tmp_path / 'cache' / 'bsft_jax' / 'examples'


@pytest.fixture
def rendered(monkeypatch):
    """Returns the list of calls that rendered records."""
    calls, render = [], rendering.render_examples
    monkeypatch.setattr(
        rendering, 'render_examples', lambda *args: calls.append(args) or render(*args)
    )
    return calls


def config_of(source='synthetic:6', arm='behavior_sft', **changes):
    return RunConfig(
        arm=arm,
        data=DataConfig(source=source, sequence_length=256, max_dropped_fraction=1.0, **changes),
    )


def made(config):
    return examples_of(config, setup.read_base(config))


def assert_same(one, two):
    for field in dataclasses.fields(one):
        np.testing.assert_array_equal(getattr(one, field.name), getattr(two, field.name))


def test_a_second_start_finds_what_the_first_made(folder, rendered, capfd):
    store, plan = made(config_of())
    first = capfd.readouterr().err
    again, same_plan = made(config_of())
    assert len(rendered) == 1 and len([*folder.iterdir()]) == 1
    assert_same(store, again)
    assert (plan.hash, store.hash) == (same_plan.hash, again.hash)
    assert capfd.readouterr().err == first  # the reports, too


@pytest.mark.parametrize(
    'changes',
    [
        {'source': 'synthetic:7'},
        {'arm': 'text_sft'},
        {'arm': 'general_sft'},
        {'answer_format': 'text'},
        {'behavior_weight': 0.5},
        {'exclude_category': 'omission_detection'},
        {'label_noise': 0.5},
        {'source': '0.5*synthetic:6 + 0.5*synthetic:5:1'},
    ],
)
def test_another_config_is_rendered_anew(rendered, changes):
    made(config_of())
    before = len(rendered)
    store, _ = made(config_of(**changes))
    assert len(rendered) == before + max(1, changes.get('source', '').count('*'))
    cached, _ = made(config_of(**changes))
    assert_same(store, cached)


def test_changed_records_are_rendered_anew(tmp_path, rendered):
    path = tmp_path / 'mine.jsonl'
    records = sources.load_records('synthetic:6', 'train')
    write_jsonl(path, records)
    made(config_of(f'jsonl:{path}'))
    made(config_of(f'jsonl:{path}'))
    assert len(rendered) == 1
    write_jsonl(path, [dataclasses.replace(records[0], rationale='Otherwise.'), *records[1:]])
    made(config_of(f'jsonl:{path}'))
    assert len(rendered) == 2


@pytest.mark.parametrize('folder_name', ['data', 'records', 'behaviorbench'])
def test_changed_code_gives_another_entry(tmp_path, monkeypatch, folder_name):
    assert (example_cache._PACKAGE / folder_name / '__init__.py').is_file()
    monkeypatch.setattr(example_cache, '_PACKAGE', tmp_path)
    path = tmp_path / folder_name / 'a.py'
    path.parent.mkdir()
    path.write_text('A = 1')
    before = example_cache.entry_name('settings')
    assert before == example_cache.entry_name('settings') != example_cache.entry_name('others')
    path.write_text('A = 2')
    assert example_cache.entry_name('settings') != before


def test_a_prepared_folder_is_known_by_the_file_of_the_split(tmp_path):
    for split in ('train', 'test'):
        write_jsonl(tmp_path / f'{split}.jsonl', sources.load_records('synthetic:6', split))
    found = sources.fingerprint(f'jsonl:{tmp_path}', 'train')
    assert found and found != sources.fingerprint(f'jsonl:{tmp_path}', 'test')
    assert sources.fingerprint('hf:somewhere', 'train') == ''


def test_a_damaged_entry_is_rendered_anew(folder, rendered):
    store, _ = made(config_of())
    (entry,) = folder.iterdir()
    (entry / '0-ids.npy').write_bytes(b'')
    again, _ = made(config_of())
    assert len(rendered) == 2
    assert_same(store, again)
    assert_same(store, made(config_of())[0])
    assert len(rendered) == 2


def test_an_entry_that_lacks_a_file_is_made_anew(folder):
    parts = [{'ids': np.arange(3), 'weights': np.ones(3)}]
    example_cache.save('entry', parts, ['a report'])
    (folder / 'entry' / '0-ids.npy').unlink()
    assert example_cache.load('entry') is None
    example_cache.save('entry', parts, ['a report'])
    assert example_cache.load('entry')[1] == ['a report']


def test_what_killed_processes_left_goes_and_what_is_being_written_stays(folder):
    for name, age in (('.partial-old', 2 * 86400), ('.partial-new', 60)):
        (folder / name).mkdir(parents=True)
        os.utime(folder / name, (time.time() - age,) * 2)
    example_cache.save('entry', [{'ids': np.arange(3)}], [''])
    assert sorted(path.name for path in folder.iterdir()) == ['.partial-new', 'entry']


def test_an_entry_that_another_process_removes_meanwhile_stops_nobody(folder, monkeypatch):
    folder.mkdir(parents=True)
    listed = pathlib.Path.iterdir
    monkeypatch.setattr(pathlib.Path, 'iterdir', lambda self: [*listed(self), self / 'gone'])
    example_cache.save('entry', [{'ids': np.arange(3)}], [''])
    assert example_cache.load('entry') is not None


def test_what_was_fast_is_not_kept(folder, monkeypatch):
    monkeypatch.setattr(example_cache, 'MIN_RENDER_SECONDS', 3600.0)
    made(config_of())
    assert not folder.exists()


def test_a_cache_that_cannot_be_written_stops_nobody(folder, rendered):
    folder.parent.mkdir(parents=True)
    folder.write_text('a file')
    made(config_of())
    made(config_of())
    assert len(rendered) == 2


def test_the_oldest_entries_go(folder, monkeypatch):
    monkeypatch.setattr(example_cache, 'MAX_ENTRIES', 2)
    for cases in (4, 5, 6):
        made(config_of(f'synthetic:{cases}'))
    assert len([*folder.iterdir()]) == 2
