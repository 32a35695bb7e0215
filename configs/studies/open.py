"""Compares the five arms on real clinical text, from the bundled base.

    python -m bsft_jax.prepare --source=open:DIR --output=runs/open/data
    python -m bsft_jax.study --config=configs/studies/open.py --workdir=runs/open/study

One seed, about forty minutes on two CPU cores. The endpoint, chosen beforehand, is proactive
macro-F1 of behavior_sft against general_sft, both with the model's own choice of behavior.

Expected result: -1.0 points (95 % interval -1.9 to -0.2), 0.442 against 0.452 (docs/results.md).
"""

from bsft_jax.studies.study import Arm, Study


def get_config() -> Study:
    """Returns the study."""
    arms = ('general_sft', 'behavior_sft', 'text_sft', 'neutral_token', 'shuffled_token')
    return Study(
        name='open',
        config='configs/open.py',
        arms=tuple(Arm(name, {'arm': name}) for name in arms),
        seeds=(0,),
    )
