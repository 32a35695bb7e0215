"""Compares fine-tuning on conversations with TRL's `SFTTrainer`: target tokens per second.

    python -m benchmarks.sft    # the quickstart's records, of similar length: half a minute

    # Real records, see docs/data.md.
    python -m bsft_jax.prepare --source=open:DIR --output=runs/open/data
    python -m benchmarks.sft --source=jsonl:runs/open/data --tokens=1024 --rows=8 --steps=2

Both train every parameter of the bundled base on the same ids and the same mask, with about as many
records a step, in float32 with AdamW. Ours packs records into rows. TRL samples them at random and
pads a batch to its longest record, which is its default. The time includes making batches but not
tokenising.
"""

from __future__ import annotations

import tempfile
import threading

import numpy as np
from absl import flags

from benchmarks import peers

_SOURCE = flags.DEFINE_string('source', 'synthetic:1200', 'Source of the records.')
_TOKENS = flags.DEFINE_integer(
    'tokens', 160, 'Tokens of a row, and so of the longest record.', lower_bound=16
)
_ROWS = flags.DEFINE_integer('rows', 24, 'Rows of a step.', lower_bound=1)
_STEPS = flags.DEFINE_integer('steps', 5, 'Steps of a turn.', lower_bound=1)


def _examples(source: str, tokens: int, rows: int):
    """Returns the base, its examples and the packing plan of a run."""
    from bsft_jax.config import DataConfig, ModelConfig, RunConfig
    from bsft_jax.data import pipeline
    from bsft_jax.training import setup

    data = DataConfig(
        source=source,
        sequence_length=tokens,
        global_batch_rows=rows,
        answer_format='text',
        max_dropped_fraction=0.5,
    )
    config = RunConfig(arm='general_sft', model=ModelConfig(base='tiny-clinical'), data=data)
    base = setup.read_base(config)
    data = pipeline.training_examples(
        config, base.tokenizer, base.behaviors, base.network.arch.max_positions
    )
    return base, data.store, data.plan


def ours(source: str, tokens: int, rows: int, steps: int):
    """Sets up training with `bsft_jax` and returns its turn."""
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
    network = base.network.for_mesh(mesh)
    step = step_lib.make_train_step(network, optimizer, gradient_accumulation_steps=1)
    batches = loader.iterate(loader.BatchSource(store, plan), 0, 10**6)

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
    """Sets up TRL's trainer in a thread that waits before each step, and returns its turn."""
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
    may_start, finished, targets = threading.Semaphore(0), threading.Semaphore(0), []

    class Paced(transformers.TrainerCallback):
        def on_step_begin(self, *args, **kwargs):
            may_start.acquire()

        def on_step_end(self, *args, **kwargs):
            finished.release()

    class Counting(trl.SFTTrainer):
        def training_step(self, model, inputs, *args, **kwargs):
            targets.append(int((inputs['labels'] != -100).sum()))
            return super().training_step(model, inputs, *args, **kwargs)

    arguments = trl.SFTConfig(
        output_dir=tempfile.mkdtemp(),
        completion_only_loss=True,
        max_length=tokens,
        learning_rate=1e-4,
        per_device_train_batch_size=round(len(store) / plan.steps_per_epoch),
        max_steps=10**6,
        logging_steps=10,
        lr_scheduler_type='constant',
        report_to='none',
        save_strategy='no',
        use_cpu=True,
        bf16=False,
        fp16=False,
        gradient_checkpointing=False,
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    trainer = Counting(
        transformers.AutoModelForCausalLM.from_pretrained(base.directory, dtype=torch.float32),
        args=arguments,
        train_dataset=data,
        processing_class=base.tokenizer,
        callbacks=[Paced()],
    )
    threading.Thread(target=trainer.train, daemon=True).start()

    def turn() -> int:
        for _ in range(steps):
            may_start.release()
            finished.acquire()
        return sum(targets[-steps:])

    return turn


CONTEST = peers.Contest(
    'benchmarks.sft', {'ours': ours, 'TRL': trl_peer}, turns=7, result='sft_cpu'
)


def main() -> None:
    """Runs both trainers, prints a table and writes the result."""
    question = dict(
        source=_SOURCE.value, tokens=_TOKENS.value, rows=_ROWS.value, steps=_STEPS.value
    )
    results = CONTEST(question)
    mine, theirs = (results[name]['work_per_second'] for name in ('ours', 'TRL'))
    print(f'{"":<6}{"targets/s":>11}{"ours ×":>8}{"peak MB":>9}')
    for name, row in results.items():
        rate = row['work_per_second']
        print(f'{name:<6}{rate:>11,.0f}{mine / rate:>8.2f}{row["peak_bytes"] / 1e6:>9,.0f}')
    _, store, _ = _examples(_SOURCE.value, _TOKENS.value, _ROWS.value)
    lengths = f'{np.min(store.lengths)} to {np.max(store.lengths):,} tokens'
    CONTEST.write(
        ('jax', 'optax', 'torch', 'transformers', 'trl'),
        (_SOURCE, _TOKENS, _ROWS, _STEPS),
        **question,
        records=len(store),
        contestants=results,
        table=[
            (
                f'full fine-tuning, {len(store):,} records of {lengths}',
                f'{mine:,.0f} target tokens/s',
                f'TRL SFTTrainer: {theirs:,.0f}',
                f'{mine / theirs:.2f} times as fast',
            )
        ],
    )


if __name__ == '__main__':
    CONTEST.run(main)
