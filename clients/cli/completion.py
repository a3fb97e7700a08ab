"""`foursight --install-completion`: completion of commands, options and their values in bash, zsh and fish."""

import os
from pathlib import Path

import click

from foursight.clients.cli.command import Option

_LINES = {
    "bash": (".bashrc", 'eval "$(_FOURSIGHT_COMPLETE=bash_source foursight)"'),
    "zsh": (".zshrc", 'eval "$(_FOURSIGHT_COMPLETE=zsh_source foursight)"'),
    "fish": (".config/fish/completions/foursight.fish", "_FOURSIGHT_COMPLETE=fish_source foursight | source"),
}


def install_option() -> click.Option:
    """--install-completion."""
    text = "Install completion for the current shell: bash, zsh or fish."
    return Option("--install-completion", is_flag=True, is_eager=True, expose_value=False, callback=_install, help=text)


def _install(ctx: click.Context, _: click.Parameter, asked: bool) -> None:
    """Add a line to the shell's start-up file, unless it is there."""
    if not asked or ctx.resilient_parsing:
        return
    shell = Path(os.environ.get("SHELL", "")).name
    if shell not in _LINES:
        raise click.UsageError(f"--install-completion: the shell {shell!r} is not one of {', '.join(_LINES)}.", ctx)
    name, line = _LINES[shell]
    file = Path.home() / name
    file.parent.mkdir(parents=True, exist_ok=True)
    content = file.read_text() if file.exists() else ""
    if line not in content.splitlines():
        file.write_text(f"{content}{'' if content.endswith(chr(10)) or not content else chr(10)}{line}\n")
    print(f"Completion is installed in {file}. Open a new shell to use it.")
    ctx.exit()
