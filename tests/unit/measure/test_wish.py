"""What a command line may ask for, and what it is told when it may not."""

import pytest

from headrace.errors import UsageError
from headrace.measure.address import parse
from headrace.measure.base import Load, Slo
from headrace.measure.prompts import Fit, fit, read, text
from headrace.measure.wish import loads, slo, speed


def test_loads_come_in_order() -> None:
    assert loads("1, 8", "2.5", "constant", None, 1.0) == (
        Load("closed", 1),
        Load("closed", 8),
        Load("open", 2.5, "constant"),
    )
    assert [load.label for load in loads("8", "2.5", "constant", None, 1.0)] == ["8 at once", "2.5/s even"]


def test_limits_are_read() -> None:
    assert slo("ttft=500ms,tpot=50ms", "90%") == Slo(ttft=0.5, tpot=0.05, share=0.9)
    assert slo("", "95%") is None
    assert speed("2x") == 2.0


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: loads("0", "", "poisson", None, 1), "--concurrency: '0'"),
        (lambda: loads("1.5", "", "poisson", None, 1), "whole number"),
        (lambda: loads("", "x", "poisson", None, 1), "--rate: 'x'"),
        (lambda: loads("", "nan", "poisson", None, 1), "--rate: 'nan'"),
        (lambda: slo("ttft=fast", "95%"), "fast"),
        (lambda: slo("itl=5ms", "95%"), "itl=5ms"),
        (lambda: slo("ttft=1s,ttft=2s", "95%"), "ttft=2s"),
        (lambda: slo("ttft=1s", "0%"), "--share"),
        (lambda: parse("ftp://x"), "no address"),
        (lambda: parse("http://user:secret@host/v1"), "credentials"),
        (lambda: parse("http://host/v1\r\nX: y"), "no address"),
        (lambda: parse("http://host:99999"), "no address"),
        (lambda: read(["{"], "mine.jsonl", "chat"), "mine.jsonl:1: this is not JSON"),
        (lambda: read(["{}"], "mine.jsonl", "chat"), "no prompt"),
        (lambda: read(["", " "], "mine.jsonl", "chat"), "no prompts"),
    ],
)
def test_mistakes_are_told(call, words: str) -> None:
    with pytest.raises(UsageError, match=words.replace("(", "\\(")) as caught:
        call()
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000/v1"),
        ("127.0.0.1:8000/v1/", "http://127.0.0.1:8000/v1"),
        ("https://api.example.com/openai/v1/chat/completions", "https://api.example.com/openai/v1"),
        ("http://[::1]:80/v1", "http://[::1]/v1"),
    ],
)
def test_addresses(url: str, shown: str) -> None:
    assert str(parse(url)) == shown


def test_a_key_is_in_the_head_and_nowhere_else() -> None:
    head = parse("http://h:1/v1").head("/chat/completions", "k-1")
    assert head.startswith(b"POST /v1/chat/completions HTTP/1.1\r\nHost: h:1\r\n")
    assert b"Authorization: Bearer k-1\r\n" in head
    assert b"Authorization" not in parse("http://h").head("/x", "")


def test_prompts_have_their_length_and_share_nothing_unless_they_shall() -> None:
    uniform = iter([0.1, 0.5, 0.9] * 1000).__next__
    one, other = text(50, 1000001, uniform), text(50, 1000002, uniform)
    assert len(one.split()) == len(other.split()) == 50
    assert one.split()[0] != other.split()[0]
    shared, again = text(50, 1, uniform, shared=20), text(50, 2, uniform, shared=20)
    assert shared.split()[:20] == again.split()[:20]
    assert shared.split()[20:] != again.split()[20:]
    assert len(text(5, 1, uniform, shared=20).split()) == 5


def test_words_for_tokens_by_two_requests() -> None:
    found = fit((40, 70), (160, 220))
    assert found == Fit(20.0, 1.25)
    assert found.words(520) == 400
    assert fit((40, 50), (160, 50)) is None  # a server that says the same of any prompt
    assert Fit().words(1) == 1
