"""The dashboards of the mesh."""

from grafana.boards import (
    agent,
    availability,
    broker,
    certificates,
    commands,
    connections,
    fleet,
    internals,
)
from grafana.boards.spec import Board

BOARDS: tuple[Board, ...] = (
    fleet.BOARD,
    agent.BOARD,
    commands.BOARD,
    connections.BOARD,
    certificates.BOARD,
    broker.BOARD,
    internals.BOARD,
    availability.BOARD,
)


def dashboards() -> dict[str, str]:
    """JSON of each dashboard, by its uid."""
    from grafana.boards.writing import written  # only development environments have the SDK

    return {board.uid: written(board) for board in BOARDS}
