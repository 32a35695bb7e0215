"""Fine-tuning on conversations beside TRL's `SFTTrainer` as users run it: tokens that carry loss, per second.

    python -m benchmarks.sft    # the quickstart's records, of nearly one length: half a minute on 2 cores
    python -m bsft_jax.prepare --source=open:DIR --output=runs/open/data    # real ones, see docs/data.md
    python -m benchmarks.sft --source=jsonl:runs/open/data --tokens=1024 --rows=8 --steps=2

Both train the bundled base in full on the same ids and the same mask, about as many records a step, float32, AdamW. Ours
packs them into rows; TRL pads a batch to its longest record, which is what it does unless told otherwise, and samples
them at random. Making batches counts in both, tokenising in neither.
"""

from __future__ import annotations

import tempfile
import threading

import numpy as np
from absl import flags

from benchmarks import peers

_SOURCE = flags.DEFINE_string('source', 'synthetic:1200', 'Records.')
_TOKENS = flags.DEFINE_integer('tokens', 144, 'Tokens of a row, and of the longest record.', lower_bound=16)
_ROWS = flags.DEFINE_integer('rows', 24, 'Rows of a step.', lower_bound=1)
_STEPS = flags.DEFINE_integer('steps', 5, 'Steps of a turn.', lower_bound=1)


def _examples(source: str, tokens: int, rows: int):
    """The run's base, its examples, the plan of its steps."""
    from bsft_jax.config import DataSection, ModelSection, RunConfig
    from bsft_jax.training import records, workdir

    data = DataSection(
        source=source, sequence_length=tokens, rows_per_step=rows, answer_format='text', drop_long=0.5
    )
    config = RunConfig(arm='general_sft', model=ModelSection(base='tiny-clinical'), data=data)
    base = workdir.open_base(config)
    return base, *records.training_examples(config, base)


def ours(source: str, tokens: int, rows: int, steps: int):
    import jax
    import optax

    from bsft_jax.data import loader
    from bsft_jax.hub import loading
    from bsft_jax.parallel import mesh as mesh_lib
    from bsft_jax.parallel import sharding
    from bsft_jax.training import state as state_lib
    from bsft_jax.training import step as step_lib

    base, store, plan = _examples(source, tokens, rows)
    mesh, optimizer = mesh_lib.single_device_mesh(), optax.adamw(1e-4)
    params = loading.load_params(base.directory, base.network, mesh)
    state = state_lib.create(params, ('.*',), optimizer, mesh)
    step = step_lib.make_train_step(base.network.on(mesh), optimizer, accumulation=1)
    batches = loader.iterate(loader.StepSource(store, plan), 0, 10**6)

    def turn() -> int:
        nonlocal state
        targets = 0
        with jax.set_mesh(mesh):
            for _ in range(steps):
                batch = next(batches)
                targets += int((batch.weights_BT > 0).sum())
                state, metrics = step(state, jax.device_put(batch, sharding.batch_sharding(mesh)))
        float(metrics['loss'])
        return targets

    return turn


def trl_peer(source: str, tokens: int, rows: int, steps: int):
    import datasets
    import torch
    import transformers
    import trl

    base, store, plan = _examples(source, tokens, rows)
    examples = [store[i] for i in range(len(store))]
    data = datasets.Dataset.from_list(
        [
            {'input_ids': e.ids.tolist(), 'completion_mask': (e.weights > 0).astype(int).tolist()}
            for e in examples
        ]
    )
    go, done, targets = threading.Semaphore(0), threading.Semaphore(0), []

    class Paced(transformers.TrainerCallback):
        def on_step_begin(self, *args, **kwargs):
            go.acquire()

        def on_step_end(self, *args, **kwargs):
            done.release()

    class Counting(trl.SFTTrainer):
        def training_step(self, model, inputs, *args, **kwargs):
            targets.append(int((inputs['labels'] != -100).sum()))
            return super().training_step(model, inputs, *args, **kwargs)

    arguments = trl.SFTConfig(
        output_dir=tempfile.mkdtemp(), completion_only_loss=True, max_length=tokens, learning_rate=1e-4,
        per_device_train_batch_size=round(len(store) / plan.steps_per_epoch), max_steps=10**6, logging_steps=10,
        lr_scheduler_type='constant', report_to='none', save_strategy='no', use_cpu=True, bf16=False, fp16=False,
        gradient_checkpointing=False, disable_tqdm=True, dataloader_pin_memory=False,
    )  # fmt: skip
    trainer = Counting(
        transformers.AutoModelForCausalLM.from_pretrained(base.directory, dtype=torch.float32),
        args=arguments, train_dataset=data, processing_class=base.tokenizer, callbacks=[Paced()],
    )  # fmt: skip
    threading.Thread(target=trainer.train, daemon=True).start()

    def turn() -> int:
        for _ in range(steps):
            go.release()
            done.acquire()
        return sum(targets[-steps:])

    return turn


CONTEST = peers.Contest('benchmarks.sft', {'ours': ours, 'TRL': trl_peer}, turns=7, result='sft_cpu')


def main() -> None:
    question = dict(source=_SOURCE.value, tokens=_TOKENS.value, rows=_ROWS.value, steps=_STEPS.value)
    found = CONTEST(question)
    mine, theirs = (found[name]['work_per_second'] for name in ('ours', 'TRL'))
    print(f'{"":<6}{"targets/s":>11}{"ours ×":>8}{"peak MB":>9}')
    for name, row in found.items():
        rate = row['work_per_second']
        print(f'{name:<6}{rate:>11,.0f}{mine / rate:>8.2f}{row["peak_bytes"] / 1e6:>9,.0f}')
    _, store, _ = _examples(_SOURCE.value, _TOKENS.value, _ROWS.value)
    CONTEST.write(
        ('jax', 'optax', 'torch', 'transformers', 'trl'), (_SOURCE, _TOKENS, _ROWS, _STEPS), **question,
        records=len(store), contestants=found,
        table=[(
            f'full fine-tuning, {len(store):,} records of {np.min(store.lengths)} to {np.max(store.lengths):,} tokens',
            f'{mine:,.0f} target tokens/s', f'TRL SFTTrainer: {theirs:,.0f}', f'{mine / theirs:.2f} times as fast',
        )],
    )  # fmt: skip


if __name__ == '__main__':
    CONTEST.run(main)
