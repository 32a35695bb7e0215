"""What a base model can do before any fine-tuning: free answers to questions about unseen simulated cases.

    python -m benchmarks.gates --model=tiny-clinical

A gate is a skill that the tasks take for granted; `defect: CATEGORY` asks openly whether something
is wrong. An answer counts when it is word for word the right one. Writes
`benchmarks/results/gates.json` with the share of right answers and their number per gate.
"""

from __future__ import annotations

import collections
import pathlib

from absl import flags

from benchmarks import output
from bsft_jax import cli

_MODEL = flags.DEFINE_string('model', 'tiny-clinical', 'Hugging Face directory, bundled model or workdir.')
_CASES = flags.DEFINE_integer('cases', 40, 'Simulated cases; each has a scene per category.', lower_bound=1)
_SEED = flags.DEFINE_integer('seed', 7, "Seed of the cases; another one than pretraining's.")
_OUTPUT = flags.DEFINE_string('output', 'benchmarks/results/gates.json', 'File to write.')


def measure(model: str, cases: int, seed: int) -> dict[str, dict[str, float]]:
    """Share of right answers and number of questions per gate, in the order of their names."""
    import bsft_jax
    from bsft_jax.behaviorbench import text

    asked = text.gate_questions(cases, seed)
    answers = bsft_jax.generate_answers(
        bsft_jax.load_model(model), [question.record for question in asked], policy='none', max_new_tokens=32
    )
    right = collections.defaultdict(list)
    for question, answer in zip(asked, answers, strict=True):
        right[question.gate].append(answer['text'].strip() == question.answer)
    return {gate: {'right': sum(hits) / len(hits), 'n': len(hits)} for gate, hits in sorted(right.items())}


def main(argv) -> None:
    del argv
    gates = measure(_MODEL.value, _CASES.value, _SEED.value)
    for gate, entry in gates.items():
        print(f'{gate:36} {entry["right"]:.3f}  of {entry["n"]}')
    name = pathlib.Path(_MODEL.value).name
    command = f'python -m benchmarks.gates --model={name} --cases={_CASES.value} --seed={_SEED.value}'
    output.write(_OUTPUT.value, command, ('jax', 'flax', 'transformers'), gates=gates)


if __name__ == '__main__':
    cli.run(main)
