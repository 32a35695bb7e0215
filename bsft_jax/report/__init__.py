"""Tables and pages from the files of a workdir or a study; imports no jax."""
