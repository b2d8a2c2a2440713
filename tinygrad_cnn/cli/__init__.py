"""The command `tinygrad-cnn`. Each subcommand is a row of `COMMANDS` and a module that is imported only when it runs."""

from .main import COMMANDS, main

__all__ = ["COMMANDS", "main"]
