"""Ways in which proxies and servers were made to disagree where a request ends, each with its history.

`REFUSED` must end in one error and the connection's end, with nothing at the engine. `HARMLESS` is legal, or nobody can
misunderstand it: the engine gets exactly what `reaches` says, whatever is smuggled in it or behind it.
"""

from dataclasses import dataclass

from .clients import asking

BODY = asking()
EVIL = asking(user="smuggled")
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
HIDDEN = HEAD + b"Content-Length: %d\r\n\r\n" % len(EVIL) + EVIL
"""A whole request that is to be smuggled in."""
LENGTH = b"Content-Length: %d\r\n" % len(BODY)
CODED = b"Transfer-Encoding: chunked\r\n"
SMALL = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
"""The good body in chunks."""
H2C = b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
FAT = b" HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(HIDDEN) + HIDDEN
"""The rest of a request whose body is a request."""
HEX = b"%x" % len(BODY)


@dataclass(frozen=True)
class Vector:
    """One attack: its name in the tests' output, its bytes, the status of the answer, the bodies that may reach the engine."""

    name: str
    data: bytes
    status: int = 400
    reaches: tuple[bytes, ...] = ()
    answers: tuple[int, ...] | None = None
    """All statuses, where it is not one error."""


def with_lines(lines: bytes, body: bytes = BODY, behind: bytes = HIDDEN) -> bytes:
    """A chat with `lines` in its head, `body`, and the hidden request behind it."""
    return HEAD + lines + b"\r\n" + body + behind


def old(data: bytes) -> bytes:
    """The same in HTTP/1.0."""
    return data.replace(b"HTTP/1.1", b"HTTP/1.0", 1)


def to(target: bytes) -> bytes:
    """A chat with another target."""
    return with_lines(LENGTH).replace(b"/v1/chat/completions", target, 1)


def in_chunks(body: bytes, behind: bytes = HIDDEN) -> bytes:
    """A chat whose body is framed as `body` says."""
    return with_lines(CODED, body, behind)


REFUSED = [
    # ---- two lengths: Watchfire's "HTTP Request Smuggling" (2005), Kettle's "HTTP Desync Attacks" (2019)
    Vector("CL.TE", with_lines(b"Content-Length: 6\r\n" + CODED, b"0\r\n\r\n")),  # Apache CVE-2005-2088
    Vector("TE.CL", with_lines(CODED + b"Content-Length: 4\r\n", SMALL)),
    Vector("CL.0 with an empty coding", with_lines(LENGTH + b"Transfer-Encoding:\r\n")),  # TE.0 (2024): GCP's load balancer
    Vector("two different lengths", with_lines(b"Content-Length: 0\r\n" + LENGTH)),  # Node CVE-2016-2086, Twisted CVE-2020-10109
    Vector("the same length twice", with_lines(LENGTH + LENGTH)),  # legal to join (RFC 9110 8.6), yet a sign of two readers
    # waitress CVE-2019-16792
    Vector("two lengths in a line", with_lines(b"Content-Length: %d, %d\r\n" % (len(BODY), len(BODY)))),
    Vector("two lengths in other letters", with_lines(LENGTH + b"cOnTENT-lENGTH: 0\r\n")),
    # ---- what is no number
    Vector("a length with a sign", with_lines(b"Content-Length: +%d\r\n" % len(BODY))),  # waitress CVE-2022-24761, Tomcat -42252
    Vector("a negative length", with_lines(b"Content-Length: -%d\r\n" % len(BODY))),  # Apache CVE-2004-0492
    Vector("a length in hexadecimal", with_lines(b"Content-Length: 0x%x\r\n" % len(BODY))),
    Vector("a length with an underscore", with_lines(b"Content-Length: 1_0\r\n")),  # aiohttp CVE-2023-47627: Python's int()
    Vector("a length in Arabic digits", with_lines("Content-Length: ٥\r\n".encode())),  # Python's str.isdigit()
    Vector("a length with a fraction", with_lines(b"Content-Length: 5.0\r\n")),
    Vector("a length with a space inside", with_lines(b"Content-Length: 1 2\r\n")),  # Node CVE-2018-7159
    Vector("no length where one should be", with_lines(b"Content-Length:\r\n")),  # HAProxy CVE-2023-40225
    Vector("a length that overflows 64 bits", with_lines(b"Content-Length: 18446744073709551621\r\n")),
    Vector("a length behind a vertical tab", with_lines(b"Content-Length: \x0b%d\r\n" % len(BODY))),
    # ---- codings that one reader takes for chunked: Kettle's TE.TE (2019), gunicorn CVE-2024-1135
    Vector("xchunked", with_lines(b"Transfer-Encoding: xchunked\r\n", SMALL), 501),
    Vector("chunk", with_lines(b"Transfer-Encoding: chunk\r\n", SMALL), 501),
    Vector("chunkedx", with_lines(b"Transfer-Encoding: chunkedx\r\n", SMALL), 501),
    Vector("quoted", with_lines(b'Transfer-Encoding: "chunked"\r\n', SMALL), 501),
    Vector("identity", with_lines(b"Transfer-Encoding: identity\r\n"), 501),  # waitress CVE-2019-16786, Tomcat CVE-2021-33037
    Vector("identity beside a length", with_lines(b"Transfer-Encoding: identity\r\n" + LENGTH)),
    Vector("identity, chunked", with_lines(b"Transfer-Encoding: identity, chunked\r\n", SMALL), 501),
    Vector("chunked, identity", with_lines(b"Transfer-Encoding: chunked, identity\r\n", SMALL)),  # Apache CVE-2022-26377
    Vector("chunked, chunked", with_lines(b"Transfer-Encoding: chunked, chunked\r\n", SMALL)),
    Vector("chunked twice", with_lines(CODED + CODED, SMALL)),
    Vector("chunked, then another", with_lines(CODED + b"Transfer-Encoding: x\r\n", SMALL)),  # Node CVE-2020-8287
    Vector("another, then chunked", with_lines(b"Transfer-Encoding: x\r\n" + CODED, SMALL), 501),
    Vector("gzip, chunked", with_lines(b"Transfer-Encoding: gzip, chunked\r\n", SMALL), 501),
    Vector("a comma in front", with_lines(b"Transfer-Encoding: , chunked\r\n", SMALL), 501),
    Vector("a parameter", with_lines(b"Transfer-Encoding: chunked;q=1\r\n", SMALL), 501),
    Vector("a vertical tab in front", with_lines(b"Transfer-Encoding:\x0bchunked\r\n", SMALL)),  # HAProxy CVE-2019-18277
    Vector("a vertical tab behind", with_lines(b"Transfer-Encoding: chunked\x0b\r\n", SMALL)),  # Node CVE-2019-15605
    Vector("a NUL in front", with_lines(b"Transfer-Encoding: \0chunked\r\n", SMALL)),
    Vector("a NUL behind", with_lines(b"Transfer-Encoding: chunked\0\r\n", SMALL)),
    Vector("a byte beyond ASCII in front", with_lines(b"Transfer-Encoding: \xffchunked\r\n", SMALL), 501),
    Vector("chunked in HTTP/1.0", old(with_lines(CODED, SMALL))),  # RFC 9112 6.1
    Vector("kept alive in HTTP/1.0", old(with_lines(CODED + b"Connection: keep-alive\r\n", SMALL))),
    # ---- names and lines of the head
    Vector("a space before the colon", with_lines(b"Transfer-Encoding : chunked\r\n", SMALL)),  # llhttp CVE-2021-22959, Go -16276
    Vector("a tab before the colon", with_lines(b"Content-Length\t: %d\r\n" % len(BODY))),
    Vector("a space in a name", with_lines(b"Content Length: 5\r\n" + LENGTH)),  # Apache CVE-2016-8743
    Vector("a line that begins with a space", HEAD[:34] + b"\r\n Host: localhost\r\n" + LENGTH + b"\r\n" + BODY),
    # llhttp CVE-2024-27982
    Vector("the first line folded", with_lines(LENGTH).replace(b"\r\nHost", b"\r\n Content-Length: 0\r\nHost", 1)),
    Vector("a folded value", with_lines(b"X-A: b\r\n c\r\n" + LENGTH)),  # RFC 9112 5.2
    Vector("a folded coding", with_lines(b"Transfer-Encoding:\r\n chunked\r\n", SMALL)),  # llhttp CVE-2022-32215
    Vector("a coding hidden in a fold", with_lines(b"X-A: b\r\n " + CODED + LENGTH)),
    Vector("a folded length", with_lines(b"Content-Length: 1\r\n 0\r\n")),  # llhttp CVE-2022-35256
    Vector("an empty name", with_lines(b": x\r\n" + LENGTH)),  # HAProxy CVE-2023-25725: what followed it was dropped
    Vector("no colon", with_lines(b"X-A\r\n" + LENGTH)),
    Vector("a NUL in a name", with_lines(b"X-\0A: b\r\n" + LENGTH)),
    Vector("a NUL in a value", with_lines(b"X-A: b\0c\r\n" + LENGTH)),
    Vector("an 8-bit byte in a name", with_lines(b"Content-Length\xa0: 0\r\n" + LENGTH)),
    Vector("a colon in brackets", with_lines(b"(X): b\r\n" + LENGTH)),
    # ---- ends of lines
    Vector("LF instead of CRLF", with_lines(LENGTH).replace(b"\r\n", b"\n", 2)),  # Puma CVE-2021-41136, waitress CVE-2019-16785
    Vector("a coding behind a bare LF", with_lines(b"X-A: b\n" + CODED + LENGTH)),  # llhttp CVE-2022-32214
    Vector("a coding behind a bare CR", with_lines(b"X-A: b\r" + CODED + LENGTH)),  # Node CVE-2023-30589
    Vector("an empty value behind a bare CR", with_lines(b"X-A:\r" + CODED + LENGTH)),  # Node CVE-2023-30589
    Vector("a CR in a name", with_lines(b"X\rTransfer-Encoding: chunked\r\n", SMALL)),
    Vector("a LF before the colon", with_lines(b"Transfer-Encoding\n: chunked\r\n", SMALL)),
    Vector("the head ends in CRLF CR", HEAD + LENGTH + b"\rX" + BODY + HIDDEN),  # llhttp CVE-2025-23167
    Vector("the head ends in CRLF LF", HEAD + LENGTH + b"\n" + BODY + HIDDEN),
    Vector("the head ends in LF LF", HEAD + LENGTH[:-2] + b"\n\n" + BODY + HIDDEN),
    # ---- chunks
    Vector("a size with a sign", in_chunks(b"+" + SMALL)),  # waitress and Twisted, CVE-2022-24801
    Vector("a negative size", in_chunks(b"-1\r\n" + SMALL)),
    Vector("a size with 0x", in_chunks(b"0x" + SMALL)),  # Twisted CVE-2022-24801
    Vector("a size behind a space", in_chunks(b" " + SMALL)),
    Vector("a size behind an underscore", in_chunks(b"0_" + SMALL)),
    Vector("no size", in_chunks(b"\r\n" + SMALL)),
    Vector("a size before a space", in_chunks(HEX + b" \r\n" + BODY + b"\r\n0\r\n\r\n")),  # llhttp takes none
    Vector("a size of 2^64 and some", in_chunks(b"1" + b"0" * 16 + SMALL)),  # nginx CVE-2013-2028, Apache CVE-2002-0392
    Vector("a size of 2^64 - 1", in_chunks(b"f" * 16 + b"\r\n" + b"x" * (2 << 20)), 413),
    Vector("a size line ends in LF", in_chunks(HEX + b"\n" + BODY + b"\r\n0\r\n\r\n")),  # Go CVE-2025-22871
    Vector("a size line ends in CR", in_chunks(HEX + b"\r" + BODY + b"\r\n0\r\n\r\n")),
    Vector("data ends in LF", in_chunks(HEX + b"\r\n" + BODY + b"\n0\r\n\r\n")),
    Vector("data ends in CR", in_chunks(HEX + b"\r\n" + BODY + b"\r0\r\n\r\n")),
    Vector("data ends in two other bytes", in_chunks(HEX + b"\r\n" + BODY + b"XX0\r\n\r\n")),  # h11 CVE-2025-43859
    Vector("data is longer than its size", in_chunks(b"5\r\n" + BODY + b"\r\n0\r\n\r\n")),
    # llhttp CVE-2021-22960, aiohttp -52304
    Vector("an extension with a LF", in_chunks(HEX + b";a\nb\r\n" + BODY + b"\r\n0\r\n\r\n")),
    Vector("an extension with a CR", in_chunks(HEX + b";a\rb\r\n" + BODY + b"\r\n0\r\n\r\n")),  # Apache CVE-2015-3183
    Vector("an extension ends in LF", in_chunks(HEX + b";a\n" + BODY + b"\r\n0\r\n\r\n")),  # "Funky chunks" (2025): TERM.EXT
    Vector("an extension with a NUL", in_chunks(HEX + b";a=\0\r\n" + BODY + b"\r\n0\r\n\r\n")),
    # Node CVE-2024-22019
    Vector("an endless extension", in_chunks(HEX + b";" + b"a" * (2 << 20) + b"\r\n" + BODY + b"\r\n0\r\n\r\n"), 413),
    Vector("the last chunk ends in LF", in_chunks(SMALL[:-4] + b"\n\n")),
    Vector("a trailer with a bare LF", in_chunks(SMALL[:-2] + b"X: a\nY: b\r\n\r\n")),  # Tomcat CVE-2023-46589
    Vector("a trailer that names a length", in_chunks(SMALL[:-2] + b"Content-Length: 5\r\n\r\n")),  # aiohttp CVE-2025-53643
    Vector("a folded trailer", in_chunks(SMALL[:-2] + b"X: a\r\n b\r\n\r\n")),
    Vector("a trailer without a colon", in_chunks(SMALL[:-2] + b"GET /\r\n\r\n")),  # Puma CVE-2023-40175
    # ---- the request line
    Vector("a space in the target", b"GET /health /x HTTP/1.1\r\nHost: localhost\r\n\r\n" + HIDDEN),  # nginx CVE-2013-4547
    Vector("a line in the target", b"GET /health HTTP/1.1\r\nX: y HTTP/1.1\r\n\r\n" + HIDDEN),  # no Host is there
    Vector("a bare LF in the target", b"GET /health\nX: HTTP/1.1\r\nHost: localhost\r\n\r\n" + HIDDEN, 505),  # taken for HTTP/0.9
    Vector("a NUL in the target", b"GET /health\0 HTTP/1.1\r\nHost: localhost\r\n\r\n" + HIDDEN),
    Vector("a space before the method", b" GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n" + HIDDEN),
    Vector("a NUL before the method", b"\0GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n" + HIDDEN),
    Vector("HTTP/0.9", b"GET /health\r\n" + HIDDEN),  # Kettle: a body that looks like an answer
    Vector("HTTP/1.2", with_lines(LENGTH).replace(b"HTTP/1.1", b"HTTP/1.2", 1)),
    Vector("HTTP/2.0", with_lines(LENGTH).replace(b"HTTP/1.1", b"HTTP/2.0", 1), 505),
    Vector("HTTP/0.9 by its number", with_lines(LENGTH).replace(b"HTTP/1.1", b"HTTP/0.9", 1), 505),
    Vector("HTTP/1.01", with_lines(LENGTH).replace(b"HTTP/1.1", b"HTTP/1.01", 1)),
    Vector("http/1.1", with_lines(LENGTH).replace(b"HTTP/1.1", b"http/1.1", 1)),
    Vector("an unknown method", with_lines(LENGTH).replace(b"POST", b"SMUGGLE", 1)),
    Vector("the preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + HIDDEN),
    Vector("CONNECT", b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n" + HIDDEN, 405),  # nginx refuses it since 1.21.1
    Vector("CONNECT with a body", b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n" + LENGTH + b"\r\n" + HIDDEN, 405),
    # ---- Host
    Vector("two hosts", with_lines(b"Host: evil\r\n" + LENGTH)),  # RFC 9112 3.2
    Vector("no host", with_lines(LENGTH).replace(b"Host: localhost\r\n", b"", 1)),
    # ---- compressed, so that its length is another
    Vector("a gzipped body", with_lines(b"Content-Encoding: gzip\r\n" + LENGTH), 415),
]  # fmt: skip


def both(name: str, data: bytes, answers: tuple[int, ...] = (200, 200)) -> Vector:
    """It and what is behind it are two requests."""
    return Vector(name, data, reaches=(BODY, EVIL), answers=answers)


def only(name: str, data: bytes) -> Vector:
    """It is the last request of its connection."""
    return Vector(name, data, reaches=(BODY,), answers=(200,))


HARMLESS = [
    # ---- legal, if odd
    both("pipelined", with_lines(LENGTH)),
    Vector("a request as the body", HEAD + FAT.partition(b"localhost\r\n")[2], answers=(400,)),  # no JSON
    both("chunked in other letters", with_lines(b"transfer-ENCODING:cHuNKed\r\n", SMALL)),
    both("chunked behind a tab", with_lines(b"Transfer-Encoding:\tchunked\r\n", SMALL)),
    both("spaces around a length", with_lines(b"Content-Length:  %d \r\n" % len(BODY))),
    both("a length with zeros", with_lines(b"Content-Length: 0000%d\r\n" % len(BODY))),
    both("a size with zeros", in_chunks(b"0000" + SMALL)),
    both("an extension", in_chunks(HEX + b';a="b;c"\r\n' + BODY + b"\r\n0\r\n\r\n")),
    both("empty lines in front", b"\r\n\r\n" + with_lines(LENGTH)),  # RFC 9112 2.2
    both("names with underscores", with_lines(b"Transfer_Encoding: chunked\r\nContent_Length: 0\r\n" + LENGTH)),
    # Apache CVE-2023-25690
    both("a percent-encoded line break", to(b"/v1/chat/completions?a=%0d%0aX:%20y")),
    # ---- hop-by-hop abuse (Davison 2019; Go CVE-2021-33197): what Connection names is dropped, but never our framing
    both("Connection names the length", with_lines(LENGTH + b"Connection: Content-Length, Host\r\n")),
    both("Connection names the coding", with_lines(CODED + b"Connection: Transfer-Encoding\r\n", SMALL)),
    # ---- upgrades (h2c smuggling, Bishop Fox 2020): ignored, so nothing is tunnelled
    both("an upgrade to h2c", with_lines(LENGTH + H2C + b"Connection: Upgrade, HTTP2-Settings\r\n")),
    both("a WebSocket", with_lines(LENGTH + b"Upgrade: websocket\r\nConnection: Upgrade\r\n")),
    both("an upgrade in chunks", with_lines(CODED + b"Upgrade: h2c\r\nConnection: Upgrade\r\n", SMALL)),
    only("an upgrade that closes", with_lines(LENGTH + b"Upgrade: h2c\r\nConnection: close, Upgrade\r\n")),
    only("an upgrade in HTTP/1.0", old(with_lines(LENGTH + b"Upgrade: h2c\r\nConnection: Upgrade\r\n"))),
    # ---- targets
    both("an absolute target", to(b"http://evil.example/v1/chat/completions")),  # RFC 9112 3.2.2
    # nothing is normalised: no such path
    Vector("a target that climbs", to(b"/v1/../v1/chat/completions"), 404),
    Vector("a fragment", to(b"/v1/chat/completions#x"), 404),  # HAProxy CVE-2023-45539
    # ---- HAProxy CVE-2021-40346: the length of a name overflowed, and became a value's
    both("a name of 270 bytes with a length in it", with_lines(b"Content-Length0" + b"a" * 255 + b":\r\n" + LENGTH)),
    # ---- a last request
    only("RTSP/1.0", with_lines(LENGTH).replace(b"HTTP/1.1", b"RTSP/1.0", 1)),  # llhttp reads it as 1.0
    only("behind Connection: close", with_lines(LENGTH + b"Connection: close\r\n")),
    only("behind HTTP/1.0", old(with_lines(LENGTH))),
    # ---- 0.CL and Expect (Kettle 2025): the body is read as announced, whatever was expected
    both("Expect: 100-continue", with_lines(LENGTH + b"Expect: 100-continue\r\n"), (100, 200, 200)),
    Vector("an Expect that nobody knows", with_lines(LENGTH + b"Expect: y 100-continue\r\n"), 417),
    # ---- a GET with a body (nginx CVE-2019-20372): read and dropped, never taken for a request
    Vector("a GET with a body", b"GET /health" + FAT + HIDDEN, reaches=(EVIL,), answers=(200, 200)),
    Vector("a HEAD with a body", b"HEAD /nothing" + FAT, 404),
    # ---- refused in the middle of a body: the rest is dropped with the connection (Apache CVE-2022-22720)
    Vector("a wrong method with a body", b"PUT /v1/chat/completions" + FAT, 405),
]  # fmt: skip
