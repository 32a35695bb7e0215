"""The model: one decoder for all dense families, its layers, LM head, LoRA and behavior rows.

Parameters are one nested dictionary of arrays; a path such as `layers/attention/q/kernel` names
one. Kernels are stored [in, out] and stacked over layers in front: [L, in, out]. The legend of
array letters is in `bsft_jax.ops`.
"""
