"""Makes sure that agents can come up by themselves: groups, agents, and a token file for each.

    enrol.py CONTEXT TOKENS GROUP/AGENT...

For `compose.yaml`, and for any other place where hosts are made by a program. May be run again and
again: whoever is set up already gets no new token.
"""

import asyncio
import sys
from pathlib import Path

from broker_client.api import MeshClient
from broker_client.runtime.files import write_private
from schemas.faults import MeshError
from schemas.messages.api import AgentCreate, AgentRecord, GroupCreate, GroupRecord, TokenAnswer

CONNECT_S = 60.0


async def enrol(context: Path, tokens: Path, wanted: list[tuple[str, str]]) -> None:
    """Token files are named after their agents; `broker-agent run --token-file` takes them."""
    async with MeshClient.connect(context, timeout_s=CONNECT_S) as mesh:
        known = {agent.agent: agent for agent in await mesh.agents()}
        for group, name in wanted:
            await make_group(mesh, group)
            token = await new_token(mesh, group, name, known.get(name))
            if token is not None:
                write_private(tokens / name, token.encode())
                print(f"token for {name} in {group}")


async def make_group(mesh: MeshClient, group: str) -> None:
    try:
        await mesh.ask("group", "create", GroupCreate(name=group), GroupRecord)
    except MeshError as error:
        if error.code != "group_exists":
            raise


async def new_token(
    mesh: MeshClient, group: str, name: str, known: AgentRecord | None
) -> str | None:
    """None for an agent that has been set up: its keys are on its own disk."""
    if known is not None and known.certificate is not None:
        return None
    request = AgentCreate(name=name, group=group)
    verb = "create" if known is None else "token"
    return (await mesh.ask("agent", verb, request, TokenAnswer)).token


def main() -> None:
    context, tokens, *wanted = sys.argv[1:]
    pairs = [(group, name) for group, _, name in (each.partition("/") for each in wanted)]
    try:
        asyncio.run(enrol(Path(context), Path(tokens), pairs))
    except MeshError as error:
        print(f"enrol: {error}; {error.kind.advice}", file=sys.stderr)
        sys.exit(error.kind.exit_code)


if __name__ == "__main__":
    main()
