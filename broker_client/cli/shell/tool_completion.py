"""Completion scripts for a program without nouns, such as `broker-agent`."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from cyclopts import App

SHELLS: Final = ("bash", "zsh", "fish")
_ZSH_HEAD: Final = (
    "autoload -U +X compinit && compinit\nautoload -U +X bashcompinit && bashcompinit\n"
)
_BASH: Final = """\
@FUNCTION@() {
    local current=${COMP_WORDS[COMP_CWORD]} verb=${COMP_WORDS[1]}
    local before=${COMP_WORDS[COMP_CWORD - 1]}
    local words=""
    if ((COMP_CWORD == 1)); then
        words="@VERBS@"
    else
        case "$verb $before" in
@CASES@
        esac
    fi
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
}
complete -o default -F @FUNCTION@ @NAME@
"""


def script(app: "App", verbs: list[str], shell: str) -> str:
    """Return the script of one of `SHELLS`; it completes files where nothing else is known."""
    name = app.name[0]
    if shell == "fish":
        return "\n".join(_fish(app, name, verbs)) + "\n"
    function = f"_{name.replace('-', '_')}"
    text = _BASH.replace("@FUNCTION@", function).replace("@NAME@", name)
    text = text.replace("@VERBS@", " ".join([*verbs, "completion", "help", "version"]))
    cases = [
        f'            {place}) words="{" ".join(words)}" ;;' for place, words in _places(app, verbs)
    ]
    text = text.replace("@CASES@", "\n".join(cases))
    return text if shell == "bash" else f"#compdef {name}\n{_ZSH_HEAD}{text}"


def _places(app: "App", verbs: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield patterns of command and last word, specific ones first, with the possible words."""
    for verb in verbs:
        options = _options(app, verb)
        for option, choices in options.items():
            if choices is not None:
                yield f'"{verb} {option}"', choices
        yield f'"{verb} "*', sorted([*options, "--help"])
    yield '"completion "*', [*SHELLS]
    yield '"help "*', verbs


def _options(app: "App", verb: str) -> dict[str, list[str] | None]:
    """Return the long options of a command: choices, [] for any word, or None for a flag."""
    found: dict[str, list[str] | None] = {}
    for each in app[verb].assemble_argument_collection():
        for name in each.names:
            if name.startswith("--") and not name.startswith(("--no-", "--empty-")):
                is_flag = each.hint is bool
                found[name] = None if is_flag else [*(each.get_choices() or ())]
    return found


def _fish(app: "App", name: str, verbs: list[str]) -> Iterator[str]:
    for verb in [*verbs, "completion", "help", "version"]:
        yield f"complete -c {name} -n __fish_use_subcommand -f -a {verb}"
    for verb in verbs:
        seen = f"complete -c {name} -n '__fish_seen_subcommand_from {verb}'"
        for option, choices in _options(app, verb).items():
            after = f" -x -a '{' '.join(choices)}'" if choices else " -r" if choices == [] else ""
            yield f"{seen} -l {option[2:]}{after}"
    seen = f"complete -c {name} -n '__fish_seen_subcommand_from completion'"
    yield f"{seen} -f -a '{' '.join(SHELLS)}'"
