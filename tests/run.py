"""The commands' work by keyword arguments, as tests call it."""

from bsft_jax.commands import evaluate as evaluate_lib
from bsft_jax.commands import generate as generate_lib
from bsft_jax.commands.export import export
from bsft_jax.commands.train import train
from bsft_jax.data import pipeline
from bsft_jax.inference.open_model import ModelSource

__all__ = ['evaluate', 'examples_of', 'export', 'generate', 'train']


def evaluate(**options):
    """Evaluates with the fields of `EvaluateOptions`."""
    return evaluate_lib.evaluate(evaluate_lib.EvaluateOptions(**options))


def generate(*, workdir='', model='', step=None, chat_template='', tokenizer='', **options):
    """Generates with the fields of `ModelSource` and `GenerateOptions`."""
    source = ModelSource(workdir, model, step, chat_template, tokenizer=tokenizer)
    return generate_lib.generate(generate_lib.GenerateOptions(source, **options))


def examples_of(config, spec, **options):
    """Returns the examples and plan of a run with this base."""
    positions = spec.network.arch.max_positions
    data = pipeline.training_examples(config, spec.tokenizer, spec.behaviors, positions, **options)
    return data.store, data.plan
