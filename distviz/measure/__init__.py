"""Measure a model: batches through the hooked model, on one or several processes."""
