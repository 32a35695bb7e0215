"""Names that operations leave in compiled programs, for readers of HLO text such as `planning`."""

# Einsum of attention scores; `jnp.einsum` names its matmul after it.
SCORES_EINSUM = 'BKQH,BKSH->BKQS'
# Scope of a loop whose trip count is data-dependent; the number is an upper bound.
BOUNDED_LOOP_SCOPE = 'at_most_{}_times'
