"""Measures what a base model can do before fine-tuning, on questions about unseen simulated cases.

    python -m benchmarks.gates --model=tiny-clinical

A gate is a skill that the tasks take for granted; `defect: CATEGORY` asks openly whether something
is wrong. Answers are free text, and one is right if it equals the expected one word for word. The
script writes `benchmarks/results/gates.json` with the share of right answers and the number of
questions of each gate.
"""

from __future__ import annotations

import collections
import pathlib

from absl import flags

from benchmarks import output
from bsft_jax import cli

_MODEL = flags.DEFINE_string(
    'model', 'tiny-clinical', 'Hugging Face directory, bundled model or workdir.'
)
_CASES = flags.DEFINE_integer(
    'cases', 40, 'Simulated cases; each has one scene per category.', lower_bound=1
)
_SEED = flags.DEFINE_integer('seed', 7, "Seed of the cases; differs from pretraining's.")
_OUTPUT = flags.DEFINE_string('output', 'benchmarks/results/gates.json', 'File to write.')


def measure_gates(model: str, cases: int, seed: int) -> dict[str, dict[str, float]]:
    """Returns the share of right answers and the number of questions of each gate, by name."""
    import bsft_jax
    from bsft_jax.behaviorbench.pretraining import conversations

    questions = conversations.gate_questions(cases, seed)
    answers = bsft_jax.generate_answers(
        bsft_jax.load_model(model),
        [question.record for question in questions],
        policy='none',
        max_new_tokens=32,
    )
    is_right = collections.defaultdict(list)
    for question, answer in zip(questions, answers, strict=True):
        is_right[question.gate].append(answer['text'].strip() == question.answer)
    return {
        gate: {'right': sum(hits) / len(hits), 'n': len(hits)}
        for gate, hits in sorted(is_right.items())
    }


def main(argv) -> None:
    """Asks the questions, prints the gates and writes the result."""
    del argv
    gates = measure_gates(_MODEL.value, _CASES.value, _SEED.value)
    for gate, entry in gates.items():
        print(f'{gate:36} {entry["right"]:.3f}  of {entry["n"]}')
    name = pathlib.Path(_MODEL.value).name
    command = (
        f'python -m benchmarks.gates --model={name} --cases={_CASES.value} --seed={_SEED.value}'
    )
    output.write(_OUTPUT.value, command, ('jax', 'flax', 'transformers'), gates=gates)


if __name__ == '__main__':
    cli.run(main)
