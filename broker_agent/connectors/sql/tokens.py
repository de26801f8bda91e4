"""Reads a statement as its database does, as far as needed to find parameters and `;`.

Values never become a part of the text: `:name` is replaced by a placeholder of the driver, outside
of quotes and comments only. What the database would read otherwise than this module is refused:
text of which only a part is a statement, unclosed quotes, foreign placeholders.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from broker_agent.connectors.api import CallFailed


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """How a database reads text.

    quotes: opening and closing character of strings and quoted names. escaping: those in which a
    backslash escapes the next character. foreign: pattern of placeholders other than `:name`.
    line_ends: characters that end a line comment. tcl_names: a name goes on over `::` and `(`.
    """

    name: str
    quotes: Mapping[str, str]
    escaping: str = ""
    dollar_quotes: bool = False
    escape_strings: bool = False
    nested_comments: bool = False
    hash_comments: bool = False
    spaced_comments: bool = False
    executable_comments: bool = False
    tcl_names: bool = False
    line_ends: str = "\n"
    foreign: str = r"(?!)"


POSTGRESQL: Final = Dialect(
    name="PostgreSQL",
    quotes={"'": "'", '"': '"'},
    dollar_quotes=True,
    escape_strings=True,
    nested_comments=True,
    line_ends="\n\r",
    foreign=r"\$\d",
)
SQLITE: Final = Dialect(
    name="SQLite",
    quotes={"'": "'", '"': '"', "`": "`", "[": "]"},
    tcl_names=True,
    foreign=r"[?@$#]|:\d",
)
# For sessions whose sql_mode has neither ANSI_QUOTES nor NO_BACKSLASH_ESCAPES.
MYSQL: Final = Dialect(
    name="MySQL",
    quotes={"'": "'", '"': '"', "`": "`"},
    escaping="'\"",
    hash_comments=True,
    spaced_comments=True,
    executable_comments=True,
)

# All characters beyond ASCII are parts of words, spaces and symbols too, as for the databases.
_BEYOND: Final = "\\x80-\\U0010ffff"
_WORD: Final = re.compile(f"[A-Za-z_{_BEYOND}][A-Za-z0-9_${_BEYOND}]*")
_NAME: Final = re.compile(f"[A-Za-z_][A-Za-z0-9_]{{0,62}}(?![A-Za-z0-9_${_BEYOND}])")
_NUMBER: Final = re.compile(f"[0-9][A-Za-z0-9_.{_BEYOND}]*")
_SPACE: Final = re.compile(r"[ \t\n\r\f\v]+")
_TAG: Final = re.compile(f"\\$(?:[A-Za-z_{_BEYOND}][A-Za-z0-9_{_BEYOND}]*)?\\$")
_COMMENT_EDGE: Final = re.compile(r"/\*|\*/")


class Statement(NamedTuple):
    """One statement. texts: the pieces around its parameters, one more than `names`.

    verb: its first word in upper case, or empty.
    """

    texts: tuple[str, ...]
    names: tuple[str, ...]
    verb: str

    def numbered(self) -> tuple[str, list[str]]:
        """Text with `$1`, `$2`, …, and the name of each number."""
        order = list(dict.fromkeys(self.names))
        return self._with(lambda name: f"${order.index(name) + 1}"), order

    def percent(self) -> tuple[str, list[str]]:
        """Text with `%s` for each occurrence and doubled percent signs, and the names in order."""
        return self._with(lambda _name: "%s", lambda text: text.replace("%", "%%")), [*self.names]

    def named(self) -> str:
        """Text with `:name`, as it was."""
        return self._with(lambda name: f":{name}")

    def _with(
        self, mark: Callable[[str], str], around: Callable[[str], str] = lambda text: text
    ) -> str:
        parts = [around(self.texts[0])]
        for name, text in zip(self.names, self.texts[1:], strict=True):
            parts += [mark(name), around(text)]
        return "".join(parts)


def values_of(names: list[str] | tuple[str, ...], params: Mapping[str, Any]) -> list[Any]:
    """Values of the parameters `names`, in their order.

    Raises CallFailed (`parameter_invalid`) for missing ones, and for ones that are not used.
    """
    if missing := sorted(set(names) - set(params)):
        raise _invalid(f"no value for the parameter {missing[0]!a} of the statement")
    if unused := sorted(set(params) - set(names)):
        raise _invalid(f"the statement has no parameter {unused[0][:64]!a}")
    return [params[name] for name in names]


def parse(sql: str, dialect: Dialect) -> Statement:
    """Read one statement. Raises CallFailed (`statement_refused`), with effect none."""
    return _Reader(sql, dialect).read()


class _Reader:
    def __init__(self, sql: str, dialect: Dialect) -> None:
        self._sql = sql
        self._dialect = dialect
        self._at = 0
        self._from = 0
        self._texts: list[str] = []
        self._names: list[str] = []
        self._verb = ""
        self._foreign = re.compile(dialect.foreign)

    def read(self) -> Statement:
        if "\0" in self._sql:
            raise _refused("it has a NUL byte")
        while self._at < len(self._sql):
            self._step()
        self._texts.append(self._sql[self._from :])
        if not self._verb:
            raise _refused("it does not begin with a word")
        return Statement(tuple(self._texts), tuple(self._names), self._verb)

    def _step(self) -> None:
        sql, at = self._sql, self._at
        if (space := _SPACE.match(sql, at)) is not None:
            self._at = space.end()
        elif self._is_line_comment():
            ends = [end for each in self._dialect.line_ends if (end := sql.find(each, at)) >= 0]
            self._at = min(ends, default=len(sql))
        elif sql.startswith("/*", at):
            self._skip_comment()
        elif (word := _WORD.match(sql, at)) is not None:
            self._take_word(word)
        elif self._verb:
            self._take_other(sql[at])
        elif sql[at] == "(":
            self._at += 1
        else:
            raise _refused("it does not begin with a word")

    def _take_word(self, word: re.Match[str]) -> None:
        self._verb = self._verb or word[0].upper()
        self._at = word.end()
        if word[0] in {"e", "E"} and self._sql.startswith("'", self._at):
            self._skip_escape_string()

    def _skip_escape_string(self) -> None:
        if not self._dialect.escape_strings:
            return
        self._skip_quoted("'", is_escaping=True)
        # In a piece on a next line, the backslash would escape as well.
        rest = self._sql[self._at :].lstrip()
        if rest.startswith(("'", "--")):
            raise _refused("write an E'' string in one piece, without a comment behind it")

    def _take_other(self, character: str) -> None:
        sql, at = self._sql, self._at
        if character in self._dialect.quotes:
            self._skip_quoted(character, is_escaping=character in self._dialect.escaping)
        elif (number := _NUMBER.match(sql, at)) is not None:
            self._at = number.end()
            if sql.startswith(("'", "$"), self._at):
                # Versions of the server differ in where the number of `1e'…'` ends.
                raise _refused("a space is needed behind a number")
        elif self._dialect.dollar_quotes and (tag := _TAG.match(sql, at)) is not None:
            self._skip_dollars(tag)
        else:
            self._take_symbol(character)

    def _take_symbol(self, character: str) -> None:
        sql, at = self._sql, self._at
        if character == ";":
            raise _refused("it has a ';': send one statement, without one")
        if self._foreign.match(sql, at):
            raise _refused("write parameters as :name")
        if character == ":":
            self._take_colon()
        else:
            self._at += 1

    def _take_colon(self) -> None:
        sql, at = self._sql, self._at
        if sql.startswith(("::", ":="), at):
            self._at += 2
            return
        name = _NAME.match(sql, at + 1)
        if name is None:
            if _WORD.match(sql, at + 1):
                raise _refused("a parameter's name has letters, digits and _, at most 63")
            self._at += 1
            return
        if self._dialect.tcl_names and sql.startswith(("(", "::"), name.end()):
            raise _refused(f"a space is needed behind :{name[0]}")
        self._texts.append(sql[self._from : at])
        self._names.append(name[0])
        self._from = self._at = name.end()

    def _is_line_comment(self) -> bool:
        if self._dialect.hash_comments and self._sql.startswith("#", self._at):
            return True
        if not self._sql.startswith("--", self._at):
            return False
        following = self._sql[self._at + 2 : self._at + 3]
        return not self._dialect.spaced_comments or following <= " " or following == "\x7f"

    def _skip_comment(self) -> None:
        following = self._sql[self._at + 2 : self._at + 4]
        if self._dialect.executable_comments and (following[:1] == "!" or following == "M!"):
            raise _refused("it has a comment that the server would execute")
        depth, at = 0, self._at
        while edge := _COMMENT_EDGE.search(self._sql, at):
            at = edge.end()
            if edge[0] == "*/":
                depth -= 1
            elif self._dialect.nested_comments or depth == 0:
                depth += 1
            elif self._sql.startswith("/", at):
                at -= 1  # the end of `/*/` closes it
            if depth == 0:
                self._at = at
                return
        raise _refused("a comment is not closed")

    def _skip_quoted(self, opening: str, *, is_escaping: bool) -> None:
        closing, at = self._dialect.quotes[opening], self._at + 1
        stops = re.compile(f"[{re.escape(closing)}\\\\]" if is_escaping else re.escape(closing))
        while stop := stops.search(self._sql, at):
            at = stop.end()
            is_doubled = opening == closing and self._sql.startswith(closing, at)
            if stop[0] == "\\" or is_doubled:
                at += 1
            else:
                self._at = at
                return
        raise _refused(f"a {opening} is not closed")

    def _skip_dollars(self, tag: re.Match[str]) -> None:
        end = self._sql.find(tag[0], tag.end())
        if end < 0:
            raise _refused(f"a {tag[0][:64]} is not closed")
        self._at = end + len(tag[0])


def _refused(why: str) -> CallFailed:
    return CallFailed("statement_refused", f"the statement is refused: {why}", effect="none")


def _invalid(why: str) -> CallFailed:
    return CallFailed("parameter_invalid", why, effect="none")
