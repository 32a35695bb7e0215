"""Tests the trained tokenizer and the model directory without weights around it."""

import json
import pathlib
import subprocess
import sys
import unicodedata

import pytest

from bsft_jax.behaviors import DEFAULT_BEHAVIORS, extend_tokenizer
from bsft_jax.data.rendering import Renderer
from bsft_jax.data.tokenizer import load_tokenizer
from bsft_jax.data.tokenizer_training import train_tokenizer, write_blank_model
from bsft_jax.errors import UserError
from bsft_jax.hub.configs import architecture_of

HARD = (
    'K⁺ 5.9 mmol/L, 38,5 °C — “ok”\n\n\tназад 中文 🫀\x00\x7f',
    '  two  spaces ',
    '\n',
    "don't ARE 1234567890.25",
)


@pytest.fixture(scope='module')
def blank(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp('blank') / 'deep' / 'model'
    write_blank_model(trained, folder)
    return folder


def test_every_digit_is_a_token_and_words_are_learned(trained):
    assert [t.strip('Ġ') for t in trained.tokenize('1234 90') if t.strip('Ġ')] == list('123490')
    digits = [t for t in trained.get_vocab() if any(c.isdigit() for c in t) and len(t) > 1]
    assert digits == []
    assert 'Ġpotassium' in trained.get_vocab()
    assert len(trained) == 310


@pytest.mark.parametrize('text', HARD)
def test_text_comes_back(trained, text):
    ids = trained.encode(text, add_special_tokens=False)
    assert trained.decode(ids) == unicodedata.normalize('NFC', text)


def test_every_character_comes_back(trained):
    text = ''.join(
        map(
            chr, [*range(1, 0xD800, 7), *range(0xE000, 0x11000, 13), *range(0x11000, 0x110000, 997)]
        )
    )
    text = unicodedata.normalize('NFC', text)
    assert trained.decode(trained.encode(text, add_special_tokens=False)) == text


def test_training_is_repeatable():
    texts = ['the cat sat on the mat', 'the dog sat on the log'] * 5
    one, other = (train_tokenizer(iter(texts), 280) for _ in range(2))
    assert one.get_vocab() == other.get_vocab()


def test_the_chat_template(trained):
    messages = [
        {'role': 'system', 'content': 's'},
        {'role': 'user', 'content': 'q'},
        {'role': 'assistant', 'content': 'a'},
    ]
    whole = trained.apply_chat_template(messages, tokenize=False)
    turns = ('system\ns', 'user\nq', 'assistant\na')
    assert whole == ''.join(f'<|im_start|>{turn}<|im_end|>\n' for turn in turns)
    prompt = trained.apply_chat_template(messages[1:2], tokenize=False, add_generation_prompt=True)
    assert prompt == '<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n'


def test_the_blank_model(blank, trained):
    config = json.loads((blank / 'config.json').read_text())
    arch = architecture_of(config)
    assert (arch.embed_dim, arch.num_layers, arch.num_heads, arch.num_kv_heads, arch.mlp_dim) == (
        128,
        4,
        4,
        2,
        384,
    )
    assert arch.tied and arch.qkv_bias and arch.max_positions == 2048
    assert (
        config['rope_theta']
        == config['rope_parameters']['rope_theta']
        == arch.kinds[0].rope.theta
        == 10000.0
    )
    assert arch.vocab_size == 384
    tokenizer = load_tokenizer(blank)
    assert tokenizer.eos_token == '<|im_end|>' and tokenizer.eos_token_id == config['eos_token_id']
    assert (
        tokenizer.pad_token == '<|endoftext|>' and tokenizer.pad_token_id == config['bos_token_id']
    )
    assert tokenizer.get_vocab() == trained.get_vocab()
    assert not list(blank.glob('*.safetensors'))


@pytest.mark.parametrize('size', [375, 376, 377])
def test_the_table_has_spare_rows(size, tmp_path):
    class Sized:
        eos_token_id = 2

        def __len__(self):
            return size

        def convert_tokens_to_ids(self, token):
            return 0

        def save_pretrained(self, folder):
            pass

    write_blank_model(Sized(), tmp_path / 'model')
    rows = json.loads((tmp_path / 'model/config.json').read_text())['vocab_size']
    assert rows == (384 if size <= 376 else 512)


def test_transformers_reads_the_folder_the_same_way(blank):
    """Compares with `AutoTokenizer`, which rebuilds by model_type what is specific to Qwen2."""
    from transformers import AutoTokenizer

    auto, ours = AutoTokenizer.from_pretrained(str(blank)), load_tokenizer(blank)
    for text in (*HARD, '<|im_start|>user\nq 12<|im_end|>\n', 'Cafe\u0301'):
        assert auto.encode(text) == ours.encode(text)
        assert auto.decode(auto.encode(text)) == ours.decode(ours.encode(text))


def test_the_renderer_takes_it(blank):
    tokenizer = load_tokenizer(blank)
    behaviors = extend_tokenizer(tokenizer, DEFAULT_BEHAVIORS)
    assert behaviors.ids == (310, 311)
    assert Renderer(tokenizer, behaviors).stop_id == tokenizer.eos_token_id


def test_a_folder_in_use_is_refused(trained, blank, tmp_path):
    before = {path.name: path.read_bytes() for path in blank.iterdir()}
    with pytest.raises(UserError, match='not empty') as caught:
        write_blank_model(trained, blank)
    assert str(blank) in str(caught.value)
    assert {path.name: path.read_bytes() for path in blank.iterdir()} == before
    pathlib.Path(tmp_path / 'file').write_text('')
    with pytest.raises(UserError, match='is not a folder'):
        write_blank_model(trained, tmp_path / 'file')


def test_too_few_ids_are_refused():
    with pytest.raises(UserError, match='256 bytes'):
        train_tokenizer(['a'], 258)


def run_app(*arguments):
    command = [sys.executable, '-m', 'bsft_jax.train_tokenizer', *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_the_app_writes_a_model_directory(tmp_path):
    output = tmp_path / 'model'
    done = run_app('--source=synthetic_text:20', '--vocab_size=300', f'--output={output}')
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f'{output}: 300 ids learned from ')
    assert len(load_tokenizer(output)) == 300
    again = run_app('--source=synthetic_text:20', '--vocab_size=300', f'--output={output}')
    assert (again.returncode, again.stderr.count('\n')) == (2, 1)
    assert 'not empty' in again.stderr
