"""Documents, prompts, and batches of tokens."""
