"""The `douane` command. Each module holds one group of commands; what a command needs is imported when it runs."""

from ext_proc.cli.root import app, main

__all__ = ["app", "main"]
