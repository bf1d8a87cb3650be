"""A client of one replica that sees everything: heads, events, and how answers break off."""

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

import httptools

from headrace.targets.base import Replica, State
from headrace.targets.local import LocalTarget


@dataclass
class Answer:
    """A response as it comes in."""

    parser: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    complete: bool = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode()] = value.decode()

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        self.complete = True

    @property
    def status(self) -> int:
        return self.parser.get_status_code()

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[Any]:
        """The events of a stream: JSON, or the text that is none; comments are left out."""
        texts = [text[5:].strip() for text in self.body.decode().split("\n\n") if text.startswith("data:")]
        return [text if text == "[DONE]" else json.loads(text) for text in texts]


class Exchange:
    """One request under way on a connection of its own."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.answer = Answer()
        self.answer.parser = httptools.HttpResponseParser(self.answer)

    def post(self, path: str, body: Any) -> None:
        self.request("POST", path, json.dumps(body).encode())

    def request(self, method: str, path: str, body: bytes, authorization: str = "") -> None:
        head = f"{method} {path} HTTP/1.1\r\nHost: there\r\nContent-Type: application/json\r\n"
        head += f"Content-Length: {len(body)}\r\n{authorization}\r\n"
        self._writer.write(head.encode() + body)

    async def until(self, seen: bytes = b"", seconds: float = 60) -> Answer:
        """The answer once `seen` is in its body, or once it is complete or broken off."""
        async with asyncio.timeout(seconds):
            while not (self.answer.complete or (seen and seen in self.answer.body)):
                data = await self._reader.read(65536)
                if not data:
                    break
                self.answer.parser.feed_data(data)
        return self.answer

    def close(self) -> None:
        self._writer.close()


class Server:
    """A replica, and requests to it."""

    def __init__(self, target: LocalTarget) -> None:
        self.target = target
        self._open: list[Exchange] = []

    async def replica(self, wanted=lambda replica: True) -> Replica:
        """The replica once `wanted` is true of it."""
        async with asyncio.timeout(60):
            while True:
                (replica,) = await self.target.observe()
                assert replica.state is not State.FAILED, replica.reason
                if wanted(replica):
                    return replica
                await self.target.changed(0.05)

    async def send(self, method: str, path: str, body: Any = b"", key: str | None = "right") -> Exchange:
        endpoint = (await self.replica(lambda replica: replica.endpoint)).endpoint
        exchange = Exchange(*await asyncio.open_unix_connection(endpoint.address.removeprefix("unix:")))
        self._open.append(exchange)
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        authorization = {"right": f"Authorization: Bearer {endpoint.key}\r\n", "wrong": "Authorization: Bearer no\r\n"}
        exchange.request(method, path, raw, authorization.get(key or "", ""))
        return exchange

    async def ask(self, method: str, path: str, body: Any = b"", key: str | None = "right") -> Answer:
        return await (await self.send(method, path, body, key)).until()

    async def chat(self, **more: Any) -> Answer:
        return await self.ask("POST", "/v1/chat/completions", chat(**more))

    async def close(self) -> None:
        for exchange in self._open:
            exchange.close()
        await self.target.close()


def chat(text: str = "Say something.", **more: Any) -> dict[str, Any]:
    return {"model": "chat", "messages": [{"role": "user", "content": text}], "max_tokens": 8, "seed": 1, **more}


def content(answer: Answer) -> str:
    """The text of a chat that is no stream."""
    assert answer.status == 200, answer.body
    return str(answer.json["choices"][0]["message"]["content"])


def texts(events: list[Any]) -> list[str]:
    """The pieces of a chat's stream."""
    return [choice["delta"].get("content") or "" for each in events for choice in each["choices"]]


def header(answer: Answer, name: str) -> str:
    """The header of that name, in lower case."""
    return next(value for given, value in answer.headers.items() if given.lower() == name)
