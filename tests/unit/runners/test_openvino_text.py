"""Tokens → text: whole characters, and nothing of a stop string, however the text is split."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.runners.openvino_text import Stops, Text, vocabulary

LETTERS = st.text("abc", max_size=40)
STRINGS = st.lists(st.text("abc", min_size=1, max_size=5), max_size=4)


def cut(text, strings):
    """The text up to the stop string that is complete first: read a character at a time."""
    for end in range(1, len(text) + 1):
        found = [end - len(string) for string in strings if text[:end].endswith(string)]
        if found:
            return text[: min(found)]
    return text


@given(LETTERS, STRINGS, st.lists(st.integers(0, 40), max_size=8))
def test_what_is_sent_is_the_text_up_to_the_first_stop_string_however_it_is_split(text, strings, places):
    edges = sorted({0, len(text), *(min(place, len(text)) for place in places)})
    stops = Stops(strings)
    sent = [stops.feed(text[start:end]) for start, end in pairwise(edges)]
    assert "".join(sent) + stops.end() == cut(text, strings)
    assert stops.stopped == any(string in text for string in strings)


@given(LETTERS, STRINGS)
def test_nothing_that_was_sent_has_to_be_taken_back(text, strings):
    stops = Stops(strings)
    sent = ""
    for letter in text:
        sent += stops.feed(letter)
        assert cut(text, strings).startswith(sent)


def test_only_what_may_become_a_stop_string_is_held_back():
    stops = Stops(["\n\nUser:"])
    assert [stops.feed(text) for text in ("Hello", "\n", "there", "\n\nUs", "ed")] == ["Hello", "", "\nthere", "", "\n\nUsed"]


VOCABULARY = [bytes([byte]) for byte in range(256)] + [b"ab", "ß ".encode(), "日本".encode()[:4], b""]


@given(st.lists(st.integers(0, len(VOCABULARY) - 1)), st.integers(1, 4))
def test_characters_are_sent_whole_and_all_of_them(tokens, size):
    text = Text(VOCABULARY, [])
    parts = [text.add(tokens[at : at + size]) for at in range(0, len(tokens), size)]
    whole = "".join(parts) + text.end()
    assert whole == b"".join(VOCABULARY[token] for token in tokens).decode("utf-8", "replace")
    assert all(whole.startswith("".join(parts[:count])) for count in range(len(parts)))


def test_a_character_in_three_tokens_comes_with_the_last():
    text = Text(VOCABULARY, [])
    assert [text.add([byte]) for byte in "日".encode()] == ["", "", "日"]


def test_a_character_that_stays_incomplete_is_said_to_be():
    text = Text(VOCABULARY, [])
    assert text.add("日".encode()[:2]) + text.end() == "\ufffd"


def test_a_stop_string_may_end_in_the_middle_of_a_token():
    text = Text(VOCABULARY, ["ß"])
    assert text.add([ord("x"), 257]) == "x"
    assert text.stopped
    assert text.add([ord("y")]) + text.end() == ""


def test_special_tokens_are_left_out_but_those_that_belong_to_the_answer():
    names = {b"<|im_end|>": 0, b"<think>": 1, b"a": 2}
    assert vocabulary(names, ["", "", "a"]) == [b"", b"<think>", b"a"]


def test_bytes_of_half_a_character_are_no_special_token():
    names = {b" \xe6": 0, b"\x97": 1}
    assert vocabulary(names, [" ", ""]) == [b" \xe6", b"\x97"]


def test_a_vocabulary_of_another_kind_is_refused():
    with pytest.raises(ValueError, match="stands for"):
        vocabulary({"▁Hello".encode(): 0}, ["Hello"])


def test_a_number_that_is_no_token_is_no_text():
    assert Text(VOCABULARY, []).add([ord("a"), 100_000, ord("b")]) == "ab"
