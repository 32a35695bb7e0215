"""The smallest study: two arms, one seed, on synthetic tasks, in minutes on two CPU cores.

python -m bsft_jax.study --config=configs/studies/quickstart.py --workdir=runs/quickstart
"""

from bsft_jax.studies.study import Arm, Study


def get_config() -> Study:
    return Study(
        name='quickstart',
        config='configs/quickstart.py',
        arms=(
            Arm('general_sft', {'arm': 'general_sft'}),
            Arm('behavior_sft', {'arm': 'behavior_sft'}),
        ),
        test_limit=630,
    )
