"""What a certificate says of itself, by its DER encoding (RFC 5280, 4.1): from when until when it is good."""

from datetime import UTC, datetime

_UTC_TIME, _GENERALIZED_TIME, _VERSION = 0x17, 0x18, 0xA0


def validity(der: bytes) -> tuple[float, float]:
    """(not before, not after) in seconds since 1970. Raises ValueError for what is no certificate."""
    try:
        at = _content(der, _content(der, 0))  # inside of Certificate, inside of TBSCertificate
        if der[at] == _VERSION:
            at = _end(der, at)
        for _ in ("serial number", "signature", "issuer"):
            at = _end(der, at)
        first = _content(der, at)
        return _time(der, first), _time(der, _end(der, first))
    except (IndexError, ValueError, OverflowError) as error:
        raise ValueError(f"is no certificate: {error}") from None


def _content(der: bytes, at: int) -> int:
    return _bounds(der, at)[0]


def _end(der: bytes, at: int) -> int:
    return _bounds(der, at)[1]


def _bounds(der: bytes, at: int) -> tuple[int, int]:
    """Where the content of the element at `at` begins and ends."""
    length, begin = der[at + 1], at + 2
    if length & 0x80:
        size = length & 0x7F
        length, begin = int.from_bytes(der[begin : begin + size], "big"), begin + size
    if begin + length > len(der):
        raise ValueError("it is cut off")
    return begin, begin + length


def _time(der: bytes, at: int) -> float:
    begin, end = _bounds(der, at)
    text = der[begin:end].decode("ascii")
    if der[at] == _UTC_TIME:  # two digits of a year, from 1950 to 2049
        text = ("19" if text[:2] >= "50" else "20") + text
    elif der[at] != _GENERALIZED_TIME:
        raise ValueError("it has no time where one belongs")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()
