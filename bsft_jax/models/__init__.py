"""The model: one decoder for all dense families, attention, behavior rows.

Shapes live in names. The legend:

    B rows of a batch       T tokens of a row (queries)   S tokens of a row (keys, suffixes)
    D model width           F feed-forward width          V rows of the embedding table
    L layers                N query heads                 K key/value heads
    G query heads per key/value head (N / K)              H width of a head
    n behaviors             R records of a batch          O options of a record

Parameters are one nested dictionary of arrays; a path such as `layers/attention/q/kernel` names
one. Kernels are stored [in, out] and stacked over layers in front: [L, in, out].
"""
