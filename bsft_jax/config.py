"""RunConfig: the one typed description of a run.

Fields marked `free` may differ when a run resumes; every other field is fixed (`differences`
lists what changed). Configs in `configs/` return a RunConfig; flags override single fields:
`--config.optimizer.learning_rate=1e-4`.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
from typing import Any

from bsft_jax import behaviors as behaviors_lib
from bsft_jax.errors import UserError

ARMS = {  # arm → form of the heads of its answers
    'behavior_sft': 'tokens',
    'general_sft': 'none',
    'text_sft': 'words',
    'neutral_token': 'neutral',
    'shuffled_token': 'tokens',
}
MODES = {
    'full': ('.*',),
    'lora': ('.*/lora/[ab]', 'behavior/.*'),
    'behavior_rows': ('behavior/.*',),
}

ATTENTION = ('auto', 'dense', 'blockwise', 'splash', 'cudnn')
REMAT = ('none', 'dots', 'minimal', 'full', 'offload')
MESH_AXES = ('data', 'fsdp', 'context', 'tensor')

LINEAR_MAPS = (  # of a layer
    *(f'attention/{name}' for name in 'qkvo'),
    *(f'mlp/{name}' for name in ('gate', 'up', 'down')),
)


def free(default: Any) -> Any:
    """A field that may change when a run resumes."""
    return dataclasses.field(default=default, metadata={'free': True})


@dataclasses.dataclass
class ModelSection:
    """The base model.

    `base` is a Hugging Face directory, a hub id or the name of a bundled asset; `weights='random'` takes
    only its architecture and tokenizer and draws the weights from the seed (pretraining).
    `dtype` is the dtype of activations. `base_dtype` is how frozen parameters are held: `float32`,
    `bfloat16`, or with the kernels of linear maps in `int8` beside them; what trains is float32.
    `new_rows` is the first value of new behavior rows: the mean over the tokens of the behavior's
    `description`, the `mean` of the table, or `normal` with the table's mean and deviation.
    `attention` is how rows attend: `dense` products (any device), `blockwise`, whose memory does not grow with the
    square of a row (any device), the `splash` kernel (TPU), the flash kernel of `cudnn` (GPUs from Hopper on, in
    bfloat16), or `auto`: splash on TPUs, blockwise on CPUs, else dense.
    """

    base: str = free('tiny-clinical')
    weights: str = 'checkpoint'
    dtype: str = 'float32'
    base_dtype: str = 'float32'
    new_rows: str = 'description'
    attention: str = free('auto')


@dataclasses.dataclass
class DataSection:
    """What is trained on and how it is laid out.

    `rows_per_step` rows of `sequence_length` tokens make the global batch. `packed=False` keeps
    the records of each step and gives every record its own row. `drop_long` is the largest
    share of records that may be left out because they are longer than a row; `truncate` has a longer
    conversation lose its oldest turns first. `loss_on='turns'` trains on every turn of the assistant,
    `'answer'` on the last alone. A record `without_behavior` is trained on without a token (`plain`) or
    an error (`refuse`). A mixture of sources is written `0.7*SOURCE + 0.3*SOURCE`.
    `answer_format` is what stands for the right option: its `letter`, or its own `text`.
    `chat_template` is a Jinja file in place of the base's template.
    `label_noise` is the share of labelled training records whose behavior is changed to another;
    `hold_out` names a category that is left out of training and validation. `behavior_weight` is
    the loss weight of an answer's head, spread over its tokens.
    """

    source: str = 'synthetic:1000'
    sequence_length: int = 512
    rows_per_step: int = 16
    packed: bool = True
    behavior_weight: float = 1.0
    answer_format: str = 'letter'
    loss_on: str = 'answer'
    chat_template: str = ''
    drop_long: float = 0.01
    truncate: bool = False
    without_behavior: str = 'plain'
    label_noise: float = 0.0
    hold_out: str = ''


@dataclasses.dataclass
class OptimizerSection:
    """AdamW with linear warmup and cosine decay to `final_ratio` of the peak over `schedule_steps`.

    Kernels and the table decay by `learning_rate · weight_decay` a step; gradients are clipped to the norm `clip_norm`;
    `b1`, `b2` and `eps` are Adam's. `moments` is how both moments are held: `float32`, or `bfloat16` in half of the memory.
    """

    learning_rate: float = 1e-4
    warmup_steps: int = 20
    schedule_steps: int = 200
    final_ratio: float = 0.1
    weight_decay: float = 0.01
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    clip_norm: float = 1.0
    moments: str = 'float32'


@dataclasses.dataclass
class TrainSection:
    """What trains, `mode`: all parameters (`full`), adapters and behavior rows (`lora`), or `behavior_rows` alone.

    `accumulation` is the parts that a step's rows are computed in, one after the other. `steps=0` runs to the end of
    the schedule; a smaller number stops early and can be resumed.

    `remat` names what a layer keeps for its backward
    pass, which computes the rest again. `none` keeps all. `dots` keeps what linear maps give out and attention's
    output: what is again is cheap. `minimal` keeps attention's output alone, so that attention's forward pass is not
    run again. `full` keeps the layer's input alone: a third more products. `offload` keeps on the devices nothing: the
    layer's input and attention's output wait in the memory of the host.
    """

    mode: str = 'full'
    accumulation: int = 1
    remat: str = free('none')
    steps: int = free(0)


@dataclasses.dataclass
class LoraSection:
    """Adapters of `train.mode=lora`; the fields are those of `models.lora.LoraSpec`.

    Rank and alpha are those of the first experiments of Hu et al. (arXiv 2106.09685) times two, on every
    linear map as Dettmers et al. (arXiv 2305.14314) found necessary.
    """

    rank: int = 16
    alpha: float = 32.0
    rank_stabilized: bool = False
    dropout: float = 0.0
    targets: str = '.*'


@dataclasses.dataclass
class MeshSection:
    """Sizes of the mesh axes; one of them may be -1 and takes what is left.

    `data` and `fsdp` split the rows of a batch, `fsdp` the parameters and moments as well; `context` splits
    the tokens of a row, `tensor` heads, feed-forward width and vocabulary. `devices` is how many there must
    be in all processes together; 0 takes what is there.
    """

    data: int = free(-1)
    fsdp: int = free(1)
    context: int = free(1)
    tensor: int = free(1)
    devices: int = free(0)


@dataclasses.dataclass
class CheckpointSection:
    """`interval` in steps; the newest `keep` checkpoints stay."""

    interval: int = free(100)
    keep: int = free(2)


@dataclasses.dataclass
class EvaluationSection:
    """Scores `limit` validation records every `interval` steps (0: never) while training."""

    interval: int = free(0)
    limit: int = free(200)
    tokens_per_batch: int = free(8192)


@dataclasses.dataclass
class ProfileSection:
    """`steps`, as `FIRST:END`, writes a trace of steps FIRST to END - 1 to `WORKDIR/profile`; '' of none."""

    steps: str = free('')


@dataclasses.dataclass
class RunConfig:
    seed: int = 0
    arm: str = 'behavior_sft'
    behaviors: tuple[behaviors_lib.Behavior, ...] = behaviors_lib.DEFAULT_BEHAVIORS
    log_interval: int = free(10)
    model: ModelSection = dataclasses.field(default_factory=ModelSection)
    data: DataSection = dataclasses.field(default_factory=DataSection)
    optimizer: OptimizerSection = dataclasses.field(default_factory=OptimizerSection)
    train: TrainSection = dataclasses.field(default_factory=TrainSection)
    lora: LoraSection = dataclasses.field(default_factory=LoraSection)
    mesh: MeshSection = dataclasses.field(default_factory=MeshSection)
    checkpoint: CheckpointSection = dataclasses.field(default_factory=CheckpointSection)
    evaluation: EvaluationSection = dataclasses.field(default_factory=EvaluationSection)
    profile: ProfileSection = dataclasses.field(default_factory=ProfileSection)

    @property
    def steps(self) -> int:
        """Steps to run: `train.steps`, or the schedule's length."""
        return self.train.steps or self.optimizer.schedule_steps

    @property
    def profiled(self) -> range:
        """Steps whose trace is written; raises UserError for a spelling that is none."""
        if not self.profile.steps:
            return range(0)
        match = re.fullmatch(r'(\d+):(\d+)', self.profile.steps)
        steps = range(int(match[1]), int(match[2])) if match else range(0)
        if not steps or steps[0] < 1:
            raise UserError(
                f'cannot read {self.profile.steps!r}',
                where='--config.profile.steps',
                fix='write FIRST:END, as 10:13 for steps 10, 11 and 12',
            )
        return steps

    @property
    def form(self) -> str:
        """What the arm's answers begin with, one of `behaviors.FORMS`."""
        return ARMS[self.arm]

    @property
    def trainable(self) -> tuple[str, ...]:
        """Path regexes of the parameters that train."""
        return MODES[self.train.mode]

    def validate(self) -> RunConfig:
        """Checks everything that can be checked before a device is touched; raises UserError."""
        from bsft_jax import config_checks

        config_checks.check(self)
        return self

    def to_dict(self) -> dict[str, Any]:
        """Nested dictionary of plain JSON values."""
        return json.loads(json.dumps(dataclasses.asdict(self)))


def flatten(tree: Any, prefix: str = '') -> dict[str, Any]:
    """Nested dictionary → `{dotted.path: value}`; lists and scalars are values."""
    if not isinstance(tree, dict):
        return {prefix: tree}
    flat = {}
    for key, value in tree.items():
        flat.update(flatten(value, f'{prefix}.{key}' if prefix else key))
    return flat


def _free_paths(cls: type, prefix: str = '') -> set[str]:
    paths = set()
    for field in dataclasses.fields(cls):
        path = f'{prefix}{field.name}'
        if field.metadata.get('free'):
            paths.add(path)
        elif isinstance(field.default_factory, type) and dataclasses.is_dataclass(field.default_factory):
            paths |= _free_paths(field.default_factory, f'{path}.')
    return paths


FREE_FIELDS = frozenset(_free_paths(RunConfig))


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Fixed fields that differ between two `to_dict()` results, as `path: old → new` lines."""
    old, new = flatten(old), flatten(new)
    return [
        f'{path}: {old.get(path, "absent")} → {new.get(path, "absent")}'
        for path in sorted(old.keys() | new.keys())
        if path not in FREE_FIELDS and old.get(path, ...) != new.get(path, ...)
    ]


def from_dict(values: dict[str, Any]) -> RunConfig:
    """Inverse of `RunConfig.to_dict`; raises UserError for a field this version does not know."""

    def build(cls: type, tree: dict[str, Any], where: str):
        known = {f.name: f for f in dataclasses.fields(cls)}
        kwargs = {}
        for key, value in tree.items():
            if key not in known:
                raise UserError(f'unknown field {where}{key}', where='config.json')
            factory = known[key].default_factory
            if isinstance(factory, type) and dataclasses.is_dataclass(factory):
                value = build(factory, value, f'{where}{key}.')
            elif key == 'behaviors':
                value = tuple(behaviors_lib.Behavior(**b) for b in value)
            kwargs[key] = value
        return cls(**kwargs)

    return build(RunConfig, values, '')


def read_workdir(workdir: str | pathlib.Path) -> RunConfig:
    """The resolved config a workdir was made with; raises UserError where there is none."""
    path = pathlib.Path(workdir) / 'config.json'
    try:
        values = json.loads(path.read_text(encoding='utf-8')) if path.is_file() else {}
    except ValueError as error:
        raise UserError(f'not valid JSON ({error})', where=str(path)) from error
    if 'arm' not in values:
        fix = 'name a --workdir of train, or a Hugging Face directory by --model'
        raise UserError('not a workdir: it holds no config.json of a run', where=str(workdir), fix=fix)
    return from_dict(values)
