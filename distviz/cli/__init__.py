"""The command line."""

from distviz.cli.app import main

__all__ = ["main"]
