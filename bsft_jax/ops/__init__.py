"""Array operations: attention and its backends, KV caches, matmuls, RoPE, loss. No NNX modules.

Array names end in the letters of their dimensions: `hidden_BTD` is [batch row, token, embedding].
This is the legend for the whole package.

Model and training:

    B  rows of a batch                    T  tokens of a row (queries)
    S  tokens of a row (keys)             P  prompt tokens
    D  embed_dim                          F  mlp_dim
    V  rows of the embedding table        L  layers
    N  query heads                        K  key/value heads
    G  query heads per key/value head     H  head_dim
    Q  grouped query rows, G * T          M  tokens of all rows, flattened
    I  inputs of a linear map             O  outputs of a linear map
    r  LoRA rank                          n  behaviors, and so behavior rows

Records, scores and statistics (`inference`, `evaluation`, `studies`):

    R  records                            W  branches of a record (none, then each behavior)
    K  options of a record                C  categories
    X  suffix slots of a row              Y  scored positions of a row
    E  exchanges of a paired test         J  seeds
    U  cases

A lower-case letter is a block or a shard of its dimension: `q_BtNH` holds the queries of one block,
`logits_mV` the logits of one tile of tokens. 1 is a dimension of size one.
"""
