"""Flags and config files that are wrong, for every command."""

from __future__ import annotations

import os
import random

from tests.campaign.commands import refused
from tests.campaign.place import Case, Place

# Command → its flags without those that are wrong; {…} are attributes of the place, {here} the
# folder of the try.
RIGHT = {
    'train': ('--config={config}', '--workdir={here}/run'),
    'evaluate': ('--workdir={here}/run', '--model={base}', '--data=jsonl:{data}', '--limit=4'),
    'generate': ('--model={base}', '--text=hi', '--max_new_tokens=2'),
    'export': ('--workdir={run}', '--output={here}/out'),
    'prepare': ('--source=synthetic:20', '--output={here}/out'),
    'plan': ('--config={config}', '--topology=cpu:2'),
    'doctor': ('--config={config}',),
    'study': ('--config={study}', '--workdir={here}/out'),
    'train_tokenizer': ('--source=synthetic_text:50', '--output={here}/out'),
    'table': ('--runs={run}',),
}
# Command → (wrong flag, what the line says).
WRONG = {
    'train': (
        ('--config.data.packed=maybe', 'maybe'),
        ('--config.optimizer.warmup_steps=6', 'warmup'),
        ('--config.optimizer.learning_rate=nan', 'learning_rate'),
        ('--config.optimizer.learning_rate=-1', 'learning_rate'),
        ('--config.optimizer.schedule_steps=0', 'schedule_steps'),
        ('--config.data.global_batch_rows=100000000', 'global_batch_rows'),
        ('--config.data.global_batch_rows=0', 'global_batch_rows'),
        ('--config.data.sequence_length=8', 'sequence_length'),
        ('--config.data.sequence_length=100000', 'sequence_length'),
        ('--config.data.source=own.jsonl', r'jsonl:own\.jsonl'),
        ('--config.data.source=jsonl:absent', 'absent'),
        ('--config.data.exclude_category=x', 'exclude_category'),
        ('--config.data.label_noise=2', 'label_noise'),
        ('--config.data.chat_template=absent.jinja', 'absent'),
        ('--config.model.dtype=float99', 'dtype'),
        ('--config.model.base=absent', 'absent'),
        ('--config.train.mode=partly', 'mode'),
        ('--config.train.gradient_accumulation_steps=3', 'accumulation'),
        ('--config.checkpoint.interval=0', 'interval'),
        ('--config.checkpoint.keep=0', 'keep'),
        ('--config.evaluation.evaluators=nothing', 'evaluators'),
        ('--config.mesh.devices=16', 'devices'),
        ('--config.mesh.data=3', 'mesh'),
        ('--config.lora.targets=[', ''),
        ('--config.profile.trace_steps=5:2', 'trace_steps'),
        ('--config.arm=nonsense', 'arm'),
        ('--config.behaviors=x', 'config file'),
        ('--config.data.sauce=x', 'source'),
        ('--config=absent.py', 'absent'),
        ('--config=', 'config'),
        ('--workdir=', 'workdir'),
        ('--nothing=1', 'nothing'),
        ('extra', 'extra'),
    ),
    'evaluate': (
        ('--step=3', 'step'),
        ('--policy=forced:x', 'policy'),
        ('--policy=perhaps', 'policy'),
        ('--prompt=few_shot:x', 'few_shot'),
        ('--prompt=few_shot:-1', 'few_shot'),
        ('--prompt=loud', 'prompt'),
        ('--name=../x', 'name'),
        ('--name=a/b', 'name'),
        ('--name=' + 'a' * 300, 'name'),
        ('--limit=-1', 'limit'),
        ('--split=dev', 'split'),
        ('--subset=x', 'subset'),
        ('--data=nonsense', 'nonsense'),
        ('--data=jsonl:absent', 'absent'),
        ('--data=data', 'data'),
        ('--max_dropped_fraction=2', 'max_dropped_fraction'),
        ('--answer_format=roman', 'answer_format'),
        ('--chat_template=absent.jinja', 'absent'),
        ('--workdir=', 'workdir'),
    ),
    'generate': (
        ('--text=', 'text'),
        ('--text=   ', 'text'),
        (b'--text=\xff', 'text'),
        ('--input=absent.jsonl', ''),
        ('--max_new_tokens=0', 'max_new_tokens'),
        ('--max_new_tokens=100000', 'max_new_tokens'),
        ('--temperature=-1', 'temperature'),
        ('--temperature=nan', 'temperature'),
        ('--top_p=0', 'top_p'),
        ('--top_p=2', 'top_p'),
        ('--seed=x', 'seed'),
        ('--policy=oracle', 'policy|behavior'),
        ('--step=1', 'step'),
        ('--model=absent', 'absent'),
    ),
    'export': (
        ('--step=99', 'step'),
        ('--step=-1', 'step'),
        ('--format=onnx', 'format'),
        ('--workdir=absent', 'absent'),
        ('--workdir=', 'workdir'),
        ('--output=', 'output'),
        ('--format=peft', 'peft|adapter'),
    ),
    'prepare': (
        ('--source=nonsense', 'source|nonsense'),
        ('--source=own.jsonl', r'jsonl:own\.jsonl'),
        ('--source=synthetic:x', 'synthetic'),
        ('--source=synthetic:0', 'synthetic'),
        ('--source=synthetic:-5', 'synthetic'),
        ('--source=jsonl:absent', 'absent'),
        ('--source=medec:absent', 'absent'),
        ('--source=hf:../absent', ''),
        ('--source=tfds:mnist', 'tfds'),
        ('--source=tfds:../x', 'tfds'),
        ('--map=absent.json', 'absent'),
        ('--format=csv', 'format'),
        ('--inspect=-1', 'inspect'),
        ('--seed=x', 'seed'),
        ('--output=', 'output'),
    ),
    'plan': (
        ('--topology=v9:2x2', 'topology|v9'),
        ('--topology=cpu:0', 'topology|cpu'),
        ('--topology=cpu:x', 'topology|cpu'),
        ('--topology=', 'topology'),
        ('--config.data.global_batch_rows=3', 'global_batch_rows'),
    ),
    'doctor': (('--config.model.base=absent', 'base'), ('--config=absent.py', 'absent')),
    'study': (
        ('--jobs=0', 'jobs'),
        ('--override=x', 'override'),
        ('--override=nothing.more=1', 'nothing'),
        ('--override=optimizer.learning_rate=fast', 'learning_rate'),
        ('--launcher=magic', 'launcher'),
        ('--config=absent.py', 'absent'),
    ),
    'train_tokenizer': (
        ('--vocab_size=3', 'vocab_size'),
        ('--vocab_size=-1', 'vocab_size'),
        ('--source=nonsense', 'nonsense'),
        ('--output=', 'output'),
    ),
    'table': (('--runs=absent', 'absent'), ('--runs=', 'runs')),
}
# Name → a config file that is none.
CONFIG_FILES = {
    'empty': '',
    'returns 1': 'def get_config(arg=""): return 1',
    'raises SystemExit(0)': 'raise SystemExit(0)',
    'exits in get_config': 'def get_config(arg=""):\n  raise SystemExit(0)',
    'imports what is not there': 'import nothing_of_this_name',
    'has a wrong syntax': 'def get_config(:',
    'has a wrong indent': 'def get_config():\nreturn 1',
    'is binary': b'\x80\x04\x95\xff',
    'raises': 'def get_config(arg=""): raise ValueError("no")',
    'divides by zero': '1 / 0',
    'has no parameter': 'from bsft_jax.config import RunConfig\nget_config = 3',
}
ARM_NAMES = ('../../escaped', 'a/b', '', '.', '..', '/tmp/escaped', 'a' * 300, 'a\nb')


def _wrong(place: Place, command: str, flag: str | bytes, says: str) -> str:
    values = {
        name: getattr(place, name) for name in ('config', 'run', 'base', 'data', 'study', 'here')
    }
    name = flag.split(b'=' if isinstance(flag, bytes) else '=')[0]
    name = os.fsdecode(name)
    right = [f.format(**values) for f in RIGHT[command] if f.split('=')[0] != name]
    place.write('own.jsonl', '{}')
    done = place.command(command, *right, flag)
    written = [path.name for path in (place.here / 'out', place.here / 'run') if path.exists()]
    return f'{written} is written, {done.end}' if written else refused(done, says)


def _missing(place: Place, command: str, index: int) -> str:
    values = {
        name: getattr(place, name) for name in ('config', 'run', 'base', 'data', 'study', 'here')
    }
    flags = [flag.format(**values) for flag in RIGHT[command]]
    missing = flags.pop(index).split('=')[0].lstrip('-')
    return refused(place.command(command, *flags), missing)


def _config_file(place: Place, command: str, content: str | bytes) -> str:
    path = place.write('own.py', content)
    more = {'train': '--workdir=r', 'study': '--workdir=r', 'doctor': '--workdir=.'}[command]
    return refused(place.command(command, f'--config={path}', more), r'own\.py')


def _arm(place: Place, name: str) -> str:
    text = place.study.read_text().replace("Arm('a'", f'Arm({name!r}')
    path = place.write('study.py', text)
    done = place.command('study', f'--config={path}', f'--workdir={place.here / "s"}')
    return refused(done)


def cases(rng: random.Random) -> list[Case]:
    """Returns wrong and missing flags, and config files."""
    del rng
    found = []

    def add(kind: str, name: str, check, *arguments) -> None:
        needs_run = kind == 'flags'
        found.append(Case.calling(kind, name, check, *arguments, needs_run=needs_run))

    for command, wrong in WRONG.items():
        for flag, says in wrong:
            add('flags', f'{command} {flag[:60]!r}', _wrong, command, flag, says)
    for command, flags in RIGHT.items():
        for index, flag in enumerate(flags):
            needed = ('--config', '--workdir', '--output', '--source', '--runs')
            if flag.split('=')[0] in needed:
                add('flags', f'{command} without {flag[:12]}', _missing, command, index)
    for name, content in CONFIG_FILES.items():
        for command in ('train', 'study', 'doctor'):
            add('config files', f'{command}, {name}', _config_file, command, content)
    for name in ARM_NAMES:
        add('config files', f'an arm called {name[:20]!r}', _arm, name)
    return found
