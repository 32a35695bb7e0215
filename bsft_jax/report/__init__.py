"""Pages and tables from the files of a workdir; imports no jax."""
