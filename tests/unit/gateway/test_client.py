"""One connection, step by step and without a socket: what cannot be timed from outside."""

from typing import Any

from headrace.gateway.reading import HeadMemo
from headrace.gateway.wire import Client


class Transport:
    def __init__(self) -> None:
        self.written = b""

    def write(self, data: bytes) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return False

    def get_extra_info(self, name: str) -> None:
        return None

    def set_write_buffer_limits(self, high: int) -> None:
        pass

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


class FakeGateway:
    """Hands requests out and holds back what was scheduled."""

    def __init__(self) -> None:
        self.heads = HeadMemo()
        self.body_limit = 1 << 20
        self.clients: set[Any] = set()
        self.draining = False
        self.bodies: list[bytes] = []
        self.later: list[Any] = []

    def judge(self, head: Any) -> None:
        return None

    def now(self) -> float:
        return 0.0

    def soon(self, call: Any) -> None:
        self.later.append(call)

    def admit(self, client: Any) -> None:
        return None

    def handle(self, client: Client, request: Any) -> None:
        self.bodies.append(request.body)
        client.begin(self)  # type: ignore[arg-type]

    def cancel(self) -> None:
        pass

    def pause(self) -> None:
        pass

    def resume(self) -> None:
        pass


def post(body: bytes) -> bytes:
    return b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


def test_bytes_that_come_between_two_answers_are_read_in_their_order() -> None:
    """The rest of a request arrives after the answer before it and before its first part is read."""
    gateway = FakeGateway()
    client = Client(gateway)  # type: ignore[arg-type]
    client.connection_made(Transport())  # type: ignore[arg-type]
    second = post(b"second")
    client.data_received(post(b"first"))
    client.data_received(second[:30])
    client.finished(0.0)
    client.data_received(second[30:])
    for call in gateway.later:
        call()
    assert gateway.bodies == [b"first", b"second"]


def test_a_whole_request_that_comes_between_two_answers_is_behind_those_that_were_read_before():
    """Its head is known, so that nothing else would keep it from being answered at once."""
    gateway = FakeGateway()
    client = Client(gateway)  # type: ignore[arg-type]
    client.connection_made(Transport())  # type: ignore[arg-type]
    client.data_received(post(b"1"))
    client.finished(0.0)
    client.data_received(post(b"2"))
    client.data_received(post(b"3") + post(b"4"))
    client.finished(0.0)
    gateway.later.pop()()
    client.finished(0.0)
    client.data_received(post(b"5"))
    while gateway.later:
        gateway.later.pop()()
        client.finished(0.0)
    assert gateway.bodies == [b"1", b"2", b"3", b"4", b"5"]
