"""`python -m quietcore` is the installed command."""

from quietcore.cli.main import entry

entry()
