"""Hooks that observe or redistribute, and the recorders that count."""
