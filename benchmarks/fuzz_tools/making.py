"""Requests to fuzz with: legal ones by a grammar of the API's paths and bodies, and what becomes of them by mutation."""

import json
from dataclasses import dataclass
from random import Random
from typing import Any

MODELS = ("chat", "folded", "vectors", "plain", "tensors", "gpt-4o", "nobody", "", "chat\u0000", "💧", "a/b", "x" * 300)
PATHS = (
    *("/v1/chat/completions",) * 8, *("/v1/completions",) * 3, *("/v1/embeddings",) * 2, "/v1/messages", "/v1/responses",
    "/v1/messages/count_tokens", "/v1/rerank", "/tokenize", "/detokenize", "/v1/audio/speech", "/v1/audio/transcriptions",
    "/v2/models/tensors/infer", "/v2/models/tensors/ready", "/v2/models/chat/generate_stream",
    "/v1/models/tensors:predict",
    *("/upstream/plain/any/path?x=1",) * 2, "/v1/models", "/v1/models/chat", "/health", "/ready", "/nothing", "*",
    "http://localhost/v1/chat/completions", "/v1/chat/completions?x=%0d%0a", "//v1/chat/completions", "/%2e%2e/health",
)  # fmt: skip
METHODS = ("POST", "GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE")
READ_ONLY = ("/v1/models", "/v1/models/chat", "/health", "/ready", "/v2/models/tensors/ready")
STRINGS = (
    "", "hi", "\u2028 \U0001f4a7", "\ud800", 'quote " and \\', "data: [DONE]\n\n", "\r\n\r\nGET / HTTP/1.1\r\n\r\n", "x" * 2000,
)  # fmt: skip
LINES = (
    b"Connection: close", b"Connection: keep-alive", b"Connection: Content-Length, Host", b"Connection: upgrade\r\nUpgrade: h2c",
    b"Connection: close, upgrade\r\nUpgrade: websocket", b"Expect: 100-continue", b"Expect: x", b"Content-Length: 0",
    b"Content-Length: 5", b"Content-Length: +5", b"Content-Length:", b"Content-Length: 99999999999999999999",
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding : chunked", b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding:\x0bchunked",
    b"Transfer-Encoding: identity",
    b"X-A: b\r\n folded", b" X-A: b", b"X-A : b", b": b", b"X-A", b"X-A: \0", b"X-A: \x7f\x80\xff", b"X-A: b\nX-B: c",
    b"X-A: b\rX-B: c",
    b"Host: other", b"Host:", b"Content-Encoding: gzip", b"Accept-Encoding: br", b"Origin: http://evil.example",
    b"Origin: http://localhost",
    b"X-Request-Id: mine-1", b"X-Request-Id: a\tb", b"Authorization: Bearer wrong", b"Cookie: a=b", b"X-Long: " + b"l" * 33_000,
    b"Content-Type: multipart/form-data; boundary=b", b"Access-Control-Request-Method: POST", b"X-Headrace-Explain: 1",
    b"TE: trailers",
    b"\r\n".join(b"X-%d: 1" % number for number in range(101)), b"Keep-Alive: timeout=5", b"Proxy-Connection: close",
    b"Trailer: X-T",
)  # fmt: skip
MARKS = (
    b"\r", b"\n", b"\r\n", b"\0", b" ", b"\t", b":", b"0", b";", b"\xff", b"\x0b", b",", b"HTTP/1.1",
    b"Transfer-Encoding: chunked\r\n",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Made:
    """One request's bytes; `legal` when every reader must find it to be one request."""

    data: bytes
    legal: bool


class Maker:
    """Draws requests from a seed: the same seed, the same requests."""

    def __init__(self, draw: Random) -> None:
        self.draw = draw

    def requests(self) -> list[Made]:
        """What one connection sends, one request behind the other."""
        count = self.draw.choice((1, 1, 2, 3, 6, 12))
        if count > 1 and self.draw.random() < 0.4:
            return self.alike(count)
        return [self.mutated() if self.draw.random() < 0.3 else self.legal() for _ in range(count)]

    def alike(self, count: int) -> list[Made]:
        """Requests of one client: the same head but for its length, which is not always true."""
        draw, found = self.draw, []
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nX-Client: %d\r\nContent-Length: " % draw.randrange(9)
        for _ in range(count):
            body = b'{"model":"chat","messages":[{"role":"user","content":"%s"}]}' % (b"x" * draw.choice((1, 2, 9, 300)))
            length = len(body) + draw.choice((*(0,) * 12, 1, -1, 7, -len(body)))
            number = draw.choice((*("%d",) * 12, "%03d", " %d", "%d ", "+%d", "0x%x")) % length
            data = head + number.encode() + b"\r\n\r\n" + body
            found.append(Made(data, legal=length == len(body) and number.strip() == number and number.isdigit()))
        return found

    def legal(self) -> Made:
        """A legal request, whatever becomes of it."""
        draw = self.draw
        path = draw.choice(PATHS)
        method = draw.choice(METHODS) if draw.random() < 0.08 else "GET" if path in READ_ONLY else "POST"
        body = self.body(path) if method == "POST" or draw.random() < 0.1 else b""
        lines = [b"Host: localhost", b"Content-Type: application/json", b"User-Agent: fuzz/%d" % draw.randrange(4)]
        if draw.random() < 0.15:
            lines.append(b"X-Trace: %x" % draw.getrandbits(32))
        first = b"%s %s HTTP/%s" % (method.encode(), path.encode(), b"1.0" if draw.random() < 0.05 else b"1.1")
        if first.endswith(b"1.1") and draw.random() < 0.25:
            lines.append(b"Transfer-Encoding: chunked")
            body = self.chunks(body)
        elif body or method == "POST":
            lines.append(b"Content-Length: %d" % len(body))
        if draw.random() < 0.3:
            draw.shuffle(lines)
        return Made(b"\r\n".join((first, *lines, b"", b"")) + body, legal=True)

    def chunks(self, body: bytes) -> bytes:
        """The body in chunks, with what is legal between them."""
        draw, framed, at = self.draw, b"", 0
        while at < len(body):
            size = min(len(body) - at, draw.choice((1, 2, 7, 64, 4096)))
            extension = draw.choice((b"", b"", b"", b";a", b';a="b"'))
            framed += b"%x%s\r\n%s\r\n" % (size, extension, body[at : at + size])
            at += size
        return framed + draw.choice((b"0\r\n\r\n", b"000\r\n\r\n", b"0\r\nX-T: 1\r\n\r\n"))

    def mutated(self) -> Made:
        """A legal request, then something done to it, or several things."""
        data = self.legal().data
        for _ in range(self.draw.choice((1, 1, 2, 4))):
            data = self.draw.choice(_MUTATIONS)(self, data)
        return Made(data, legal=False)

    # ---- bodies

    def body(self, path: str) -> bytes:
        """What the path wants, roughly; sometimes with a field too much, of another type, twice, or no JSON at all."""
        draw = self.draw
        value = self.asked(path)
        if draw.random() < 0.3:
            value[draw.choice((*value, "stream", "n", "tools", "model", "max_tokens", "user"))] = self.value(3)
        if draw.random() < 0.1:
            value.pop(draw.choice(tuple(value)))
        body = json.dumps(value, separators=draw.choice(((",", ":"), (", ", ": "))), ensure_ascii=draw.random() < 0.7)
        data = body.encode("utf-8", "surrogatepass")
        match draw.randrange(24):
            case 0:
                return data[:-1] + b',"model":"vectors"}'
            case 1:
                return data.replace(b'"model"', b'"mod\\u0065l"')
            case 2:
                return draw.randbytes(draw.randrange(200))
            case 3:
                return b'{"model":"chat","messages":' + b"[" * draw.choice((10, 900, 20_000))
            case 4:
                return b""
            case _:
                return data

    def asked(self, path: str) -> dict[str, Any]:
        """The fields of a request for `path`."""
        draw = self.draw
        common = {"model": draw.choice(MODELS[:2] if draw.random() < 0.9 else MODELS), "user": f"u{draw.getrandbits(40):x}"}
        if draw.random() < 0.4:
            common["stream"] = True
        text = draw.choice(STRINGS)
        if "messages" in path or "chat" in path:
            return {**common, "messages": self.messages(), "max_tokens": draw.choice((1, 16, 16, 1 << 70))}
        if "embeddings" in path:
            return {**common, "model": "vectors", "input": draw.choice((text, [text, "b"], [1, 2], []))}
        if "rerank" in path:
            return {**common, "query": text, "documents": [text, "b"]}
        if "infer" in path or "predict" in path:
            tensor = {"name": "x", "shape": [1], "datatype": "FP32", "data": [draw.random()]}
            return {"inputs": [tensor], "instances": [draw.random()]}
        return {**common, "prompt": text, "input": text, "content": text, "tokens": [1, 2], "text_input": text}

    def messages(self) -> list[Any]:
        draw = self.draw
        parts = (
            {"type": "text", "text": "a"},
            {"type": "image_url", "image_url": {"url": "data:,"}},
            {"type": "tool_use"},
            None,
            5,
        )
        content = (draw.choice(STRINGS), [draw.choice(parts)], [draw.choice(parts), {"type": "text", "text": "b"}], None)
        roles = ("user", "user", "system", "assistant", "tool", "developer", "nobody")
        return [{"role": draw.choice(roles), "content": draw.choice(content)} for _ in range(draw.choice((0, 1, 1, 1, 2, 5)))]

    def value(self, depth: int) -> Any:
        """Any JSON."""
        draw = self.draw
        if depth and draw.random() < 0.4:
            if draw.random() < 0.5:
                return [self.value(depth - 1) for _ in range(draw.randrange(4))]
            return {draw.choice(STRINGS)[:20]: self.value(depth - 1) for _ in range(draw.randrange(3))}
        return draw.choice((None, True, False, 0, -1, 1 << 65, 1e308, 0.5, "", "chat", draw.choice(STRINGS)))

    # ---- mutations

    def line(self, data: bytes) -> bytes:
        """One more line of head, anywhere between the others."""
        ends = [at for at in range(len(data.partition(b"\r\n\r\n")[0])) if data.startswith(b"\r\n", at)]
        at = self.draw.choice(ends or [0])
        return data[:at] + b"\r\n" + self.draw.choice(LINES) + data[at:]

    def flipped(self, data: bytes) -> bytes:
        at = self.draw.randrange(len(data)) if data else 0
        return data[:at] + self.draw.randbytes(1) + data[at + 1 :]

    def inserted(self, data: bytes) -> bytes:
        at = self.draw.randrange(len(data) + 1)
        return data[:at] + self.draw.choice(MARKS) + data[at:]

    def in_head(self, data: bytes) -> bytes:
        """Something that separates, in the head."""
        at = self.draw.randrange(data.find(b"\r\n\r\n") % (len(data) + 1) + 1)
        return data[:at] + self.draw.choice(MARKS) + data[at + self.draw.randrange(2) :]

    def removed(self, data: bytes) -> bytes:
        at = self.draw.randrange(len(data) + 1)
        return data[:at] + data[at + self.draw.choice((1, 2, 4, 40)) :]

    def repeated(self, data: bytes) -> bytes:
        at, size = self.draw.randrange(len(data) + 1), self.draw.choice((1, 2, 8, 60))
        return data[:at] + data[at : at + size] * 2 + data[at + size :]

    def cut(self, data: bytes) -> bytes:
        return data[: self.draw.randrange(len(data) + 1)]

    def length(self, data: bytes) -> bytes:
        """Another length than the body's, or another way to write it."""
        other = self.draw.choice((b"0", b"1", b"+5", b"-1", b"0x5", b"5 5", b"5,5", b"", b"00005", b"18446744073709551616"))
        head, mark, rest = data.partition(b"Content-Length: ")
        return head + mark + other + b"\r\n" + rest.partition(b"\r\n")[2] if mark else self.line(data)

    def framing(self, data: bytes) -> bytes:
        """Something wrong in a size line of a chunk."""
        head, mark, body = data.partition(b"\r\n\r\n")
        other = self.draw.choice((b" ", b"+", b"0x", b"-", b"f" * 17, b";a\nb", b";" + b"e" * 5000, b"\n", b"g", b"\r"))
        at = self.draw.randrange(min(len(body), 40) + 1)
        return head + mark + body[:at] + other + body[at:]

    def joined(self, data: bytes) -> bytes:
        """The beginning of one request and the end of another."""
        other = self.legal().data
        return data[: self.draw.randrange(len(data) + 1)] + other[self.draw.randrange(len(other) + 1) :]

    def ends(self, data: bytes) -> bytes:
        """Other ends of lines, once or everywhere."""
        other = self.draw.choice((b"\n", b"\r", b"\r\r\n", b"\n\r", b"\r\n "))
        return data.replace(b"\r\n", other, self.draw.choice((1, 2, -1)))


_MUTATIONS = (
    *(Maker.line,) * 4, *(Maker.in_head,) * 3, Maker.flipped, Maker.inserted, Maker.removed, Maker.repeated, Maker.cut,
    *(Maker.length,) * 2, *(Maker.framing,) * 2, Maker.joined, Maker.ends,
)  # fmt: skip


def split(data: bytes, draw: Random) -> list[bytes]:
    """The bytes as they arrive: in one read, in some, or one by one."""
    way = draw.random()
    if way < 0.4 or len(data) < 2:
        return [data]
    if way < 0.43 and len(data) < 600:
        return [data[at : at + 1] for at in range(len(data))]
    places = sorted(draw.randrange(1, len(data)) for _ in range(draw.choice((1, 1, 2, 5))))
    return [data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True) if start < end]
