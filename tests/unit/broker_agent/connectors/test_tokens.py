"""Statements are read as the databases read them, with the same quotes and comments."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_agent.connectors.api import CallFailed
from broker_agent.connectors.sql.tokens import (
    MYSQL,
    POSTGRESQL,
    SQLITE,
    Dialect,
    parse,
    values_of,
)

ALL = (POSTGRESQL, SQLITE, MYSQL)


@pytest.mark.parametrize("dialect", ALL, ids=lambda each: each.name)
def test_parameters_are_found_outside_of_quotes_and_comments_only(dialect: Dialect) -> None:
    sql = "select ':a', \":b\", :c /* :d */ -- :e\n from t where x = :f and y = :c"
    read = parse(sql, dialect)
    assert (read.names, read.verb) == (("c", "f", "c"), "SELECT")
    assert read.named() == sql
    text, order = read.numbered()
    assert order == ["c", "f"]
    assert text == "select ':a', \":b\", $1 /* :d */ -- :e\n from t where x = $2 and y = $1"


def test_percent_signs_are_doubled_where_the_driver_reads_them() -> None:
    text, order = parse("select '100%', :a % 3", MYSQL).percent()
    assert (text, order) == ("select '100%%', %s %% 3", ["a"])


@pytest.mark.parametrize(
    ("dialect", "sql"),
    [
        (POSTGRESQL, "select a::int, b[1:2], c := 1"),
        (POSTGRESQL, "select $q$ ; :x $q$, $$ ; ' $$"),
        (POSTGRESQL, "select e'\\'; :x'"),
        (POSTGRESQL, "/* a /* b */ ; :x */ (select 1)"),
        (POSTGRESQL, "select a$b$, c$b$ from t"),
        (SQLITE, "select [a;:b], `;:x`"),
        (MYSQL, 'select "a\\"; :x", `;`'),
        (MYSQL, "select 1 # ; :x"),
        (MYSQL, "select @a := 1"),
    ],
)
def test_text_without_parameters_stays(dialect: Dialect, sql: str) -> None:
    assert parse(sql, dialect).texts == (sql,)


@pytest.mark.parametrize(
    ("dialect", "sql", "why"),
    [
        *((each, "select 1; drop table t", "';'") for each in ALL),
        *((each, "select 1;", "';'") for each in ALL),
        *((each, "select 'a", "not closed") for each in ALL),
        *((each, "select /* a", "not closed") for each in ALL),
        *((each, "", "a word") for each in ALL),
        *((each, "-- only this", "a word") for each in ALL),
        *((each, "'a' select", "a word") for each in ALL),
        *((each, "select 1\0", "NUL") for each in ALL),
        *((each, f"select :{'a' * 64}", "at most 63") for each in ALL),
        (POSTGRESQL, "select $1", ":name"),
        (SQLITE, "select ?", ":name"),
        (SQLITE, "select @a", ":name"),
        (SQLITE, "select :1", ":name"),
        # Read otherwise by a server than by a careless reader of SQL.
        (POSTGRESQL, "select -- a\r; drop table t", "';'"),
        (POSTGRESQL, "select E'a'\n'\\'' ; drop table t -- '", "one piece"),
        (POSTGRESQL, "select 1e'\\'' ; drop table t -- '", "behind a number"),
        (POSTGRESQL, "select 1e$a$ ; drop table t; $a$", "behind a number"),
        (POSTGRESQL, "select a\xd7$t$ ; drop table t; $t$", "';'"),
        (POSTGRESQL, "select '\\' ; drop table t -- '", "';'"),
        (POSTGRESQL, "select /* /* */ ; drop table t", "not closed"),
        (SQLITE, "select /* /* */ ; drop table t", "';'"),
        (SQLITE, "select '\\' ; drop table t -- '", "';'"),
        (SQLITE, "select :a(') ; drop table t -- '", "behind :a"),
        (MYSQL, "select 1 --1; drop table t", "';'"),
        (MYSQL, "select 1 --\xa0 ; drop table t", "';'"),
        (MYSQL, "select /*! 1; drop table t */ 1", "execute"),
        (MYSQL, "select /*M! 1 */ 1", "execute"),
        (MYSQL, "select '\\\\' ; drop table t -- '", "';'"),
        (MYSQL, "select $$ ; drop table t $$", "';'"),
    ],
)
def test_connections_f02_refused_statements(dialect: Dialect, sql: str, why: str) -> None:
    with pytest.raises(CallFailed, match=why) as refusal:
        parse(sql, dialect)
    assert (refusal.value.code, refusal.value.effect) == ("statement_refused", "none")


PIECES = st.sampled_from(
    [*"'\"`[]$:;-/*\\e#\n\r\0 1a(", "--", "/*", "*/", "$a$", "E'", ":a", "::", "select "]
)


@given(st.lists(PIECES, max_size=40).map("".join), st.sampled_from(ALL))
def test_any_text_is_read_whole_or_refused(text: str, dialect: Dialect) -> None:
    sql = f"select {text}"
    with suppress(CallFailed):
        read = parse(sql, dialect)
        assert read.named() == sql
        assert read.verb == "SELECT"


def test_each_parameter_has_one_value() -> None:
    assert values_of(["b", "a", "b"], {"a": 1, "b": 2}) == [2, 1, 2]
    for names, params in ((["a"], {}), ([], {"a": 1}), (["a"], {"a": 1, "A": 2})):
        with pytest.raises(CallFailed) as refusal:
            values_of(names, params)
        assert refusal.value.code == "parameter_invalid"
