"""Turns sources of records into packed batches, and prompts into token ids."""
