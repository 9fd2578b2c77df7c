"""The commands as Python functions: parameters, checks and results are those of the command line.

``functions.pyi`` has their signatures for editors and type checkers; ``scripts/write_stub.py``
writes it.
"""

from distviz.cli import calls

run = calls.as_function(calls.run)
compare = calls.as_function(calls.compare)
sweep = calls.as_function(calls.sweep)
filler = calls.as_function(calls.filler)
generate = calls.as_function(calls.generate)
inspect = calls.as_function(calls.inspect_model)
whatif = calls.as_function(calls.whatif)
report = calls.as_function(calls.report)
export = calls.as_function(calls.export)
