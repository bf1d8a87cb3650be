"""Traces: each format as its publisher writes it, and mistakes by line."""

from itertools import cycle
from pathlib import Path

import pytest

from headrace.errors import UsageError
from headrace.simulate.traces import Trace, drawn, part, read, times

SHARED = Path(__file__).parents[4] / "shared" / "traces"


def rows(trace: Trace) -> list[tuple[float, int, int]]:
    return [(round(at, 6), prompt, output) for at, prompt, output in zip(trace.at, trace.prompt, trace.output, strict=True)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (  # Azure 2023: 100 ns digits
            "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9799600,4808,10\n2023-11-16 18:17:04.0319600,3180,8\n",
            [(0.0, 4808, 10), (0.052, 3180, 8)],
        ),
        (  # Azure 2024: a zone
            "TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-10 00:00:00.009930+00:00,2162,5\n"
            "2024-05-10 00:00:01.009930+00:00,1,0\n",
            [(0.0, 2162, 5), (1.0, 1, 1)],
        ),
        (  # BurstGPT: no answer is a failure there
            "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n5,ChatGPT,472,18,490,Conversation log\n"
            "45,ChatGPT,1087,0,1087,Conversation log\n118,GPT-4,417,276,693,API log\n",
            [(0.0, 472, 18), (113.0, 417, 276)],
        ),
        (  # Mooncake: a batch of one time is spread over its 3 s
            '{"timestamp": 3000, "input_length": 6, "output_length": 5, "hash_ids": [0]}\n'
            '{"timestamp": 3000, "input_length": 7, "output_length": 4, "hash_ids": [0]}\n',
            [(0.0, 6, 5), (1.5, 7, 4)],
        ),
        (  # our own, out of order, with a request of unknown length
            "timestamp,model,input_tokens,output_tokens,status\n10.5,chat,20,30,200\n10.0,chat,,,429\n",
            [(0.0, 1, 1), (0.5, 20, 30)],
        ),
    ],
)
def test_a_trace_of_each_kind(text, expected):
    assert rows(read(text.splitlines(True), "t")) == expected


def test_one_model_of_several():
    text = "timestamp,model,input_tokens,output_tokens\n1,chat,20,30\n2,embed,5,1\n"
    assert rows(read(text.splitlines(True), "t", "embed")) == [(0.0, 5, 1)]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "its first line is of no trace"),
        ("a,b\n1,2\n", "its first line is of no trace that is known: 'a,b'"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n", "there are no requests in it"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\nyesterday,1,2\n", "t:2: this line of the trace cannot be read"),
        ('{"timestamp": 1, "input_length": 1, "output_length": 1}\n{"timestamp": 2}\n', "t:2: this line"),
        ("{}\n", "t:1: this line"),
    ],
)
def test_mistakes_are_told_by_line(text, says):
    with pytest.raises(UsageError, match=says):
        read(text.splitlines(True), "t")


def test_more_users_come_at_the_same_times():
    one = read(["timestamp,input_tokens,output_tokens\n", "0,1,1\n", "100,2,2\n"], "t")
    three = times(one, 3)
    assert list(three.prompt) == [1, 1, 1, 2, 2, 2]
    assert three.at[3] == pytest.approx(100)
    assert part(three, 0.5, 1.0).prompt.tolist() == [2, 2, 2]


def test_a_trace_is_drawn_from_rates():
    rates = ["window_start_s,total_rps,active_clients,rate_weighted_cv\n", "0,2,1,1\n", "600,0,0,0\n", "1200,4,1,1\n"]
    lengths = ["client,window,input_tokens_mean,output_tokens_mean\n", "1,0,,100\n"]
    made = drawn(rates, lengths, cycle([0.5, 0.25, 0.75]).__next__, share=0.5)
    assert made.at[0] == 0
    assert made.seconds < 1800
    assert not [at for at in made.at if 601 < at < 1199]


@pytest.mark.skipif(not SHARED.exists(), reason="the traces are not here")
@pytest.mark.parametrize(
    ("file", "count", "seconds"),
    [
        ("azure2023/AzureLLMInferenceTrace_code.csv", 7717, 2574),
        ("azure2023/AzureLLMInferenceTrace_conv.csv", 15460, 2626),
        ("mooncake/conversation_trace.jsonl", 8777, 2652),
        ("mooncake/synthetic_trace.jsonl", 3993, 1022),
    ],
)
def test_the_real_traces_are_read_whole(file, count, seconds):
    with (SHARED / file).open() as lines:
        trace = read(lines, file)
    assert len(trace) == count
    assert trace.seconds == pytest.approx(seconds, abs=4)
    assert list(trace.at) == sorted(trace.at)
