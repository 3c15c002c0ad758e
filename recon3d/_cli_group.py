"""A group of commands one of which need not be named."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup


class DefaultRun(TyperGroup):
    """What begins with no command's name is for ``run``: ``batch SOURCE`` is ``batch run SOURCE``.

    An argument of a command's name is given as a path (``./status``), or after ``run``.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put ``run`` before what names no command."""
        named = not args or args[0] in self.commands or args[0] in ctx.help_option_names
        return list(super().parse_args(ctx, args if named else ["run", *args]))
