"""Renewal of a certificate as a state machine: due times, steps, retries after failures.

    REST ──due, or ordered──▶ ASK ──answered──▶ MOVE ──moved──▶ CONFIRM ──confirmed──▶ REST
                               ▲                  │                │
                               └──── not fit ─────┘            again later

The old certificate is in use until a connection with the new one works, and is kept until the
master has confirmed the new one. After a failure the certificate in use stays in use, and the step
is retried.
"""

from enum import StrEnum
from typing import Final

RENEW_AT: Final = 2 / 3
# Part of a very short life that may pass before the renewal: the rest is for retries.
RENEW_EARLY_AT: Final = 1 / 2
SHORT_LIFE_S: Final = 3600.0
JITTER: Final = 0.1
RETRY_S: Final = 3600.0
# Number of retries that fit into the rest of a short life.
RETRIES: Final = 20
SPREAD_S: Final = 5.0
REASON_LEN: Final = 200


class RenewalStep(StrEnum):
    REST = "rest"
    ASK = "ask"
    MOVE = "move"
    CONFIRM = "confirm"


class RenewalSteps:
    """State of the renewal. Times are Unix seconds: a certificate ends at a date.

    chance: jitter, drawn once per certificate from 0 to 1, so that hosts enrolled together do not
    renew together. step: where an earlier start of the agent stopped.
    """

    def __init__(
        self,
        issued_at: float,
        not_after: float,
        *,
        chance: float,
        step: RenewalStep = RenewalStep.REST,
    ) -> None:
        self.step = step
        self.failed = ""
        self._ordered = False
        self._retry_at = 0.0
        # Pause after a failure of the present step, if the connection or master came back since.
        self._soon_s: float | None = None
        self._begin(issued_at, not_after, chance)

    def _begin(self, issued_at: float, not_after: float, chance: float) -> None:
        self._life_s = max(0.0, not_after - issued_at)
        self.not_after = not_after
        share = RENEW_EARLY_AT if self._life_s < SHORT_LIFE_S else RENEW_AT
        share += JITTER * (2 * chance - 1)
        self._due_at = issued_at + share * self._life_s

    def next_at(self) -> float:
        """Time of the next step; in the past if it is due."""
        if self.step is not RenewalStep.REST:
            return self._retry_at
        if self._ordered:
            return 0.0
        return max(self._due_at, self._retry_at)

    def begin(self) -> RenewalStep:
        """Begin the step that is due, and return it."""
        self._ordered, self._soon_s = False, None
        if self.step is RenewalStep.REST:
            self.step = RenewalStep.ASK
        return self.step

    def order(self) -> None:
        """Make the renewal due now, whatever the certificate's age."""
        self._ordered = True
        self._retry_at = 0.0
        self.failed = ""

    def on_answered(self) -> None:
        self.step = RenewalStep.MOVE

    def on_moved(self, issued_at: float, not_after: float, *, chance: float) -> None:
        """Note that the new certificate is in use."""
        self.step = RenewalStep.CONFIRM
        self._begin(issued_at, not_after, chance)

    def on_confirmed(self) -> None:
        self.step, self.failed, self._retry_at = RenewalStep.REST, "", 0.0

    def on_failed(self, reason: str, now: float, *, is_unfit: bool = False) -> None:
        """Schedule the retry of a failed step. is_unfit: it begins with a new candidate."""
        self.failed = reason[:REASON_LEN]
        if is_unfit and self.step is RenewalStep.MOVE:
            self.step = RenewalStep.ASK
        pause_s = min(RETRY_S, self._life_s / RETRIES)
        if self._soon_s is not None:
            pause_s, self._soon_s = min(pause_s, self._soon_s), None
        self._retry_at = now + pause_s

    def on_reconnected(self, now: float, *, chance: float) -> None:
        """Retry soon the step that a lost connection or master interrupted.

        Within SPREAD_S, with jitter.
        """
        if self.step is not RenewalStep.REST:
            self._soon_s = chance * SPREAD_S
            self._retry_at = min(self._retry_at, now + self._soon_s)

    def has_expired(self, now: float) -> bool:
        return now >= self.not_after
