"""Hugging Face checkpoints: families, reading of configs and weights, exports.

`families` describes what distinguishes a family, `configs` reads a `config.json` by it, `tables`
maps tensors to parameters in both directions. `files` and `loading` read weights, `adapters` reads
what a PEFT adapter is, `pretrained` assembles a model, `export` and `peft` write one.
"""
