"""Pretrains models of many sizes at equal compute, and forecasts the largest one.

    python -m bsft_jax.study --config=configs/studies/size_ladder.py --workdir=runs/size_ladder
    python -m bsft_jax.study --config=configs/studies/size_ladder.py:pod --workdir=runs/sizes \\
        --launcher=print

Nine sizes from random weights, on text about simulated cases, an epoch or less. Eight of them are
trained at four budgets of compute each, and their losses are fitted in three ways; that of the
largest at four times the largest budget is forecast before it is trained. On two CPU cores about
an hour. `:smoke` is the same in minutes, with models that learn next to nothing. `:pod` fine-tunes
Qwen2.5 from 0.5B to 72B by two arms and fits macro-F1 and the gain of behavior_sft to the size.

Expected result: not yet run.
"""

from bsft_jax.config import RunConfig
from bsft_jax.errors import UserError
from bsft_jax.studies import ladder
from bsft_jax.studies.scaling_study import ScalingPoint, ScalingStudy
from bsft_jax.studies.study import Arm, load_config

BASE = 'configs/size_ladder.py'
# Variant → (parameters outside of the embedding, training FLOPs of the budgets).
LADDERS = {
    'cpu': ([5e4 * 1.5**k for k in range(9)] + [3.2e6], (1e12, 2e12, 4e12, 8e12)),
    'smoke': ([3.3e3, 1.3e4, 2.6e4, 6e4, 1e5, 1.7e5, 2.5e5, 4.4e5], (1e11, 2e11)),
}
# Of the largest model, over the largest budget of the others.
FURTHER = 4
QWEN = ('0.5B', '1.5B', '3B', '7B', '14B', '32B', '72B')


def get_config(arg: str = 'cpu') -> ScalingStudy:
    """Returns the study of a variant; raises UserError for an unknown one."""
    if arg == 'pod':
        return _pod()
    if arg not in LADDERS:
        known = ', '.join((*LADDERS, 'pod'))
        raise UserError(f'{arg!r} is not one of {known}', where='--config=FILE:VARIANT')
    base = load_config(BASE, RunConfig)
    sizes, budgets = LADDERS[arg]
    rungs = ladder.make_ladder(base, sizes, ladder.Form(head_dim=16, aspect=24.0))
    smaller = ladder.iso_flop_points(base, rungs[:-1], budgets)
    (largest,) = ladder.iso_flop_points(base, rungs[-1:], [FURTHER * budgets[-1]])
    return ScalingStudy(
        name=f'size_ladder_{arg}',
        config=BASE,
        points=(*smaller, largest),
        held_out=largest.name,
        validation_limit=400,
    )


def _pod() -> ScalingStudy:
    points = [
        ScalingPoint(f'qwen2.5-{size.lower()}', {'model.base': f'Qwen/Qwen2.5-{size}-Instruct'})
        for size in QWEN
    ]
    arms = [Arm(name, {'arm': name}) for name in ('general_sft', 'behavior_sft')]
    return ScalingStudy(
        name='size_ladder_pod',
        config='configs/qwen2_5_7b.py:lora',
        points=tuple(points),
        arms=tuple(arms),
        gain='behavior_sft-general_sft',
        seeds=(0, 1, 2),
        held_out=points[-1].name,
    )
