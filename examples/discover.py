"""Ask the service `mesh` who it is, as `nats micro ls|info|stats` does: PING, INFO and STATS.

    python discover.py DIR

DIR is a directory made by `mesh client create`. Knows only nats-py; any role may do this.
"""

import asyncio
import json
import sys
from pathlib import Path

from nats.aio.client import Client
from nats.errors import TimeoutError as NoMoreAnswers
from plain_client import connect

WAIT_S = 1.0


async def ask_all(connection: Client, verb: str) -> list[dict]:
    """Every answer to one discovery question; each instance of a service gives its own."""
    inbox = connection.new_inbox()  # a random one: others get no answer
    answers = await connection.subscribe(inbox)
    await connection.publish(f"$SRV.{verb}", reply=inbox)
    found = []
    try:
        while True:
            message = await answers.next_msg(timeout=WAIT_S)
            if message.data:  # an empty one says that nobody listens
                found.append(json.loads(message.data))
    except NoMoreAnswers:
        return found
    finally:
        await answers.unsubscribe()


async def main(folder: str) -> None:
    connection, _ = await connect(Path(folder))
    for instance in await ask_all(connection, "PING"):
        print(f"{instance['name']} {instance['version']} (instance {instance['id']})")
    for instance in await ask_all(connection, "INFO"):
        for endpoint in instance["endpoints"]:
            print(f"  {endpoint['name']:<20} {endpoint['subject']}")
    for instance in await ask_all(connection, "STATS"):
        for endpoint in instance["endpoints"]:
            asked, failed = endpoint["num_requests"], endpoint["num_errors"]
            print(f"  {endpoint['name']:<20} {asked} requests, {failed} faults")
    await connection.close()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    asyncio.run(main(sys.argv[1]))
