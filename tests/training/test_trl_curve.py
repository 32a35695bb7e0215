"""Tests that the loss curve is that of TRL's `SFTTrainer` with assistant-only loss.

Both see the same model and the same conversations in the same order.
"""

import json

import numpy as np
import pytest

from bsft_jax.config import MODES, DataConfig, ModelConfig, OptimizerConfig, RunConfig
from bsft_jax.data.loader import BatchSource
from bsft_jax.hub import loading
from bsft_jax.parallel import mesh as mesh_lib
from bsft_jax.training import optimizer as optimizer_lib
from bsft_jax.training import setup
from bsft_jax.training import state as state_lib
from bsft_jax.training import step as step_lib
from tests.run import examples_of
from tests.tiny import NO_TORCH

torch = pytest.importorskip('torch', reason=NO_TORCH)
trl = pytest.importorskip('trl', reason=NO_TORCH)

STEPS, ROWS, LENGTH = 20, 4, 320
ADAMW = OptimizerConfig(
    learning_rate=1e-3, warmup_steps=0, schedule_steps=STEPS, end_lr_ratio=1.0, weight_decay=0.01
)
# The base's own template, with the tags that TRL takes the mask from.
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m['role'] == 'assistant' %}"
    "{% generation %}{{ m['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}"
    "{% else %}{{ m['content'] + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture(scope='module')
def conversations():
    """Returns conversations of one or two turns, with answers of different lengths."""
    rng = np.random.default_rng(0)
    words = [
        'potassium',
        'sodium',
        'the',
        'is',
        'low',
        'high',
        'and',
        'repeat',
        'note',
        'sign',
        'dose',
        'normal',
        'patient',
    ]

    def text(longest):
        return ' '.join(rng.choice(words, rng.integers(1, longest))) + '.'

    return [
        [
            turn
            for _ in range(rng.integers(1, 3))
            for turn in (
                {'role': 'user', 'content': text(25)},
                {'role': 'assistant', 'content': text(12)},
            )
        ]
        for _ in range(STEPS * ROWS)
    ]


class InOrder:
    """Plans steps of ROWS records, one after the other."""

    global_batch_rows, sequence_length = ROWS, LENGTH

    def rows(self, step):
        return [[step * ROWS + i] for i in range(ROWS)]


def our_curve(base, conversations, folder):
    path = folder / 'train.jsonl'
    path.write_text(''.join(json.dumps({'messages': turns}) + '\n' for turns in conversations))
    config = RunConfig(
        arm='general_sft',
        model=ModelConfig(base=str(base)),
        data=DataConfig(
            source=f'jsonl:{path}', sequence_length=LENGTH, global_batch_rows=ROWS, train_on='turns'
        ),
    )
    spec, mesh = setup.read_base(config), mesh_lib.single_device_mesh()
    store, _ = examples_of(config, spec)
    source = BatchSource(store, InOrder())
    optimizer = optimizer_lib.make_optimizer(ADAMW)
    params = loading.load_params(spec.directory, spec.network, mesh)
    state = state_lib.create(params, MODES['full'], optimizer, mesh)
    network, losses = spec.network.for_mesh(mesh), []
    train_step = step_lib.make_train_step(network, optimizer, gradient_accumulation_steps=1)
    for step in range(STEPS):
        state, metrics = train_step(state, source[step])
        losses.append(float(metrics['loss']))
    return losses, [float(source[step].weights_BT.sum()) for step in range(STEPS)]


def trl_curve(base, conversations, folder):
    import datasets
    import transformers

    class Ordered(trl.SFTTrainer):
        def _get_train_sampler(self, *args):
            return torch.utils.data.SequentialSampler(self.train_dataset)

    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(base)
    tokenizer.chat_template = TEMPLATE
    arguments = trl.SFTConfig(
        output_dir=str(folder),
        assistant_only_loss=True,
        max_length=LENGTH,
        per_device_train_batch_size=ROWS,
        max_steps=STEPS,
        learning_rate=ADAMW.learning_rate,
        lr_scheduler_type='constant',
        warmup_steps=0,
        weight_decay=ADAMW.weight_decay,
        adam_beta1=ADAMW.b1,
        adam_beta2=ADAMW.b2,
        adam_epsilon=ADAMW.eps,
        max_grad_norm=ADAMW.clip_norm,
        logging_steps=1,
        report_to='none',
        save_strategy='no',
        use_cpu=True,
        bf16=False,
        disable_tqdm=True,
    )
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    rows = datasets.Dataset.from_list([{'messages': turns} for turns in conversations])
    trainer = Ordered(model, args=arguments, train_dataset=rows, processing_class=tokenizer)
    trainer.train()
    masks = [np.sum(np.array(row['labels']) != -100) for row in trainer.train_dataset]
    target_tokens = np.reshape(masks, (STEPS, ROWS)).sum(axis=1).tolist()
    return [line['loss'] for line in trainer.state.log_history if 'loss' in line], target_tokens


def test_the_curve_is_that_of_trl(base, conversations, tmp_path):
    ours, target_tokens = our_curve(base, conversations, tmp_path)
    theirs, their_target_tokens = trl_curve(base, conversations, tmp_path / 'trl')
    assert target_tokens == their_target_tokens
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    assert np.mean(ours[-5:]) < np.mean(ours[:5]) - 0.1
