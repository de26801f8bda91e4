"""Connects the parts that authenticate connections and issue keys."""

from dataclasses import dataclass

from broker_master.plane import Plane
from broker_master.services.comparison import Comparison
from broker_master.services.custody import Custody
from broker_master.services.gate import Gate
from broker_master.services.keys import KeyDesk
from broker_master.services.orders import Orders
from broker_master.services.revoke import Revoker
from broker_master.services.rotation import Rotator
from broker_master.services.turns import Turns
from broker_master.wiring.ports import Ports


@dataclass(frozen=True, kw_only=True)
class Keys:
    """Parts that authenticate connections and issue keys and certificates."""

    custody: Custody
    comparison: Comparison
    turns: Turns
    gate: Gate
    revoker: Revoker
    desk: KeyDesk
    orders: Orders
    rotator: Rotator


def build_keys(plane: Plane, ports: Ports) -> Keys:
    mesh, system = ports.mesh, ports.system
    links = {"master": plane.link, "system": ports.system_link}
    custody = Custody(plane, mesh, system, links)
    comparison = Comparison(plane, mesh.accounts, system, custody.own_users)
    revoker = Revoker(plane, mesh.accounts, system)
    orders, turns = Orders(plane), Turns(plane)
    return Keys(
        custody=custody,
        comparison=comparison,
        turns=turns,
        gate=Gate(plane, system, ports.system_link, comparison, turns),
        revoker=revoker,
        desk=KeyDesk(plane, custody.own_keys, lambda: revoker.refused),
        orders=orders,
        rotator=Rotator(plane, mesh, system, custody, orders, ports.broker),
    )
