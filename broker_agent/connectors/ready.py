"""Preparation of a worker process by the order of the agent."""

from dataclasses import dataclass
from typing import Any

import msgspec

from broker_agent.connectors.api import Connector
from broker_agent.connectors.confine import shut_process
from broker_agent.connectors.kinds import find_connector, typed
from broker_agent.connectors.secrets import SecretBox
from broker_agent.core.profiles import WorkerOrder
from broker_agent.core.references import references


@dataclass(frozen=True, kw_only=True)
class Ready:
    """A connector with its checked settings, and the values of its secrets."""

    connector: Connector
    profile: Any
    secrets: SecretBox


def take_up(data: bytes) -> Ready:
    """Prepare this process for sessions of one profile. data: a `WorkerOrder` in msgpack.

    Raises CallFailed (`connector_missing`), and OSError or ValueError for an order that is damaged.
    """
    shut_process()
    order = msgspec.msgpack.decode(data, type=WorkerOrder)
    connector = find_connector(order.kind, is_plugin=order.is_plugin)
    profile = typed(connector, order.settings)
    return Ready(
        connector=connector,
        profile=profile,
        secrets=SecretBox(references(profile), order.vault),
    )
