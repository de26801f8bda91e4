"""Language rules of docs/contributing.md, checked in docstrings, comments, pages and subjects."""

import ast
import io
import re
import shutil
import subprocess
import tokenize
from collections.abc import Iterator
from pathlib import Path

# Rule (a): the first line of a docstring and the subject of a commit begin with none of these.
RIDDLES = re.compile(
    r"(?:who|whom|whose|whoever|whomever|what|whatever|nobody|those|it|have|has|had)\b|all that\b",
    re.IGNORECASE,
)
# Rule (b): private words, each with the trade's.
WORDS = {
    r"how-manieth": "number, from 1",
    r"never set\b(?! up)": "monotonic clock",
    r"whom": "the agent, client or user meant",
    r"who is told": "subscriber, recipient",
    r"let(?:s|ting)? go\b(?! on)": "disconnect, release, drop",
    r"kin": "descendants",
    r"asked of": "request",
    r"in vain": "without success",
    r"anew": "again",
    r"for good": "permanently",
    r"that one": "its noun",
    r"strangers?": "unknown peer, unknown process",
    r"of old": "earlier, of an earlier version",
    r"the like": "other examples, or a plural",
    r"taken for": "treated as",
    r"left over": "orphan, remainder",
    r"gone round": "bypassed",
    r"speaks? the truth": "valid",
}
PRIVATE = re.compile(r"\b(?:" + "|".join(WORDS) + r")\b", re.IGNORECASE)
SUBJECT_LENGTH = 60


def docstrings(source: str) -> Iterator[tuple[int, str]]:
    """Line and text of each docstring, those below fields and constants included."""
    for node in ast.walk(ast.parse(source)):
        for child in ast.iter_child_nodes(node):
            match child:
                case ast.Expr(value=ast.Constant(value=str(text))):
                    yield child.lineno, text.strip()


def riddles_in_names(source: str) -> list[str]:
    """`line: name` of each test whose name begins against rule (a)."""
    return [
        f"{node.lineno}: {node.name}"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and RIDDLES.match(re.sub(r"^test_(?:sec_s[0-9]+_)?", "", node.name).replace("_", " "))
    ]


def comments(source: str) -> Iterator[tuple[int, str]]:
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def riddles(source: str) -> list[str]:
    """`line: first line` of each docstring that begins against rule (a)."""
    return [
        f"{line}: {text.splitlines()[0]}"
        for line, text in docstrings(source)
        if RIDDLES.match(text)
    ]


def private_words(source: str) -> list[str]:
    """`line: word` of each private word in docstrings and comments."""
    texts = [*docstrings(source), *comments(source)]
    return [f"{line}: {word}" for line, text in texts for word in _found(text)]


def private_words_of_page(text: str) -> list[str]:
    return [
        f"{number}: {word}"
        for number, line in enumerate(text.splitlines(), start=1)
        for word in _found(line)
    ]


def riddles_in_items(text: str) -> list[str]:
    """`line: word` of each item of a list whose first word is against rule (a)."""
    found = []
    for number, line in enumerate(text.splitlines(), start=1):
        item = re.match(r" *[-*] +(.*)", line)
        if item is not None and (riddle := RIDDLES.match(item[1])) is not None:
            found.append(f"{number}: {riddle[0]}")
    return found


def _found(text: str) -> list[str]:
    """Private words outside of code spans, which quote names and values."""
    return PRIVATE.findall(re.sub(r"`[^`]*`", "``", text))


def subject_faults(subject: str) -> list[str]:
    """Rule (f): at most 60 characters, noun first, no full stop."""
    return [
        fault
        for fault, is_there in (
            (f"{len(subject)} characters", len(subject) > SUBJECT_LENGTH),
            (f"begins with {subject.partition(' ')[0]}", RIDDLES.match(subject) is not None),
            ("full stop", subject.endswith(".")),
        )
        if is_there
    ]


def subjects_since(root: Path, commit: str) -> dict[str, str] | None:
    """Subject by full id of each commit after `commit`; None where git or the commit is missing."""
    git = shutil.which("git")
    if git is None or not (root / ".git").exists():
        return None
    listed = subprocess.run(
        [git, "-c", "safe.directory=*", "log", "--no-merges", "--format=%H %s", f"{commit}..HEAD"],
        cwd=root,
        check=False,
        capture_output=True,
        timeout=60,
    )
    if listed.returncode != 0:
        return None
    lines = listed.stdout.decode().splitlines()
    return {line.partition(" ")[0]: line.partition(" ")[2] for line in lines}
