"""Carries out the master's orders: cancel, drain, resume, rotate, trust, ping."""

from collections.abc import Callable

from broker_agent.services.running import Running
from broker_agent.services.wire import Station
from schemas import codec
from schemas.faults import MeshError, Refused, Unreachable
from schemas.messages.work import Control, ControlReply
from schemas.states import State
from schemas.texts import cut_text


class ControlHandler:
    """Orders of the master. rotate: begins a renewal. trust: stores the authorities to trust."""

    def __init__(
        self,
        station: Station,
        running: Running,
        *,
        rotate: Callable[[], None],
        trust: Callable[[bytes], None],
    ) -> None:
        self._trust = trust
        self._rotate = rotate
        self._wire = station.wire
        self._address = station.address
        self._lease = station.lease
        self._running = running

    def on_control(self, payload: bytes) -> None:
        """Carry out one order and answer. Orders are idempotent, as the master may retry them."""
        control = codec.decode(Control, payload)
        reply_to = self._address.reply(control.token)
        if reply_to is None:
            raise Refused("malformed", "a token that cannot be part of a subject")
        try:
            self._wire.publish_nowait(reply_to, codec.encode(self._carry_out(control)))
        except Unreachable:
            return  # the master retries

    def _learn(self, ca_pem: str) -> tuple[str, str]:
        """Trust these authorities; returns code and text of a fault, or empty texts."""
        try:
            self._trust(ca_pem.encode())
        except MeshError as error:
            return error.code, error.message
        return "", ""

    def _carry_out(self, control: Control) -> ControlReply:
        known, code, message = True, "", ""
        if control.epoch < self._lease.epoch:
            code, message = "epoch_stale", f"the agent has seen epoch {self._lease.epoch}"
        elif control.kind == "cancel":
            known = self._running.stop(
                control.command, control.attempt, State.CANCELLED, "cancelled"
            )
        elif control.kind in {"drain", "resume"}:
            self._running.drain(draining=control.kind == "drain")
        elif control.kind == "ping":
            pass  # the answer is all that a ping needs
        elif control.kind == "rotate":
            self._rotate()
        elif control.kind == "trust":
            code, message = self._learn(control.ca_pem)
        else:
            code, message = "verb_unknown", f"no order {control.kind[:64]!a}"
        return ControlReply(
            kind=control.kind,
            command=control.command,
            attempt=control.attempt,
            known=known,
            code=code,
            message=cut_text(message),
        )
