"""Tests of run.json: lost checkpoints are not a new run, a changed tokenizer is noticed."""

import json
import shutil

import pytest

from bsft_jax import config as config_lib
from bsft_jax.config import RunConfig
from bsft_jax.errors import UserError
from bsft_jax.hub import pretrained
from bsft_jax.training import run_record, setup
from bsft_jax.training import workdir as workdir_lib

LINES = ''.join(f'{{"step": {step}, "loss": 1.0}}\n' for step in (1, 2, 3))


@pytest.fixture
def run(tmp_path):
    """Returns the workdir of a run that saved step 9, without its checkpoints."""
    workdir_lib.create(tmp_path / 'run', RunConfig())
    (tmp_path / 'run' / 'metrics.jsonl').write_text(LINES)
    run_record.set_saved_step(tmp_path / 'run', 9)
    return tmp_path / 'run'


def refused(run, message):
    with pytest.raises(UserError, match=message) as error:
        workdir_lib.check_workdir(run, RunConfig())
    assert 'name a new --workdir' in str(error.value) and '\n' not in str(error.value)


def test_a_run_without_its_checkpoints_does_not_begin_anew(run):
    refused(run, 'checkpoints/ is gone, but step 9 was saved and metrics.jsonl .* 1 to 3; bring')
    (run / 'checkpoints').mkdir()
    refused(run, 'checkpoints/ is empty, but step 9 was saved')
    # What a killed save leaves is no step.
    (run / 'checkpoints' / '3.orbax-checkpoint-tmp').mkdir()
    refused(run, 'checkpoints/ is empty, but step 9 was saved')
    (run / 'metrics.jsonl').unlink()
    refused(run, 'checkpoints/ is empty, but step 9 was saved; ')


def test_a_run_of_an_earlier_version_without_its_checkpoints_does_not_either(run):
    (run / 'run.json').unlink()
    refused(run, 'checkpoints/ is gone, but metrics.jsonl speaks of steps 1 to 3; ')
    (run / 'metrics.jsonl').write_bytes(b'\xff\n5\n{"step": 7}\n{"st')
    refused(run, 'steps 7 to 7')


@pytest.mark.parametrize('record', [{}, {'saved_step': None}, {'saved_step': 9}])
def test_a_run_whose_steps_were_all_set_aside_does_not_either(record, run):
    (run / 'metrics.jsonl').unlink()
    (run / 'run.json').write_text(json.dumps(record))
    (run / 'damaged' / '9').mkdir(parents=True)
    (run / 'damaged' / '6').mkdir()
    refused(run, 'damaged/ holds 6, 9; ')


def test_a_lost_config_beside_steps_or_traces_is_refused(run):
    (run / 'config.json').write_text('{"arm": "beh')
    refused(run, 'step 9 was saved')
    (run / 'config.json').unlink()
    refused(run, 'step 9 was saved')
    (run / 'checkpoints' / '9').mkdir(parents=True)
    refused(run, r'its config\.json is gone')


@pytest.mark.parametrize(
    'left',
    [
        {},
        {'config.json': ''},
        {'config.json': '{"arm": "behavior_s'},
        {'chat_template.jinja': '{{ x }}', 'config.json.partial-0123abcd': '{'},
        {'config.json': None, 'lock': '', 'environment.json': '{"pyth', 'checkpoints/': ''},
        {'config.json': None, 'run.json': '{"saved_step": null}', 'metrics.jsonl': LINES},
        {'config.json': None, 'lock': '', 'checkpoints/3.orbax-checkpoint-tmp/state/': ''},
        {'lock': '', 'checkpoints/': '', 'tensorboard/': '', 'parameters.txt': ''},
    ],
)
def test_what_a_killed_start_leaves_can_be_started_again(left, tmp_path):
    run = tmp_path / 'run'
    run.mkdir()
    for name, text in left.items():
        if name.endswith('/'):
            (run / name).mkdir(parents=True)
        elif text is None:
            (run / name).write_text(json.dumps(RunConfig().to_dict()))
        else:
            (run / name).write_text(text)
    workdir_lib.check_workdir(run, RunConfig())
    workdir_lib.create(run, RunConfig())
    assert config_lib.read_workdir(run) == RunConfig()


def test_a_file_of_somebody_else_is_still_refused(tmp_path):
    (tmp_path / 'lock').write_text('')
    (tmp_path / 'thesis.txt').write_text('')
    with pytest.raises(UserError, match='is not empty and holds no run'):
        workdir_lib.check_workdir(tmp_path, RunConfig())


@pytest.mark.parametrize('name', ['checkpoints', 'damaged', 'tensorboard', 'metrics.jsonl', 'lock'])
def test_a_file_for_a_folder_is_refused_first(name, tmp_path):
    workdir_lib.create(tmp_path / 'run', RunConfig())
    path = tmp_path / 'run' / name
    path.mkdir() if name in ('metrics.jsonl', 'lock') else path.write_text('')
    with pytest.raises(UserError, match=f'run/{name}: is not a (file|folder)'):
        workdir_lib.check_workdir(tmp_path / 'run', RunConfig())


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def swap_tokens(base):
    """Swaps two ids of the vocabulary, so that texts are other tokens."""
    path = base / 'tokenizer.json'
    content = json.loads(path.read_text())
    vocab = content['model']['vocab']
    first, second = sorted(vocab, key=vocab.get)[280:282]
    vocab[first], vocab[second] = vocab[second], vocab[first]
    path.write_text(json.dumps(content))


def drop_a_merge(base):
    content = json.loads((base / 'tokenizer.json').read_text())
    content['model']['merges'].pop()
    (base / 'tokenizer.json').write_text(json.dumps(content))


CHANGES = {
    'two ids': swap_tokens,
    'a merge': drop_a_merge,
    'normalizer': lambda base: edit(base / 'tokenizer.json', normalizer={'type': 'Lowercase'}),
    'config': lambda base: edit(base / 'tokenizer_config.json', eos_token='<|endoftext|>'),
    'special tokens': lambda base: (base / 'special_tokens_map.json').write_text(
        '{"pad_token": "!"}'
    ),
    'template': lambda base: (base / 'chat_template.jinja').write_text(
        (base / 'chat_template.jinja').read_text() + ' '
    ),
}


@pytest.fixture
def copied(base, tmp_path):
    return shutil.copytree(base, tmp_path / 'base')


@pytest.mark.parametrize('change', CHANGES)
def test_a_changed_tokenizer_or_template_is_noticed(change, copied, tmp_path):
    run_record.update(tmp_path, **run_record.digests(pretrained.read_pretrained(str(copied))))
    run_record.check_tokenizer(tmp_path, pretrained.read_pretrained(str(copied)))
    CHANGES[change](copied)
    what = 'chat template' if change == 'template' else 'tokenizer'
    with pytest.raises(UserError, match=f'the {what} is not the one that this run was trained'):
        run_record.check_tokenizer(tmp_path, pretrained.read_pretrained(str(copied)))


def test_layout_and_place_of_the_tokenizer_do_not_count(copied, tmp_path):
    run_record.update(tmp_path, **run_record.digests(pretrained.read_pretrained(str(copied))))
    for name in ('tokenizer.json', 'tokenizer_config.json'):
        path = copied / name
        path.write_text(json.dumps(json.loads(path.read_text()), indent=7, sort_keys=True))
    moved = copied.rename(tmp_path / 'elsewhere')
    run_record.check_tokenizer(tmp_path, pretrained.read_pretrained(str(moved)))


def test_a_workdir_of_an_earlier_version_knows_no_tokenizer(copied, tmp_path):
    spec = pretrained.read_pretrained(str(copied))
    run_record.check_tokenizer(tmp_path, spec)
    run_record.set_saved_step(tmp_path, 3)
    run_record.check_tokenizer(tmp_path, spec)
    for content in ('[]', '{"saved', '"x"'):
        (tmp_path / 'run.json').write_text(content)
        with pytest.raises(UserError, match=r'run\.json: (not valid JSON|is not a JSON object)'):
            run_record.check_tokenizer(tmp_path, spec)


def test_the_template_of_the_workdir_counts(copied, tmp_path):
    """Tests a run with a template of its own, whose copy in the workdir is edited or removed."""
    given, run = tmp_path / 'given.jinja', tmp_path / 'run'
    given.write_text((copied / 'chat_template.jinja').read_text() + '\n')
    config = RunConfig()
    config.model.base, config.data.chat_template = str(copied), str(given)
    workdir_lib.create(run, config)
    spec = setup.read_base(config)
    workdir_lib.record_start(run, spec, 0)
    run_record.check_tokenizer(run, setup.read_base(setup._inference_config(run, '')))
    (run / 'chat_template.jinja').write_text(given.read_text() + 'x')
    with pytest.raises(UserError, match='the chat template is not the one'):
        setup.load_run(run)
