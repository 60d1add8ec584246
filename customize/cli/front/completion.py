"""`customize completion bash|zsh|fish`: prints a script that completes commands, settings and their values.

It is made of the same tables as the help: the commands, and the settings of each with their choices.
"""

import re
import sys
from collections.abc import Mapping, Sequence

from customize.cli.front.teach_arguments import SWITCHES, VALUES
from customize.errors import InputError, Problem
from customize.methods import DreamBoothSettings, FromScratchSettings, TextualInversionSettings
from customize.printable import printable
from customize.settings.field import table
from customize.settings.frozen_model import Validated
from customize.settings.inference import InferenceSettings

USAGE = """usage: customize completion bash   >> ~/.bash_completion
       customize completion zsh    >> ~/.zshrc
       customize completion fish   > ~/.config/fish/completions/customize.fish

Prints a script with which the shell completes commands, settings and their values. Exit status: 0 done, 2 not done.
"""
MODELS: Mapping[str, tuple[type[Validated], ...]] = {
    "train_dreambooth": (DreamBoothSettings,), "train_textual_inversion": (TextualInversionSettings,),
    "train_digits": (FromScratchSettings,), "infer": (InferenceSettings,), "use": (InferenceSettings,),
    "teach": (DreamBoothSettings, TextualInversionSettings), "check": (DreamBoothSettings, TextualInversionSettings),
}  # fmt: skip
"""The settings that each command takes."""
OWN = {"teach": (*SWITCHES, *VALUES), "doctor": ("json",)}
"""Further flags of commands."""
PLAIN = re.compile(r"[\w.+-]+").fullmatch
"""Values that no shell needs quotes for."""
Flags = dict[str, dict[str, tuple[tuple[str, ...], str]]]
"""By command and flag: the choices, and what it is."""


def main(argv: Sequence[str], commands: Mapping[str, str]) -> int:
    """Print the script of a shell. commands: all commands, with what each is."""
    if not argv or {"--help", "-h"} & set(argv):
        print(USAGE, end="")
        return 0 if argv else 2
    makers = {"bash": bash, "zsh": zsh, "fish": fish}
    if len(argv) > 1 or argv[0] not in makers:
        what = f'"{printable(" ".join(argv), 60)}" is no shell that is known'
        raise InputError(Problem("customize completion", what, f"give one of {', '.join(makers)}"))
    sys.stdout.write(makers[argv[0]](commands, flags()))
    return 0


def flags() -> Flags:
    """The flags of every command that takes settings."""
    found: Flags = {}
    for command in (*MODELS, *OWN):
        lines = {line.name: line for model in MODELS.get(command, ()) for line in table(model).values()}
        own = {name: ((), "") for name in OWN.get(command, ())}
        values = {
            name: ("true", "false") if each.type is bool else (*filter(PLAIN, each.choices),) for name, each in lines.items()
        }
        found[command] = {**{name: (values[name], line.description) for name, line in lines.items()}, **own, "help": ((), "")}
    return found


def bash(commands: Mapping[str, str], known: Flags) -> str:
    """The script for bash."""
    by_value = [
        f'    "{command} --{name}") words="{" ".join(choices)}" ;;'
        for command, own in known.items()
        for name, (choices, _) in own.items()
        if choices
    ]
    by_flag = [f'    {command}) words="{" ".join(f"--{name}" for name in own)}" ;;' for command, own in known.items()]
    return "\n".join(
        [
            "# made by `customize completion bash`",
            "_customize() {",
            '  local current="${COMP_WORDS[COMP_CWORD]}" previous="${COMP_WORDS[COMP_CWORD-1]}"',
            '  local command="${COMP_WORDS[1]//-/_}" words=""',
            "  COMPREPLY=()",
            f'  if [ "$COMP_CWORD" -eq 1 ]; then words="{" ".join(commands)}"',
            '  elif [ "${current#--}" != "$current" ]; then case "$command" in',
            *by_flag,
            "    esac",
            '  else case "$command ${previous}" in',
            *by_value,
            "    esac; fi",
            '  [ -z "$words" ] || COMPREPLY=($(compgen -W "$words" -- "$current"))',
            "}",
            "complete -o default -F _customize customize",
            "",
        ]
    )


def zsh(commands: Mapping[str, str], known: Flags) -> str:
    """The script for zsh, which reads that of bash."""
    start = ["autoload -U +X compinit && compinit", "autoload -U +X bashcompinit && bashcompinit"]
    return "\n".join([*start, bash(commands, known).replace("completion bash", "completion zsh")])


def fish(commands: Mapping[str, str], known: Flags) -> str:
    """The script for fish, with the descriptions."""
    lines = ["# made by `customize completion fish`"]
    for name, about in commands.items():
        lines.append(f"complete -c customize -n __fish_use_subcommand -f -a {name} -d {quoted(about)}")
    for command, own in known.items():
        for name, (choices, about) in own.items():
            values = f" -x -a {quoted(' '.join(choices))}" if choices else ""
            told = f" -d {quoted(about)}" if about else ""
            lines.append(f"complete -c customize -n '__fish_seen_subcommand_from {command}' -l {name}{values}{told}")
    return "\n".join([*lines, ""])


def quoted(text: str) -> str:
    """A text in single quotes of fish."""
    return "'" + re.sub(r"(['\\])", r"\\\1", text) + "'"
