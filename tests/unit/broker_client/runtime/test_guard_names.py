"""Names of nats-py that the link overrides, reads or sets: each is there, as it was when written.

A failure means that another nats-py is installed. Read what has changed in the functions that the
failing test names, adapt `broker_client/runtime/link`, and then the tables here.
"""

import ast
import hashlib
import inspect
import textwrap
from collections.abc import Callable, Iterator
from importlib.metadata import requires
from typing import Any, Final, TypeGuard

import pytest
from nats.aio.client import Client
from nats.aio.transport import TcpTransport
from packaging.requirements import Requirement

from broker_client.runtime.link.guard import GuardedClient
from broker_client.runtime.link.transport import WideTransport

CLASSES: Final[dict[type[Any], type[Any]]] = {GuardedClient: Client, WideTransport: TcpTransport}
# Overridden names, with the signature that callers inside nats-py count on.
OVERRIDDEN: Final[dict[type[Any], dict[str, str]]] = {
    Client: {
        "_flusher": "(self) -> 'None'",
        "_ping_interval": "(self) -> 'None'",
        "_process_info": (
            "(self, info: 'Dict[str, Any]', initial_connection: 'bool' = False) -> 'None'"
        ),
        "_read_loop": "(self) -> 'None'",
        "_select_next_server": "(self) -> 'None'",
        "close": "(self) -> 'None'",
        "flush": "(self, timeout: 'int' = 10) -> 'None'",
    },
    TcpTransport: {
        "connect": ("(self, uri: 'ParseResult', buffer_size: 'int', connect_timeout: 'int')"),
        "connect_tls": (
            "(self, uri: 'Union[str, ParseResult]', ssl_context: 'ssl.SSLContext',"
            " buffer_size: 'int', connect_timeout: 'int') -> 'None'"
        ),
        "drain": "(self)",
        "write": "(self, payload)",
    },
}
# What we read or set of an instance.
ATTRIBUTES: Final[dict[type[Any], set[str]]] = {
    Client: {
        "_current_server",
        "_flusher_task",
        "_ping_interval_task",
        "_pongs",
        "_reading_task",
        "_server_pool",
        "_status",
        "_transport",
        "max_payload",
        "options",
    },
    TcpTransport: {"_bare_io_writer", "_io_reader", "_io_writer"},
}
# Functions of nats-py that run as they are between ours, with the start of their SHA-256.
RUN_AS_THEY_ARE: Final[dict[Callable[..., Any], str]] = {
    Client.__init__: "5e75592e0d54b241",
    Client.connect: "a333807745c3c9fb",
    Client._process_connect_init: "e1ed2da075c82ab0",
    Client._connect_command: "1999c01f55c91ecc",
    Client._setup_server_pool: "133d9bc09ee18fe4",
    TcpTransport.__init__: "b1c1dae433b842e3",
    TcpTransport.connect: "96c97f9bad0501da",
    TcpTransport.read: "88fd9f3e084e97af",
    TcpTransport.readline: "1aa4937b2ac3ddb5",
}
every_class = pytest.mark.parametrize("ours", CLASSES, ids=lambda each: each.__name__)


def overridden() -> Iterator[tuple[type[Any], str, str]]:
    for stock, names in OVERRIDDEN.items():
        for name, signature in names.items():
            yield stock, name, signature


def stock_instance(ours: type[Any]) -> object:
    return CLASSES[ours]()


@every_class
def test_every_name_that_is_overridden_is_in_the_table(ours: type[Any]) -> None:
    """And nothing is by chance: a later nats-py may begin to use a name of ours."""
    stock = CLASSES[ours]
    there = {*dir(stock), *vars(stock_instance(ours))}
    defined = {name for name in vars(ours) if not name.startswith("__") and name != "_abc_impl"}
    assert defined & there == set(OVERRIDDEN[stock])


@pytest.mark.parametrize(("stock", "name", "signature"), [*overridden()])
def test_overridden_function_has_the_expected_signature(
    stock: type[Any], name: str, signature: str
) -> None:
    function = getattr(stock, name)
    assert str(inspect.signature(function)) == signature
    ours = next(each for each, base in CLASSES.items() if base is stock)
    mine = getattr(ours, name)
    assert inspect.iscoroutinefunction(mine) or not inspect.iscoroutinefunction(function)
    given = [*inspect.signature(function).parameters]
    inspect.signature(mine).bind(*given)
    if name.startswith("_"):
        assert [*inspect.signature(mine).parameters] == given


@every_class
def test_every_attribute_that_is_used_is_in_the_table_and_there(ours: type[Any]) -> None:
    stock, instance = CLASSES[ours], stock_instance(ours)
    there = {*dir(stock), *vars(instance)} - set(OVERRIDDEN[stock])
    used = attributes_of(ours)
    own = {*vars(ours), *assigned_in(ours.__init__)}
    assert used & there == ATTRIBUTES[stock]
    assert used - there - own == set()


@every_class
def test_own_attributes_take_no_name_of_the_library(ours: type[Any]) -> None:
    stock, instance = CLASSES[ours], stock_instance(ours)
    there = {*dir(stock), *vars(instance)}
    assert assigned_in(ours.__init__) & there == assigned_in(ours.__init__) & ATTRIBUTES[stock]


@pytest.mark.parametrize("function", RUN_AS_THEY_ARE, ids=lambda each: each.__qualname__)
def test_functions_that_run_between_ours_are_those_that_were_read(
    function: Callable[..., Any],
) -> None:
    assert digest(function) == RUN_AS_THEY_ARE[function]


def test_dependency_is_held_at_the_minor_version_that_was_read() -> None:
    (wanted,) = (
        found.specifier
        for found in map(Requirement, requires("agent-mesh") or ())
        if found.name == "nats-py"
    )
    assert "2.16.0" in wanted
    assert "2.16.99" in wanted
    assert "2.17.0" not in wanted
    assert "2.15.0" not in wanted


def digest(function: Callable[..., Any]) -> str:
    return hashlib.sha256(inspect.getsource(function).encode()).hexdigest()[:16]


def attributes_of(kind: type[Any]) -> set[str]:
    return {node.attr for node in ast.walk(tree_of(kind)) if is_of_self(node)}


def assigned_in(function: Callable[..., Any]) -> set[str]:
    nodes = ast.walk(tree_of(function))
    return {each.attr for each in nodes if is_of_self(each) and isinstance(each.ctx, ast.Store)}


def tree_of(thing: type[Any] | Callable[..., Any]) -> ast.AST:
    return ast.parse(textwrap.dedent(inspect.getsource(thing)))


def is_of_self(node: ast.AST) -> TypeGuard[ast.Attribute]:
    return (
        isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    )
