"""Exact distributions, their statistics, and inference; plain arithmetic."""
