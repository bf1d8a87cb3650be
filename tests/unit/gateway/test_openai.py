"""What the gateway reads of requests and of engines' answers, and what it makes of them: tables of the odd ones."""

import json
import re
from time import perf_counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import Model

from headrace.gateway.engine_errors import engine_error, first_event_error, may_be_error
from headrace.gateway.openai import Ask, Refusal, Usage, model_card, model_list, rewritten, usage_in, usage_of
from headrace.gateway.openai import peek as peek_by_route
from headrace.gateway.paths import ROUTES

from .clients import CHAT

COMPLETIONS, EMBEDDINGS = "/v1/completions", "/v1/embeddings"
M = b'"messages":[{"role":"user","content":"hi"}]'


def peek(path: str, body: bytes) -> Ask:
    return peek_by_route(ROUTES[path], body)


def refusal(body: bytes, path: str = CHAT) -> Refusal:
    with pytest.raises(Refusal) as raised:
        peek(path, body)
    assert raised.value.status == 400
    assert raised.value.source == "gateway"
    assert json.loads(raised.value.envelope())["error"]["message"]
    return raised.value


# ---- requests that cannot be read


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'"text"',
        b"null",
        b"1",
        b'{"model":"a",' + M + b"} trailing",
        b'{"model":"a",' + M + b"}{}",
        b'\xef\xbb\xbf{"model":"a",' + M + b"}",  # a BOM: some parsers skip it, others do not
        b'{"model":"a","temperature":NaN,' + M + b"}",  # Python writes it, JSON has none
        b'{"model":"a","temperature":Infinity,' + M + b"}",
        b'{"model":"a","n":01,' + M + b"}",
        b"{'model':'a'}",
        b'{"model":"a",' + M + b",}",
        b'{"model":"a"\x00,' + M + b"}",
        b'{"model":"a\n",' + M + b"}",  # a raw line end inside a string
        b'{"model":"\xff",' + M + b"}",  # no UTF-8
        b'{"model":"\\ud800",' + M + b"}",  # half a character
        b'{"model":"a","messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}",  # deep enough to break a recursive parser
        b'{"model":"a","x":' + b'{"a":' * 50_000 + b"1" + b"}" * 50_000 + b"}",
    ],
)
def test_what_is_no_json_object_is_refused(body):
    error = refusal(body)
    assert error.code in ("invalid_json", "invalid_type")
    assert len(error.message) < 500


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{" + M + b"}", "missing_model"),
        (b'{"model":null,' + M + b"}", "missing_model"),
        (b'{"model":"",' + M + b"}", "missing_model"),
        (b'{"model":1,' + M + b"}", "invalid_type"),
        (b'{"model":["a"],' + M + b"}", "invalid_type"),
        (b'{"model":{"model":"a"},' + M + b"}", "invalid_type"),
        (b'{"x":{"model":"a"},' + M + b"}", "missing_model"),  # the top level only
        (b'{"Model":"a",' + M + b"}", "missing_model"),  # names have a case
    ],
)
def test_a_request_must_name_its_model(body, code):
    error = refusal(body)
    assert (error.code, error.param) == (code, "model")


@pytest.mark.parametrize("value", [b'"true"', b"1", b"0", b"[]", b"{}", b'""'])
def test_stream_must_be_true_or_false(value):
    error = refusal(b'{"model":"a","stream":' + value + b"," + M + b"}")
    assert (error.code, error.param) == ("invalid_type", "stream")


@pytest.mark.parametrize("value", [b'"2"', b"1.5", b"[]", b"true"])
def test_n_must_be_a_number(value):
    error = refusal(b'{"model":"a","n":' + value + b"," + M + b"}")
    assert (error.code, error.param) == ("invalid_type", "n")


@pytest.mark.parametrize(
    ("path", "rest", "param"),
    [
        (CHAT, b"", "messages"),
        (CHAT, b',"messages":null', "messages"),
        (CHAT, b',"messages":[]', "messages"),  # llama.cpp answers it with 200
        (CHAT, b',"messages":[ ]', "messages"),  # the same, as a person writes it
        (CHAT, b',"messages":[\n]', "messages"),
        (CHAT, b',"prompt":"a"', "messages"),  # what is for another path
        (COMPLETIONS, b',"messages":[1]', "prompt"),
        (EMBEDDINGS, b"", "input"),
        (EMBEDDINGS, b',"input":""', "input"),
        (EMBEDDINGS, b',"input":[]', "input"),
    ],
)
def test_what_a_request_is_about_must_be_there(path, rest, param):
    error = refusal(b'{"model":"a"' + rest + b"}", path)
    assert (error.code, error.param) == ("missing_required_parameter", param)


def test_an_empty_prompt_is_allowed():
    """OpenAI's completions begin a new document then."""
    assert peek(COMPLETIONS, b'{"model":"a","prompt":""}').model == "a"


# ---- requests that can


@pytest.mark.parametrize(
    ("rest", "stream", "choices"),
    [
        (b"", False, 1),
        (b',"stream":true', True, 1),
        (b',"stream" : true ', True, 1),
        (b',"stream":false', False, 1),
        (b',"stream":null', False, 1),
        (b',"n":2', False, 2),
        (b',"n":null', False, 1),
        (b',"stream":true,"stream":false', False, 1),  # the last one counts, here and for the engine
    ],
)
def test_stream_and_n_are_read(rest, stream, choices):
    ask = peek(CHAT, b'{"model":"a",' + M + rest + b"}")
    assert (ask.model, ask.stream, ask.choices) == ("a", stream, choices)


@pytest.mark.parametrize(
    ("body", "model", "stream", "sound"),
    [
        (b'{"model":"a",' + M + b"}", "a", False, True),
        (b'{"model":"a","model":"b",' + M + b"}", "b", False, False),  # engines may take the first
        (b'{"model":"a","stream":false,"stream":true,' + M + b"}", "a", True, False),
        (b'{"mod\\u0065l":"b","model":"a",' + M + b"}", "a", False, False),  # the same key to some readers
        (b'{"model":"a","mod\\u0065l":"b",' + M + b"}", "b", False, False),
        (b'{"model":"a","str\\u0065am":true,' + M + b"}", "a", True, False),
        (b'{"model":"\\u0061",' + M + b"}", "a", False, True),  # spelled otherwise, and the same to every reader
        (b'{"model":"a","metadata":{"model":"b"},' + M + b"}", "a", False, True),  # not of the top level
        (b'{"model": "a","metadata":{"model":"b"},' + M + b"}", "a", False, False),  # a space: no proof, which costs a copy only
        (b'{"model":"a", "model":"b",' + M + b"}", "b", False, False),  # spaces do not hide a second one
        (b'{"model":"a","mod\\u0065l":"b" ,' + M + b"}", "b", False, False),
    ],
)
def test_a_body_that_readers_might_read_differently_is_written_anew(body, model, stream, sound):
    ask = peek(CHAT, body)
    assert (ask.model, ask.stream, ask.sound) == (model, stream, sound)
    pairs = json.loads(rewritten(ask, ask.model, fold=False), object_pairs_hook=list)
    assert [value for key, value in pairs if key == "model"] == [model]
    assert [value for key, value in pairs if key == "stream"] in ([], [stream])


def test_values_keep_their_bytes_when_a_body_is_written_anew():
    """Numbers as they were spelled, text as it was escaped, fields that nobody knows, order and spaces inside values."""
    values = {
        b"messages": b'[ {"role":"user", "content":"\\u00e9 \xc3\xa9 \\/ \\ud83d\\ude00"} ]',
        b"temperature": b"1.50e-2",
        b"seed": b"123456789012345678901234567890",
        b"guided_json": b'{"b":1,"a":{"model":"x","stream":1}}',
        b"max_tokens": b"1E2",
        b"x": b"-0.0",
        b"stop": b"null",
    }
    fields = b",".join(b'"%s" : %s' % field for field in values.items())
    out = rewritten(peek(CHAT, b'{"model":"a",' + fields + b"}"), 'the "engine"', fold=False)
    for key, value in values.items():
        assert b'"%s":%s' % (key, value) in out, "not a byte of it was changed"
    assert list(json.loads(out)) == ["model", *(key.decode() for key in values)]
    assert json.loads(out)["model"] == 'the "engine"'


@pytest.mark.parametrize("rest", [b"", b',"stream":false', b',"stream":null', b',"stream_options":{"include_usage":false}'])
def test_a_body_to_be_folded_asks_for_a_stream_with_usage(rest):
    out = rewritten(peek(CHAT, b'{"model":"a",' + M + rest + b"}"), "a", fold=True)
    pairs = json.loads(out, object_pairs_hook=list)
    assert [value for key, value in pairs if key == "stream"] == [True]
    assert [value for key, value in pairs if key == "stream_options"] == [[("include_usage", True)]]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.dictionaries(st.text(max_size=8).filter(lambda key: key not in ("n", "stream", "model")), json_values, max_size=5),
    st.text(min_size=1),
    st.booleans(),
    st.booleans(),
)
def test_any_body_written_anew_means_the_same(fields, model, ascii_only, spaced):
    value = fields | {"model": "a", "messages": [1], "stream": True}
    separators = (", ", ": ") if spaced else (",", ":")
    body = json.dumps(value, ensure_ascii=ascii_only, separators=separators).encode("utf-8", "surrogatepass")
    try:
        ask = peek(CHAT, body)
    except Refusal:
        assert not _is_text(value), "only half characters may be refused"
        return
    if _is_text(model):
        assert json.loads(rewritten(ask, model, fold=False)) == value | {"model": model}


def _is_text(value: object) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


@given(st.binary(max_size=200) | st.text(max_size=100).map(lambda text: text.encode("utf-8", "replace")))
def test_any_bytes_are_read_or_refused(body):
    try:
        peek(CHAT, body)
    except Refusal as error:
        json.loads(error.envelope())


# ---- errors of engines

LLAMA_CONTEXT = b"""{"error":{"code":400,"message":"the request exceeds the available context size, try increasing it",
"type":"exceed_context_size_error","n_prompt_tokens":1300,"n_ctx":1024}}"""


@pytest.mark.parametrize(
    ("status", "body", "expected", "code", "kind", "words"),
    [
        # OpenAI's code for it, which clients look for; with the numbers
        (400, LLAMA_CONTEXT, 400, "context_length_exceeded", "invalid_request_error", "1024 tokens.*1300 tokens"),
        # llama.cpp: an embedding beyond n_ubatch is the client's mistake
        (
            500,
            b'{"error":{"code":500,"message":"input (902 tokens) is too large to process. increase the physical batch size '
            b'(current batch size: 512)","type":"server_error"}}',
            400,
            "context_length_exceeded",
            "invalid_request_error",
            "902 tokens",
        ),
        # llama.cpp: a task that it was not started for
        (
            501,
            b'{"error":{"code":501,"message":"This server does not support embeddings","type":"not_supported_error"}}',
            400,
            "unsupported",
            "not_supported_error",
            "does not support embeddings",
        ),
        # an integer as code is the status again
        (
            404,
            b'{"error":{"code":404,"message":"File Not Found","type":"not_found_error"}}',
            404,
            "not_found_error",
            None,
            "File",
        ),
        # a word is kept
        (429, b'{"error":{"message":"slow","type":"x","code":"too_many"}}', 429, "too_many", "x", "slow"),
        # the gateway's own key was refused: not the client's
        (401, b'{"error":{"message":"Invalid API Key","type":"authentication_error"}}', 502, "engine_unauthorized", None, "key"),
        # vLLM until 0.10: flat
        (
            400,
            b'{"object":"error","message":"max_tokens is too large","type":"BadRequestError","param":"max_tokens","code":400}',
            400,
            "BadRequestError",
            "BadRequestError",
            "max_tokens is too large",
        ),
        # vLLM since
        (400, b'{"error":{"message":"no","type":"BadRequestError","param":null,"code":400}}', 400, "BadRequestError", None, "no"),
        # FastAPI's own validation, and its plain text
        (422, b'{"detail":[{"loc":["body","n"],"msg":"Input should be an integer"}]}', 422, None, None, "should be an integer"),
        (404, b'{"detail":"Not Found"}', 404, "not_found_error", "not_found_error", "Not Found"),
        # proxies between us and a server that is not ours
        (500, b"<html><body>Internal Server Error</body></html>", 500, "server_error", "server_error", "Internal Server Error"),
        (500, b"", 500, "server_error", "server_error", "500"),
        (403, b"", 403, "permission_error", "permission_error", "403"),
        (500, b"\xff\xfe\x00", 500, "server_error", "server_error", "."),
        (500, b"[]", 500, "server_error", "server_error", "."),
        (500, b"null", 500, "server_error", "server_error", "."),
        (500, b'{"error":null}', 500, "server_error", "server_error", "."),
        (500, b'{"error":{}}', 500, "server_error", "server_error", "500"),
        (500, b'{"error":{"message":["a","b"]}}', 500, "server_error", "server_error", "a"),
        (500, b'{"error":{"message":"no","code":1.5}}', 500, "server_error", "server_error", "no"),
        (500, b'{"error":{"message":"no","param":[1]}}', 500, "server_error", "server_error", "no"),
        (500, b"{" * 100_000, 500, "server_error", "server_error", "."),
    ],
)
def test_an_engines_error_in_openais_shape(status, body, expected, code, kind, words):
    error = engine_error(status, body)
    assert (error.status, error.source) == (expected, "engine")
    assert code is None or error.code == code
    assert kind is None or error.type == kind
    envelope = json.loads(error.envelope())["error"]
    assert envelope["message"]
    assert isinstance(envelope["code"], str)
    assert isinstance(envelope["type"], str)
    assert len(envelope["message"]) <= 600
    assert re.search(words, envelope["message"], re.DOTALL)


@given(st.integers(400, 599), st.binary(max_size=100) | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_error_of_an_engine_becomes_an_envelope(status, body):
    error = json.loads(engine_error(status, body).envelope())["error"]
    assert isinstance(error["message"], str)
    assert error["message"]


@given(json_values)
def test_any_error_inside_an_error_becomes_an_envelope(value):
    body = json.dumps({"error": value, "detail": value, "message": value}).encode()
    assert json.loads(engine_error(500, body).envelope())["error"]["message"]


@pytest.mark.parametrize(
    ("payload", "status"),
    [
        (b'data: {"error":{"message":"no","code":429}}\n\n', 429),  # a status that is one
        (b'data: {"error":{"message":"no","code":200}}\n\n', 500),  # none that an error can have
        (b'data: {"error":{"message":"no","code":"x"}}\n\n', 500),
        (b'data: {"error":"no","error_type":"generation"}\n\n', 500),  # TGI
        (b'data: {"choices":[]}\n\n', None),
        (b": ping\n\n", None),
        (b'data: {"id":"a","error":null}\n\n', None),
        (b"data: [DONE]\n\n", None),
    ],
)
def test_an_error_as_first_event_is_told_from_an_answer(payload, status):
    error = first_event_error(payload)
    assert (error.status if error else None) == status


@given(st.integers(0, 60))
def test_a_start_that_may_become_an_error_is_waited_for(size):
    payload = b'data: {"error":{"message":"no"}}\n\n'
    start = payload[:size]
    assert may_be_error(start) is (b"\n" not in start)
    assert not may_be_error(b'data: {"id":"chatcmpl"'), "nothing else is held back"


# ---- usage

USAGE = b'{"id":"a","usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}}'


@pytest.mark.parametrize(
    ("tail", "usage"),
    [
        (USAGE, Usage(7, 3)),
        (b'"usage": {"prompt_tokens": 7, "completion_tokens": 3}}', Usage(7, 3)),  # as json.dumps writes it
        (b'"usage"\n:\n{"prompt_tokens":7,"completion_tokens":3}}', Usage(7, 3)),
        (b'"usage":{"prompt_tokens":7,"total_tokens":7}}', Usage(7, 0)),  # embeddings
        (b'"usage":{"completion_tokens":3,"prompt_tokens":7,"prompt_tokens_details":{"cached_tokens":36}}', Usage(7, 3, 36)),
        (b'"usage":{"prompt_tokens_details":{"cached_tokens":36},"completion_tokens":3,"prompt_tokens":7}', Usage(7, 3, 36)),
        (b'"usage":{"prompt_tokens":1,"completion_tokens":1}} "usage":{"prompt_tokens":7,"completion_tokens":3}}', Usage(7, 3)),
        (USAGE + b'\n\ndata: {"choices":[],"usage":null}\n\ndata: [DONE]\n\n', Usage(7, 3)),  # null in every other event
        (b'{"choices":[{"text":"\\"usage\\":{\\"prompt_tokens\\":1}"}]}', None),  # the text speaks of it
        (b'"usage":null', None),
        (b'"usage":{}', None),
        (b'"usage":{"prompt_tokens":"7"}', None),
        (b'"usage":{"prompt_tokens":7', None),
        (b'"usage":', None),
        (b'"usage"', None),
        (b"", None),
    ],
)
def test_usage_is_found_at_the_end_of_an_answer(tail, usage):
    assert usage_in(tail) == usage


LONG = b'"choices":[{"message":{"content":"' + b"word " * 1000 + b'"}}]'


@pytest.mark.parametrize(
    ("body", "usage"),
    [
        (USAGE, Usage(7, 3)),
        (b" " + USAGE + b"\n", Usage(7, 3)),
        (b"{" + LONG + b"," + USAGE[1:], Usage(7, 3)),
        (USAGE[:-1] + b"," + LONG + b"}", Usage(7, 3)),  # in front, as embeddings have it
        (USAGE[:-1] + b',"nested":{"usage":{"prompt_tokens":1}}}', Usage(7, 3)),  # that of the answer, not of something in it
        (b'{"usage":null,"x":{"usage":{"prompt_tokens":7,"completion_tokens":3}}}', Usage(7, 3)),
        (b"[" + USAGE + b"]", Usage(7, 3)),  # no object: it is looked for
        (b'{"usage":{"prompt_tokens":"7"}}', None),
        (b'{"usage":[]}', None),
        (b'{"usage":{}}', None),
        (b"{}", None),
        (b"\xff\x00 audio", None),
        (b"[" * 2000, None),
        (b"", None),
    ],
)
def test_usage_of_a_whole_answer(body, usage):
    assert usage_of(body) == usage


@given(st.integers(0, len(USAGE)), st.integers(0, len(USAGE)))
def test_usage_cut_anywhere_is_right_or_none(start, end):
    assert usage_in(USAGE[start:end]) in (None, Usage(7, 3))
    assert usage_of(USAGE[start:end]) == usage_in(USAGE[start:end])


@given(st.binary(max_size=100) | st.lists(st.sampled_from([b'"usage"', b":", b"{", b"}", b"1", b'"a"', b"null"])).map(b"".join))
def test_usage_in_anything_is_found_or_not(tail):
    usage_in(tail)


def test_looking_for_usage_takes_no_time_to_speak_of():
    """The tail comes from an engine: no input may be slow."""
    started = perf_counter()
    for tail in (b'"usage":{' + b"{" * 4000, b'"usage":{' + b"{}" * 2000, b'"usage"' * 600, b'"usage":{' * 450):
        usage_in(tail)
    assert perf_counter() - started < 0.5


# ---- models


def test_models_are_openais():
    listed = json.loads(model_list([model_card("chat", 4096, 5), model_card("gpt-4o", None, 5)]))
    assert listed["object"] == "list"
    for each in listed["data"]:
        Model.model_validate(each, strict=True)
    assert [each.get("max_model_len") for each in listed["data"]] == [4096, None]
    assert model_card("chat", 0, 5) == {"id": "chat", "object": "model", "created": 5, "owned_by": "headrace"}


def test_a_refusal_is_the_same_as_an_event():
    error = Refusal(500, "line\nend", "x")
    event = error.event()
    assert event.startswith(b"data: ")
    assert event.endswith(b"\n\n")
    assert event.count(b"\n") == 2, "one event, whatever the message holds"
    assert json.loads(event[6:]) == json.loads(error.envelope())
