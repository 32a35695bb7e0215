"""Asks a model behind an endpoint and writes what `evaluate` writes; needs no JAX and no device."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import pathlib
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bsft_jax import files
from bsft_jax.behaviors import Behavior, BehaviorSet
from bsft_jax.commands import eval_folder, responses
from bsft_jax.commands.prompting import parse_prompt_flags, show_in_style
from bsft_jax.data import checks, eval_records, sources
from bsft_jax.data.chat_messages import ChatWriter
from bsft_jax.errors import UserError
from bsft_jax.evaluation import metrics as metrics_lib
from bsft_jax.inference import endpoint as endpoint_lib
from bsft_jax.inference import letters, policies
from bsft_jax.inference.endpoint import ChatClient, Endpoint, Stopped
from bsft_jax.inference.scores import Scores
from bsft_jax.parallel import processes
from bsft_jax.records.digest import digest_of_words
from bsft_jax.records.record import Record
from bsft_jax.training.progress import progress

# Longest answer in tokens where nothing is said.
MAX_NEW_TOKENS = 64
# Seconds in which requests under way may still be answered when the command ends.
_LAST_ANSWERS = 2.0
# Share of answers that cannot be read from which the user is told what may help.
_MANY_UNPARSED = 0.05


@dataclasses.dataclass(frozen=True)
class EndpointOptions:
    """Describes an evaluation of a model behind an endpoint.

    Attributes:
      workdir: folder whose `eval/NAME` gets the results.
      endpoint: the model.
      data: data source.
      split: split of the source.
      subset: as in `EvaluateOptions`.
      limit: as in `EvaluateOptions`.
      prompt: prompt style.
      examples: data source whose train split `few_shot` shows; empty for the one that is asked.
      policy: `auto` or `none`, which mean the same: nothing is put before an answer.
      name: folder of the results; empty for one that tells the settings.
      behaviors: the behaviors that records name; empty for the default ones.
      ask_for_letter: whether the prompt ends with the request to begin with a letter.
      max_new_tokens: longest answer in tokens.
      concurrency: requests at a time.
      prices: price of a million tokens of the prompts and of the answers; None for unknown.
    """

    workdir: str
    endpoint: Endpoint
    data: str
    split: str = 'test'
    subset: str = 'all'
    limit: int = 0
    prompt: str = 'plain'
    examples: str = ''
    policy: str = 'auto'
    name: str = ''
    behaviors: tuple[Behavior, ...] = ()
    ask_for_letter: bool = False
    max_new_tokens: int = MAX_NEW_TOKENS
    concurrency: int = 8
    prices: tuple[float, float] | None = None


@dataclasses.dataclass(frozen=True)
class _Question:
    """Holds what is sent for a record, and under which key its answer is kept."""

    record: Record
    messages: list[dict[str, str]]
    key: responses.Key


def parse_prices(text: str) -> tuple[float, float] | None:
    """Reads `IN,OUT`, prices of a million tokens; None without. Raises UserError otherwise."""
    if not text:
        return None
    try:
        prices = tuple(map(float, text.split(',')))
    except ValueError:
        prices = ()
    if len(prices) != 2 or not all(0 <= price < float('inf') for price in prices):
        raise UserError(
            'is not two prices', where=f'--price_per_million={text}', fix='write IN,OUT'
        )
    return prices


def evaluate_endpoint(options: EndpointOptions) -> tuple[pathlib.Path, dict[str, Any]]:
    """Asks every record once and writes predictions, metrics and their page.

    What an earlier call for the same folder was answered is not asked again.

    Returns:
      The folder and the metrics.

    Raises:
      UserError: settings that do not go together, records that cannot be asked, a server that does
        not answer, or a place that cannot be written or that another process writes to.
    """
    style = parse_prompt_flags(options.prompt, options.examples)
    url = endpoint_lib.check_url(options.endpoint.url)
    endpoint = dataclasses.replace(options.endpoint, url=url)
    options = dataclasses.replace(options, endpoint=endpoint)
    behaviors = BehaviorSet(options.behaviors)
    _check(options, behaviors)
    key = endpoint_lib.read_key()
    records = eval_records.choose_records(
        eval_records.load_scorable(options.data, options.split),
        options.data,
        options.subset,
        options.limit,
    )
    checks.check_behaviors(records, behaviors.behaviors_or_default)
    writer = ChatWriter(options.ask_for_letter)
    shown = show_in_style(style, records, writer, behaviors, options.examples or options.data)
    questions = [_question(record, writer, options) for record in shown]

    settings = _settings(options)
    directory = _directory(options, style.name, settings)
    with contextlib.ExitStack() as stack:
        with files.writing(directory):
            eval_folder.claim(directory, stack)
        log = responses.ResponseLog(directory / responses.NAME)
        if warning := endpoint_lib.warn_of_plain_text(endpoint.url):
            processes.log_first(warning)
        client = ChatClient(endpoint, key, options.max_new_tokens, processes.log_first)
        _ask_all(questions, client, log, options.concurrency)
        answers = [log.get(question.key) for question in questions]
        scores = _scores(shown, answers, behaviors, style.name)
        rows = policies.predictions(shown, scores, options.policy)
        metrics = metrics_lib.metrics_from_predictions(
            rows,
            policy=options.policy,
            prompt=style.name,
            positive=behaviors.highest,
            levels=behaviors.levels,
        )
        metrics |= {'left_out': 0, 'split': options.split, **settings, 'step': None}
        metrics |= {'ask_for_letter': options.ask_for_letter, **_usage(answers, options.prices)}
        metrics |= {'trained_on': None, 'behaviors': behaviors.levels}
        eval_folder.write(directory, rows, metrics, records)
    return directory, metrics


def _check(options: EndpointOptions, behaviors: BehaviorSet) -> None:
    """Raises UserError for settings that are wrong whatever the records are."""
    eval_records.parse_subset(options.subset)
    sources.check_name(options.data, '--data')
    if options.name:
        files.check_name(options.name, '--name')
    eval_folder.check_place(options.workdir, options.name)
    policies.parse_policy(options.policy, behaviors)


def _settings(options: EndpointOptions) -> dict[str, Any]:
    return {
        'subset': options.subset,
        'limit': options.limit,
        'data': options.data,
        'examples': options.examples,
        'model': options.endpoint.model,
        'endpoint': options.endpoint.url,
        'max_new_tokens': options.max_new_tokens,
        'answer_format': 'letter',
    }


def _directory(options: EndpointOptions, style: str, settings: Mapping[str, Any]) -> pathlib.Path:
    """Returns the folder of the results, whose default name tells the settings."""
    parts = [options.split, options.policy, *([] if style == 'plain' else [style])]
    parts += ['ask_for_letter'] if options.ask_for_letter else []
    defaults = {'subset': 'all', 'max_new_tokens': MAX_NEW_TOKENS, 'answer_format': 'letter'}
    name = options.name or eval_folder.evaluation_name(parts, settings, defaults)
    return pathlib.Path(options.workdir) / 'eval' / name


def _question(record: Record, writer: ChatWriter, options: EndpointOptions) -> _Question:
    messages = writer.messages(record)
    endpoint = options.endpoint
    sent = [endpoint.url, endpoint.model, options.max_new_tokens, messages]
    request = hashlib.blake2b(json.dumps(sent).encode(), digest_size=16).hexdigest()
    key = responses.Key(record.id, digest_of_words(record), request)
    return _Question(record, messages, key)


def _ask_all(
    questions: Sequence[_Question],
    client: ChatClient,
    log: responses.ResponseLog,
    concurrency: int,
) -> None:
    """Asks what has no answer yet, several at a time.

    When it ends early, by an error or by Ctrl-C, nothing more is asked, and requests under way have
    a moment to be answered: they have been paid for.

    Raises the first error of a request.
    """
    waiting: queue.SimpleQueue[_Question] = queue.SimpleQueue()
    done: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
    open_questions = [question for question in questions if log.get(question.key) is None]
    for question in open_questions:
        waiting.put(question)
    if known := len(questions) - len(open_questions):
        processes.log_first(f'{known} of {len(questions)} records were answered before')
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            try:
                question = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                _ask(question, client, log, stop)
                done.put(None)
            except BaseException as error:
                done.put(error)

    threads = [
        threading.Thread(target=work, daemon=True)
        for _ in range(min(concurrency, len(open_questions)))
    ]
    try:
        with progress('evaluate', len(questions), known) as bar:
            for thread in threads:
                thread.start()
            for _ in open_questions:
                if error := done.get():
                    raise error
                bar.update()
    finally:
        stop.set()
        deadline = time.monotonic() + _LAST_ANSWERS
        for thread in threads:
            if thread.ident is not None:
                thread.join(max(deadline - time.monotonic(), 0))


def _ask(
    question: _Question, client: ChatClient, log: responses.ResponseLog, stop: threading.Event
) -> None:
    """Asks one question and keeps the answer."""
    name = f'record {question.record.id!r}'
    try:
        reply = client.ask(name, question.messages, stop)
    except Stopped:
        return
    choice = letters.read_choice(reply.text, reply.tokens, question.record.options)
    told = dataclasses.asdict(reply)
    del told['tokens']
    log.append(question.key, {**told, **choice._asdict()})


def _scores(
    records: Sequence[Record],
    answers: Sequence[Mapping[str, Any]],
    behaviors: BehaviorSet,
    prompt: str,
) -> Scores:
    """Returns answers as the scores of a model without behavior tokens."""
    most = max(len(record.options) for record in records)
    option_RWK = np.full((len(records), 1, most), -np.inf, np.float32)
    for scores_WK, record, answer in zip(option_RWK, records, answers, strict=True):
        num_options = len(record.options)
        if answer['option_logprobs']:
            scores_WK[0, :num_options] = answer['option_logprobs']
        else:
            option = answer['option']
            taken = letters.wrong_option(record, behaviors.levels) if option is None else option
            scores_WK[0, :num_options] = letters.UNNAMED
            scores_WK[0, taken] = 0.0
    return Scores(behaviors, np.zeros((len(records), 0), np.float32), option_RWK, prompt=prompt)


def _usage(
    answers: Sequence[Mapping[str, Any]], prices: tuple[float, float] | None
) -> dict[str, Any]:
    """Returns what metrics.json says of the answers themselves: `unparsed` and `answers`."""
    ways = [answer['by'] for answer in answers]
    latency_R = np.array([answer['latency_seconds'] for answer in answers])
    tokens = [_total(answers, name) for name in ('prompt_tokens', 'completion_tokens')]
    cost = None
    if prices and None not in tokens:
        cost = sum(n * price for n, price in zip(tokens, prices, strict=True)) / 1e6
    unparsed = ways.count('unparsed') / len(ways)
    if unparsed > _MANY_UNPARSED:
        processes.log_first(
            f'warning: {ways.count("unparsed")} of {len(ways)} answers name no option and count as '
            'wrong; --ask_for_letter or a larger --max_new_tokens may help'
        )
    if any(answer['is_drawn'] for answer in answers):
        processes.log_first(
            'warning: the server takes no temperature: answers are drawn at random, and others '
            'would come another time'
        )
    return {
        'unparsed': unparsed,
        'answers': {
            **{way: ways.count(way) for way in ('logprobs', 'first_token', 'text', 'unparsed')},
            'cut': sum(answer['finish_reason'] == 'length' for answer in answers),
            'drawn': sum(answer['is_drawn'] for answer in answers),
            'attempts': sum(answer['attempts'] for answer in answers),
            'latency_seconds': {
                'median': float(np.median(latency_R)),
                'p95': float(np.quantile(latency_R, 0.95)),
            },
            'prompt_tokens': tokens[0],
            'completion_tokens': tokens[1],
            'cost': cost,
        },
    }


def _total(answers: Sequence[Mapping[str, Any]], name: str) -> int | None:
    """Returns the sum over all answers; None where the server did not say it of each."""
    values = [answer[name] for answer in answers]
    return None if None in values else sum(values)
