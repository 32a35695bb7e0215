"""Tests of workdirs: which run one belongs to, its chat template, and its lock."""

import os
import pathlib

import pytest

from bsft_jax import config as config_lib
from bsft_jax.config import RunConfig
from bsft_jax.errors import UserError
from bsft_jax.parallel import processes
from bsft_jax.training import workdir as workdir_lib

TEMPLATE = '{% for m in messages %}{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}'


def config_with_template(path) -> RunConfig:
    config = RunConfig()
    config.data.chat_template = str(path)
    return config


def test_a_run_keeps_its_chat_template(tmp_path):
    template, run = tmp_path / 'given.jinja', tmp_path / 'run'
    template.write_text(TEMPLATE)
    workdir_lib.create(run, config_with_template(template))
    workdir_lib.create(run, config_with_template(template))
    template.write_text('You may be wrong.' + TEMPLATE)
    with pytest.raises(
        UserError, match=r'another config \(the text of data\.chat_template is not that of'
    ):
        workdir_lib.create(run, config_with_template(template))
    assert (run / workdir_lib.TEMPLATE).read_text() == TEMPLATE


def test_a_run_without_a_template_keeps_none(tmp_path):
    workdir_lib.create(tmp_path / 'run', RunConfig())
    assert [path.name for path in (tmp_path / 'run').iterdir()] == ['config.json']


def test_only_process_0_reads_the_folder_before_it_is_written(tmp_path, monkeypatch):
    """A network file system would remember the names that the other processes did not find."""
    run, questions = tmp_path / 'run', []
    # A file that process 0 would refuse.
    run.write_text('')
    monkeypatch.setattr(processes, 'is_first', lambda: False)
    monkeypatch.setattr(processes, 'all_true', questions.append)
    with pytest.raises(UserError, match='process 0 cannot use it'):
        workdir_lib.create(run, RunConfig())
    assert questions == [True]


def test_the_config_of_a_run_stays_until_the_run_continues(tmp_path):
    run, longer = tmp_path / 'run', RunConfig()
    longer.train.steps = 7
    workdir_lib.create(run, RunConfig())
    workdir_lib.create(run, longer)
    assert config_lib.read_workdir(run).train.steps == RunConfig().train.steps
    workdir_lib.update_config(run, longer)
    assert config_lib.read_workdir(run).train.steps == 7


def test_a_workdir_is_locked_by_one_run(tmp_path):
    workdir_lib.create(tmp_path / 'run', RunConfig())
    refused = pytest.raises(UserError, match='another run is at work there')
    with workdir_lib.lock(tmp_path / 'run'), refused, workdir_lib.lock(tmp_path / 'run'):
        pass
    with workdir_lib.lock(tmp_path / 'run'):
        pass


@pytest.mark.parametrize('path', ['file/run', 'closed/run'])
def test_a_workdir_that_cannot_be_written_is_refused_first(path, tmp_path, monkeypatch):
    (tmp_path / 'file').write_text('')
    (tmp_path / 'closed').mkdir()
    access = os.access

    # Tests may run as root, who can write anywhere.
    def deny_closed(path, mode):
        return pathlib.Path(path).name != 'closed' and access(path, mode)

    monkeypatch.setattr(os, 'access', deny_closed)
    with pytest.raises(UserError, match='cannot be written'):
        workdir_lib.check_workdir(tmp_path / path, RunConfig())
    assert not (tmp_path / path).exists()
