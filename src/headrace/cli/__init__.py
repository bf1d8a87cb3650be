"""The command line: `headrace.cli.main`."""

from headrace.cli.entry import commands, main, parser

__all__ = ["commands", "main", "parser"]
