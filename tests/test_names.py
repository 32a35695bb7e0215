"""Tests of the names that become folders, and of text of users on its way to a terminal."""

import json
import random

import pytest

from bsft_jax import files, generate
from bsft_jax.commands.eval_folder import evaluation_name
from bsft_jax.errors import UserError, printable
from bsft_jax.parallel import processes

BAD_NAMES = [
    '',
    '.',
    '..',
    '../x',
    '../../escaped',
    '/etc/x',
    'a/b',
    'a/',
    'a\x00b',
    'a\nb',
    'a\x1b[31m',
    'a\x7f',
    'a\x9b',
    'a\u2028b',
    '\ud800',
    'a' * 201,
    'ü' * 101,
    None,
    3,
    ('a',),
]


@pytest.mark.parametrize('name', BAD_NAMES)
def test_a_name_that_is_not_one_folder_is_refused(name):
    with pytest.raises(UserError, match='^here: ') as error:
        files.check_name(name, 'here')
    assert str(error.value).isprintable()


@pytest.mark.parametrize(
    'name', ['a', '...', '.a', 'a b', "it's", '日本', 'ü' * 100, 'a' * 200, '-']
)
def test_other_names_are_those_of_folders(name, tmp_path):
    files.check_name(name, 'here')
    (tmp_path / (name + '-s0-lr1e-05')).mkdir()


def test_default_names_of_evaluations_fit_into_a_folder(tmp_path):
    settings = {
        key: '日本語の長い名前' * 20 for key in ('data', 'examples', 'model', 'chat_template')
    }
    names = {
        evaluation_name(('test', 'auto', 'few_shot:2'), settings | {'step': step}, {})
        for step in (1, 2)
    }
    assert len(names) == 2
    for name in names:
        files.check_name(name, 'here')
        (tmp_path / name).mkdir()


def test_short_names_stay_as_they_are():
    assert files.shorten_name('a' * 200) == 'a' * 200
    long = [files.shorten_name('ü' * 200 + end) for end in 'ab']
    assert long[0] != long[1] and all(len(name.encode()) <= 200 for name in long)


def test_no_control_character_reaches_a_terminal(capsys):
    rng = random.Random(0)
    points = [*range(0x20), *range(0x7F, 0xA0), 0xD800, 0x41, 0xFC, 0x65E5, 0x1F600]
    for _ in range(200):
        text = ''.join(map(chr, rng.choices(points, k=rng.randint(1, 30))))
        for shown in (printable(text), str(UserError(text, where=text, fix=text))):
            assert not any(ord(c) < 32 and c not in '\n\t' for c in shown)
            assert not any(0x7F <= ord(c) < 0xA0 or 0xD800 <= ord(c) < 0xE000 for c in shown)
        line = generate.format_answer({'text': text})
        assert json.loads(line) == {'text': text}
        assert line.encode() and not any(ord(c) < 32 or 0x7F <= ord(c) < 0xA0 for c in line)
    assert printable('Fièvre 39,5 °C\n\t日本 😀') == 'Fièvre 39,5 °C\n\t日本 😀'
    assert printable('\x1b]0;title\x07\r\x9b2J') == '\\x1b]0;title\\x07\\x0d\\x9b2J'
    processes.log_first('\x1b[2Jgone')
    assert capsys.readouterr().err == '\\x1b[2Jgone\n'
