"""A GGUF file is a base like any other: to train, resume, score, plan, examine and export."""

import dataclasses
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from safetensors.numpy import load_file

import bsft_jax
from bsft_jax.commands import prepare
from bsft_jax.commands.doctor import Doctor
from bsft_jax.config import DataConfig, ModelConfig, OptimizerConfig, RunConfig, TrainConfig
from bsft_jax.data import sources
from bsft_jax.data.tokenizer import load_tokenizer
from bsft_jax.errors import UserError
from bsft_jax.hub import files, pretrained
from bsft_jax.inference import decoding, open_model
from bsft_jax.planning import compile_plan
from bsft_jax.studies import commands
from bsft_jax.studies.study import Arm, Study
from tests import run as runs
from tests.gguf_writer import tokenizer_metadata, write_gguf
from tests.tiny import random_model

SOURCE = 'synthetic:40'
TEXTS = [
    'Two  spaces, 3 digits: 250 mg.\n\n\tA tab',
    'Ünïcode: café, cafe\u0301, 漢字, 🙂',
    '<|im_start|>user\nHello<|im_end|>\n',
    '',
    ' ',
]


@pytest.fixture(scope='module')
def original(tmp_path_factory):
    return random_model(tmp_path_factory.mktemp('original'))


def gguf_of(folder, path, with_tokenizer=True, change=lambda tensors: None):
    """Writes a model directory as a GGUF file in float32, and returns its path."""
    config = json.loads((folder / 'config.json').read_text())
    tensors = load_file(folder / 'model.safetensors')
    change(tensors)
    tokenizer = load_tokenizer(folder)
    end, padding = tokenizer.eos_token_id, tokenizer.pad_token_id
    keys = tokenizer_metadata(
        tokenizer, config['vocab_size'], bos=config['bos_token_id'], eos=end, padding=padding
    )
    return write_gguf(path, config, tensors, tokenizer=keys if with_tokenizer else None)


@pytest.fixture(scope='module')
def gguf_file(original, tmp_path_factory):
    return gguf_of(original, tmp_path_factory.mktemp('gguf') / 'model.gguf')


@pytest.fixture(scope='module')
def without_tokenizer(original, tmp_path_factory):
    return gguf_of(original, tmp_path_factory.mktemp('gguf') / 'bare.gguf', with_tokenizer=False)


def config_of(base, **model):
    return RunConfig(
        model=ModelConfig(base=str(base), **model),
        data=DataConfig(SOURCE, sequence_length=352, global_batch_rows=8),
        optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=1, schedule_steps=2),
        train=TrainConfig(mode='lora'),
        log_interval=1,
    )


@pytest.fixture(scope='module')
def run(gguf_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp('runs') / 'gguf'
    runs.train(config_of(gguf_file), folder)
    return folder


def losses(workdir):
    return [json.loads(line)['loss'] for line in (workdir / 'metrics.jsonl').open()]


def test_the_tokenizer_is_the_original_one(original, gguf_file):
    theirs = load_tokenizer(original)
    ours = pretrained.read_pretrained(str(gguf_file)).tokenizer
    assert ours.get_vocab() == theirs.get_vocab()
    assert ours.chat_template == theirs.chat_template
    assert ours.eos_token == theirs.eos_token and ours.pad_token == theirs.pad_token
    for text in TEXTS:
        assert ours.encode(text) == theirs.encode(text)
        assert ours.decode(ours.encode(text)) == theirs.decode(theirs.encode(text))


def test_a_run_is_that_on_the_same_model_in_safetensors(original, run, tmp_path):
    runs.train(config_of(original), tmp_path / 'run')
    assert losses(tmp_path / 'run') == losses(run)
    exported = [
        runs.export(str(workdir), str(tmp_path / name))
        for workdir, name in ((tmp_path / 'run', 'theirs'), (run, 'ours'))
    ]
    theirs, ours = (load_file(folder / 'model.safetensors') for folder in exported)
    assert theirs.keys() == ours.keys()
    assert all(np.array_equal(theirs[name], ours[name]) for name in theirs)
    tokens = [[1, 5, 9, 300, 320, 321]]
    config = json.loads((exported[1] / 'config.json').read_text())
    assert config['architectures'] == ['Qwen2ForCausalLM'] and config['dtype'] == 'float32'
    theirs, ours = (bsft_jax.load_model(folder) for folder in exported)
    assert np.array_equal(theirs.logits(tokens), ours.logits(tokens))
    predictions = []
    for workdir in (tmp_path / 'run', run):
        runs.evaluate(workdir=str(workdir), limit=4, name='few')
        predictions.append((workdir / 'eval' / 'few' / 'predictions.jsonl').read_text())
    assert predictions[0] == predictions[1]


def test_an_adapter_names_the_base_as_the_user_did(run, gguf_file, tmp_path):
    folder = runs.export(str(run), str(tmp_path / 'adapter'), format='peft')
    config = json.loads((folder / 'adapter_config.json').read_text())
    assert config['base_model_name_or_path'] == str(gguf_file) and config['revision'] is None


def test_a_run_does_not_go_on_with_another_file(original, run, tmp_path):
    def change(tensors):
        tensors['model.layers.1.mlp.up_proj.weight'][3, 4] += 1

    workdir = shutil.copytree(run, tmp_path / 'run')
    config = config_of(gguf_of(original, tmp_path / 'changed.gguf', change=change))
    with pytest.raises(UserError, match='the base is not the one this run was trained on'):
        runs.train(config, workdir)


def test_a_file_that_changes_is_read_anew(gguf_file, tmp_path):
    path = str(shutil.copy(gguf_file, tmp_path / 'model.gguf'))
    first = files.resolve_directory(path)
    assert files.resolve_directory(path) == first != files.resolve_directory(str(gguf_file))
    os.utime(path, ns=(0, 0))
    assert files.resolve_directory(path) != first
    link = tmp_path / 'link.GGUF'
    link.symlink_to(path)
    assert files.resolve_directory(str(link)) == files.resolve_directory(path)


def test_doctor_and_plan_read_it(gguf_file, tmp_path):
    config = config_of(gguf_file)
    findings = {finding.name: finding for finding in Doctor(config, tmp_path / 'run')()}
    assert findings['base'].verdict == 'ok' and 'every tensor' in findings['base'].message
    assert str(gguf_file) in findings['base'].message
    assert findings['rows'].verdict in ('ok', 'warn')
    network = compile_plan.planned_network(config)
    assert network.arch == pretrained.read_pretrained(str(gguf_file)).network.arch


def test_another_tokenizer_can_be_named(original, without_tokenizer, gguf_file, tmp_path):
    with pytest.raises(UserError) as refused:
        runs.train(config_of(without_tokenizer), tmp_path / 'refused')
    assert str(refused.value) == (
        f'{without_tokenizer}: there is no tokenizer in this file; name a folder with its '
        'tokenizer.json by --config.model.tokenizer or --tokenizer'
    )
    assert not (tmp_path / 'refused').exists()
    folder = tmp_path / 'tokenizer'
    folder.mkdir()
    for file in (*original.glob('tokenizer*'), *original.glob('*.jinja')):
        shutil.copy(file, folder)
    config = config_of(without_tokenizer, tokenizer=str(folder))
    config.train.steps = 1
    runs.train(config, tmp_path / 'run')
    runs.train(dataclasses.replace(config_of(gguf_file), train=config.train), tmp_path / 'own')
    assert losses(tmp_path / 'run') == losses(tmp_path / 'own')

    ask = dict(sampling=decoding.Sampling(max_new_tokens=4), text='Is this fine?')
    source = dict(model=str(without_tokenizer), tokenizer=str(folder))
    assert runs.generate(**ask, **source) == runs.generate(**ask, model=str(gguf_file))
    assert bsft_jax.load_model(without_tokenizer, tokenizer=str(folder)).tokenizer.eos_token

    (folder / 'tokenizer.json').write_text('{}')
    with pytest.raises(UserError, match='tokenizer'):
        open_model.open_model(open_model.ModelSource(**source))
    with pytest.raises(UserError, match=r'--tokenizer=a: belongs to --model'):
        runs.generate(**ask, workdir='run', tokenizer='a')


def test_a_run_does_not_go_on_with_another_tokenizer(original, without_tokenizer, tmp_path):
    folder = shutil.copytree(original, tmp_path / 'tokenizer')
    config = config_of(without_tokenizer, tokenizer=str(folder))
    config.train.steps = 1
    runs.train(config, tmp_path / 'run')
    path = folder / 'tokenizer.json'
    state = json.loads(path.read_text())
    merges = state['model']['merges']
    merges[0], merges[1] = merges[1], merges[0]
    path.write_text(json.dumps(state))
    with pytest.raises(UserError, match=f'the tokenizer is not the one .* {folder}'):
        runs.train(config, tmp_path / 'run')


def test_a_study_passes_the_tokenizer_on(tmp_path):
    study = Study(name='s', config='c.py', arms=(Arm('a'),), seeds=(0,))
    plain, other = config_of('base'), config_of('base', tokenizer='words')
    command = commands.base_command(study, other, tmp_path, 'plain')
    assert '--tokenizer=words' in command
    assert not [
        flag
        for flag in commands.base_command(study, plain, tmp_path, 'plain')
        if flag.startswith('--tokenizer')
    ]
    assert commands.base_workdir(plain) != commands.base_workdir(other)


def test_records_are_shown_with_its_tokenizer(gguf_file, without_tokenizer, original):
    records = sources.load_records(SOURCE, 'train')
    shown = [
        prepare.inspect_records(records, prepare.InspectOptions(1, str(base), tokenizer=tokenizer))
        for base, tokenizer in ((gguf_file, ''), (without_tokenizer, str(original)), (original, ''))
    ]
    assert shown[0] == shown[1] == shown[2]


def test_commands_that_meet_a_file_at_once_make_one_folder(gguf_file, tmp_path):
    path = str(shutil.copy(gguf_file, tmp_path / 'model.gguf'))
    with ThreadPoolExecutor(8) as pool:
        (folder,) = set(pool.map(files.resolve_directory, [path] * 8))
    left = [entry.name for entry in folder.parent.iterdir() if entry.name.startswith('.')]
    assert not left and (folder / 'tokenizer.json').is_file()
