"""Evaluation and decoding beside torch `transformers`: records scored, and answered, per second.

    python -m benchmarks.inference              # about two minutes on 2 cores

The bundled base and the synthetic test records. Scoring: the log-probability of each option behind its prompt; torch
runs prompts with an option in padded batches, sorted by length, as evaluation harnesses do. Decoding: greedy answers of
at most 64 tokens; torch is `generate` with left padding and a key-value cache. A turn is all records; the first one,
with compilation, does not count. Predictions and answers are compared before anything is timed.
"""

from __future__ import annotations

from collections.abc import Callable

from absl import flags

from benchmarks import peers

TASKS = ('scoring', 'decoding')
LONGEST, TORCH_BATCH = 64, 32

_RECORDS = flags.DEFINE_integer('records', 252, 'Records.', lower_bound=1)


def _setting(count: int):
    from bsft_jax import api
    from bsft_jax.behaviorbench import sources
    from bsft_jax.inference import scoring

    model = api.load_model('tiny-clinical')
    records = sources.load_records('synthetic:1200', 'test')[:count]
    return model, records, scoring.renderer_of(model)


def ours(task: str, count: int):
    """A function that does the task once: options chosen, or ids of answers."""
    from bsft_jax import api
    from bsft_jax.inference import policies, scoring

    model, records, renderer = _setting(count)
    if task == 'decoding':
        return lambda: [
            row['ids'] for row in api.generate_answers(model, records, 'none', max_new_tokens=LONGEST)
        ]
    scorer = scoring.Scorer(records, renderer, model.network, model.mesh)
    return lambda: [
        row['prediction']
        for row in policies.predictions(records, scorer(model.network, model.params), 'none')
    ]


def torch_peer(task: str, count: int):
    import torch
    import transformers

    from bsft_jax.data.tokenizer import load_tokenizer
    from bsft_jax.hub.files import resolve_directory

    _, records, renderer = _setting(count)
    directory = resolve_directory('tiny-clinical')
    theirs = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    pad, stop = load_tokenizer(directory).pad_token_id or 0, renderer.stop_id
    prompts = renderer.prompt_ids_of(records)

    def padded(rows: list[list[int]], left: bool):
        width = max(map(len, rows))
        ids = torch.full((len(rows), width), pad)
        mask = torch.zeros((len(rows), width), dtype=torch.long)
        for i, row in enumerate(rows):
            place = slice(width - len(row), width) if left else slice(0, len(row))
            ids[i, place], mask[i, place] = torch.tensor(row), 1
        return ids, mask

    @torch.inference_mode()
    def decode() -> list[list[int]]:
        answers = []
        for start in range(0, len(prompts), TORCH_BATCH):
            ids, mask = padded(prompts[start : start + TORCH_BATCH], left=True)
            out = theirs.generate(
                input_ids=ids, attention_mask=mask, max_new_tokens=LONGEST, do_sample=False,
                eos_token_id=stop, pad_token_id=stop,
            )  # fmt: skip
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
            ids, mask = padded([row for *_, row in chunk], left=False)
            logprobs = theirs(input_ids=ids, attention_mask=mask).logits[:, :-1].log_softmax(-1)
            chosen = logprobs.gather(-1, ids[:, 1:, None])[..., 0]
            for b, (i, o, first, row) in enumerate(chunk):
                sums[i][o] = float(chosen[b, first - 1 : len(row) - 1].sum())
        return [max(range(len(row)), key=row.__getitem__) for row in sums]

    return decode if task == 'decoding' else score


def _counted(make: Callable) -> Callable:
    """As a contestant: a turn returns how many records it did."""

    def contestant(**question):
        run = make(**question)
        return lambda: len(run())

    return contestant


CONTEST = peers.Contest(
    'benchmarks.inference', {'ours': _counted(ours), 'torch': _counted(torch_peer)},
    turns=5, result='inference_cpu',
)  # fmt: skip


def main() -> None:
    rows, lines = [], []
    print(f'{"task":<10}{"contestant":<12}{"records/s":>10}{"ours ×":>8}{"same":>7}')
    for task in TASKS:
        question = {'task': task, 'count': _RECORDS.value}
        mine, theirs = ours(**question)(), torch_peer(**question)()
        same = sum(a == b for a, b in zip(mine, theirs, strict=True)) / len(mine)
        found = CONTEST(question)
        one, other = (found[name]['work_per_second'] for name in ('ours', 'torch'))
        for name, row in found.items():
            rows.append({'task': task, 'contestant': name, 'same_results': same, **row})
            rate = row['work_per_second']
            print(f'{task:<10}{name:<12}{rate:>10.1f}{one / rate:>8.2f}{same:>7.1%}', flush=True)
        lines.append(
            (
                f'{task} {len(mine)} synthetic records with the bundled base, float32 on a CPU',
                f'{one:.0f} records/s', f'torch: {other:.0f}', f'{one / other:.2f} times as fast',
            )
        )  # fmt: skip
    CONTEST.write(('jax', 'flax', 'torch', 'transformers'), (_RECORDS,), rows=rows, table=lines)


if __name__ == '__main__':
    CONTEST.run(main)
