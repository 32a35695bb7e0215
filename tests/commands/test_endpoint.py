"""Tests of `evaluate --endpoint`: its numbers, its prompts, and that nothing is asked twice."""

import dataclasses
import json
import threading

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

import bsft_jax
from bsft_jax import files
from bsft_jax.behaviors import BehaviorSet
from bsft_jax.commands import endpoint as endpoint_lib
from bsft_jax.commands.rescore import RescoreOptions, rescore
from bsft_jax.data.chat_messages import REQUEST
from bsft_jax.data.prompts import instructions
from bsft_jax.data.rendering import list_options
from bsft_jax.errors import UserError
from bsft_jax.inference import letters, policies
from bsft_jax.inference.scores import Scores
from bsft_jax.records.record import Message, Record
from bsft_jax.studies import compare
from tests.chat_server import Answer, said
from tests.commands.asking import LETTERS, answer_by, lines_of, question


def one_hot(records, options):
    """Returns the scores of a model that is sure of these options."""
    option_RWK = np.full((len(records), 1, max(len(r.options) for r in records)), -np.inf)
    for scores_WK, record, option in zip(option_RWK, records, options, strict=True):
        scores_WK[0, : len(record.options)] = letters.UNNAMED
        scores_WK[0, option] = 0
    empty = np.zeros((len(records), 0), np.float32)
    return Scores(BehaviorSet(), empty, option_RWK.astype(np.float32))


def assert_same_numbers(folder, metrics, records, scores):
    assert files.read_lines(folder / 'predictions.jsonl') == policies.predictions(records, scores)
    expected = bsft_jax.compute_metrics(records, scores)
    assert {name: metrics[name] for name in expected} == expected


def test_numbers_are_those_of_the_log_probabilities(server, records, ask):
    rng = np.random.default_rng(0)
    option_RWK = np.full((len(records), 1, max(len(r.options) for r in records)), -np.inf)
    for scores_WK, record in zip(option_RWK, records, strict=True):
        scores_WK[0, : len(record.options)] = np.log(rng.dirichlet(np.ones(len(record.options))))

    def reply(i):
        scores = {f' {LETTERS[k]}': s for k, s in enumerate(option_RWK[i, 0]) if s > -np.inf}
        best = max(scores, key=scores.get)
        top = [('<|reactive|>', {'<|reactive|>': -0.1}), ('Answer:', {'Answer:': -0.1})]
        return said(f'Answer:{best}.', [*top, (best, scores)])

    server.reply = answer_by(records, reply)
    folder, metrics = ask()
    empty = np.zeros((len(records), 0), np.float32)
    scores = Scores(BehaviorSet(), empty, option_RWK.astype(np.float32))
    assert_same_numbers(folder, metrics, records, scores)
    assert json.loads((folder / 'metrics.json').read_text()) == json.loads(json.dumps(metrics))
    answers = metrics['answers']
    assert (metrics['unparsed'], answers['logprobs']) == (0, len(records))
    # What the numbers become under another policy, and beside another evaluation.
    again, repeated = rescore(RescoreOptions(str(folder), 'none', 'again'))
    assert repeated['overall'] == metrics['overall'] and repeated['endpoint'] == server.url
    options = compare.CompareOptions(str(folder), str(again))
    assert compare.compare_evaluations(options)['n'] == len(records)
    page = (folder / 'report.html').read_text()
    assert server.url in page and 'How sure the model was' not in page


def test_numbers_are_those_of_the_words(server, records, ask):
    chosen = [i % len(record.options) for i, record in enumerate(records)]
    server.reply = answer_by(records, lambda i: said(f'I choose option {LETTERS[chosen[i]]}, sure'))
    folder, metrics = ask(prices=(2.0, 8.0))
    assert_same_numbers(folder, metrics, records, one_hot(records, chosen))
    truth = [record.answer for record in records]
    assert metrics['overall']['accuracy'] == accuracy_score(truth, chosen)
    pooled = f1_score(truth, chosen, average='macro')
    assert metrics['overall']['macro_f1_pooled'] == pytest.approx(pooled, abs=1e-12)
    answers, number = metrics['answers'], len(records)
    assert (answers['text'], answers['attempts']) == (number, number)
    assert answers['cut'] == answers['drawn'] == 0
    assert (answers['prompt_tokens'], answers['completion_tokens']) == (50 * number, 5 * number)
    assert answers['cost'] == pytest.approx((50 * 2 + 5 * 8) * number / 1e6)
    gap = f'How sure the model was of {number} answers: the server gave no probabilities'
    assert gap in (folder / 'report.html').read_text()
    assert 0 < answers['latency_seconds']['median'] <= answers['latency_seconds']['p95']


def test_an_answer_without_an_option_is_wrong(server, records, ask, capsys):
    right = [LETTERS[record.answer] for record in records]
    server.reply = answer_by(
        records, lambda i: said('No idea.' if i % 3 == 0 else f'{right[i]}.', usage=())
    )
    folder, metrics = ask()
    unreadable = len(range(0, len(records), 3))
    assert metrics['unparsed'] == unreadable / len(records)
    assert metrics['overall']['accuracy'] == (len(records) - unreadable) / len(records)
    assert metrics['answers']['unparsed'] == unreadable
    assert metrics['answers']['prompt_tokens'] is metrics['answers']['cost'] is None
    line = f'{unreadable} of {len(records)} answers name no option and count as wrong; --ask_for_'
    assert line in capsys.readouterr().err
    rows = files.read_lines(folder / 'predictions.jsonl')
    assert [row['prediction'] != row['answer'] for row in rows] == [
        i % 3 == 0 for i in range(len(records))
    ]
    assert metrics['overall']['n'] == len(records)


def test_answers_that_are_drawn_at_random_are_counted(server, ask, capsys):
    def reply(body):
        if 'temperature' in body:
            return Answer({'error': 'temperature must be 1'}, status=400)
        return said('A.')

    server.reply = reply
    folder, metrics = ask(limit=6)
    assert metrics['answers']['drawn'] == 6 and metrics['answers']['attempts'] > 6
    assert all(line['is_drawn'] for line in lines_of(folder))
    assert 'warning: the server takes no temperature: answers are drawn' in capsys.readouterr().err


def test_an_answer_without_an_option_raises_nothing():
    levels = {'reactive': 0.0, 'proactive': 1.0}
    stands = ('proactive', 'reactive', 'reactive', 'proactive')

    def wrong(answer, stands=stands):
        record = Record((), options=tuple('abcd'), option_behaviors=stands, answer=answer)
        return letters.wrong_option(record, levels)

    assert [wrong(answer) for answer in range(4)] == [1, 2, 1, 1]
    assert [wrong(answer, ()) for answer in range(4)] == [1, 2, 3, 0]
    assert wrong(1, ('proactive', 'reactive', 'proactive', 'proactive')) == 2


def test_as_many_requests_as_asked_for_are_under_way(server, records, ask):
    # Nobody is answered before three have asked.
    barrier = threading.Barrier(3, timeout=20)

    def reply(body):
        barrier.wait()
        return said('A.')

    server.reply = reply
    ask(concurrency=3)
    assert len(server.asked) == len(records) and not barrier.broken


def test_prompts_are_those_of_other_evaluations(server, records, ask):
    named = Message('user', 'Look this over.', name='Dr. Ito')
    shown = dataclasses.replace(records[0], messages=(Message('system', 'Be kind.'), named))

    def messages_of(**options):
        server.asked.clear()
        ask(**options)
        return server.asked[0][2]['messages']

    plain = messages_of(limit=1)
    assert plain == [{'role': 'user', 'content': question(records[0])}]
    (asked,) = messages_of(limit=1, ask_for_letter=True)
    assert asked['content'] == f'{plain[0]["content"]}\n\n{REQUEST}'
    system, last = messages_of(limit=1, prompt='instructed')
    text = instructions(BehaviorSet().behaviors_or_default)
    assert (system, last) == ({'role': 'system', 'content': text}, plain[0])
    *turns, last = messages_of(limit=1, prompt='few_shot:2', examples='synthetic:40')
    assert last == plain[0]
    assert (turns[0]['role'], turns[-1]['role']) == ('user', 'assistant')
    assert sum(turn['content'].startswith('Answer: ') for turn in turns) == 2
    writer = endpoint_lib.ChatWriter()
    assert writer.messages(shown) == [
        {'role': 'system', 'content': 'Be kind.'},
        {'role': 'user', 'content': list_options('Dr. Ito: Look this over.', shown.options)},
    ]


@pytest.mark.parametrize('text', ['1', '1,2,3', 'a,b', '-1,2', '1,nan', 'inf,1', ','])
def test_prices_are_two_numbers(text):
    with pytest.raises(UserError, match='--price_per_million=.*: is not two prices'):
        endpoint_lib.parse_prices(text)
    assert endpoint_lib.parse_prices('0.15,0.6') == (0.15, 0.6)
    assert endpoint_lib.parse_prices('') is None


def test_what_cannot_be_asked_leaves_no_folder(server, ask, tmp_path):
    for options, line in (
        ({'policy': 'oracle'}, "'oracle' needs behaviors to choose from"),
        ({'policy': 'dial:1'}, "'dial:1' needs behaviors to choose from"),
        ({'subset': 'odd'}, "--subset: 'odd' is not one of"),
        ({'name': 'a/b'}, '--name: .* is not the name of one folder'),
        ({'examples': 'synthetic:40'}, 'belongs to --prompt=few_shot:K'),
    ):
        with pytest.raises(UserError, match=line):
            ask(**options)
    server.close()
    with pytest.raises(UserError, match='Connection refused, 3 times; start again: what was ans'):
        ask()
    assert not server.asked and not list(tmp_path.rglob('test'))
