"""The kind `script`: programs of the host that a profile names, with typed parameters.

A value stays in one element of argv, and no shell reads it. The agent runs a script as it runs a
program; one with secrets runs below `masking`, which removes their values from the output.
"""

import re
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from broker_agent.connectors.api import (
    ActionSpec,
    CallFailed,
    Profile,
    Secret,
    Secrets,
    Session,
)
from broker_agent.connectors.frames import SCRIPT_SECRETS
from schemas.messages.actions.script import ScriptRunArgs
from schemas.spans import DAY_S

_HOLE: Final = re.compile(r"\{\{|\}\}|\{([A-Za-z_][A-Za-z0-9_]*)\}|[{}]")
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
# Programs that read code from the argument behind one of these options.
_SHELLS: Final = re.compile(r"(?:ba|da|z|k|a|c|tc|fi)?sh|busybox")
_INTERPRETERS: Final = re.compile(r"python[\d.]*|perl[\d.]*|ruby[\d.]*|node|php[\d.]*|lua[\d.]*")
_SHELL_CODE: Final = re.compile(r"-[a-zA-Z]*c|--command")
_CODE: Final = re.compile(r"-[a-zA-Z]*[ceEr]|--eval|--print|-p|--run")
# Characters of a value that a pattern is tried on.
_PATTERN_LEN: Final = 4096
# Processor time for one pattern: `(a+)+b` would take years, and the agent's heartbeats wait for it.
PATTERN_S: Final = 0.1

Word = Annotated[str, Meta(max_length=128 * 1024)]


class Parameter(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A parameter of a script. default: value if none is given; an optional one has none at all.

    pattern: regular expression that the whole text matches. choices: all values there are. least,
    most: of a number. dash: a text may begin with `-`, and so look like an option.
    """

    type: Annotated[str, Meta(pattern=r"^(text|integer|number)$(?!\n)")] = "text"
    optional: bool = False
    default: bool | int | float | str | None = None
    pattern: str = ""
    choices: list[str] = []
    least: float | None = None
    most: float | None = None
    dash: bool = False


class Script(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One program. argv: elements with holes `{name}`, `{{` for a brace.

    An element that is a list is left out as a whole if a parameter of it has no value. secrets:
    variables of its environment. at_once: runs at a time, 0 for no limit.
    """

    argv: Annotated[list[Word | list[Word]], Meta(min_length=1, max_length=256)]
    params: dict[str, Parameter] = {}
    env: dict[str, str] = {}
    secrets: dict[str, Secret] = {}
    cwd: str | None = None
    timeout_s: Annotated[float, Meta(gt=0, le=DAY_S)] = 90.0
    at_once: Annotated[int, Meta(ge=0, le=1000)] = 0


class ScriptProfile(Profile, frozen=True, kw_only=True):
    """Scripts by their names."""

    scripts: Annotated[dict[str, Script], Meta(min_length=1, max_length=100)]


# -- rendering


def argv_of(name: str, script: Script, params: Mapping[str, Any]) -> list[str]:
    """Return the argv for these values. Raises CallFailed (`parameter_invalid`), effect none."""
    unknown = sorted(set(params) - set(script.params))
    if unknown:
        raise _invalid(name, unknown[0], f"there is no such parameter; there are {_names(script)}")
    values = {
        each: _value(name, each, parameter, params.get(each))
        for each, parameter in script.params.items()
    }
    argv: list[str] = []
    for element in script.argv:
        if isinstance(element, str):
            argv.append(_filled(name, element, values))
        elif all(values.get(hole) is not None for part in element for hole in _holes(part)):
            argv += [_filled(name, part, values) for part in element]
    return argv


def _value(script: str, name: str, parameter: Parameter, given: Any) -> str | None:  # noqa: ANN401
    """The checked value as text, or None for an optional one that is not given."""
    value = parameter.default if given is None else given
    if value is None:
        if parameter.optional:
            return None
        raise _invalid(script, name, "it is needed")
    fault = _fault(parameter, value)
    if fault:
        raise _invalid(script, name, fault)
    return value if isinstance(value, str) else f"{value}"


def _fault(parameter: Parameter, value: Any) -> str:  # noqa: ANN401
    """Return what is wrong with a value, or an empty text."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return "it is neither text nor a number"
    if parameter.type != "text":
        return _number_fault(parameter, value)
    text = str(value)
    if "\0" in text:
        return "it has a NUL byte"
    if text.startswith("-") and not parameter.dash:
        return "it begins with '-', as an option does"
    if parameter.choices and text not in parameter.choices:
        return f"it is none of {', '.join(parameter.choices)}"
    return _pattern_fault(parameter.pattern, text) if parameter.pattern else ""


def _pattern_fault(pattern: str, text: str) -> str:
    try:
        with _bounded():
            is_match = len(text) <= _PATTERN_LEN and re.fullmatch(pattern, text)
    except _TooLong:
        return f"it takes too long to compare with {pattern}"
    return "" if is_match else f"it does not match {pattern}"


class _TooLong(Exception):
    """The time for a pattern is over."""


@contextmanager
def _bounded() -> Iterator[None]:
    """Raise _TooLong in the block after `PATTERN_S`. Signals reach the main thread alone."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def late(_signal: int, _frame: object) -> None:
        raise _TooLong

    before = signal.signal(signal.SIGVTALRM, late)
    try:
        signal.setitimer(signal.ITIMER_VIRTUAL, PATTERN_S)
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def _number_fault(parameter: Parameter, value: str | float) -> str:
    try:
        number = int(value) if parameter.type == "integer" else float(value)
    except (ValueError, OverflowError):
        return f"it is no {parameter.type}"
    if str(value) != str(value).strip() or number != float(value) or number - number:
        return f"it is no {parameter.type}"
    if parameter.least is not None and number < parameter.least:
        return f"it is less than {parameter.least:g}"
    if parameter.most is not None and number > parameter.most:
        return f"it is more than {parameter.most:g}"
    return ""


def _filled(script: str, text: str, values: Mapping[str, str | None]) -> str:
    def fill(hole: re.Match[str]) -> str:
        if hole[1] is None:
            return hole[0][0]
        value = values[hole[1]]
        if value is None:
            raise _invalid(script, hole[1], "it is needed outside of an optional list")
        return value

    return _HOLE.sub(fill, text)


def _holes(text: str) -> list[str]:
    return [hole[1] for hole in _HOLE.finditer(text) if hole[1] is not None]


def _names(script: Script) -> str:
    return ", ".join(script.params) or "none"


def _invalid(script: str, name: str, why: str) -> CallFailed:
    return CallFailed("parameter_invalid", f"{script}: params.{name[:64]}: {why}", effect="none")


def find_script(profile: ScriptProfile, name: str) -> Script:
    """Return a script. Raises CallFailed (`script_unknown`), with effect none."""
    script = profile.scripts.get(name)
    if script is None:
        there = ", ".join(sorted(profile.scripts))
        raise CallFailed(
            "script_unknown", f"no script {name[:64]!a}; there are {there}", effect="none"
        )
    return script


# -- checking


def problems(profile: ScriptProfile) -> Iterator[str]:
    """Sentences about scripts that cannot work, or that would let a value become code."""
    for name, script in profile.scripts.items():
        for problem in _problems(script):
            yield f"scripts.{name}: {problem}"


def _problems(script: Script) -> Iterator[str]:
    words = [part for each in script.argv for part in ([each] if isinstance(each, str) else each)]
    first = words[0] if words else ""
    if not first.startswith("/") or _holes(first) or not isinstance(script.argv[0], str):
        yield "argv[0] is not the absolute path of a program"
    elif not Path(first).is_file():
        yield f"there is no program {first}"
    for word in words:
        if any(hole[0] in "{}" for hole in _HOLE.finditer(word)):
            yield f"{word!r} has a single brace: write {{{{ for one"
        for hole in _holes(word):
            if hole not in script.params:
                yield f"{word!r} names {hole}, which params lacks"
    used = {hole for word in words for hole in _holes(word)}
    for name, parameter in script.params.items():
        yield from _parameter_problems(name, parameter, is_used=name in used)
    yield from _code_problems(words)
    for name in {*script.env, *script.secrets}:
        if not _NAME.fullmatch(name):
            yield f"{name!r} is no name of a variable"


def _parameter_problems(name: str, parameter: Parameter, *, is_used: bool) -> Iterator[str]:
    if not _NAME.fullmatch(name):
        yield f"params.{name}: a name has letters, digits and _"
    if not is_used:
        yield f"params.{name}: argv does not use it"
    try:
        re.compile(parameter.pattern)
    except re.error as error:
        yield f"params.{name}.pattern: {error}"
    if parameter.default is not None and (fault := _fault(parameter, parameter.default)):
        yield f"params.{name}.default: {fault}"


def _code_problems(words: Sequence[str]) -> Iterator[str]:
    """A hole in what a shell or an interpreter reads as code: quoting could not make it safe."""
    for index, word in enumerate(words):
        base = word.rpartition("/")[2]
        is_shell = _SHELLS.fullmatch(base) is not None
        if not is_shell and _INTERPRETERS.fullmatch(base) is None:
            continue
        option = _SHELL_CODE if is_shell else _CODE
        for at in range(index + 1, len(words) - 1):
            if option.fullmatch(words[at]) and _holes(words[at + 1]):
                yield f"{words[at + 1]!r} is code of {base}: pass values as arguments behind it"


class ScriptConnector:
    kind = "script"
    capability = "script"
    profile = ScriptProfile
    actions: Mapping[str, ActionSpec] = {
        "script.run": ActionSpec(args=ScriptRunArgs, effect="writes"),
        SCRIPT_SECRETS: ActionSpec(args=ScriptRunArgs, effect="reads"),
    }

    def allowed(self, profile: ScriptProfile) -> Sequence[str]:
        del profile
        return ["script.run"]

    def check(self, profile: ScriptProfile) -> Sequence[str]:
        return list(problems(profile))

    def open(self, profile: ScriptProfile, secrets: Secrets) -> Session:
        """The agent runs scripts itself, so there is nothing to open but for a test."""
        from broker_agent.connectors.script_session import ScriptSession

        return ScriptSession(profile, secrets)

    def kill(self, profile: ScriptProfile, secrets: Secrets, server_id: str) -> None:
        """The agent ends the processes of a script."""


CONNECTOR: Final = ScriptConnector()
