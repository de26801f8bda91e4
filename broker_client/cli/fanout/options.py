"""The options of `mesh run` that are for many agents."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, NamedTuple

from cyclopts import Parameter

from broker_client.cli.fanout.watch import Display
from broker_client.cli.spans import check_span

_BATCH: Final = re.compile(r"([1-9]\d{0,8})|([1-9]\d?|100)%")


class Batch(NamedTuple):
    """Concurrency limit: a number of agents, or a part of them; neither: all."""

    most: int = 0
    percent: int = 0

    def of(self, agents: int) -> int:
        return max(1, agents * self.percent // 100) if self.percent else self.most


def batch_of(text: str | None) -> Batch:
    """Parse `4` or `25%`; raises ValueError for any other text."""
    found = _BATCH.fullmatch(text or "0")
    if text is not None and found is None:
        raise ValueError("give a number of agents, or a part of them: 4, 25%")
    return Batch() if found is None else Batch(int(found[1] or 0), int(found[2] or 0))


def _check_batch(_type: object, value: str | None) -> None:
    batch_of(value)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Many:
    batch: Annotated[
        str | None,
        Parameter(
            help="Of many agents: so many at the same time, or such a part: 4, 25%.",
            validator=_check_batch,
        ),
    ] = None
    batch_sleep: Annotated[
        str | None,
        Parameter(
            help="With --batch: the rest before the place of an agent is taken: 30 (seconds), 5m.",
            validator=check_span,
        ),
    ] = None
    max_failures: Annotated[
        int | None,
        Parameter(help="Of many agents: ask no more once more than this many have failed."),
    ] = None
    live: Annotated[
        bool,
        Parameter(negative="", help="Of many agents: show output as it comes, line by line."),
    ] = False
    display: Annotated[
        Display, Parameter(help="Of many agents: of which ones output is shown.")
    ] = "all"
    out: Annotated[
        Path | None,
        Parameter(help="Of many agents: keep output in files of this new folder instead."),
    ] = None
    dry_run: Annotated[
        bool, Parameter(negative="", help="Of many agents: only say on which ones it would run.")
    ] = False

    def problem(self, *, is_many: bool) -> str:
        """Return the conflict between options; empty if there is none."""
        if not is_many and self != MANY:
            return (
                "--batch, --batch-sleep, --max-failures, --live, --display, --out and --dry-run are"
                " for many agents: add --all, or more of --agent"
            )
        if self.batch_sleep is not None and self.batch is None:
            return "--batch-sleep needs --batch: how many at the same time?"
        if self.live and (self.out is not None or self.display != "all"):
            return "--live shows the output of all: leave --out and --display out"
        return ""


MANY: Final = Many()
