"""config.json of workdirs and of models: every field with values that it cannot have."""

from __future__ import annotations

import json
import random
from typing import Any

from bsft_jax.config import RunConfig, flatten
from tests.campaign.commands import Done, refused, succeeded
from tests.campaign.place import Case, Place

WRONG = (None, [], {}, 'x y', -7, True, 2.5)
WHOLE = ('[]', '"arm"', '3', 'null', 'true', '', '{', '{"arm": 1', '\ufeff{}', '[' * 100_000, '{}')
# (dotted path, value) that a type alone does not refuse.
SENSELESS = (
    ('behaviors', 'x'),
    ('behaviors', []),
    ('behaviors', [1]),
    ('behaviors.0', {}),
    ('behaviors.0.level', 'high'),
    ('behaviors.0.level', 7),
    ('behaviors.0.name', ''),
    ('behaviors.0.another', 1),
    ('model.dtype', 'float99'),
    ('data.answer_format', 'x'),
    ('model.another', 1),
    ('another', 1),
    ('another', {}),
)
SECTIONS = ('model', 'data', 'optimizer', 'train', 'lora', 'mesh', 'checkpoint', 'evaluation')
MODEL_FIELDS = (
    'model_type',
    'vocab_size',
    'hidden_size',
    'intermediate_size',
    'num_hidden_layers',
    'num_attention_heads',
    'num_key_value_heads',
    'max_position_embeddings',
    'rms_norm_eps',
    'rope_theta',
    'rope_parameters',
    'tie_word_embeddings',
    'hidden_act',
    'head_dim',
    'layer_types',
    'sliding_window',
    'quantization_config',
    'bsft',
)
MODEL_WRONG = (None, [], {}, 'x', -1, 0, 2.5, 10**9, True)


def set_path(config: dict, path: str, value: Any) -> None:
    """Sets a dotted path of nested dictionaries and lists."""
    *parents, last = path.split('.')
    for name in parents:
        config = config[int(name)] if isinstance(config, list) else config[name]
    config[int(last) if isinstance(config, list) else last] = value


def fits(value: Any, wrong: Any) -> bool:
    """Returns whether a value has the type of a field with this default."""
    if isinstance(value, bool) or isinstance(wrong, bool):
        return isinstance(value, bool) and isinstance(wrong, bool)
    if isinstance(value, float):
        return isinstance(wrong, (int, float))
    return isinstance(wrong, type(value))


def _workdir(place: Place, text: str, command: str, names: str) -> str:
    run = place.copy(place.run)
    place.write('run/config.json', text)
    if command == 'train':
        done = place.train(run)
    else:
        more = {'evaluate': '--limit=4', 'export': f'--output={place.here / "o"}'}[command]
        done = place.command(command, f'--workdir={run}', more)
    return refused(done, names)


def _edited(place: Place, edits: dict[str, Any]) -> str:
    config = json.loads((place.run / 'config.json').read_text())
    for path, value in edits.items():
        if value is _ABSENT:
            del config[path]
        else:
            set_path(config, path, value)
    return json.dumps(config)


_ABSENT = object()


def _workdir_case(kind: str, command: str, edits: dict[str, Any]) -> Case:
    (path, value), *_ = edits.items()
    word = 'is absent' if value is _ABSENT else f'= {value!r}'
    name = next(part for part in reversed(path.split('.')) if not part.isdigit())
    return Case(
        kind,
        f'{command}, {path} {word}',
        lambda place: _workdir(place, _edited(place, edits), command, rf'config\.json.*{name}'),
    )


def _model(place: Place, edit: dict[str, Any] | str) -> str:
    """Expects one line, or what the undamaged model answers where the field does not matter."""
    base = place.copy(place.base)
    if isinstance(edit, dict):
        text = json.dumps(json.loads((place.base / 'config.json').read_text()) | edit)
    else:
        text = edit
    (base / 'config.json').write_text(text)
    return one_line_or_same(place, place.answer(base), names='base')


def one_line_or_same(place: Place, done: Done, names: str = '') -> str:
    """Returns '' for one line, or for the answer of the undamaged base."""
    if done.code == 2:
        return refused(done, names)
    if problem := succeeded(done):
        return problem
    return '' if done.out == place.expected_answer() else f'another answer: {done.out[:200]}'


def cases(rng: random.Random) -> list[Case]:
    """Returns one case for each field and wrong value."""
    del rng
    kind, found = 'config.json of a workdir', []
    for path, default in flatten(RunConfig().to_dict()).items():
        if path.startswith('behaviors'):
            continue
        wrong = [value for value in WRONG if not fits(default, value)]
        # Three of the wrong types, others for each field.
        for i in range(3):
            value = wrong[(len(found) + 2 * i) % len(wrong)]
            command = 'train' if len(found) % 9 == 0 else 'evaluate'
            found.append(_workdir_case(kind, command, {path: value}))
    for path, value in SENSELESS:
        found.append(_workdir_case(kind, 'evaluate', {path: value}))
    for section in SECTIONS:
        for value in (None, [], 'x'):
            found.append(_workdir_case(kind, 'evaluate', {section: value}))
    for text in WHOLE:
        for command in ('evaluate', 'train', 'export'):
            found.append(
                Case(
                    kind,
                    f'{command}, whole file {text[:12]!r}',
                    lambda place, text=text, command=command: _workdir(
                        place, text, command, r'config\.json'
                    ),
                )
            )
    kind = 'config.json of a model'
    for field in MODEL_FIELDS:
        for value in MODEL_WRONG:
            if field == 'rms_norm_eps' and value in (2.5, 10**9):
                # Unusual, and what the model then computes is right.
                continue
            found.append(
                Case(kind, f'{field} = {value!r}', lambda place, e={field: value}: _model(place, e))
            )
    for bsft in (
        {'behaviors': [{'name': 'reactive'}]},
        {'answer_format': 'zzz'},
        {'prefix_kind': 'zzz', 'behaviors': []},
        {'prefix_kind': 'tokens', 'behaviors': 'x'},
    ):
        found.append(Case(kind, f'bsft = {bsft}', lambda place, e={'bsft': bsft}: _model(place, e)))
    for text in WHOLE:
        found.append(
            Case(kind, f'whole file {text[:12]!r}', lambda place, text=text: _model(place, text))
        )
    return found
