"""Compares evaluation and decoding with torch `transformers`, in records per second.

    python -m benchmarks.inference    # about two minutes on 2 cores

Both use the bundled base and the synthetic test records. Scoring computes the log-probability of
each option after its prompt; torch runs each prompt with each option in padded batches, sorted by
length, as evaluation harnesses do. Decoding writes greedy answers of at most 64 tokens; torch uses
`generate` with left padding and a key/value cache. A turn is all records; the first one, which
compiles, does not count. Predictions and answers are compared before anything is timed.
"""

from __future__ import annotations

from collections.abc import Callable

from absl import flags

from benchmarks import peers

TASKS = ('scoring', 'decoding')
MAX_NEW_TOKENS, TORCH_BATCH = 64, 32

_RECORDS = flags.DEFINE_integer('records', 252, 'Number of records.', lower_bound=1)


def _load(count: int):
    """Returns the model, the records and the renderer that both contestants use."""
    from bsft_jax import api
    from bsft_jax.data import sources
    from bsft_jax.inference import scoring

    model = api.load_model('tiny-clinical')
    records = sources.load_records('synthetic:1200', 'test')[:count]
    return model, records, scoring.renderer_of(model)


def ours(task: str, count: int):
    """Returns a function that does the task once: chooses options, or decodes token ids."""
    from bsft_jax import api
    from bsft_jax.inference import policies, scoring

    model, records, renderer = _load(count)
    if task == 'decoding':
        return lambda: [
            row['ids']
            for row in api.generate_answers(model, records, 'none', max_new_tokens=MAX_NEW_TOKENS)
        ]
    scorer = scoring.Scorer(records, renderer, model.network, model.mesh)
    return lambda: [
        row['prediction']
        for row in policies.predictions(records, scorer(model.network, model.params), 'none')
    ]


def torch_peer(task: str, count: int):
    """Returns a function that does the task once with torch `transformers`."""
    import torch
    import transformers

    from bsft_jax.data.tokenizer import load_tokenizer
    from bsft_jax.hub.files import resolve_directory

    _, records, renderer = _load(count)
    directory = resolve_directory('tiny-clinical')
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    pad, stop = load_tokenizer(directory).pad_token_id or 0, renderer.stop_id
    prompts = renderer.prompt_ids_of(records)

    def pad_rows(rows: list[list[int]], left: bool):
        length = max(map(len, rows))
        ids = torch.full((len(rows), length), pad)
        mask = torch.zeros((len(rows), length), dtype=torch.long)
        for i, row in enumerate(rows):
            columns = slice(length - len(row), length) if left else slice(0, len(row))
            ids[i, columns], mask[i, columns] = torch.tensor(row), 1
        return ids, mask

    @torch.inference_mode()
    def decode() -> list[list[int]]:
        answers = []
        for start in range(0, len(prompts), TORCH_BATCH):
            ids, mask = pad_rows(prompts[start : start + TORCH_BATCH], left=True)
            out = model.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=MAX_NEW_TOKENS,
                do_sample=False,
                eos_token_id=stop,
                pad_token_id=stop,
            )
            for row in out[:, ids.shape[1] :].tolist():
                answers.append(row[: row.index(stop)] if stop in row else row)
        return answers

    stem = list(renderer.stem_ids)
    options = [
        (i, o, len(prompts[i]) + len(stem), prompts[i] + stem + ids)
        for i, record in enumerate(records)
        for o, ids in enumerate(renderer.option_ids(record))
    ]
    options.sort(key=lambda option: len(option[-1]))

    @torch.inference_mode()
    def score() -> list[int]:
        sums = [[0.0] * len(record.options) for record in records]
        for start in range(0, len(options), TORCH_BATCH):
            chunk = options[start : start + TORCH_BATCH]
            ids, mask = pad_rows([row for *_, row in chunk], left=False)
            logprobs = model(input_ids=ids, attention_mask=mask).logits[:, :-1].log_softmax(-1)
            chosen = logprobs.gather(-1, ids[:, 1:, None])[..., 0]
            for b, (i, o, first, row) in enumerate(chunk):
                sums[i][o] = float(chosen[b, first - 1 : len(row) - 1].sum())
        return [max(range(len(row)), key=row.__getitem__) for row in sums]

    return decode if task == 'decoding' else score


def _count_records(make: Callable) -> Callable:
    """Turns a task into a contestant, whose turns return the number of records."""

    def contestant(**question):
        run = make(**question)
        return lambda: len(run())

    return contestant


CONTEST = peers.Contest(
    'benchmarks.inference',
    {'ours': _count_records(ours), 'torch': _count_records(torch_peer)},
    turns=5,
    result='inference_cpu',
)


def main() -> None:
    """Compares and measures both tasks, prints a table and writes the result."""
    rows, lines = [], []
    print(f'{"task":<10}{"contestant":<12}{"records/s":>10}{"ours ×":>8}{"same":>7}')
    for task in TASKS:
        question = {'task': task, 'count': _RECORDS.value}
        mine, theirs = ours(**question)(), torch_peer(**question)()
        same = sum(a == b for a, b in zip(mine, theirs, strict=True)) / len(mine)
        results = CONTEST(question)
        our_rate, torch_rate = (results[name]['work_per_second'] for name in ('ours', 'torch'))
        for name, row in results.items():
            rows.append({'task': task, 'contestant': name, 'same_results': same, **row})
            rate = row['work_per_second']
            ratio = our_rate / rate
            print(f'{task:<10}{name:<12}{rate:>10.1f}{ratio:>8.2f}{same:>7.1%}', flush=True)
        lines.append(
            (
                f'{task} {len(mine)} synthetic records with the bundled base, float32 on a CPU',
                f'{our_rate:.0f} records/s',
                f'torch: {torch_rate:.0f}',
                f'{our_rate / torch_rate:.2f} times as fast',
            )
        )
    CONTEST.write(('jax', 'flax', 'torch', 'transformers'), (_RECORDS,), rows=rows, table=lines)


if __name__ == '__main__':
    CONTEST.run(main)
