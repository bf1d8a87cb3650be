"""`config.pbtxt` says what it is given, whatever stands in names."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.runners.triton_config import Config, Tensor, quoted, render


def unquoted(text: str) -> str:
    """What a reader of protobuf's text format makes of a string."""
    assert text[0] == text[-1] == '"'
    return re.sub(r"\\(\d{3}|.)", lambda found: chr(int(found[1], 8)) if found[1].isdigit() else found[1], text[1:-1])


@given(st.text())
def test_any_text_survives_and_ends_where_it_should(text):
    found = quoted(text)
    assert unquoted(found) == text
    assert "\n" not in found
    assert re.fullmatch(r'"(?:[^"\\]|\\.)*"', found, re.DOTALL)


@pytest.mark.parametrize(
    ("config", "lines"),
    [
        (Config("python"), ['backend: "python"', "max_batch_size: 0", "instance_group { kind: KIND_CPU count: 1 }"]),
        # a model without a batch dimension has a queue as well, and nothing to wait for
        (
            Config("python", queue=5, delay_seconds=0.1),
            ["dynamic_batching { default_queue_policy { max_queue_size: 5 timeout_action: REJECT } }"],
        ),
        (Config("python", decoupled=True), ["model_transaction_policy { decoupled: true }"]),
        (
            Config("python", (Tensor("x", "BYTES", (-1, 3), optional=True),)),
            ['input { name: "x" data_type: TYPE_STRING dims: [ -1, 3 ] optional: true }'],
        ),
        (Config("python", parameters={"a": 'b"c'}), ['parameters { key: "a" value { string_value: "b\\"c" } }']),
    ],
)
def test_what_is_asked_for_is_written(config, lines):
    written = render(config).splitlines()
    assert all(line in written for line in lines)


def test_without_a_queue_nothing_is_batched():
    assert "dynamic_batching" not in render(Config("python", decoupled=True))
