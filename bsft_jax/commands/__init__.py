"""The work of the commands: `bsft_jax/NAME.py` holds the flags, `commands/NAME.py` what they do."""
