"""Fits what behavior tokens gain over plain fine-tuning to the amount of data.

    python -m bsft_jax.study --config=configs/studies/data_ladder.py --workdir=runs/data_ladder

Two arms from the bundled base on 25 to 800 steps of the same epoch, two seeds. The gain with 800
steps is forecast from the others before those runs start. On two CPU cores about an hour with
--jobs=2. `:smoke` is the same in minutes, on a hundred cases. `:pod` is Qwen2.5-7B with LoRA on up
to 100,000 records.

Expected result: not yet run.
"""

from bsft_jax.config import RunConfig
from bsft_jax.errors import UserError
from bsft_jax.studies import ladder
from bsft_jax.studies.scaling_study import ScalingStudy
from bsft_jax.studies.study import Arm, load_config, with_overrides

# Variant → (base config, its data, steps, seeds, test records).
VARIANTS = {
    'cpu': (
        'configs/quickstart.py',
        'synthetic:1200',
        (25, 50, 100, 200, 400, 800),
        (0, 1),
        630,
    ),
    'smoke': ('configs/quickstart.py', 'synthetic:100', (2, 4, 6, 8, 10, 12), (0,), 42),
    'pod': (
        'configs/qwen2_5_7b.py:lora',
        'synthetic:6000',
        (12, 25, 50, 100, 200, 400),
        (0, 1, 2),
        0,
    ),
}


def get_config(arg: str = 'cpu') -> ScalingStudy:
    """Returns the study of a variant; raises UserError for an unknown one."""
    if arg not in VARIANTS:
        raise UserError(
            f'{arg!r} is not one of {", ".join(VARIANTS)}', where='--config=FILE:VARIANT'
        )
    config, source, steps, seeds, test_limit = VARIANTS[arg]
    overrides = {'data.source': source}
    points = ladder.data_points(with_overrides(load_config(config, RunConfig), overrides), steps)
    return ScalingStudy(
        name=f'data_ladder_{arg}',
        config=config,
        points=points,
        arms=tuple(Arm(name, {'arm': name}) for name in ('general_sft', 'behavior_sft')),
        gain='behavior_sft-general_sft',
        seeds=seeds,
        overrides=overrides,
        held_out=points[-1].name,
        validation_limit=126,
        test_limit=test_limit,
    )
