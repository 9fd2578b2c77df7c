"""Checkpoints: check, open, and find the observable places."""
