import asyncio
import random
from typing import Any, cast

import msgspec
import pytest

from broker_client.api import MeshClient
from broker_client.asking import Asker, advice_without_answer
from broker_client.runtime.link import NoResponders, Unanswered
from schemas.faults import Unreachable
from schemas.messages.api import AgentRecord, Done, NameQuery, SubmitAnswer, SubmitRequest
from schemas.verbs import AGENT_ENABLE, AGENT_SHOW, VERBS


class Asked:
    """In place of what sends: keeps what it is asked, and answers with the type it is told."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, msgspec.Struct, type[object]]] = []

    async def ask_named(
        self, noun: str, verb: str, request: msgspec.Struct, kind: type[object]
    ) -> Done:
        self.asked.append((noun, verb, request, kind))
        return Done(message=verb)


@pytest.fixture
def client() -> MeshClient:
    made = MeshClient.__new__(MeshClient)
    made._asker = cast("Any", Asked())
    return made


async def test_verb_of_the_table_brings_its_names_and_the_type_of_its_answer(
    client: MeshClient,
) -> None:
    request = NameQuery(name="web-1")
    assert (await client.ask(AGENT_ENABLE, request)).message == "enable"
    await client.ask(AGENT_SHOW, request)
    assert cast("Any", client._asker).asked == [
        ("agent", "enable", request, Done),
        ("agent", "show", request, AgentRecord),
    ]


async def test_verb_of_a_newer_mesh_is_asked_by_its_names(client: MeshClient) -> None:
    request = NameQuery(name="web-1")
    assert (await client.ask("agent", "paint", request, Done)).message == "paint"
    assert (await client.ask(noun="agent", verb="paint", request=request, kind=Done)).message
    assert cast("Any", client._asker).asked == [("agent", "paint", request, Done)] * 2


async def test_half_of_one_form_and_half_of_the_other_is_a_mistake(client: MeshClient) -> None:
    with pytest.raises(TypeError, match=r"ask\(VERB, request\)"):
        await cast("Any", client).ask("agent", NameQuery(name="web-1"))


async def test_fault_of_a_broker_without_a_master_names_the_way_to_start_one() -> None:
    class Alone:
        async def request(self, *_: object) -> None:
            raise NoResponders("no_answer", "nobody listens there")

    asker = Asker(cast("Any", Alone()), "ann", "operator")
    with pytest.raises(Unreachable) as caught:
        await asker.send("agent", "list", b"", 1.0)
    assert (caught.value.message, caught.value.effect) == ("no master is listening", "none")
    for word in ("broker-master serve", "log", "/readyz"):
        assert word in caught.value.advice


async def test_retry_of_a_submission_comes_soon_however_often_no_master_has_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without a master a broker refuses at once: many tries fail within a few seconds."""
    waited: list[float] = []

    class Deaf(Asker):
        async def ask_named(self, *_: object, **__: object) -> Any:  # noqa: ANN401  (of any verb)
            if len(waited) < 20:
                raise Unreachable("no_answer", "no master is listening", effect="none")
            return SubmitAnswer(id="c1", state="queued", duplicate=False)

    async def sleep(delay_s: float) -> None:
        waited.append(delay_s)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    monkeypatch.setattr(random, "random", lambda: 1.0)
    client = MeshClient.__new__(MeshClient)
    client._asker = Deaf(cast("Any", None), "ann", "operator")
    request = SubmitRequest(id="c1", group="web", action="noop", args=msgspec.Raw(b"\x80"))
    answer = await client._submit(request, 30.0, is_own_id=True)
    assert answer.id == "c1"
    assert len(waited) == 20
    assert max(waited) <= 2.0


class Silent:
    """A link on which nobody answers in time."""

    last_permission_error = None

    def __init__(self) -> None:
        self.timeouts: list[float] = []

    async def request(self, subject: str, _payload: bytes, timeout_s: float, *_: object) -> None:
        self.timeouts.append(timeout_s)
        raise Unanswered("no_answer", f"no answer on {subject} in {timeout_s} s")


@pytest.mark.parametrize(
    ("verb", "said"),
    [
        ("mesh.status", "ask again; if"),
        ("command.wait", "ask again; if"),
        ("agent.create", "look before you ask again"),
        ("command.submit", "with the same id"),
        ("fanout.retry", "with the same id"),
        ("verb.of-a-newer-mesh", "with the same id"),
    ],
)
async def test_request_without_an_answer_has_the_advice_of_its_verb(verb: str, said: str) -> None:
    asker = Asker(cast("Any", Silent()), "ann", "admin")
    noun, name = verb.split(".")
    with pytest.raises(Unreachable) as caught:
        await asker.send(noun, name, b"", 10.0)
    assert caught.value.message == f"no answer to {verb.replace('.', ' ')} in 10 s"
    for word in (said, "`mesh doctor`", "log", "/readyz"):
        assert word in caught.value.advice


def test_change_is_asked_for_again_at_once_only_under_an_id_of_its_own() -> None:
    advices = {name: advice_without_answer(name) for name in VERBS}
    same_id = {name for name, advice in advices.items() if "with the same id" in advice}
    assert same_id == {
        "command.input",
        "command.submit",
        "command.retry",
        "deadletter.retry",
        "fanout.submit",
        "fanout.retry",
    }
    for name in VERBS.keys() - same_id:
        assert ("look before" in advices[name]) is VERBS[name].changes


async def test_last_try_of_a_request_ends_with_all_tries() -> None:
    link = Silent()
    asker = Asker(cast("Any", link), "ann", "admin", answer_s=60.0)
    with pytest.raises(Unreachable), asker.trying(0.0) as end_s:
        await asker.ask(AGENT_SHOW, NameQuery(name="web-1"), end_s=end_s)
    assert link.timeouts[0] < 1.0
    assert asker.until_s is None, "nothing is awaited any more"
