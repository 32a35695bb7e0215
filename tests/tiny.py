"""Tiny models that tests make: torch checkpoints in the Hugging Face layout, and comparisons."""

import copy

import numpy as np

SHAPES = {
    'llama': dict(family='llama', num_key_value_heads=4, tie_word_embeddings=False),
    'llama grouped tied': dict(family='llama', num_key_value_heads=2, tie_word_embeddings=True),
    'llama bias': dict(family='llama', num_key_value_heads=1, attention_bias=True, mlp_bias=True),
    'qwen2 tied': dict(family='qwen2', num_key_value_heads=2, tie_word_embeddings=True),
    'qwen2 untied sharded bf16': dict(
        family='qwen2', num_key_value_heads=1, tie_word_embeddings=False, dtype='bfloat16', shards='20KB'
    ),
}


def save_torch(directory, family='qwen2', dtype='float32', shards='5GB', seed=0, vocab_size=96, **changes):
    """Writes a random torch model and returns it in float32, with the weights as they were stored."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    config_class, model_class = {
        'llama': (LlamaConfig, LlamaForCausalLM),
        'qwen2': (Qwen2Config, Qwen2ForCausalLM),
    }[family]
    config = config_class(
        **dict(
            vocab_size=vocab_size, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            max_position_embeddings=512, rope_theta=10000.0, initializer_range=0.3,
        )
        | changes
    )  # fmt: skip
    torch.manual_seed(seed)
    model = model_class(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if 'norm' in name or 'bias' in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
            parameter.copy_(parameter.to(getattr(torch, dtype)))  # .to() on the model would round RoPE too
    copy.deepcopy(model).to(getattr(torch, dtype)).save_pretrained(directory, max_shard_size=shards)
    return model.eval()


def assert_close(actual, reference, tolerance):
    """|a − b| ≤ tolerance · max(1, max|reference|)."""
    actual, reference = np.asarray(actual), np.asarray(reference)
    assert actual.shape == reference.shape
    worst = np.abs(actual - reference).max()
    assert worst <= tolerance * max(1.0, np.abs(reference).max()), worst
