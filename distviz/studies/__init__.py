"""Studies that take several measurements: compare, filler, sweep, what-if, generate, inspect."""
