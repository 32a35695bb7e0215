"""Model directories that are broken or hostile: weights, indexes, templates, tokenizers."""

from __future__ import annotations

import functools
import json
import pickle
import random
import struct

import numpy as np

from tests.campaign.commands import refused, succeeded
from tests.campaign.configs import one_line_or_same
from tests.campaign.place import Case, Place


def _header(fields: object, data: bytes = b'', length: int | None = None) -> bytes:
    """Returns a safetensors file with this header, and a length that may be false."""
    text = json.dumps(fields).encode()
    return struct.pack('<Q', len(text) if length is None else length) + text + data


def _tensor(dtype: str, shape: list[int], start: int, end: int) -> dict:
    name = 'model.embed_tokens.weight'
    return {name: {'dtype': dtype, 'shape': shape, 'data_offsets': [start, end]}}


WEIGHTS = {
    'empty file': b'',
    'seven bytes': b'1234567',
    'a header of 1 GB that is not there': struct.pack('<Q', 10**9) + b'{}',
    'a header of 2^64 - 1': struct.pack('<Q', 2**64 - 1) + b'{}',
    'a header that is a list': _header([]),
    'a header that is no JSON': struct.pack('<Q', 4) + b'{"a"',
    'no tensors': _header({}),
    'data beyond the end': _header(_tensor('F32', [320, 32], 0, 40960)),
    'a negative offset': _header(_tensor('F32', [1], -4, 0), b'1234'),
    'a shape of 2^62': _header(_tensor('F32', [2**31, 2**31], 0, 4), b'1234'),
    'a shape that is not the size': _header(_tensor('F32', [320, 32], 0, 4), b'1234'),
    'an unknown dtype': _header(_tensor('F99', [1], 0, 4), b'1234'),
    'a dtype that is a number': _header(_tensor(7, [1], 0, 4), b'1234'),
    'a pickle': pickle.dumps({'a': np.zeros(3)}),
    'text': b'version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n',
}


def _weights(place: Place, content: bytes) -> str:
    base = place.copy(place.base)
    (base / 'model.safetensors').write_bytes(content)
    return refused(place.answer(base))


def _cut_weights(place: Place, share: float) -> str:
    content = (place.base / 'model.safetensors').read_bytes()
    return _weights(place, content[: int(share * len(content))])


def _not_finite(place: Place, value: float, command: str) -> str:
    """Expects that weights with a NaN or an infinity are refused by every command."""
    from safetensors.numpy import load_file, save_file

    base = place.copy(place.base)
    tensors = load_file(base / 'model.safetensors')
    tensors['model.layers.0.mlp.up_proj.weight'].flat[5] = value
    save_file(tensors, base / 'model.safetensors', metadata={'format': 'pt'})
    if command == 'generate':
        return refused(place.answer(base), 'finite|NaN')
    if command == 'train':
        flags = (f'--config.model.base={base}',)
        return refused(place.train(place.here / 'run', *flags), 'finite|NaN')
    data = f'--data=jsonl:{place.data}'
    workdir = f'--workdir={place.here / "ev"}'
    done = place.command('evaluate', f'--model={base}', data, workdir, '--limit=4')
    return refused(done, 'finite|NaN')


def _no_weights(place: Place, other: str) -> str:
    base = place.copy(place.base)
    (base / 'model.safetensors').rename(base / other)
    return refused(place.answer(base))


INDEXES = {
    'a file of another folder': '../base/model.safetensors',
    'an absolute path': None,
    'a number': 3,
    'null': [],
    'a file that is not there': 'absent.safetensors',
    'a folder': '.',
    'an empty name': '',
}


def _index(place: Place, value: object) -> str:
    from safetensors import safe_open

    path = place.base / 'model.safetensors'
    model = place.copy(place.base, 'model')
    (model / 'model.safetensors').unlink()
    place.copy(place.base)
    value = str(path) if value is None else value
    names = safe_open(path, 'np').keys()
    index = {'metadata': {}, 'weight_map': dict.fromkeys(names, value)}
    (model / 'model.safetensors.index.json').write_text(json.dumps(index))
    return refused(place.answer(model), 'index|model')


def _whole_index(place: Place, text: str) -> str:
    model = place.copy(place.base, 'model')
    (model / 'model.safetensors').unlink()
    (model / 'model.safetensors.index.json').write_text(text)
    return refused(place.answer(model))


LOOP = '{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}'
TEMPLATES = {
    'classes': '{{ "".__class__.__mro__[1].__subclasses__() }}',
    'globals': '{{ cycler.__init__.__globals__.os.popen("touch pwned").read() }}',
    'include': '{% include "/etc/passwd" %}',
    'import': '{% import "os" as os %}{{ os }}',
    'a long range': '{% for i in range(10**9) %}x{% endfor %}',
    'nested loops': LOOP,
    'a huge power': '{{ 9**9**9**9 }}',
    'a huge text': '{{ "x" * 10**11 }}',
    'recursion': '{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}',
    'syntax': '{% for m in messages %}',
    'append': '{{ messages.append(1) }}',
    'empty': '',
    'raises': '{{ raise_exception("no") }}',
    'no such field': '{{ messages[0].nothing.more }}',
    'never ends with a stop': '{{ messages }}',
}


def _template(place: Place, text: str) -> str:
    """Expects one line soon, or an answer; nothing that the template calls is done."""
    base = place.copy(place.base)
    (base / 'chat_template.jinja').write_text(text)
    process = place.start('generate', f'--model={base}', '--text=hi', '--max_new_tokens=2')
    done = process.wait(60)
    if list(place.here.rglob('pwned')):
        return 'the template ran a program'
    return refused(done) if done.code == 2 else succeeded(done)


TOKENIZERS = {
    'empty': '',
    'cut': None,
    'a list': '[]',
    'no model': '{"version": "1.0"}',
    'a class of its own': '{"version": "1.0", "model": {"type": "Evil"}}',
}


def _tokenizer(place: Place, text: str | None) -> str:
    base = place.copy(place.base)
    path = base / 'tokenizer.json'
    path.write_text(path.read_text()[:5000] if text is None else text)
    return refused(place.answer(base))


def _code_in_config(place: Place, name: str) -> str:
    """Expects that code that a configuration names is not run."""
    base = place.copy(place.base)
    (base / 'evil.py').write_text(f'open({str(place.here / "pwned")!r}, "w")\nclass Evil: ...\n')
    path = base / name
    content = json.loads(path.read_text()) | {
        'auto_map': {'AutoConfig': 'evil.Evil', 'AutoTokenizer': ['evil.Evil', 'evil.Evil']},
        'trust_remote_code': True,
    }
    path.write_text(json.dumps(content))
    done = place.answer(base)
    if (place.here / 'pwned').exists():
        return 'the code of the model is run'
    return one_line_or_same(place, done)


def _wrong_folder(place: Place, what: str, flag: str) -> str:
    """Expects a line that says what was given instead of a model."""
    folder = {
        'a workdir': place.run,
        'a data set': place.data,
        'a file': place.config,
        'nothing': place.here / 'absent',
        'an adapter': place.here / 'adapter',
        'an empty folder': place.here / 'empty',
    }[what]
    if what == 'an adapter':
        folder.mkdir()
        (folder / 'adapter_config.json').write_text('{"peft_type": "LORA"}')
        (folder / 'adapter_model.safetensors').write_bytes(WEIGHTS['no tensors'])
    if what == 'an empty folder':
        folder.mkdir()
    says = {'a workdir': 'workdir', 'an adapter': 'adapter'}.get(what, '')
    if flag == 'model':
        return refused(place.answer(folder), says)
    return refused(place.train(place.here / 'r', f'--config.model.base={folder}'), says)


def cases(rng: random.Random) -> list[Case]:
    """Returns model directories that no command may open, or only without what is hostile."""
    found = []

    def add(kind: str, name: str, check, *arguments) -> None:
        found.append(Case(kind, name, lambda place: functools.partial(check, place)(*arguments)))

    for name, content in WEIGHTS.items():
        add('weights', name, _weights, content)
    for _ in range(6):
        share = rng.uniform(0.02, 0.99)
        add('weights', f'cut at {share:.2f}', _cut_weights, share)
    for value in (float('nan'), float('inf')):
        for command in ('generate', 'evaluate', 'train'):
            add('weights', f'{value}, {command}', _not_finite, value, command)
    for other in ('pytorch_model.bin', 'model.pkl', 'model.safetensors.partial'):
        add('weights', f'only {other}', _no_weights, other)
    for name, value in INDEXES.items():
        add('weights', f'index: {name}', _index, value)
    for text in ('[]', '', '{"weight_map": []}', '{"weight_map": {}}', '{}'):
        add('weights', f'index is {text!r}', _whole_index, text)
    for name, text in TEMPLATES.items():
        add('templates', name, _template, text)
    for name, text in TOKENIZERS.items():
        add('tokenizers', name, _tokenizer, text)
    for name in ('config.json', 'tokenizer_config.json'):
        add('tokenizers', f'code in {name}', _code_in_config, name)
    for what in ('a workdir', 'a data set', 'a file', 'nothing', 'an adapter', 'an empty folder'):
        for flag in ('model', 'model.base'):
            add('wrong folders', f'{what} as {flag}', _wrong_folder, what, flag)
    return found
