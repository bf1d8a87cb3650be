"""Upgrades with real processes under load: nobody is refused and every request is answered, whoever is killed on the way."""

import http.client
import json
import os
import shutil
import signal
import socket
import ssl
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import Served, eventually, is_alive
from tests.e2e.test_reloading import reload
from tests.unit.gateway.certificates import authority, pair

pytestmark = pytest.mark.timeout(240)

ENGINE = (
    '[python, -m, headrace.testing.engine, --port, "{{port}}", --model, chat, --slots, "8", --tokens, "200", '
    '--token-seconds, "{seconds}"{more}]'
)
YAML = """
models:
  chat: {{engine: {{custom: {{command: {engine}}}}}, memory: 10MB, slots: 8}}
gateway: {{listen: "127.0.0.1:{port}", drain: 20s{more}}}
"""


class Site:
    """A folder with a file, and the Headraces that were started for it, one after the other."""

    def __init__(self, folder: Path, more: str = "") -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.folder, self._more = folder, more
        self.temporary = tempfile.mkdtemp(prefix="hr-")  # of a short path: sockets are in it
        self.context: ssl.SSLContext | None = None
        self.running: list[Served] = []
        self.write()

    def write(self, seconds: float = 0.005, more: str = "") -> None:
        """The file; engines take `seconds` for a word, and get `more` arguments."""
        engine = ENGINE.format(seconds=seconds, more=more)
        text = YAML.format(engine=engine, port=self.port, more=self._more)
        (self.folder / "headrace.yaml").write_text(text)

    def start(self, *arguments: str) -> Served:
        served = Served(["headrace.yaml", *arguments], self.folder, {"TMPDIR": self.temporary})
        self.running.append(served)
        return served

    def serves(self, *arguments: str) -> Served:
        """One that listens."""
        served = self.start(*arguments)
        served.wait_for("Listening on")
        return served

    def connection(self) -> http.client.HTTPConnection:
        if self.context is not None:
            return http.client.HTTPSConnection("localhost", self.port, timeout=60, context=self.context)
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def close(self) -> None:
        for served in self.running:
            served.close()
        shutil.rmtree(self.temporary)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.close()


def asked(connection: http.client.HTTPConnection, *, words: int = 3, stream: bool = False) -> str:
    """How a chat ended; the connection is kept unless the answer ends it."""
    messages = [{"role": "user", "content": "Count"}]
    body = {"model": "chat", "messages": messages, "max_tokens": words, "stream": stream}
    try:
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read()
    except (OSError, http.client.HTTPException) as error:
        connection.close()
        return f"{type(error).__name__}: {error}"
    if answer.status != 200:
        return f"{answer.status}: {text[:200]!r}"
    whole = text.rstrip().endswith(b"data: [DONE]") if stream else b'"finish_reason"' in text
    return "whole" if whole else f"cut: {text[-80:]!r}"


class Load:
    """Clients that ask without a pause: some keep their connection, some open one for each request; chats and streams."""

    def __init__(self, site: Site) -> None:
        self._site, self._over, self._lock = site, threading.Event(), threading.Lock()
        self.ends: Counter[str] = Counter()
        self._clients = [threading.Thread(target=self._client, args=(number,)) for number in range(4)]
        for one in self._clients:
            one.start()

    def _client(self, number: int) -> None:
        connection, count = self._site.connection(), 0
        while not self._over.is_set():
            count += 1
            end = asked(connection, stream=bool((number + count) % 2))
            with self._lock:
                self.ends[end] += 1
            if number % 2:
                connection.close()
        connection.close()

    @property
    def count(self) -> int:
        return sum(self.ends.values())

    def more(self, requests: int = 40) -> None:
        """Return once so many more were answered."""
        wanted = self.count + requests
        eventually(lambda: self.count >= wanted, f"{wanted} answers: {self.ends}", 60)

    def close(self) -> None:
        self._over.set()
        for one in self._clients:
            one.join(60)


@pytest.fixture
def loaded() -> Iterator[Callable[[Site], Load]]:
    made: list[Load] = []

    def start(site: Site) -> Load:
        made.append(Load(site))
        return made[-1]

    yield start
    for load in made:
        load.close()


def asked_once(site: Site, words: int = 3) -> str:
    """The same over a connection of its own."""
    connection = site.connection()
    try:
        return asked(connection, words=words, stream=True)
    finally:
        connection.close()


def under_way(site: Site, words: int) -> tuple[threading.Thread, list[str]]:
    """A long answer, begun; how it ended is in the list when the thread is over."""
    ends: list[str] = []
    thread = threading.Thread(target=lambda: ends.append(asked_once(site, words)))
    thread.start()
    return thread, ends


def engines(served: Served) -> list[int]:
    return served.pids()


def waiting(served: Served) -> int:
    return sum(sum(model["load"]["running"].values()) for model in served.get("/admin/status")["models"])


# ---- upgrades


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_every_request_is_answered_over_three_upgrades(tmp_path: Path, loaded: Callable[[Site], Load], tls: bool) -> None:
    site = Site(tmp_path, ", tls: {cert: gateway.crt, key: gateway.key}" if tls else "")
    if tls:
        authority(tmp_path)
        pair(tmp_path, "gateway")
        site.context = ssl.create_default_context(cafile=tmp_path / "ca.crt")
    try:
        now = site.serves()
        load = loaded(site)
        load.more()
        for _ in range(3):
            before, now = now, site.serves("--takeover")
            assert before.end() == 0
            assert "Stopped; Headrace" in before.output
            load.more()
        load.close()
        assert set(load.ends) == {"whole"}, load.ends
        assert [served.process.poll() for served in site.running] == [0, 0, 0, None]
    finally:
        site.close()


def test_a_long_answer_is_finished_by_the_engine_that_began_it(site: Site) -> None:
    site.write(seconds=0.25)
    before = site.serves()
    (pid,) = engines(before)
    thread, ends = under_way(site, words=60)
    eventually(lambda: waiting(before) == 1, "it is being answered")
    after = site.serves("--takeover")
    before.wait_for("accepts the clients now")
    assert engines(after) != [pid], "an engine of its own, beside"
    assert is_alive(pid)
    code, said = reload(after)
    assert code, "what the one before holds is not to be planned with"
    assert f"the Headrace before (pid {before.process.pid}) still answers what it has" in said
    thread.join(60)
    assert ends == ["whole"]
    assert before.end() == 0
    eventually(lambda: not is_alive(pid), "its engine ended with it")
    after.wait_for("The Headrace before .* is gone")
    assert reload(after) == (0, "Nothing changes: the file asks for what runs.\n")


def test_one_whose_model_fails_changes_nothing(site: Site, loaded: Callable[[Site], Load]) -> None:
    before = site.serves()
    load = loaded(site)
    site.write(more=', --exit-after, "0"')
    after = site.start("--takeover")
    assert after.end(120) != 0
    assert "No model could be started" in after.output or "serves on, for not all is ready here" in after.output
    before.wait_for("did not take this one's place: nothing has changed here")
    load.more()
    load.close()
    assert set(load.ends) == {"whole"}, load.ends


def test_a_second_upgrade_at_once_is_refused(site: Site) -> None:
    before = site.serves()
    site.write(more=', --load-seconds, "600"')
    site.start("--takeover").wait_for("will take the place of")
    third = site.start("--takeover")
    assert third.end() == 69
    assert "is taking its place already. Nothing has changed for it." in third.output
    assert before.process.poll() is None


def test_where_nobody_listens_it_is_a_start_like_any_other(site: Site) -> None:
    served = site.serves("--takeover")
    assert "this is a start like any other" in served.output
    assert asked_once(site) == "whole"


# ---- whoever is killed


def test_the_next_one_killed_while_it_loads_changes_nothing(site: Site, loaded: Callable[[Site], Load]) -> None:
    before = site.serves()
    load = loaded(site)
    site.write(more=', --load-seconds, "600"')
    after = site.start("--takeover")
    after.wait_for("start chat-1")
    after.process.send_signal(signal.SIGKILL)
    before.wait_for("nothing has changed here")
    load.more()
    site.write()
    site.serves("--takeover")
    assert before.end() == 0
    load.more()
    load.close()
    assert set(load.ends) == {"whole"}, load.ends


def test_the_next_one_killed_after_it_took_over_gives_the_clients_back(site: Site) -> None:
    site.write(seconds=0.25)
    before = site.serves()
    thread, ends = under_way(site, words=100)
    eventually(lambda: waiting(before) == 1, "it is being answered")
    after = site.serves("--takeover")
    before.wait_for("accepts the clients now")
    after.process.send_signal(signal.SIGKILL)
    after.process.wait(10)
    before.wait_for("serving goes on here")
    assert asked_once(site) == "whole", "nobody is refused"
    thread.join(60)
    assert ends == ["whole"]
    assert before.process.poll() is None
    site.serves("--takeover")
    assert before.end() == 0, "another upgrade may follow"


def test_the_running_one_killed_while_the_next_loads_is_replaced_at_once(site: Site) -> None:
    before = site.serves()
    site.write(more=', --load-seconds, "3"')
    after = site.start("--takeover")
    after.wait_for("start chat-1")
    before.process.send_signal(signal.SIGKILL)
    before.process.wait(10)

    def answered() -> bool:
        return asked_once(site) == "whole"  # refused until the death is noticed, then kept until the model is ready

    eventually(answered, "the next one serves")
    assert after.process.poll() is None


def test_the_running_one_killed_while_it_leaves_takes_only_its_own_requests_with_it(site: Site) -> None:
    site.write(seconds=0.25)
    before = site.serves()
    thread, ends = under_way(site, words=100)
    eventually(lambda: waiting(before) == 1, "it is being answered")
    after = site.serves("--takeover")
    before.wait_for("accepts the clients now")
    before.process.send_signal(signal.SIGKILL)
    thread.join(60)
    assert ends[0].startswith(("IncompleteRead", "ConnectionResetError", "cut"))
    after.wait_for("The Headrace before .* is gone")
    assert asked_once(site) == "whole"


def test_the_next_one_stopped_while_the_running_one_leaves_stops_both(site: Site) -> None:
    site.write(seconds=0.25)
    before = site.serves()
    thread, ends = under_way(site, words=60)
    eventually(lambda: waiting(before) == 1, "it is being answered")
    after = site.serves("--takeover")
    before.wait_for("accepts the clients now")
    after.process.send_signal(signal.SIGTERM)
    assert after.end() == 0
    thread.join(60)
    assert ends == ["whole"]
    assert before.end() == 0


def test_the_running_one_told_to_stop_while_the_next_loads_leaves_it_the_address(site: Site) -> None:
    before = site.serves()
    site.write(more=', --load-seconds, "1"')
    after = site.start("--takeover")
    after.wait_for("start chat-1")
    before.process.send_signal(signal.SIGTERM)
    assert before.end() == 0
    after.wait_for("Listening on")
    assert asked_once(site) == "whole"


def test_no_socket_is_left_when_all_is_over(site: Site) -> None:
    before = site.serves()
    after = site.serves("--takeover")
    assert before.end() == 0
    place = Path(site.temporary, f"headrace-handover-{os.getuid()}")
    assert [each.name for each in place.iterdir()] == [f"127.0.0.1-{site.port}.sock"], "the next one's"
    after.process.send_signal(signal.SIGTERM)
    assert after.end() == 0
    assert list(place.iterdir()) == []
