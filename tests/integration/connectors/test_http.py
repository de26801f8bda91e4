"""The kind `http`: one service, and nothing beside it."""

import gzip
import ipaddress
import socket
import threading
import time
from urllib.parse import unquote

import msgspec
import pytest

from broker_agent.connectors.api import Call, CallFailed, Secret
from broker_agent.connectors.http import CONNECTOR, addresses
from broker_agent.connectors.http.profile import HttpProfile
from broker_agent.connectors.http.session import HttpSession
from schemas.messages.actions.http import HttpRequestArgs, Method
from tests.connectors import Buffer, Handler, HttpService, a_call, failing, failure, run, serving
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.integration

LOOPBACK = ["127.0.0.0/8"]


def session(service: HttpService, profile: HttpProfile | None = None) -> HttpSession:
    base = HttpProfile(base_url=service.url, networks=LOOPBACK)
    return CONNECTOR.open(profile or base, {})


def get(path: str, method: Method = "GET") -> HttpRequestArgs:
    return HttpRequestArgs(path=path, method=method)


def test_answer_goes_to_the_output_and_small_json_into_the_result() -> None:
    with serving(Handler) as service:
        result, data = run(session(service), "http.request", get("/v1/things"))
    assert data == b'{"ok": true}'
    assert result["status"] == 200
    assert result["json"] == {"ok": True}
    assert result["bytes"] == 12
    assert result["headers"]["content-type"] == "application/json"
    assert service.seen[0][:2] == ("GET", "/v1/things")
    assert service.seen[0][2]["Host"] == f"127.0.0.1:{service.server_port}"


def test_body_query_and_headers_are_sent_as_given() -> None:
    body = msgspec.Raw(msgspec.msgpack.encode({"text": "ü"}))
    args = HttpRequestArgs(
        method="POST", path="/hook", query={"a": ["1", "&2"]}, headers={"X-It": "yes"}, json=body
    )
    with serving(Handler) as service:
        run(session(service), "http.request", args, call=a_call(id_="job_s2"))
    method, path, headers, sent = service.seen[0]
    assert (method, path) == ("POST", "/hook?a=1&a=%262")
    assert headers["X-It"] == "yes"
    assert headers["Content-Type"] == "application/json"
    assert headers["Idempotency-Key"] == "job_s2"
    assert msgspec.json.decode(sent) == {"text": "ü"}


def test_secrets_of_the_profile_are_sent_and_no_header_replaces_them() -> None:
    args = HttpRequestArgs(path="/", headers={"authorization": "Bearer mine", "x-key": "mine"})
    with serving(Handler) as service:
        secret = Secret(plain="never-sent")
        settings = HttpProfile(
            base_url=service.url, networks=LOOPBACK, token=secret, secret_headers={"X-Key": secret}
        )
        its = CONNECTOR.open(settings, {"token": "t0ken", "secret_headers.X-Key": "k3y"})
        run(its, "http.request", args)
    headers = service.seen[0][2]
    assert headers["Authorization"] == "Bearer t0ken"
    assert headers["X-Key"] == "k3y"
    assert [name.lower() for name in headers].count("authorization") == 1


def test_unexpected_status_fails_with_the_effect_done() -> None:
    class Refuses(Handler):
        def answer(self, body: bytes) -> None:
            self.reply(409, b"no")

    with serving(Refuses) as service:
        with failing("target_refused", "done"):
            run(session(service), "http.request", get("/x", "POST"))
        expected = HttpRequestArgs(method="POST", path="/x", expect=[409])
        result, data = run(session(service), "http.request", expected)
    assert (result["status"], data) == (409, b"no")


class Strange(Handler):
    def answer(self, body: bytes) -> None:
        match self.path:
            case "/bomb":
                packed = gzip.compress(bytes(64 * 1024 * 1024))
                self.reply(200, packed, {"Content-Encoding": "gzip"})
            case "/packed":
                packed = gzip.compress(b"plain text " * 30)
                self.reply(200, packed, {"Content-Encoding": "gzip"})
            case "/cut":
                self.send_response(200)
                self.send_header("Content-Length", "100")
                self.end_headers()
                self.wfile.write(b"half")
                self.close_connection = True
            case "/noise":
                self.wfile.write(b"no http at all\r\n\r\n")
                self.close_connection = True
            case "/slow":
                time.sleep(1.5)
                self.reply(200)
            case "/brotli":
                self.reply(200, b"x", {"Content-Encoding": "br"})
            case "/big":
                self.reply(200, bytes(1024 * 1024))
            case "/moved":
                self.reply(302, b"", {"Location": "/v1/there"})
            case "/away":
                self.reply(302, b"", {"Location": "http://169.254.169.254/latest"})
            case "/up":
                self.reply(302, b"", {"Location": "/v1/%2e%2e/admin"})
            case "/loop":
                self.reply(302, b"", {"Location": "/loop"})
            case _:
                self.reply(200, self.path.encode())


def test_strange_answers_end_the_call_and_the_next_one_works() -> None:
    with serving(Strange) as service:
        its = session(service)
        for path, code, effect in (
            ("/bomb", "result_too_large", "done"),
            ("/cut", "target_lost", "unknown"),
            ("/noise", "target_lost", "unknown"),
            ("/brotli", "target_refused", "done"),
        ):
            with failing(code, effect):
                run(its, "http.request", get(path))
            assert run(its, "http.request", get("/ok"))[1] == b"/ok"
        assert run(its, "http.request", get("/packed"))[1] == b"plain text " * 30
        with failing("result_too_large"):
            its.call("http.request", get("/big"), Buffer(1000), a_call())
        slow = Call(id="c", key="c", deadline=time.monotonic() + 0.3)
        with failing("target_timeout", "unknown"):
            its.call("http.request", get("/slow", "POST"), Buffer(), slow)


def test_redirects_are_followed_within_the_origin_alone() -> None:
    with serving(Strange) as service:
        followed = HttpProfile(
            base_url=service.url, networks=LOOPBACK, redirects=2, allow=["GET|POST /*"]
        )
        its = session(service, followed)
        assert run(its, "http.request", get("/moved"))[1] == b"/v1/there"
        for path, code in (("/away", "address_refused"), ("/up", "address_refused")):
            with failing(code):
                run(its, "http.request", get(path))
        with failing("target_refused"):
            run(its, "http.request", get("/loop"))
        with failing("target_refused"):  # a write is never sent twice
            run(its, "http.request", get("/moved", "POST"))
        with failing("target_refused"):
            run(session(service), "http.request", get("/moved"))


def test_idle_connection_that_the_server_closed_costs_nothing() -> None:
    class Closes(Handler):
        def answer(self, body: bytes) -> None:
            self.reply(200, b"x")
            self.close_connection = True

    with serving(Closes) as service:
        its = session(service)
        for _ in range(5):
            assert run(its, "http.request", get("/"))[1] == b"x"


def test_cancel_ends_a_call_that_waits() -> None:
    asked, over = threading.Event(), threading.Event()

    class Silent(Handler):
        def answer(self, body: bytes) -> None:
            asked.set()
            over.wait(PATIENCE_S)
            self.close_connection = True

    with serving(Silent) as service:
        its = session(service)

        def cancel() -> None:
            asked.wait(PATIENCE_S)
            its.cancel()

        canceller = threading.Thread(target=cancel)
        canceller.start()
        try:
            with failing("target_lost", "unknown"):
                run(its, "http.request", get("/", "POST"), call=a_call(2 * PATIENCE_S))
            assert not over.is_set()
        finally:
            over.set()
            canceller.join()
        assert its.is_broken


def test_unreachable_and_untrusted_servers_have_no_effect() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    gone = CONNECTOR.open(HttpProfile(base_url=f"http://127.0.0.1:{port}", networks=LOOPBACK), {})
    with failing("target_unreachable", "none"):
        run(gone, "http.request", get("/", "POST"))
    with serving(Handler) as service:
        plain = service.url.replace("http:", "https:")
        its = CONNECTOR.open(HttpProfile(base_url=plain, networks=LOOPBACK), {})
        with failing("tls_failed", "none"):
            run(its, "http.request", get("/", "POST"))
    assert service.seen == []


# -- addresses

HOSTS = (
    "127.0.0.1", "127.1", "127.255.255.254", "2130706433", "0x7f000001", "0177.0.0.1", "0x7f.1",
    "localhost", "0.0.0.0", "0", "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]",
    "[::127.0.0.1]", "[64:ff9b::7f00:1]", "[64:ff9b:1::7f00:1]", "[2002:7f00:1::]",
    "169.254.169.254", "2852039166", "0xa9fea9fe", "[::ffff:169.254.169.254]", "[fe80::1]",
    "[fd00:ec2::254]", "100.100.100.200", "168.63.129.16", "192.0.0.192", "224.0.0.1",
    "[ff02::1]", "255.255.255.255", "[2002:a9fe:a9fe::]", "[64:ff9b::a9fe:a9fe]",
)  # fmt: skip
PATHS = (
    "//169.254.169.254/", "/\\169.254.169.254/", "/../admin", "/v1/../admin", "/v1/./x",
    "/v1/%2e%2e/admin", "/v1/%2E%2e/admin", "/v1/..%2fadmin", "/v1/%252e%252e/admin",
    "/@evil.example/",
    "/v1//x", "/%5c%5cevil", "/v1/x%0d%0aHost: evil", "/v1/x\r\nX: y", "/%00", "/v1/%2f%2fevil",
    "/v1/..;/admin", "/v1/%2e%2e;x=1/admin", "/v1/.;/x",
    "http://evil.example/", "evil.example/", "", "/v2/x", "/v1/%25252525252e/",
)  # fmt: skip


@pytest.mark.parametrize("host", HOSTS)
def test_connections_f12_address_near_the_host_is_refused(host: str) -> None:
    with serving(Handler, "0.0.0.0") as canary:
        its = CONNECTOR.open(HttpProfile(base_url=f"http://{host}:{canary.server_port}"), {})
        code = failure(its, "http.request", get("/", "POST"))
        assert code in {"address_refused", "target_unreachable"}
        assert canary.seen == []


@pytest.mark.parametrize("path", PATHS)
def test_connections_f12_path_that_leaves_the_service_is_refused(path: str) -> None:
    with serving(Handler) as canary:
        profile = HttpProfile(base_url=canary.url, networks=LOOPBACK, allow=["GET|POST /v1/*"])
        code = failure(session(canary, profile), "http.request", get(path, "POST"))
        assert code == "address_refused"
        assert canary.seen == []


def test_connections_f12_name_that_changes_its_address_is_checked_at_each_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """DNS rebinding: a request goes to the checked address."""
    asked: list[str] = []

    def resolved(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        asked.append(host)
        address = "203.0.113.7" if len(asked) > 1 else "127.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    with serving(Handler) as canary:
        base = f"http://rebinding.example:{canary.server_port}"
        its = CONNECTOR.open(HttpProfile(base_url=base), {})
        monkeypatch.setattr(socket, "getaddrinfo", resolved)
        assert failure(its, "http.request", get("/")) == "address_refused"
        assert asked == ["rebinding.example"]
        assert canary.seen == []


def test_connections_f12_name_with_one_bad_address_is_not_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def resolved(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        found = ("203.0.113.7", "169.254.169.254")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in found]

    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    with pytest.raises(CallFailed, match="link-local"):
        addresses.resolve("two.example", 80, ())


def test_private_ranges_are_the_business_of_the_hosts_owner() -> None:
    for text in ("10.1.2.3", "192.168.1.1", "172.16.0.1", "fd12::1", "203.0.113.7"):
        assert addresses.why_refused(ipaddress.ip_address(text), ()) == ""


@pytest.mark.parametrize(
    ("base_url", "problem"),
    [
        ("ftp://x/", "begins with"),
        ("https://", "no host"),
        ("https://user:pw@x/", "no user"),
        ("https://x/?a=1", "no query"),
        ("https://x/#a", "no query"),
        ("https://x/a b", "character"),
    ],
)
def test_base_url_that_cannot_be_is_told_at_check(base_url: str, problem: str) -> None:
    found = CONNECTOR.check(HttpProfile(base_url=base_url))
    assert any(problem in each for each in found), found


STEERING = (
    "X-HTTP-Method-Override", "x_http_method_override", "X-HTTP-Method", "X-Method-Override",
    "X-Original-URL", "X-Rewrite-Url", "X_Original_URI", "Idempotency_Key", "Content_Length",
)  # fmt: skip


@pytest.mark.parametrize("name", STEERING)
def test_sec_s43_header_that_names_another_method_or_path_is_refused(name: str) -> None:
    """Else a server does what `allow` was never asked about."""
    with serving(Handler) as canary:
        profile = HttpProfile(base_url=canary.url, networks=LOOPBACK, allow=["GET /v1/*"])
        args = HttpRequestArgs(path="/v1/x", headers={name: "DELETE"})
        assert failure(session(canary, profile), "http.request", args) == "parameter_invalid"
        assert canary.seen == []


def test_sec_s43_header_of_the_profile_has_one_spelling() -> None:
    """Behind a gateway, `X_Key` and `X-Key` are one variable."""
    with serving(Handler) as service:
        settings = HttpProfile(
            base_url=service.url, networks=LOOPBACK, secret_headers={"X-Key": Secret(plain="-")}
        )
        its = CONNECTOR.open(settings, {"secret_headers.X-Key": "k3y"})
        run(its, "http.request", HttpRequestArgs(path="/", headers={"X_Key": "mine"}))
    assert "mine" not in service.seen[0][2].values()


def test_sec_s43_redirect_leads_nowhere_outside_the_base_url() -> None:
    class Leads(Handler):
        def answer(self, body: bytes) -> None:
            del body
            if self.path.startswith("/api/to"):
                self.reply(302, b"", {"Location": unquote(self.path.partition("=")[2])})
            else:
                self.reply(200, self.path.encode())

    with serving(Leads) as service:
        its = session(
            service, HttpProfile(base_url=f"{service.url}/api", networks=LOOPBACK, redirects=1)
        )
        for where in ("/admin", "/apiary", "/api/..;/admin", "/"):
            args = HttpRequestArgs(path="/to", query={"a": where})
            service.seen.clear()
            with failing("address_refused", "done"):
                run(its, "http.request", args)
            assert len(service.seen) == 1
        assert run(its, "http.request", HttpRequestArgs(path="/to", query={"a": "/api/v1"}))[1]


def test_request_that_is_repeated_fails_as_any_other() -> None:
    """The server closes the kept connection, and then answers with noise."""

    class Noisy(Handler):
        def answer(self, body: bytes) -> None:
            del body
            if len(self.server.seen) == 1:  # type: ignore[attr-defined]
                self.reply(200, b"ok")
            else:
                self.wfile.write(b"no http at all\r\n\r\n")
            self.close_connection = True

    with serving(Noisy) as service:
        its = session(service)
        assert run(its, "http.request", get("/"))[1] == b"ok"
        with failing("target_lost", "unknown"):
            run(its, "http.request", get("/"))
