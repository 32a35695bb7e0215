"""Whose a workdir is, and the chat template that it keeps."""

import os
import pathlib

import pytest

from bsft_jax import config as config_lib
from bsft_jax.config import RunConfig
from bsft_jax.errors import UserError
from bsft_jax.parallel import processes
from bsft_jax.training import workdir as workdir_lib

TEMPLATE = '{% for m in messages %}{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}'


def config(template) -> RunConfig:
    made = RunConfig()
    made.data.chat_template = str(template)
    return made


def test_a_run_keeps_its_chat_template(tmp_path, monkeypatch):
    template, run = tmp_path / 'given.jinja', tmp_path / 'run'
    template.write_text(TEMPLATE)
    workdir_lib.claim(run, config(template))
    workdir_lib.claim(run, config(template))
    template.write_text('You may be wrong.' + TEMPLATE)
    with pytest.raises(UserError, match=r'another config \(the text of data\.chat_template is not that of'):
        workdir_lib.claim(run, config(template))
    template.unlink()  # whoever reads a run needs it no more

    class Opened(Exception):
        pass

    def opened(read):
        raise Opened(open_base(read).tokenizer.chat_template)

    open_base = workdir_lib.open_base
    monkeypatch.setattr(workdir_lib, 'open_base', opened)
    with pytest.raises(Opened) as found:
        workdir_lib.load_model(run)
    assert str(found.value) == TEMPLATE


def test_without_a_template_none_is_kept(tmp_path):
    workdir_lib.claim(tmp_path / 'run', RunConfig())
    assert [path.name for path in (tmp_path / 'run').iterdir()] == ['config.json']


def test_only_process_0_looks_before_it_has_written(tmp_path, monkeypatch):
    """The others would have what they did not find remembered by a network file system."""
    run, questions = tmp_path / 'run', []
    run.write_text('')  # what a look would refuse
    monkeypatch.setattr(processes, 'is_first', lambda: False)
    monkeypatch.setattr(processes, 'all_agree', questions.append)
    with pytest.raises(UserError, match='process 0 cannot use it'):
        workdir_lib.claim(run, RunConfig())
    assert questions == [True]


def test_what_a_run_was_made_with_stays_until_it_goes_on(tmp_path):
    run, longer = tmp_path / 'run', RunConfig()
    longer.train.steps = 7
    workdir_lib.claim(run, RunConfig())
    workdir_lib.claim(run, longer)
    assert config_lib.read_workdir(run).train.steps == RunConfig().train.steps
    workdir_lib.renew(run, longer)
    assert config_lib.read_workdir(run).train.steps == 7


def test_a_workdir_is_held_by_one_run(tmp_path):
    workdir_lib.claim(tmp_path / 'run', RunConfig())
    refused = pytest.raises(UserError, match='another run is at work there')
    with workdir_lib.held(tmp_path / 'run'), refused, workdir_lib.held(tmp_path / 'run'):
        pass
    with workdir_lib.held(tmp_path / 'run'):
        pass


@pytest.mark.parametrize('place', ['file/run', 'closed/run'])
def test_a_workdir_that_cannot_be_written_is_said_first(place, tmp_path, monkeypatch):
    (tmp_path / 'file').write_text('')
    (tmp_path / 'closed').mkdir()
    access = os.access  # root may write anywhere
    monkeypatch.setattr(
        os, 'access', lambda path, mode: pathlib.Path(path).name != 'closed' and access(path, mode)
    )
    with pytest.raises(UserError, match='cannot be written'):
        workdir_lib.check(tmp_path / place, RunConfig())
    assert not (tmp_path / place).exists()
