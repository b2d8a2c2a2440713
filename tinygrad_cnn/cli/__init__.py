"""The command `tinygrad-cnn`: a table of subcommands, each a module that is imported only when it runs."""

from .main import COMMANDS, main

__all__ = ["COMMANDS", "main"]
