"""The dashboards of the mesh."""

from grafana.boards import (
    agent,
    availability,
    broker,
    certificates,
    commands,
    fleet,
    internals,
)
from grafana.boards.spec import Board

BOARDS: tuple[Board, ...] = (
    fleet.BOARD,
    agent.BOARD,
    commands.BOARD,
    certificates.BOARD,
    broker.BOARD,
    internals.BOARD,
    availability.BOARD,
)


def dashboards() -> dict[str, str]:
    """The JSON of each, by its uid."""
    from grafana.boards.writing import written  # the SDK is there on developers' machines only

    return {board.uid: written(board) for board in BOARDS}
