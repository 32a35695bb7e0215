"""The loss curve of TRL's `SFTTrainer` with assistant-only loss: the same model, conversations and order."""

import json

import numpy as np
import pytest

from bsft_jax.config import MODES, DataSection, ModelSection, OptimizerSection, RunConfig
from bsft_jax.data.loader import StepSource
from bsft_jax.hub import loading
from bsft_jax.parallel import mesh as mesh_lib
from bsft_jax.training import optimizer as optimizer_lib
from bsft_jax.training import records as records_lib
from bsft_jax.training import state as state_lib
from bsft_jax.training import step as step_lib
from bsft_jax.training import workdir
from tests.tiny import NO_TORCH, random_model

torch = pytest.importorskip('torch', reason=NO_TORCH)
trl = pytest.importorskip('trl', reason=NO_TORCH)

STEPS, ROWS, LENGTH = 20, 4, 320
SECTION = OptimizerSection(
    learning_rate=1e-3, warmup_steps=0, schedule_steps=STEPS, final_ratio=1.0, weight_decay=0.01
)
# As the base's own, with the tags that TRL takes the mask from.
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}{% if m['role'] == 'assistant' %}"
    "{% generation %}{{ m['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}"
    "{% else %}{{ m['content'] + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture(scope='module')
def base(tmp_path_factory):
    return random_model(tmp_path_factory.mktemp('base'))


@pytest.fixture(scope='module')
def conversations():
    """Of one or two turns each, answers of different lengths."""
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
            for turn in ({'role': 'user', 'content': text(25)}, {'role': 'assistant', 'content': text(12)})
        ]
        for _ in range(STEPS * ROWS)
    ]


class InOrder:
    """Steps of so many records, one after the other."""

    rows_per_step, sequence_length = ROWS, LENGTH

    def rows(self, step):
        return [[step * ROWS + i] for i in range(ROWS)]


def ours(base, conversations, folder):
    path = folder / 'train.jsonl'
    path.write_text(''.join(json.dumps({'messages': turns}) + '\n' for turns in conversations))
    config = RunConfig(
        arm='general_sft',
        model=ModelSection(base=base),
        data=DataSection(source=f'jsonl:{path}', sequence_length=LENGTH, rows_per_step=ROWS, loss_on='turns'),
    )
    opened, mesh = workdir.open_base(config), mesh_lib.single_device_mesh()
    store, _ = records_lib.training_examples(config, opened)
    source = StepSource(store, InOrder())
    optimizer = optimizer_lib.make_optimizer(SECTION)
    state = state_lib.create(
        loading.load_params(opened.directory, opened.network, mesh), MODES['full'], optimizer, mesh
    )
    run, losses = step_lib.make_train_step(opened.network.on(mesh), optimizer, accumulation=1), []
    for step in range(STEPS):
        state, metrics = run(state, source[step])
        losses.append(float(metrics['loss']))
    return losses, [float(source[step].weights_BT.sum()) for step in range(STEPS)]


def theirs(base, conversations, folder):
    import datasets
    import transformers

    class Ordered(trl.SFTTrainer):
        def _get_train_sampler(self, *args):
            return torch.utils.data.SequentialSampler(self.train_dataset)

    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(base)
    tokenizer.chat_template = TEMPLATE
    arguments = trl.SFTConfig(
        output_dir=str(folder), assistant_only_loss=True, max_length=LENGTH, per_device_train_batch_size=ROWS,
        max_steps=STEPS, learning_rate=SECTION.learning_rate, lr_scheduler_type='constant', warmup_steps=0,
        weight_decay=SECTION.weight_decay, adam_beta1=SECTION.b1, adam_beta2=SECTION.b2,
        adam_epsilon=SECTION.eps, max_grad_norm=SECTION.clip_norm, logging_steps=1, report_to='none',
        save_strategy='no', use_cpu=True, bf16=False, disable_tqdm=True,
    )  # fmt: skip
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    rows = datasets.Dataset.from_list([{'messages': turns} for turns in conversations])
    trainer = Ordered(model, args=arguments, train_dataset=rows, processing_class=tokenizer)
    trainer.train()
    masks = [np.sum(np.array(row['labels']) != -100) for row in trainer.train_dataset]
    counted = np.reshape(masks, (STEPS, ROWS)).sum(axis=1).tolist()
    return [line['loss'] for line in trainer.state.log_history if 'loss' in line], counted


def test_the_curve_is_that_of_trl(base, conversations, tmp_path):
    mine, tokens = ours(base, conversations, tmp_path)
    their, counted = theirs(base, conversations, tmp_path / 'trl')
    assert tokens == counted
    np.testing.assert_allclose(mine, their, atol=1e-4)
    assert np.mean(mine[-5:]) < np.mean(mine[:5]) - 0.1
