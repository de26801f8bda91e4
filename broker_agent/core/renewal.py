"""When a certificate is renewed, which step is next, and what follows when one of them fails.

    REST ──due, or told to──▶ ASK ──answered──▶ MOVE ──moved──▶ CONFIRM ──confirmed──▶ REST
                               ▲                  │                │
                               └──── not fit ─────┘            again later

The old certificate is in use until the new one has been tried, and is kept until the master knows.
Whatever fails, what was in use stays in use, and the step is tried again later.
"""

from enum import StrEnum
from typing import Final

RENEW_AT: Final = 2 / 3
# Of a very short life only half is used up before: the other half is for trying again.
RENEW_EARLY_AT: Final = 1 / 2
SHORT_LIFE_S: Final = 3600.0
JITTER: Final = 0.1
RETRY_S: Final = 3600.0
# Of a short life: so many tries fit into what is left of it.
RETRIES: Final = 20
SPREAD_S: Final = 5.0
REASON_LEN: Final = 200


class Step(StrEnum):
    REST = "rest"
    ASK = "ask"
    MOVE = "move"
    CONFIRM = "confirm"


class Renewal:
    """Times are unix seconds: a certificate ends at a moment of the calendar.

    chance: drawn once per certificate from 0 to 1, so that hosts set up together do not renew
    together. step: where an earlier start has left off.
    """

    def __init__(
        self, issued_at: float, not_after: float, *, chance: float, step: Step = Step.REST
    ) -> None:
        self.step = step
        self.failed = ""
        self._ordered = False
        self._retry_at = 0.0
        # Pause after a failure of the step under way, if the other side has come back since.
        self._soon_s: float | None = None
        self._begin(issued_at, not_after, chance)

    def _begin(self, issued_at: float, not_after: float, chance: float) -> None:
        self._life_s = max(0.0, not_after - issued_at)
        self.not_after = not_after
        share = RENEW_EARLY_AT if self._life_s < SHORT_LIFE_S else RENEW_AT
        share += JITTER * (2 * chance - 1)
        self._due_at = issued_at + share * self._life_s

    def next_at(self) -> float:
        """When there is something to do; in the past if it is due now."""
        if self.step is not Step.REST:
            return self._retry_at
        if self._ordered:
            return 0.0
        return max(self._due_at, self._retry_at)

    def begin(self) -> Step:
        """Something is due: the step to take now."""
        self._ordered, self._soon_s = False, None
        if self.step is Step.REST:
            self.step = Step.ASK
        return self.step

    def order(self) -> None:
        """Somebody wants it now, however new the certificate is."""
        self._ordered = True
        self._retry_at = 0.0
        self.failed = ""

    def on_answered(self) -> None:
        self.step = Step.MOVE

    def on_moved(self, issued_at: float, not_after: float, *, chance: float) -> None:
        """The new certificate is in use."""
        self.step = Step.CONFIRM
        self._begin(issued_at, not_after, chance)

    def on_confirmed(self) -> None:
        self.step, self.failed, self._retry_at = Step.REST, "", 0.0

    def on_failed(self, reason: str, now: float, *, is_unfit: bool = False) -> None:
        """A step has failed and is tried again later. is_unfit: with a new candidate."""
        self.failed = reason[:REASON_LEN]
        if is_unfit and self.step is Step.MOVE:
            self.step = Step.ASK
        pause_s = min(RETRY_S, self._life_s / RETRIES)
        if self._soon_s is not None:
            pause_s, self._soon_s = min(pause_s, self._soon_s), None
        self._retry_at = now + pause_s

    def on_reconnected(self, now: float, *, chance: float) -> None:
        """A step under way when the connection, or the master, was lost is tried again soon.

        Within SPREAD_S, at a moment that differs between agents.
        """
        if self.step is not Step.REST:
            self._soon_s = chance * SPREAD_S
            self._retry_at = min(self._retry_at, now + self._soon_s)

    def has_expired(self, now: float) -> bool:
        return now >= self.not_after
