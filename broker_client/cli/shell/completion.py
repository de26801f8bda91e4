"""`mesh completion`: scripts that complete nouns, verbs, options and names in a shell."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Final, Literal

import msgspec
from cyclopts import Parameter

from broker_client.cli.options import SHARED, Shared
from broker_client.cli.screen.columns import Columns
from broker_client.cli.screen.report import print_json
from broker_client.cli.table import COMMANDS
from broker_client.cli.tree import build
from broker_client.cli.words import NOUNS
from schemas import listed
from schemas.filters import Language
from schemas.verbs import VERBS

Shell = Annotated[Literal["bash", "zsh", "fish"], Parameter(help="Which shell.")]

# Verbs that take several agents, by name or by filter.
_TO_AGENTS: Final = (
    "delete",
    "disable",
    "enable",
    "move",
    "pause",
    "revoke",
    "rotate",
    "set",
)
# Filter languages of commands with filters, sorting and columns.
FILTERED: Final[Mapping[tuple[str, str], Language]] = {
    ("agent", "list"): listed.AGENTS,
    ("top", ""): listed.AGENTS,
    ("events", ""): listed.EVENTS,
    ("command", "list"): listed.COMMANDS,
    ("command", "cancel"): listed.COMMANDS,
    ("command", "retry"): listed.COMMANDS,
    ("ping", ""): listed.AGENTS,
    ("run", ""): listed.AGENTS,
    **{("agent", verb): listed.AGENTS for verb in _TO_AGENTS},
}
_ASK_S: Final = 2
# Output formats of commands that print no list; lists have more.
_FORMS: Final = ("table", "json")
_FIRST_COLUMN: Final = "tail -n +2 | cut -d, -f1"
_BASH: Final = """\
# bash completion of mesh: source <(mesh completion bash)
_mesh_names() {
    "${COMP_WORDS[0]}" "$1" list "${context[@]}" --output csv --timeout @ASK_S@ 2>/dev/null |
        @FIRST_COLUMN@
}
_mesh_filter() {
    [[ $whole == '!'* ]] && lead='!' && whole=${whole#'!'}
    field=${whole%%:*}
    if [[ $whole != *:* ]]; then
        fields=("${fields[@]%%:*}")
        mapfile -t COMPREPLY < <(compgen -P "$lead" -S : -W "${fields[*]}" -- "$whole" | sort -u)
        ((${#COMPREPLY[@]} > 0)) && compopt -o nospace 2>/dev/null
        [[ $noun == top || $noun == ping || $noun == run ]] && of=agent
        mapfile -t words < <(_mesh_names "$of")
        mapfile -t words < <(compgen -P "$lead" -W "${words[*]}" -- "$whole")
        COMPREPLY+=("${words[@]}")
        return 0
    fi
    for i in "${fields[@]}"; do
        [[ $i == "$field":?* ]] && words+=("${i#*:}")
    done
    [[ $field == group || $field == agent ]] && mapfile -t words < <(_mesh_names "$field")
    [[ $COMP_WORDBREAKS == *:* ]] && lead="" || lead=$lead$field:
    mapfile -t COMPREPLY < <(compgen -P "$lead" -W "${words[*]}" -- "${whole#*:}")
}
_mesh() {
    local current=${COMP_WORDS[COMP_CWORD]} noun=${COMP_WORDS[1]} verb=${COMP_WORDS[2]}
    local before=${COMP_WORDS[COMP_CWORD - 1]}
    local -a words=() context=() fields=()
    local i whole=$current lead="" field="" of=$noun
    COMPREPLY=()
    # As typed: the shell itself ends words at a colon.
    [[ -n $COMP_LINE ]] && whole=${COMP_LINE:0:COMP_POINT} && whole=${whole##*[[:space:]]}
    for ((i = 1; i < COMP_CWORD; i++)); do
        [[ ${COMP_WORDS[i]} == -- ]] && return 0
        [[ ${COMP_WORDS[i]} == --context ]] && context=(--context "${COMP_WORDS[i + 1]}")
    done
    case "$noun $verb $before" in
@VALUES@
    esac
    if ((${#words[@]} > 0)); then
        :
    elif [[ $before == --group || $before == --agent ]] && ((COMP_CWORD > 1)); then
        mapfile -t words < <(_mesh_names "${before#--}")
    elif ((COMP_CWORD == 1)); then
        words=(@FIRST@)
    else
        case "$noun $verb" in
@CASES@
        esac
        if ((${#words[@]} == 0)); then
            case "$noun" in
@NOUNS@
            esac
        fi
        case "$noun $verb" in
@FILTERED@
        esac
        if ((${#fields[@]} > 0)) && [[ $whole != -* ]]; then
            _mesh_filter
            return 0
        fi
        if ((COMP_CWORD == 3)) && [[ $current != -* ]]; then
            case "$noun $verb" in
@NAMED@
                mapfile -t words < <(_mesh_names "$noun") ;;
            esac
        fi
    fi
    mapfile -t COMPREPLY < <(compgen -W "${words[*]}" -- "$current")
}
complete -o default -F _mesh mesh
"""
_ZSH: Final = "#compdef mesh\n# zsh completion of mesh: source <(mesh completion zsh)\n"
_ZSH_HEAD: Final = (
    "autoload -U +X compinit && compinit\nautoload -U +X bashcompinit && bashcompinit\n"
)


def completion(shell: Shell, /, *, shared: Shared = SHARED) -> None:
    """Print a script that completes nouns, verbs, options and names in a shell.

    Names of agents, groups, clients and commands come from the master, by the context in use.
    """
    text = {"bash": bash, "zsh": zsh, "fish": fish}[shell]()
    if shared.output == "json":
        print_json({"shell": shell, "script": text})
    else:
        print(text, end="")


def options() -> dict[tuple[str, str], list[str]]:
    """Return the long options of each command, from its parser."""
    app = build(())
    found: dict[tuple[str, str], list[str]] = {}
    for noun, verb, *_ in COMMANDS:
        command = app[noun][verb] if verb else app[noun]
        names = [name for each in command.assemble_argument_collection() for name in each.names]
        found[noun, verb] = sorted({*(n for n in names if n.startswith("--")), "--help"})
    return found


def values() -> dict[tuple[str, str, str], list[str]]:
    """Return the possible values of options with a few choices, by command and option.

    An empty option stands for the arguments.
    """
    app = build(())
    found: dict[tuple[str, str, str], list[str]] = {}
    for noun, verb, *_ in COMMANDS:
        command = app[noun][verb] if verb else app[noun]
        for each in command.assemble_argument_collection():
            choices = each.get_choices() or (_FORMS if "--output" in each.names else ())
            choices = choices or _columns_of(each.parameter.validator)
            flags = [name for name in each.names if name.startswith("-")]
            for name in (flags or [""]) if choices else []:
                found[noun, verb, name] = [*choices]
    return found


def _columns_of(validators: object) -> tuple[str, ...]:
    """Return the names of the columns that a parameter is checked for."""
    for each in validators if isinstance(validators, tuple) else (validators,):
        columns = getattr(each, "__self__", None)
        if isinstance(columns, Columns):
            return (*columns.traits,)
    return ()


def first_words() -> list[str]:
    return sorted({noun for noun, *_ in COMMANDS})


def named() -> dict[str, list[str]]:
    """Return, by noun, the verbs that take the name of an existing thing.

    The name is in the first column of the noun's list.
    """
    found: dict[str, list[str]] = {}
    commands = {(noun, verb) for noun, verb, *_ in COMMANDS}
    for verb in VERBS.values():
        fields = {field.name: field.required for field in msgspec.structs.fields(verb.request)}
        takes_one = fields.get("name") or fields.get("id")
        if takes_one and verb.verb != "create" and (verb.noun, verb.verb) in commands:
            found.setdefault(verb.noun, []).append(verb.verb)
    return {noun: sorted(verbs) for noun, verbs in sorted(found.items())}


def verbs_of(noun: str) -> list[str]:
    return sorted(verb for each, verb, *_ in COMMANDS if each == noun)


def bash() -> str:
    cases, nouns = list[str](), list[str]()
    chosen = values()
    for (noun, verb), own in sorted(options().items()):
        names = [*own, *chosen.get((noun, verb, ""), ())]
        if verb:
            cases.append(
                f'        "{noun} {verb}") ((COMP_CWORD > 2)) && words=({" ".join(names)}) ;;'
            )
        else:
            nouns.append(f"            {noun}) words=({' '.join(names)}) ;;")
    nouns += [f"            {noun}) words=({' '.join(verbs_of(noun))}) ;;" for noun in NOUNS]
    one = [f'"{noun} {verb}"' for noun, verbs in named().items() for verb in verbs]
    text = _BASH.replace("@FIRST@", " ".join(first_words())).replace("@ASK_S@", str(_ASK_S))
    text = text.replace("@FIRST_COLUMN@", _FIRST_COLUMN)
    text = text.replace("@NAMED@", f"            {' | '.join(one)})")
    text = text.replace("@FILTERED@", "\n".join(_bash_filters()))
    text = text.replace("@VALUES@", "\n".join(_bash_values(chosen)))
    return text.replace("@CASES@", "\n".join(cases)).replace("@NOUNS@", "\n".join(sorted(nouns)))


def _bash_values(chosen: Mapping[tuple[str, str, str], Sequence[str]]) -> Iterator[str]:
    for (noun, verb, option), choices in chosen.items():
        if option:
            place = f'"{noun} {verb} {option}"' if verb else f'"{noun} "*" {option}"'
            yield f"        {place}) words=({' '.join(choices)}) ;;"


def _bash_filters() -> Iterator[str]:
    for (noun, verb), language in FILTERED.items():
        place = f'"{noun} {verb}"' if verb else f'"{noun} "*'
        # Words of a program are no filter; those before it are one with --all.
        asked = '[[ " ${COMP_WORDS[*]} " == *" --all "* ]] && ' if noun == "run" else ""
        yield f"        {place}) {asked}fields=({' '.join(filter_words(language))}) ;;"


def filter_words(language: Language) -> list[str]:
    """Return each field as `status:`, and with each of its few values as `status:active`."""
    found: list[str] = []
    for name, field in language.fields.items():
        found += [f"{name}:", *(f"{name}:{value}" for value in field.values)]
    return found


def zsh() -> str:
    """Return the script for zsh, which runs the functions for bash."""
    return _ZSH + _ZSH_HEAD + bash().partition("\n")[2]


def fish() -> str:
    chosen = values()
    lines = ["# fish completion of mesh: mesh completion fish | source", "complete -c mesh -f"]
    for noun in first_words():
        about = NOUNS.get(noun) or next(text for each, _, _, text, _ in COMMANDS if each == noun)
        lines.append(f"complete -c mesh -n __fish_use_subcommand -a {noun} -d {_quoted(about)}")
    for noun, verb, _, text, _ in COMMANDS:
        if verb:
            seen = f"__fish_seen_subcommand_from {noun}; and not __fish_seen_subcommand_from"
            known = " ".join(verbs_of(noun))
            lines.append(f"complete -c mesh -n '{seen} {known}' -a {verb} -d {_quoted(text)}")
    for (noun, verb), names in sorted(options().items()):
        seen = f"__fish_seen_subcommand_from {noun}"
        if verb:
            seen += f"; and __fish_seen_subcommand_from {verb}"
        for name in names:
            choices = chosen.get((noun, verb, name))
            after = f" -x -a '{' '.join(choices)}'" if choices else ""
            lines.append(f"complete -c mesh -n '{seen}' -l {name[2:]}{after}")
        if language := FILTERED.get((noun, verb)):
            seen += "; and __fish_contains_opt all" if noun == "run" else ""
            given = " ".join(filter_words(language))
            lines.append(f"complete -c mesh -n '{seen}' -a '{given}'")
        if words := chosen.get((noun, verb, "")):
            lines.append(f"complete -c mesh -n '{seen}' -a '{' '.join(words)}'")
    for noun, verbs in named().items():
        seen = f"__fish_seen_subcommand_from {noun}; and __fish_seen_subcommand_from"
        asked = f"(mesh {noun} list --output csv --timeout {_ASK_S} 2>/dev/null | {_FIRST_COLUMN})"
        lines.append(f"complete -c mesh -n '{seen} {' '.join(verbs)}' -a '{asked}'")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
