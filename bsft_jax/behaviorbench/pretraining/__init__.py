"""Pretraining text of the bundled base model: conversations, drills and fact sheets."""
