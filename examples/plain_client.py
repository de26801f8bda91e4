"""A client of the mesh that knows only nats-py and msgpack.

    python plain_client.py DIR GROUP PROGRAM [ARG…]

DIR is a directory made by `mesh client create NAME --role operator --out DIR`. The program runs on
one agent of GROUP; its output is shown as it comes, and its exit code is ours.
"""

import asyncio
import base64
import logging
import re
import ssl
import sys
import tomllib
import uuid
from pathlib import Path

import msgpack
import nats
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from nats.aio.client import Client


async def connect(folder: Path) -> tuple[Client, str]:
    """A connection with the certificate, the user token and the inbox of this client."""
    # asyncio remarks on every end of a TLS connection.
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    context = tomllib.loads((folder / "context.toml").read_text())
    tls = ssl.create_default_context(cafile=folder / context["ca"])
    tls.load_cert_chain(folder / context["cert"], folder / context["key"])
    creds = (folder / context["creds"]).read_text()
    token, seed = re.findall(r"-----BEGIN [A-Z ]+-----\s+(\S+)", creds)
    # A seed is base32 of two bytes of kind, 32 bytes of key and a checksum.
    key = Ed25519PrivateKey.from_private_bytes(
        base64.b32decode(seed + "=" * (-len(seed) % 8))[2:34]
    )
    connection = await nats.connect(
        context["urls"],
        tls=tls,
        user_jwt_cb=token.encode,
        signature_cb=lambda nonce: base64.b64encode(key.sign(nonce.encode())),
        inbox_prefix=f"_INBOX_{context['name']}",
    )
    return connection, context["name"]


async def ask(connection: Client, subject: str, request: dict, timeout_s: float) -> dict:
    """One request and its answer; ends the program with the fault if the mesh refuses."""
    answer = await connection.request(subject, msgpack.packb(request), timeout=timeout_s)
    body = msgpack.unpackb(answer.data)
    if "Nats-Service-Error-Code" in (answer.headers or {}):
        sys.exit(f"{body['message']} ({body['code']})")
    return body


async def show_output(connection: Client, name: str, command: str) -> None:
    """Read both streams by their offsets until the command has ended."""
    offsets = {"stdout": 0, "stderr": 0}
    end = False
    while not end:
        request = {
            "id": command,
            "wait_s": 20,
            "stdout_from": offsets["stdout"],
            "stderr_from": offsets["stderr"],
        }
        answer = await ask(connection, f"mesh.v1.api.{name}.command.logs", request, 30)
        for stream, file in (("stdout", sys.stdout), ("stderr", sys.stderr)):
            file.buffer.write(answer[stream])
            file.flush()
            offsets[stream] = answer[f"{stream}_next"]
        end = answer["end"]


async def main(folder: str, group: str, *argv: str) -> int:
    connection, name = await connect(Path(folder))
    command = uuid.uuid4().hex  # our own id: sending the same one again is never a second run
    ended = await connection.subscribe(f"mesh.v1.result.{name}.{command}")
    await connection.flush()  # the result must not come before the broker knows that we listen
    request = {"id": command, "group": group, "action": "process", "args": {"argv": argv}}
    answer = await ask(connection, f"mesh.v1.api.{name}.command.submit", request, 10)
    print(f"{answer['id']} is {answer['state']}", file=sys.stderr)
    await show_output(connection, name, command)
    record = msgpack.unpackb((await ended.next_msg(timeout=10)).data)
    attempt = record["attempts"][-1] if record["attempts"] else {}
    code = attempt.get("exit_code")
    print(f"{command} has {record['state']}, exit code {code}", file=sys.stderr)
    await connection.close()
    return code if code is not None else 1


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    sys.exit(asyncio.run(main(*sys.argv[1:])))
