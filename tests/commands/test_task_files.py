"""Tests of `prepare --format=lm_eval` and `--format=inspect`: the files, and the tools' figures."""

import dataclasses
import json
import math
import runpy
import subprocess
import sys

import numpy as np
import pytest
import yaml

from bsft_jax.commands import prepare as prepare_lib
from bsft_jax.commands import task_files
from bsft_jax.data import sources
from bsft_jax.data.rendering import list_options
from bsft_jax.errors import UserError
from bsft_jax.evaluation import metrics
from bsft_jax.records.record import SPLITS, Message, Record, write_jsonl

SOURCE = 'synthetic:10:0'
FILES = {
    'lm_eval': {'utils.py', 'behavior_bench.yaml'},
    'inspect': {'behavior_bench.py'},
}
COMMON = {'README.md', 'card.json', 'macro_f1.py', *(f'{split}.jsonl' for split in SPLITS)}
# What a template, YAML, a shell or a reader of lines could take for its own.
ODD = (
    '{{ 7 * 7 }} {% raw %} {question} {0} ${HOME} $(id) `id`',
    '!function os.system: [a, b] # "quoted" \'twice\' \\n \\',
    '2024-01-01T00:00:00',
    '42',
    'line\u2028separator\x85and\rreturn\x1c\ttab – Größe “ok” 漢字',
)


def odd_records():
    return [
        Record(
            messages=(Message('user', f'{text} {i}' if i else text),),
            id=f'{text[:9]} {split}{i}',
            split=split,
            group=ODD[i],
            options=(*ODD, 'last'),
            answer=i,
        )
        for split in SPLITS
        for i, text in enumerate(ODD)
    ]


def rows_of(path):
    # Other characters that end a line in `splitlines` stand in texts as they are.
    return [json.loads(line) for line in path.read_bytes().decode().split('\n')[:-1]]


def plain(prediction_of, records):
    """Returns our metrics for predictions of records."""
    rows = [
        vars(record) | {'prediction': prediction_of(record), 'behavior_logprobs': None}
        for record in records
    ]
    return metrics.metrics_from_predictions(rows, policy='none', prompt='plain')


def assert_equal(figures, ours, accuracy='acc'):
    keys = task_files.group_keys(ours['groups'])
    expected = {f'macro_f1_{keys[name]}': x['macro_f1'] for name, x in ours['groups'].items()}
    expected |= {'macro_f1': ours['overall']['macro_f1'], accuracy: ours['overall']['accuracy']}
    assert len(expected) >= 4
    assert {name: figures[name] for name in expected} == pytest.approx(expected, abs=1e-6, rel=0)


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp('tasks')
    for tool in task_files.TOOLS:
        prepare_lib.prepare([SOURCE], place / tool, format=tool)
    return place


@pytest.fixture(params=['synthetic', 'odd'])
def task(request, folders, tmp_path):
    """Returns the folder above that of each tool, and the test records in it."""
    if request.param == 'synthetic':
        return folders, sources.load_records(SOURCE, 'test')
    write_jsonl(tmp_path / 'odd.jsonl', odd_records())
    for tool in task_files.TOOLS:
        prepare_lib.prepare([f'jsonl:{tmp_path / "odd.jsonl"}'], tmp_path / tool, format=tool)
    return tmp_path, [record for record in odd_records() if record.split == 'test']


@pytest.mark.parametrize('tool', task_files.TOOLS)
def test_files_are_as_stated_and_the_same_each_time(tool, folders, tmp_path):
    folder, tested = folders / tool, sources.load_records(SOURCE, 'test')
    assert {path.name for path in folder.iterdir()} == COMMON | FILES[tool]
    card = json.loads((folder / 'card.json').read_text())
    for split in SPLITS:
        rows = rows_of(folder / f'{split}.jsonl')
        assert len(rows) == card['files'][f'{split}.jsonl']['records'] > 0
    assert [row['id'] for row in rows] == [record.id for record in tested]
    readme = (folder / 'README.md').read_text()
    assert all(f'`{name}`' in readme for name in COMMON | FILES[tool] if name != 'README.md')
    # Running a task leaves Python's cache beside it.
    (tmp_path / 'again').mkdir()
    for _ in range(2):
        prepare_lib.prepare([SOURCE], tmp_path / 'again', format=tool)
        assert {path.name: path.read_bytes() for path in (tmp_path / 'again').iterdir()} == {
            path.name: path.read_bytes() for path in folder.iterdir()
        }
        (tmp_path / 'again' / '__pycache__').mkdir()


def test_a_readme_of_ones_own_is_left_alone(tmp_path):
    prepare_lib.prepare([SOURCE], tmp_path / 'set')
    (tmp_path / 'set' / 'README.md').write_text('mine')
    with pytest.raises(UserError, match='contains files that are not part of a data set'):
        prepare_lib.prepare([SOURCE], tmp_path / 'set', format='lm_eval')
    assert (tmp_path / 'set' / 'README.md').read_text() == 'mine'


def test_a_prompt_is_the_lettered_question():
    record = Record(messages=(Message('user', 'Which?'),), options=('this', 'that'), answer=1)
    assert task_files.prompt_text(record) == list_options('Which?', record.options)
    turns = (Message('system', 'Be brief.'), Message('user', 'A note.', 'RN Ito'))
    record = dataclasses.replace(record, messages=(*turns, Message('user', 'Which?', 'Dr. Vega')))
    assert task_files.prompt_text(record) == (
        'Be brief.\n\nRN Ito: A note.\n\nDr. Vega: Which?\nA. this\nB. that'
    )
    spoken = (*turns, Message('assistant', 'Noted.'), Message('user', 'Which?'))
    record = dataclasses.replace(record, messages=spoken)
    assert task_files.prompt_text(record) == (
        'System: Be brief.\n\nUser: RN Ito: A note.\n\nAssistant: Noted.\n\n'
        'User: Which?\nA. this\nB. that'
    )


@pytest.mark.parametrize('tool', task_files.TOOLS)
def test_words_of_records_stand_in_the_records_alone(tool, tmp_path):
    records = odd_records()
    write_jsonl(tmp_path / 'odd.jsonl', records)
    prepare_lib.prepare([f'jsonl:{tmp_path / "odd.jsonl"}'], tmp_path / 'task', format=tool)
    prepare_lib.prepare([SOURCE], tmp_path / 'other', format=tool)
    for name in (FILES[tool] | COMMON) - {'card.json', *(f'{split}.jsonl' for split in SPLITS)}:
        text = (tmp_path / 'task' / name).read_text()
        if name.endswith('.yaml'):
            names = '42', 'function_os_system_a_b_quoted_twice_n', '2024_01_01t00_00_00'
            assert all(f'  - metric: macro_f1_{group}\n' in text for group in names)
            text, other = (
                [line for line in file.splitlines() if 'metric: macro_f1_' not in line]
                for file in (text, (tmp_path / 'other' / name).read_text())
            )
            assert set(text) == set(other)
        else:
            assert text == (tmp_path / 'other' / name).read_text()
    shown = [record for record in records if record.split == 'test']
    rows = rows_of(tmp_path / 'task' / 'test.jsonl')
    assert [row['id'] for row in rows] == [record.id for record in shown]
    if tool == 'inspect':
        assert [row['input'] for row in rows] == [
            [{'role': 'user', 'content': record.messages[0].content}] for record in shown
        ]
        assert [row['choices'] for row in rows] == [list(record.options) for record in shown]
        assert [row['target'] for row in rows] == list('ABCDE')
        return
    # Read as the harness reads it: as it was written, also what looks like a date or a number.
    loaded = runpy.run_path(str(tmp_path / 'task' / 'utils.py'))['load'](version=1.0)
    assert list(loaded) == list(SPLITS)
    assert loaded['test'].to_list() == rows
    prompts = [list_options(record.messages[0].content, record.options) for record in shown]
    assert list(loaded['test']['prompt']) == prompts


def test_the_yaml_names_functions_of_its_folder_and_fields_of_records(folders):
    folder, named = folders / 'lm_eval', []

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor('!function', lambda _, node: named.append(node.value))
    task = yaml.load((folder / 'behavior_bench.yaml').read_text(), Loader)
    assert set(named) == {'utils.load', 'utils.process_results', 'macro_f1.macro_f1'}
    row = rows_of(folder / 'test.jsonl')[0]
    assert {task[f'doc_to_{part}'] for part in ('text', 'choice', 'target')} <= row.keys()
    for name in set(named):
        module, _, function = name.partition('.')
        assert callable(runpy.run_path(str(folder / f'{module}.py'))[function])
    splits = {key: value for key, value in task.items() if key.endswith('_split')}
    assert splits == {
        'training_split': 'train',
        'fewshot_split': 'train',
        'validation_split': 'validation',
        'test_split': 'test',
    }


def run_prepare(records, folder, tool):
    """Runs the command on records, beside whose file it writes the task."""
    write_jsonl(folder / 'mine.jsonl', records)
    flags = f'--source=jsonl:{folder / "mine.jsonl"}', f'--output={folder / "task"}'
    command = [sys.executable, '-m', 'bsft_jax.prepare', *flags, f'--format={tool}']
    return subprocess.run(command, capture_output=True, text=True)


def test_records_without_a_choice_are_left_out_and_none_is_refused(tmp_path):
    user, answer = Message('user', 'Which?'), Message('assistant', 'Done.')
    free = Record(messages=(user, answer), id='f', split='test')
    asked = Record(messages=(user,), options=('a', 'b'), answer=0, split='test')
    mute = dataclasses.replace(asked, messages=(Message('system', 'Which?'),))
    for records, what in (
        ([free], '--format=inspect: no record of the test split has options and an answer'),
        ([mute], "record '#0' ("),
    ):
        done = run_prepare(records, tmp_path, 'inspect')
        assert done.returncode == 2 and not (tmp_path / 'task').exists()
        (line,) = done.stderr.splitlines()
        assert line.startswith(f'error: {what}')
    done = run_prepare([free, asked], tmp_path, 'lm_eval')
    assert done.returncode == 0 and 'test.jsonl: 1 records\n' in done.stdout
    assert done.stderr == 'left out as nothing to choose from: 1 records\n'
    (row,) = rows_of(tmp_path / 'task' / 'test.jsonl')
    assert (row['id'], row['category'], row['group']) == ('#1', '', 'none')
    # Splits without records are none of the harness's.
    lines = (tmp_path / 'task' / 'behavior_bench.yaml').read_text().splitlines()
    assert [line for line in lines if '_split' in line] == ['test_split: test']


def test_groups_of_like_names_have_distinct_metrics():
    keys = task_files.group_keys(['proactive', 'A b', 'a_b', 'a-b', '', '漢字'])
    assert keys == {
        'proactive': 'proactive',
        '': 'none',
        'A b': 'a_b',
        'a-b': 'a_b_2',
        'a_b': 'a_b_3',
        '漢字': 'none_2',
    }


def test_macro_f1_of_the_tasks_is_ours(folders):
    macro_f1 = runpy.run_path(str(folders / 'lm_eval' / 'macro_f1.py'))['macro_f1']
    rng = np.random.default_rng(0)
    for _ in range(20):
        categories, answers, predictions = rng.integers([4, 5, 5], size=(30, 3)).T.tolist()
        names = [f'c{category}' for category in categories]
        rows = [
            {'group': name, 'answer': answer, 'prediction': prediction}
            for name, answer, prediction in zip(names, answers, predictions, strict=True)
        ]
        ours = metrics.metrics_from_predictions(rows, policy='none', prompt='plain')
        items = list(zip(names, answers, predictions, strict=True))
        assert macro_f1(items) == pytest.approx(ours['overall']['macro_f1'], abs=1e-12)
        for group, values in ours['groups'].items():
            of_group = [item if item[0] == group else None for item in items]
            assert macro_f1(of_group) == pytest.approx(values['macro_f1'], abs=1e-12)
    # Label 0 has a right prediction and a reply without one: 2 · 1 / 3.
    assert macro_f1([('c', 0, 0), ('c', 0, None)]) == pytest.approx(2 / 3)
    assert math.isnan(macro_f1([None]))


def run_lm_eval(folder, **options):
    """Returns the figures of lm-evaluation-harness, its scores and its prompts by record."""
    lm_eval = pytest.importorskip('lm_eval', reason='pip install lm_eval')
    from lm_eval.tasks import TaskManager

    done = lm_eval.simple_evaluate(
        tasks=['behavior_bench'],
        task_manager=TaskManager(include_path=str(folder)),
        bootstrap_iters=0,
        log_samples=True,
        **options,
    )
    figures = {name.split(',')[0]: x for name, x in done['results']['behavior_bench'].items()}
    samples = {sample['doc']['id']: sample for sample in done['samples']['behavior_bench']}
    scores = {
        name: [float(choice[0]) for choice in sample['filtered_resps']]
        for name, sample in samples.items()
    }
    prompts = {name: sample['arguments'][0][0] for name, sample in samples.items()}
    return figures, scores, prompts


def test_lm_eval_gives_our_figures(task, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    folder, tested = task
    figures, scores, prompts = run_lm_eval(folder / 'lm_eval', model='dummy')
    assert prompts == {record.id: task_files.prompt_text(record) for record in tested}
    ours = plain(lambda record: int(np.argmax(scores[record.id])), tested)
    assert_equal(figures, ours)


@pytest.mark.parametrize('shots', [0, 2])
def test_lm_eval_scores_a_model_as_we_do(shots, base, tmp_path):
    pytest.importorskip('lm_eval', reason='pip install lm_eval')
    pytest.importorskip('torch', reason='the models of lm_eval need torch')
    from bsft_jax import api

    # One turn each, which the harness shows as this package does.
    records = [
        dataclasses.replace(record, messages=record.messages[-1:])
        for split in ('train', 'test')
        for record in sources.load_records(SOURCE, split)[:40]
    ]
    write_jsonl(tmp_path / 'one.jsonl', records)
    prepare_lib.prepare([f'jsonl:{tmp_path / "one.jsonl"}'], tmp_path / 'task', format='lm_eval')
    figures, scores, _ = run_lm_eval(
        tmp_path / 'task',
        model='hf',
        model_args={'pretrained': str(base), 'dtype': 'float32'},
        device='cpu',
        batch_size=8,
        num_fewshot=shots,
        apply_chat_template=True,
        fewshot_as_multiturn=True,
    )
    tested = [record for record in records if record.split == 'test']
    choices = {record.id: int(np.argmax(scores[record.id])) for record in tested}
    ours = plain(lambda record: choices[record.id], tested)
    assert_equal(figures, ours)
    if shots:
        return
    own = api.score_records(api.load_model(base), tested)
    # The harness's log-probabilities include that of `Answer:`, the same for each option.
    for record, ours_K in zip(tested, own.option_logprob_RWK[:, 0], strict=True):
        theirs_K = np.array(scores[record.id])
        ours_K = ours_K[: len(theirs_K)]
        np.testing.assert_allclose(theirs_K - theirs_K[0], ours_K - ours_K[0], atol=1e-3)
    assert_equal(figures, api.compute_metrics(tested, own, 'none'))


def test_inspect_gives_our_figures(task, tmp_path, monkeypatch, caplog):
    inspect_ai = pytest.importorskip('inspect_ai', reason='pip install inspect_ai')
    from inspect_ai.model import ModelOutput, ModelUsage, get_model

    monkeypatch.chdir(tmp_path)
    folder, tested = task[0] / 'inspect', task[1]
    letters = {record.id: 'ABCD'[i % 4] for i, record in enumerate(tested)}
    by_words = {
        rows['input'][-1]['content']: letters[rows['id']] for rows in rows_of(folder / 'test.jsonl')
    }

    def run(reply_of):
        def reply(messages, tools, tool_choice, config):
            (words,) = [words for words in by_words if f'\n{words}\n' in messages[-1].text]
            content = reply_of(by_words[words])
            output = ModelOutput.from_content('mockllm/model', content)
            # Without usage it would count tokens with a vocabulary from the net.
            output.usage = ModelUsage(input_tokens=1, output_tokens=1, total_tokens=2)
            return output

        (log,) = inspect_ai.eval(
            f'{folder / "behavior_bench.py"}@behavior_bench',
            model=get_model('mockllm/model', custom_outputs=reply, memoize=False),
            display='none',
            log_dir=str(tmp_path / 'logs'),
        )
        assert log.status == 'success', log.error
        # It computes the metrics of no reply, too, and tells of what they raise.
        assert 'grouped_macro_f1 raised' not in caplog.text
        (score,) = log.results.scores
        return {name: metric.value for name, metric in score.metrics.items()}

    figures = run(lambda letter: f'ANSWER: {letter}')
    ours = plain(lambda record: 'ABCD'.index(letters[record.id]), tested)
    assert_equal(figures, ours, accuracy='accuracy')
    assert figures['no_answer'] == 0
    # As a model of this package says it, and replies without a letter.
    figures = run(lambda letter: 'I do not know.' if letter == 'A' else f'Answer: {letter}. So.')
    share = sum(letter == 'A' for letter in letters.values()) / len(letters)
    assert figures['no_answer'] == pytest.approx(share)
    macro_f1 = runpy.run_path(str(folder / 'macro_f1.py'))['macro_f1']
    items = [
        (record.category, record.answer, 'ABCD'.index(letter) if letter != 'A' else None)
        for record, letter in zip(tested, letters.values(), strict=True)
    ]
    assert figures['macro_f1'] == pytest.approx(macro_f1(items), abs=1e-6)
