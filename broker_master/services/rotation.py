"""Rotates the mesh's authority or a NATS key, step by step, and notifies its holders.

A step is taken on disk first and then carried out; repeated, it is carried out again. Slow parts
run on by themselves: agents learn new authorities, and renew credentials of the old key; the broker
below this master is started again where it has to trust other keys of the operator, which it reads
at a start alone.
"""

import asyncio
from typing import Final

import msgspec
import structlog

from broker_master.ca.key_files import OPERATOR, ROTATED
from broker_master.ca.mesh import Mesh
from broker_master.core import key_holders
from broker_master.core.key_holders import AUTHORITY, Holder, Present
from broker_master.core.rotation import STEPS, TAINTED, Rotation, advance, is_again
from broker_master.embedded import EmbeddedBroker
from broker_master.plane import Plane
from broker_master.services.custody import Custody
from broker_master.services.orders import Orders
from broker_master.services.system import BrokerSystem
from schemas.faults import MeshError, Refused
from schemas.messages.registry import AgentEntry
from schemas.states import Liveness

log = structlog.get_logger()

KEYS: Final = (AUTHORITY, *ROTATED)
# Agents notified at once; a fleet is notified in turns.
_AT_ONCE: Final = 32
# Interval of reminders for agents that have not renewed yet, or lack an authority.
_REMIND_S: Final = 30.0
_NAMED: Final = 5
# The answer to a step and its audit entry are out before the broker restarts.
_ANSWER_S: Final = 1.0
# Timeout of the master's own return to the broker.
_BACK_S: Final = 30.0


class Rotator:
    name = "rotator"

    def __init__(
        self,
        plane: Plane,
        mesh: Mesh,
        system: BrokerSystem,
        custody: Custody,
        orders: Orders,
        broker: EmbeddedBroker | None,
    ) -> None:
        self._plane = plane
        self._mesh = mesh
        self._system = system
        self._custody = custody
        self._orders = orders
        self._broker = broker
        self._lock = asyncio.Lock()
        self._wake = asyncio.Event()

    async def run(self, ready: asyncio.Event) -> None:
        ready.set()
        while True:
            await self._replace_broker()
            await self._spread()
            self._wake.clear()
            try:
                async with asyncio.timeout(_REMIND_S):
                    await self._wake.wait()
            except TimeoutError:
                pass

    # -- reads

    def rotation(self, key: str) -> Rotation:
        """The rotation of a key. Raises Refused (`field_invalid`) for an unknown one."""
        if key not in KEYS:
            raise Refused("field_invalid", f"key: one of {', '.join(KEYS)}")
        return (
            self._mesh.authority.rotation if key == AUTHORITY else self._mesh.accounts.rotation(key)
        )

    async def waiting_for(self, key: str, step: str) -> list[str]:
        """Holders that `step` would cut off; of the operator's key the nodes that are behind."""
        if key == OPERATOR:
            return [f"broker {name}" for name in await self._nodes_behind()]
        return key_holders.cut_off_by(step, self._holders(key), self._present(key))

    async def _nodes_behind(self) -> list[str]:
        """Broker nodes that trust other keys of the operator than they should."""
        trusted, wanted = await self._system.operators(), self._mesh.accounts.operator_signers
        return sorted(name for name, keys in trusted.items() if keys != wanted)

    def not_after(self, key: str) -> float | None:
        return self._mesh.authority.not_after if key == AUTHORITY else None

    @property
    def trust(self) -> str:
        """The digest of the authorities that all should trust."""
        return self._mesh.authority.digest

    @property
    def ca_pem(self) -> bytes:
        return self._mesh.authority.ca_pem

    def has_to_renew(self, holder: Holder) -> bool:
        """Whether it holds credentials of a tainted key."""
        return any(
            key_holders.is_outdated(holder, self._present(key))
            for key in KEYS
            if self.rotation(key).stage == TAINTED and holder in self._holders(key)
        )

    def _present(self, key: str) -> Present:
        return Present(key=key, generation=self.rotation(key).active, trust=self.trust)

    def _holders(self, key: str) -> list[Holder]:
        registry = self._plane.registry
        return key_holders.holders(
            key, registry.agents.values(), registry.clients.values(), self._plane.clock.now()
        )

    # -- a step

    async def rotate(self, key: str, step: str, *, force: bool) -> None:
        """Take a step, or complete it. Raises Refused: `step_refused`, or the broker's fault."""
        async with self._lock:
            rotation = self.rotation(key)
            advance(rotation, step, at=0.0)
            waiting = [] if is_again(rotation, step) else await self.waiting_for(key, step)
            # A node takes account tokens of a key that it does not trust, and then refuses all.
            if waiting and (key == OPERATOR or not force):
                raise Refused("step_refused", f"{step} would cut off {_listed(waiting)}")
            await self._take(key, step)
            log.info("key_rotated", key=key, step=step, forced=bool(waiting))
        self._wake.set()

    async def _take(self, key: str, step: str) -> None:
        now = self._plane.clock.now()
        if key == AUTHORITY:
            self._mesh.authority.rotate(step, now=now)
            await self._custody.renew(reload=True)
            if step == STEPS[-1]:
                await self._cut_off_old()
        else:
            tokens = self._mesh.accounts.rotate(key, step, now=now)
            if step != STEPS[-1]:
                await self._publish(tokens)
                await self._custody.renew()
            else:
                # First the master's own, which would be dropped with the rest.
                await self._custody.renew()
                await self._publish(tokens)

    async def _publish(self, tokens: list[str]) -> None:
        for token in tokens:
            await self._system.update_account(token)

    async def _cut_off_old(self) -> None:
        """Disconnect connections admitted by the old authority, which outlive it."""
        present = self._mesh.authority.fingerprint
        for connection in await self._system.connections():
            if connection.authority and connection.authority != present:
                await self._system.kick(connection)

    # -- background work

    async def _replace_broker(self) -> None:
        """Restart the broker below this master if it does not know the operator's present keys."""
        broker = self._broker
        if broker is None or not broker.is_outdated:
            return
        await asyncio.sleep(_ANSWER_S)
        async with self._lock:
            self._plane.note("broker.restart", detail="with the operator's present keys")
            try:
                await broker.restart()
                await self._plane.link.wait_connected(_BACK_S)
            except MeshError as error:
                log.warning("broker_not_replaced", code=error.code, error=str(error))
            else:
                log.info("broker_replaced")

    def note_trust(self, agent: str, digest: str) -> None:
        """Note which authorities an agent trusts."""
        entry = self._plane.registry.agents.get(agent)
        if entry is not None and (digest != self.trust or entry.trust != digest):
            self._plane.spawn(self._teach(agent, digest), agent)

    async def _spread(self) -> None:
        """Send live agents the trusted authorities; order renewals of tainted keys."""
        registry, roster = self._plane.registry, self._plane.roster
        live = [
            entry
            for name, entry in registry.agents.items()
            if (found := roster.get(name)) is not None and found.liveness is Liveness.LIVE
        ]
        places = asyncio.Semaphore(_AT_ONCE)
        trust = self.trust
        tainted = {
            each.name
            for key in KEYS
            if self.rotation(key).stage == TAINTED
            for each in self._holders(key)
            if key_holders.is_outdated(each, self._present(key))
        }

        async def see_to(entry: AgentEntry) -> None:
            async with places:
                if entry.trust != trust:
                    await self._teach(entry.name, "")
                if entry.name in tainted:
                    await self._give(entry.name, "rotate")

        await asyncio.gather(*(see_to(entry) for entry in live))

    async def _teach(self, agent: str, digest: str) -> None:
        """Send an agent the trusted authorities, and record that it has them."""
        trust = self.trust
        if digest != trust and not await self._give(agent, "trust", self.ca_pem.decode()):
            return
        try:
            await self._plane.registry.change_agent(
                agent, lambda entry: msgspec.structs.replace(entry, trust=trust)
            )
        except MeshError as error:
            log.warning("trust_not_noted", agent=agent, code=error.code)

    async def _give(self, agent: str, kind: str, ca_pem: str = "") -> bool:
        try:
            await self._orders.give(agent, kind, ca_pem=ca_pem)
        except MeshError as error:
            # Repeated at its next handshake, or at the next turn.
            log.warning("order_not_followed", agent=agent, kind=kind, code=error.code)
            return False
        return True


def _listed(names: list[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
