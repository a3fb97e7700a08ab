"""The click classes behind every command: help in sections, lazy groups, suggestions, one-line errors."""

import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

import click

from foursight.schema.suggest import close_matches

# Exit statuses. 0: done.
FAILED, WRONG_USAGE, NO_SERVER, INTERRUPTED = 1, 2, 3, 130
_MAX_WIDTH = 100


class Argument(click.Argument):
    """A positional argument with a help text."""

    def __init__(self, name: str, *, help: str, **settings: Any) -> None:
        super().__init__([name], **settings)
        self.text = help

    def get_help_record(self, ctx: click.Context) -> tuple[str, str]:
        """Return the metavar and the help text."""
        return self.make_metavar(ctx), self.text


class Option(click.Option):
    """An option that is listed under `section` in the help."""

    def __init__(self, name: str | Sequence[str], *, help: str, section: str | None = None, **settings: Any) -> None:
        settings.setdefault("show_default", True)
        super().__init__([name] if isinstance(name, str) else name, help=help, **settings)
        self.section = section


class CommandError(click.UsageError):
    """Ends a command with one line on standard error and an exit status."""

    def __init__(self, message: str, status: int = FAILED) -> None:
        super().__init__(message)
        self.status = status


class _Formatter(click.HelpFormatter):
    def __init__(self, indent_increment: int = 2, width: int | None = None, max_width: int | None = None) -> None:
        # click leaves two columns empty.
        width = width or min(shutil.get_terminal_size().columns, max_width or _MAX_WIDTH)
        super().__init__(indent_increment, width, max_width)

    def write_heading(self, heading: str) -> None:
        super().write_heading(click.style(heading, bold=True))


class _Context(click.Context):
    formatter_class = _Formatter


class Command(click.Command):
    """A command with an example at the end of its help."""

    context_class = _Context

    def __init__(self, *args: Any, example: str | None = None, **settings: Any) -> None:
        settings["context_settings"] = {"help_option_names": ["-h", "--help"], "max_content_width": _MAX_WIDTH}
        super().__init__(*args, **settings)
        self.example = example

    def get_short_help_str(self, limit: int = 45) -> str:
        """Return the first sentence of the help."""
        return " ".join((self.help or "").split("\n\n")[0].split()).partition(". ")[0].rstrip(".") + "."

    def format_arguments(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write nothing: `format_options` does, in every version of click."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write arguments first, then options without a section, then the sections."""
        sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        for parameter in self.get_params(ctx):
            title = "Arguments" if isinstance(parameter, Argument) else getattr(parameter, "section", None) or "Options"
            record = parameter.get_help_record(ctx)
            if record:
                sections.setdefault(title, []).append(record)
        for title, records in sections.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the example."""
        if self.example is not None:
            formatter.write_paragraph()
            formatter.write_text(f"Example: {ctx.command_path} {self.example}")

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments; the error for an unknown option suggests one of this command's."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            meant = self.suggest_option(ctx, error.option_name)
            raise click.UsageError(_no_such("option", error.option_name, meant, ctx), ctx) from None
        except click.UsageError as error:
            error.ctx = error.ctx or ctx
            raise

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; an error message begins with the command's name."""
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            error.ctx = error.ctx or ctx
            raise

    def suggest_option(self, ctx: click.Context, name: str) -> str | None:
        """Return the option that `name` was meant to be."""
        known = [option for parameter in self.get_params(ctx) for option in parameter.opts if option.startswith("--")]
        return next(iter(close_matches(name, known, 1)), None)


class Group(Command, click.Group):
    """A group of commands."""

    command_class = Command

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, then the commands."""
        super().format_options(ctx, formatter)
        self.format_commands(ctx, formatter)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; the error for an unknown one suggests one of this group's."""
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-") and not ctx.resilient_parsing:
            meant = next(iter(close_matches(name, self.list_commands(ctx), 1)), None)
            raise click.UsageError(_no_such("command", name, meant, ctx), ctx)
        return super().resolve_command(ctx, args)


class Program(Group):
    """The program: its commands are created, or imported, when they are first needed; every error is one line."""

    def __init__(self, *args: Any, lazy: Mapping[str, str | Callable[[], click.Command]], **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return all names, in the order of the table."""
        return list(self._lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Create a command, or import it ("module:name")."""
        if cmd_name in self._lazy and cmd_name not in self.commands:
            source = self._lazy[cmd_name]
            if isinstance(source, str):
                module, _, name = source.partition(":")
                self.commands[cmd_name] = getattr(import_module(module), name)
            else:
                self.commands[cmd_name] = source()
        return self.commands.get(cmd_name)

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run a command and exit with the status that it returns; None is 0."""
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, False, **extra)
        try:
            result = super().main(args, prog_name or self.name, complete_var, False, **extra)
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            result = error.exit_code
        except click.UsageError as error:
            path = error.ctx.command_path if error.ctx else self.name
            print(f"{path}: {error.format_message()}", file=sys.stderr)
            result = error.status if isinstance(error, CommandError) else error.exit_code
        except click.Abort:
            result = INTERRUPTED
        sys.exit(result or 0)


def _no_such(kind: str, name: str, meant: str | None, ctx: click.Context) -> str:
    end = f"Did you mean {meant}?" if meant else f"{ctx.command_path} --help lists them all."
    return f"No such {kind}: {name}. {end}"
