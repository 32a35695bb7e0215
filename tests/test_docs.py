"""Checks that the docs name what exists: links, files of the repository, flags, config fields."""

import pathlib
import re

import pytest

from bsft_jax import config as config_lib

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', *(ROOT / 'docs').glob('*.md'))
)
# Name of a command → its file; a package of its name has it in `__main__.py`.
COMMANDS = {
    path.parent.name if path.stem == '__main__' else path.stem: path
    for pattern in ('*.py', '*/__main__.py')
    for path in sorted((ROOT / 'bsft_jax').glob(pattern))
    if 'cli.run(main' in path.read_text(encoding='utf-8')
}
# Folders that a path in the docs may be relative to.
BASES = (ROOT, ROOT / 'bsft_jax', ROOT / 'launch')
PATH = re.compile(r'`([\w./-]+\.(?:py|sh|sbatch|yaml|md)|(?:[\w-]+/)+)`')
# Files that a user makes, and placeholders.
USER_FOLDERS = (
    'runs|tfds|damaged|logs|points|profile|tensorboard|eval|checkpoints|behavior_bench|wandb'
)
NOT_OURS = re.compile(rf'^(?:{USER_FOLDERS})/|\bX\.py$|/FILE\.py$')
FLAG = re.compile(r"flags\.DEFINE_\w+\(\s*'(\w+)'")


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding='utf-8')


def exists(path: str) -> bool:
    return any((base / path).exists() for base in BASES)


@pytest.mark.parametrize('page', PAGES)
def test_links_lead_to_files(page):
    folder = (ROOT / page).parent
    for target in re.findall(r'\]\(([^)#\s]+)(?:#[\w-]+)?\)|src="([^"]+)"', text_of(page)):
        target = ''.join(target)
        assert target.startswith('http') or (folder / target).exists(), target


@pytest.mark.parametrize('page', PAGES)
def test_links_within_a_page_lead_to_headings(page):
    headings = re.findall(r'^#+ (.+)$', text_of(page), re.M)
    anchors = {re.sub(r'[^\w -]', '', heading).lower().replace(' ', '-') for heading in headings}
    assert set(re.findall(r'\]\(#([\w-]+)\)', text_of(page))) <= anchors


@pytest.mark.parametrize('page', PAGES)
def test_files_that_a_page_names_exist(page):
    names = {name for name in PATH.findall(text_of(page)) if not NOT_OURS.search(name)}
    assert not sorted(name for name in names if not exists(name))


def test_the_tree_of_the_architecture_page_exists():
    tree = text_of('docs/architecture.md').split('\n## Tree\n')[1].split('```')[1]
    for line in tree.strip().splitlines():
        folder = match[1] if (match := re.match(r'(\w+/)', line)) else ''
        for name in re.findall(r'\w+\.py\b|\w+/(?= \(|,|$)', line.removeprefix(folder)):
            assert exists(folder + name), folder + name


@pytest.mark.parametrize('page', PAGES)
def test_config_fields_that_a_page_names_exist(page):
    fields = set(config_lib.flatten(config_lib.RunConfig().to_dict()))
    named = set(re.findall(r'--config\.([a-z_0-9]+\.[a-z_0-9]+)', text_of(page)))
    sections = '|'.join({field.split('.')[0] for field in fields if '.' in field})
    named |= set(
        re.findall(rf'`((?:{sections})\.(?!py|jsonl|csv)[a-z_0-9]+)(?:=[^`]*)?`', text_of(page))
    )
    assert not sorted(named - fields)


@pytest.mark.parametrize('command', COMMANDS)
def test_the_commands_page_has_every_flag(command):
    section = text_of('docs/commands.md').split(f'\n## {command}\n')[1].split('\n## ')[0]
    source = COMMANDS[command].read_text(encoding='utf-8')
    assert not [flag for flag in FLAG.findall(source) if f'--{flag}' not in section]


def test_the_commands_page_has_every_shared_flag():
    page, source = text_of('docs/commands.md'), (ROOT / 'bsft_jax/cli.py').read_text()
    assert FLAG.findall(source)
    assert not [flag for flag in FLAG.findall(source) if f'`--{flag}' not in page]


def test_the_architecture_page_is_short():
    assert len(text_of('docs/architecture.md').splitlines()) <= 120
