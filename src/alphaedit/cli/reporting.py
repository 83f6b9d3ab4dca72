"""What reports say about the command that made them."""

from __future__ import annotations

import shlex
import sys

from alphaedit.core.text import visible


def command_line() -> str:
    """The command that is running, as it could be typed again."""
    return visible(shlex.join(["alphaedit", *sys.argv[1:]]))
