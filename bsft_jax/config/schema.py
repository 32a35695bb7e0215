"""RunConfig: the one typed description of a run.

Fields marked `free` may differ when a run resumes; every other field is fixed, and `differences`
lists what changed. Configs in `configs/` return a RunConfig; flags override single fields:
`--config.optimizer.learning_rate=1e-4`.
"""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

from bsft_jax import behaviors as behaviors_lib
from bsft_jax.config import curriculum
from bsft_jax.config.telemetry import ProfileConfig, TrackingConfig
from bsft_jax.config.types import free, shown
from bsft_jax.errors import UserError

# Arm → how its answers begin, one of `behaviors.PREFIX_KINDS`.
ARMS = {
    'behavior_sft': 'tokens',
    'general_sft': 'none',
    'text_sft': 'words',
    'neutral_token': 'neutral',
    'shuffled_token': 'tokens',
}
# Training mode → path regexes of the parameters that train.
MODES = {
    'full': ('.*',),
    'lora': ('.*/lora/[ab]', 'behavior/.*'),
    'behavior_rows': ('behavior/.*',),
}

ATTENTION = ('auto', 'dense', 'blockwise', 'splash', 'cudnn')
REMAT = ('none', 'dots', 'minimal', 'full', 'offload')
OPTIMIZERS = ('adamw', 'muon', 'adafactor')
MESH_AXES = ('data', 'fsdp', 'context', 'tensor')

# Dtypes of a frozen base whose kernels of linear maps are quantized.
QUANTIZED = ('int8', 'fp8', 'nf4')
# Paths of the linear maps within a layer.
LINEAR_MAPS = (
    *(f'attention/{name}' for name in 'qkvo'),
    *(f'mlp/{name}' for name in ('gate', 'up', 'down')),
)


@dataclasses.dataclass
class ModelConfig:
    """Describes the base model.

    Attributes:
      base: a Hugging Face directory, a PEFT adapter, a GGUF file, a hub id, or the name of a
        bundled or packaged model.
      tokenizer: a folder whose tokenizer and chat template replace those of `base`.
      init: `checkpoint` loads the weights of `base`; `random` takes only its architecture and
        tokenizer and draws the weights from the seed (pretraining).
      shape: sizes that replace those of `base` under `init=random`, as in
        `width=128,layers=4,heads=4,kv_heads=2,mlp=384` (`config/shape.py`); '' keeps the base's.
      dtype: dtype of activations.
      base_dtype: dtype of frozen parameters: `float32`, `bfloat16`, or for the kernels of linear
        maps one of QUANTIZED with bfloat16 for the rest: `int8` and `fp8` with a scale per output,
        `nf4` with one per 64 inputs of an output. Trainable parameters are float32.
      row_init: initial value of new behavior rows: the mean embedding of the tokens of the
        behavior's `description`; `fitted` to what the base computes at the heads of answers, so
        that the tokens are probable there from the first step on; the `mean` of the table, or
        `normal` with the table's mean and standard deviation.
      attention: attention backend: `dense` (any device); `blockwise`, whose memory does not grow
        with the square of the row length (any device); the `splash` kernel (TPU); `cudnn`'s flash
        kernel (GPUs from Hopper on, in bfloat16); `auto` is splash on TPUs, blockwise on CPUs,
        dense elsewhere.
    """

    base: str = free('tiny-clinical')
    tokenizer: str = ''
    init: str = 'checkpoint'
    shape: str = ''
    dtype: str = 'float32'
    base_dtype: str = 'float32'
    row_init: str = 'description'
    attention: str = free('auto')


@dataclasses.dataclass
class DataConfig:
    """Describes the training records and how they are laid out.

    Attributes:
      source: a data source, or a mixture `0.7*SOURCE + 0.3*SOURCE`.
      sequence_length: tokens of a row.
      global_batch_rows: rows of a step, over all devices and micro-batches; without packing a
        step has as many rows as the records that would fill them.
      packed: packs several records into a row; False keeps the records of each step and gives every
        record its own row.
      behavior_weight: loss weight of an answer's prefix, spread over its tokens.
      answer_format: how an answer names the right option: by its `letter` or its `text`.
      train_on: `answer` trains on the last turn of the assistant, `turns` on every one.
      chat_template: a Jinja file that replaces the base's template.
      max_dropped_fraction: largest share of records that may be dropped as longer than a row.
      truncate_turns: shortens a longer conversation by its oldest turns instead of dropping it.
      unlabeled: `plain` trains records without a behavior without a prefix, `refuse` is an error.
      label_noise: share of labelled training records whose behavior is changed to another.
      exclude_category: category left out of training and validation.
      curriculum: shares of the difficulty levels, `1=2,2=1`, or of several stages of the schedule,
        `1=2,2=1/0.3:1=1,2=1,3=2`; empty draws every record equally often.
      pairs_together: packs the records of one `pair_id` into the same row, if they fit it together.
    """

    source: str = 'synthetic:1000'
    sequence_length: int = 512
    global_batch_rows: int = 16
    packed: bool = True
    behavior_weight: float = 1.0
    answer_format: str = 'letter'
    train_on: str = 'answer'
    chat_template: str = ''
    max_dropped_fraction: float = 0.01
    truncate_turns: bool = False
    unlabeled: str = 'plain'
    label_noise: float = 0.0
    exclude_category: str = ''
    curriculum: str = ''
    pairs_together: bool = False


@dataclasses.dataclass
class OptimizerConfig:
    """Describes the optimizer, with linear warmup and cosine decay.

    Attributes:
      learning_rate: peak learning rate.
      behavior_lr_factor: factor of the learning rate of the behavior rows.
      warmup_steps: steps from zero to the peak.
      schedule_steps: steps to the end of the decay.
      end_lr_ratio: learning rate at the end over the peak.
      weight_decay: decay of kernels and the embedding table, times the learning rate.
      b1, b2, eps: Adam's.
      clip_norm: largest global norm of the gradients.
      moment_dtype: dtype of the moments: `float32`, or `bfloat16`, which halves their memory.
      name: `adamw`; `muon` orthogonalizes the updates of the layers' kernels, each of which has one
        moment instead of two, and leaves the rest to AdamW; `adafactor` holds the second moment of
        a matrix as a row and a column and has no first one.
    """

    learning_rate: float = 1e-4
    behavior_lr_factor: float = 1.0
    warmup_steps: int = 20
    schedule_steps: int = 200
    end_lr_ratio: float = 0.1
    weight_decay: float = 0.01
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    clip_norm: float = 1.0
    moment_dtype: str = 'float32'
    name: str = 'adamw'


@dataclasses.dataclass
class TrainConfig:
    """Describes what trains, for how long, and what is recomputed.

    Attributes:
      mode: all parameters (`full`), adapters and behavior rows (`lora`), or `behavior_rows` alone.
      gradient_accumulation_steps: micro-batches of a step, computed one after the other.
      remat: rematerialization policy, what a layer saves for its backward pass. `none` saves
        everything. `dots` saves matmul and attention outputs; recomputing the rest is cheap.
        `minimal` saves only the attention output, so that attention is not run again. `full` saves
        only the layer input and costs a third more matmuls. `offload` saves the layer input and
        the attention output in host memory.
      steps: steps to run; 0 runs to the end of the schedule, a smaller number stops early and can
        be resumed.
    """

    mode: str = 'full'
    gradient_accumulation_steps: int = 1
    remat: str = free('none')
    steps: int = free(0)


# Hashable by value although flags set its fields: jit takes a network, and so this, as static.
@dataclasses.dataclass(unsafe_hash=True)
class LoraConfig:
    """Describes the adapters of `train.mode=lora`: which linear maps get one, and its shape.

    Rank and alpha are twice those of the first experiments of Hu et al. (arXiv 2106.09685). Every
    linear map has an adapter, as Dettmers et al. (arXiv 2305.14314) found necessary.

    Attributes:
      rank: inner dimension of the product.
      alpha: the product is scaled by alpha / rank, or by alpha / sqrt(rank) with `rank_stabilized`
        (rsLoRA; Kalajdzievski, arXiv 2312.03732).
      rank_stabilized: chooses the second scale.
      dropout: share of the adapter's inputs that training sets to zero.
      targets: a regex for the whole path of a map within a layer, such as `attention/[qv]`.
    """

    rank: int = 16
    alpha: float = 32.0
    rank_stabilized: bool = False
    dropout: float = 0.0
    targets: str = '.*'

    @property
    def scale(self) -> float:
        """Returns the factor of the adapter's product."""
        return self.alpha / (self.rank**0.5 if self.rank_stabilized else self.rank)

    def covers(self, path: str) -> bool:
        """Returns whether the linear map at `path` within a layer has an adapter."""
        return re.fullmatch(self.targets, path) is not None


@dataclasses.dataclass(frozen=True)
class ComputeConfig:
    """Describes how a network is held and computed, apart from its architecture.

    `RunConfig.compute` makes it once; every module that needs one of these options reads it here.

    Attributes:
      dtype: dtype of activations; logits are float32.
      base_dtype: dtype of frozen parameters, see `ModelConfig`.
      lora: the adapters; None without.
      remat: rematerialization policy, one of REMAT.
      attention: attention backend, one of ATTENTION; `Network.for_mesh` resolves `auto`.
      unroll_layers: compiles every layer separately instead of scanning them; `Network.for_mesh`
        decides it.
    """

    dtype: str = 'float32'
    base_dtype: str = 'float32'
    lora: LoraConfig | None = None
    remat: str = 'none'
    attention: str = 'dense'
    unroll_layers: bool = False

    @property
    def quantized(self) -> bool:
        """Returns whether the kernels of linear maps are quantized."""
        return self.base_dtype in QUANTIZED


@dataclasses.dataclass
class MeshConfig:
    """Describes the mesh by the sizes of its axes; one of them may be -1 and takes the rest.

    Attributes:
      data: splits the rows of a batch.
      fsdp: splits the rows of a batch, parameters and moments.
      context: splits the tokens of a row.
      tensor: splits heads, MLP dimension and vocabulary.
      devices: expected number of devices in all processes together; 0 accepts any.
    """

    data: int = free(-1)
    fsdp: int = free(1)
    context: int = free(1)
    tensor: int = free(1)
    devices: int = free(0)


@dataclasses.dataclass
class CheckpointConfig:
    """Describes checkpoints.

    Attributes:
      interval: steps between checkpoints.
      keep: how many of the newest stay.
    """

    interval: int = free(100)
    keep: int = free(2)


@dataclasses.dataclass
class EvaluationConfig:
    """Describes validation during training.

    Attributes:
      interval: steps between evaluations; 0 for none.
      evaluators: names from the registry in `commands/evaluators.py`, separated by commas.
      limit: validation records that are used, whole cases, evenly spaced.
      tokens_per_batch: approximate prompt tokens that a device scores at a time.
    """

    interval: int = free(0)
    evaluators: str = free('scores')
    limit: int = free(200)
    tokens_per_batch: int = free(8192)

    @property
    def names(self) -> tuple[str, ...]:
        """Returns the names of the evaluators."""
        return tuple(name.strip() for name in self.evaluators.split(','))


@dataclasses.dataclass
class RunConfig:
    """Describes a run.

    Attributes:
      seed: seed of row packing, random weights, label changes and dropout.
      arm: how answers begin, one of ARMS.
      behaviors: the behaviors; a config file sets them, flags cannot.
      log_interval: steps between lines of `metrics.jsonl`.
    """

    seed: int = 0
    arm: str = 'behavior_sft'
    behaviors: tuple[behaviors_lib.Behavior, ...] = behaviors_lib.DEFAULT_BEHAVIORS
    log_interval: int = free(10)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    lora: LoraConfig = dataclasses.field(default_factory=LoraConfig)
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    checkpoint: CheckpointConfig = dataclasses.field(default_factory=CheckpointConfig)
    evaluation: EvaluationConfig = dataclasses.field(default_factory=EvaluationConfig)
    profile: ProfileConfig = dataclasses.field(default_factory=ProfileConfig)
    tracking: TrackingConfig = dataclasses.field(default_factory=TrackingConfig)

    @property
    def steps(self) -> int:
        """Returns the steps to run: `train.steps`, or the schedule's length."""
        return self.train.steps or self.optimizer.schedule_steps

    @property
    def trace_steps(self) -> range:
        """Returns the steps that are traced; raises UserError for a misspelt range."""
        if not self.profile.trace_steps:
            return range(0)
        match = re.fullmatch('([0-9]{1,9}):([0-9]{1,9})', self.profile.trace_steps)
        steps = range(int(match[1]), int(match[2])) if match else range(0)
        if not steps or steps[0] < 1:
            raise UserError(
                f'cannot read {shown(self.profile.trace_steps)}',
                where='--config.profile.trace_steps',
                fix='write FIRST:END, as 10:13 for steps 10, 11 and 12',
            )
        return steps

    @property
    def curriculum_stages(self) -> curriculum.Stages:
        """Returns first step → level → weight; empty without a curriculum.

        Raises UserError as `curriculum.parse_stages` does.
        """
        return curriculum.parse_stages(self.data.curriculum, self.optimizer.schedule_steps)

    @property
    def prefix_kind(self) -> str:
        """Returns how the arm's answers begin, one of `behaviors.PREFIX_KINDS`."""
        return ARMS[self.arm]

    @property
    def row_names(self) -> tuple[str, ...]:
        """Returns the names of the behavior rows, in their order; empty for an arm without any."""
        behaviors = behaviors_lib.BehaviorSet(self.behaviors, prefix_kind=self.prefix_kind)
        return tuple(behavior.name for behavior in behaviors.token_behaviors)

    @property
    def trainable(self) -> tuple[str, ...]:
        """Returns path regexes of the parameters that train."""
        return MODES[self.train.mode]

    @property
    def compute(self) -> ComputeConfig:
        """Returns how the run's network is held and computed."""
        return ComputeConfig(
            dtype=self.model.dtype,
            base_dtype=self.model.base_dtype,
            lora=dataclasses.replace(self.lora) if self.train.mode == 'lora' else None,
            remat=self.train.remat,
            attention=self.model.attention,
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns a nested dictionary of plain JSON values."""
        return json.loads(json.dumps(dataclasses.asdict(self)))
