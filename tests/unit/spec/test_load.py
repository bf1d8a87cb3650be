"""Loading: what is right loads, and every mistake is told at once, where it stands, in words of our own."""

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.errors import SpecError, UsageError
from headrace.spec.engines import NAMES, CustomOptions, EngineOptions
from headrace.spec.load import LARGEST_BYTES, load, loads, spec_for
from headrace.spec.model import NOT_YET, ForSpec


def told(text: str) -> list[str]:
    """The mistakes in `text` as `line:column path: what fix`."""
    with pytest.raises(SpecError) as caught:
        loads(text, "f")
    return [str(mistake).removeprefix("f:") for mistake in caught.value.mistakes]


def refusal(text: str) -> SpecError | None:
    try:
        loads(text, "f")
    except SpecError as error:
        return error
    return None


def test_the_short_form_is_a_model_with_a_source() -> None:
    assert loads("models: {chat: hf:org/name}") == loads("models: {chat: {source: hf:org/name}}")


def test_a_number_of_replicas_may_be_text() -> None:
    assert loads('models: {chat: {source: hf:a/b, replicas: "2"}}').models["chat"].replicas == 2


def test_sizes_and_durations_become_numbers() -> None:
    gateway = loads("models: {a: hf:a/b}\ngateway: {drain: 1m, body: 1MiB, queue: {wait: 1h30m}}").gateway
    assert (gateway.drain, gateway.body, gateway.queue.wait) == (60, 2**20, 5400)


def test_an_engine_may_have_settings_or_none() -> None:
    some = loads("models: {a: {source: hf:a/b, engine: {llamacpp: {threads: 2}}}}").models["a"]
    none = loads("models:\n  a:\n    source: hf:a/b\n    engine:\n      llamacpp:\n").models["a"]
    assert (some.engine_name, some.llamacpp.threads) == ("llamacpp", 2)
    assert isinstance(none.engine, EngineOptions)
    assert none.llamacpp == loads("models: {a: hf:a/b}").models["a"].llamacpp


def test_what_a_model_is_for_is_typed() -> None:
    asked = loads("models: {a: {source: x, for: {users: 50, prompt: 1.5k, context: 8k, ttft: 500ms, tpot: 0.05}}}").models["a"]
    assert asked.for_ == ForSpec(users=50, prompt=1536, context=8192, ttft=0.5, tpot=0.05)
    assert asked.context_asked == 8192


@pytest.mark.parametrize(
    ("written", "machine"),
    [
        ("auto", None),  # the one we are on
        ("2 x A100-80GB", "2 x A100-80GB"),
        ("{gpus: 2 x A100-80GB}", "2 x A100-80GB"),
        ("{azure: Standard_NC24ads_A100_v4}", "azure:Standard_NC24ads_A100_v4"),
        ("{azure: Standard_NC24ads_A100_v4, max: 4}", "azure:Standard_NC24ads_A100_v4 x 4"),
        ("{cost: 3.67 USD/h}", None),  # this one, and what it costs
        ("{gpus: T4, cost: 1 USD/h}", "T4"),
        ("azure", "azure"),  # as after --machine: all its sizes
    ],
)
def test_a_machine_is_text_or_a_mapping(written: str, machine: str | None) -> None:
    assert loads(f"{M}machine: {written}").elsewhere == machine


def test_anchors_and_merges_are_written_out() -> None:
    text = "models:\n  a: &a {source: hf:a/b, slots: 2}\n  b: {<<: *a, slots: 3}\n  c: {<<: [*a], context: 64}\n"
    models = loads(text).models
    assert (models["b"].source, models["b"].slots, models["c"].slots) == ("hf:a/b", 3, 2)


@pytest.mark.parametrize(
    ("url", "servers"),
    [
        ("http://h:1", ("http://h:1",)),  # one address needs no list
        ("[http://h:1, http://h:2/]", ("http://h:1", "http://h:2")),  # a final slash
        ("HTTPS://Host/v1/", ("https://host:443",)),  # upper case, no port, the path that clients add
        ("http://[::1]:9", ("http://[::1]:9",)),  # IPv6
    ],
)
def test_addresses_of_servers_are_made_alike(url: str, servers: tuple[str, ...]) -> None:
    text = f"models: {{a: {{url: {url} }}}}" if url.startswith("[") else f'models: {{a: {{url: "{url}"}}}}'
    assert loads(text).models["a"].url == servers


M = "models: {a: hf:a/b}\n"


@pytest.mark.parametrize(
    ("text", "mistakes"),
    [
        # --- the document
        ("", ["1:1: is empty."]),  # an empty file
        ("# nothing\n", ["1:1: is empty."]),  # comments only
        ("- a", ["1:1: must be a mapping with `models`, not a list."]),  # the wrong kind of document
        ("hello", ['1:1: must be a mapping with `models`, not the text "hello".']),  # not our file at all
        ("models:\n\ta: x", ["2:1: has a tab. YAML is indented with spaces."]),  # the most common mistake in YAML
        ("models: [a", ["1:9: has a bracket that is never closed"]),  # the end of the text is still inside it
        ("a: b: c", ['1:5: has a second ": "']),
        ("models:\n  a: 'x\n", ["2:6: has a quote that is never closed"]),
        ("a: *x", ["1:4: uses an anchor (*name) that is not defined before."]),
        ("a: 1\n---\nb: 2", ["2:1: begins a second document."]),
        ("a: \x00", ["1:4: holds a control character."]),
        ('a: "\\UFFFFFFFF"', ["1:1: is not valid YAML: an escape or number in it is out of range."]),
        ("a: !!python/name:os.system x", ["1:1: models: is missing", "1:1: a: is not a key", "1:4: a: has the tag"]),  # no code
        ("models: &m {a: *m}", ["1:13: models.a: contains itself"]),  # would be endless
        ("[" * 2000, ["1:1: is nested deeper than"]),  # would exhaust the stack
        ("? [a]\n: b\n" + M, ["1:3: has a key that is not text."]),
        # --- keys
        ("models: {a: hf:a/b, a: hf:c/d}", ["1:21: models.a: appears twice; first in line 1, column 10."]),
        (
            M + "foo: 1",
            ["2:1: foo: is not a key here. Keys here: models, aliases, gateway, weights, machine, kubernetes."],
        ),  # nothing near
        (M + "gatway: {}", ["2:1: gatway: is not a key here. Did you mean gateway?"]),
        ("gateway: {}", ["1:1: models: is missing."]),
        ("models: {}", ["1:9: models: names no model."]),
        ("models:", ["1:7: models: must be a mapping of names, not empty."]),  # everything below is commented out
        ("models: {a: }", ["1:12: models.a: must be a source such as hf:org/name, or a mapping, not empty."]),
        ("models: {a b: hf:a/b}", ['1:15: models.a b: "a b" is not a name']),  # clients could not send it in a path
        ("models: {a: {}}", ["1:10: models.a: needs a `source`"]),
        # --- values
        ("models: {a: {source: 7}}", ['1:22: models.a.source: must be text, not the number 7. Write "7" in quotes.']),
        ("models: {a: {source: x, context: 8}}", ["1:34: models.a.context: 8 is below the least, 16."]),
        ("models: {a: {source: x, slots: 1.5}}", ["must be auto or a whole number, not the number 1.5."]),
        ("models: {a: {source: x, slots: true}}", ["must be auto or a whole number, not the boolean true."]),
        ("models: {a: {source: x, task: ebmed}}", ["Did you mean embed?"]),
        ("models: {a: {source: x, engine: llama}}", ['1:33: models.a.engine: "llama" is not an engine. Did you mean llamacpp?']),
        ("models: {a: {source: x, engine: 3}}", ["1:33: models.a.engine: must be a mapping, not the number 3."]),
        ("models: {a: {source: x, engine: {}}}", ["1:33: models.a.engine: names no engine. Write {llamacpp: {threads: 2}}."]),
        ("models: {a: {source: x, engine: {llamacpp: {wait: activ}}}}", ["Did you mean active?"]),
        ("models: {a: {source: x, replicas: 0..0}}", ["0 is below the least, 1."]),
        ("models: {a: {source: x, scale: {replicas: 0..0}}}", ['"0..0" ends at 0.']),
        ("models: {a: {source: x, replicas: 1..2, scale: {replicas: 3}}}", ['"1..2" is a range.']),
        ("models: {a: {source: x, replicas: two}}", ['"two" is not a count.']),
        (M + "gateway: {queue: {wait: 1x}}", ['2:25: gateway.queue.wait: "1x" is not a duration.']),
        (M + "gateway: {drain: .nan}", ["must be a finite number, not the number nan."]),  # would never end
        (M + "gateway: {drain: 30d}", ["30d is above the most, 7d."]),  # timers of event loops end somewhere
        (M + "gateway: {body: 0}", ["0 is not above 0."]),
        (M + "weights: {cache: ''}", ["2:18: weights.cache: is empty."]),
        # --- what a model is for, and what of the ways is wanted
        ("models: {a: {source: x, for: 50}}", ["1:30: models.a.for: must be a mapping, not the number 50."]),
        ("models: {a: {source: x, for: {user: 5}}}", ["1:31: models.a.for.user: is not a key here. Did you mean users?"]),
        ("models: {a: {source: x, for: {users: 0}}}", ["0 is not above 0."]),
        ("models: {a: {source: x, for: {users: many}}}", ['"many" is not a number above 0. Write 50, or 8k for 8192.']),
        ("models: {a: {source: x, for: {ttft: fast}}}", ['"fast" is not a duration.']),
        ("models: {a: {source: x, for: {tpot: 30d}}}", ["30d is above the most, 7d."]),
        ("models: {a: {source: x, for: {prompt: 800, output: 300, context: 1k}}}", ["1:30: models.a.for: asks for 1100 tokens"]),
        ("models: {a: {source: x, context: 1024, for: {prompt: 2k}}}", ["1:45: models.a.for: asks for 2048 tokens"]),
        ("models: {a: {source: x, context: 1024, for: {context: 2k}}}", ["1:45: models.a.for: has the context 2048 beside"]),
        ("models: {a: {source: x, quantization: q4_k_m}}", ["Pick it by the source, as in hf:org/name:Q4_K_M."]),  # a GGUF's
        ("models: {a: {source: x, quantization: gptq}}", ['must be auto, none, fp8 or awq, not the text "gptq".']),
        ("models: {a: {source: x, quantization: }}", ["must be auto, none, fp8 or awq, not empty."]),  # none is text
        ("models: {a: {source: x, tensor_parallel: 0}}", ["0 is below the least, 1."]),
        ("models: {a: {source: x, share: timeslice}}", ["Did you mean time-slice?"]),
        # --- the machine
        (M + "machine: 4", ["2:10: machine: must be a mapping, not the number 4."]),
        (M + "machine: ''", ["2:10: machine: is empty."]),
        (M + "machine: {}", ["2:10: machine: needs one of `gpus`, `azure` and `memory`."]),
        (M + "machine: {gpus: T4, azure: x}", ["2:10: machine: needs one of `gpus`, `azure` and `memory`."]),  # which is it?
        (M + "machine: {gpus: T4, max: 2}", ["2:10: machine: has `max`, which counts machines of `azure`"]),
        (M + "machine: {cost: 3.67}", ['2:17: machine.cost: "3.67" is not a price in US dollars per hour. Write 3.67 USD/h.']),
        (M + "machine: {cost: 3 EUR/h}", ['"3 EUR/h" is not a price in US dollars per hour.']),  # prices are compared with ours
        (M + "machine: {max: 2}", ["2:10: machine: needs one of `gpus`, `azure` and `memory`."]),
        (M + "machine: {azure: x, max: 0}", ["0 is below the least, 1."]),
        (M + "machine: {gpu: T4}", ["2:11: machine.gpu: is not a key here. Did you mean gpus?", "machine: needs one of"]),
        # --- what YAML 1.1 reads differently
        ("models: {no: hf:a/b}", ['1:10: models.no: YAML reads the name no as a boolean. Write "no" in quotes.']),  # Norway
        ("models: {8: hf:a/b}", ['1:10: models.8: YAML reads the name 8 as a number. Write "8" in quotes.']),
        (M + "aliases: {x: on}", ["2:14: aliases.x: YAML reads on as the boolean true."]),
        (M + "gateway: {queue: {wait: 1:30}}", ["2:25: gateway.queue.wait: YAML reads 1:30 as 90 (base 60)."]),
        ("models: {a: {source: x, slots: 010}}", ["1:32: models.a.slots: YAML reads 010 as 8 (octal)."]),
        ("models: {a: {source: x, slots: 08}}", ["Write it without quotes and leading zeros."]),  # text, not octal
        # --- between keys
        ("models: {a: {source: x, url: http://h:1}}", ["1:25: models.a.url: cannot stand beside `source`"]),
        ("models: {a: {source: x, key: env:K}}", ["1:25: models.a.key: belongs to servers given by `url`"]),
        ("models: {a: {url: http://h:1, replicas: 2}}", ["1:31: models.a.replicas: is not for servers"]),
        ("models: {a: {url: http://h:1, engine: llamacpp}}", ["1:31: models.a.engine: is not for servers"]),
        ("models: {a: {url: http://h:1, for: {users: 2}}}", ["1:31: models.a.for: is not for servers"]),  # they run already
        ("models: {a: {url: http://h:1, share: mig}}", ["1:31: models.a.share: is not for servers"]),
        (M + "aliases: {x: b}", ['2:14: aliases.x: leads to "b", which is not a model here.']),
        ("models: {chat: hf:a/b}\naliases: {x: caht}", ["Did you mean chat?"]),
        (M + "aliases: {a: a}", ["2:14: aliases.a: is a model's name already"]),
        # --- addresses
        (M + "gateway: {listen: localhost}", ['"localhost" has no port. Write localhost:8000.']),
        (M + "gateway: {listen: ':80'}", ["write 127.0.0.1:80 (this machine only)"]),
        (M + "gateway: {listen: '::1:80'}", ["an IPv6 address stands in brackets"]),
        (M + "gateway: {listen: 'h:65536'}", ["port 65536 is above 65535"]),
        (M + "gateway: {listen: '999.0.0.1:80'}", ['"999.0.0.1" is not a host name or an IP address']),
        ("models: {a: {url: 'ftp://h'}}", ["is not an http:// or https:// URL"]),
        ("models: {a: {url: 'http://h:1/x/v1'}}", ["has a path other than /v1"]),
        ("models: {a: {url: 'http://h:99999'}}", ["is not a URL"]),
        ("models: {a: {url: ['http://h:1', 'http://H:1/v1']}}", ["names the same server twice"]),
        ("models: {a: {url: 5}}", ["must be text or a list of it, not the number 5."]),
    ],
)
def test_a_mistake_is_told_where_it_stands(text: str, mistakes: list[str]) -> None:
    found = told(text)
    assert len(found) == len(mistakes), found
    for mistake in mistakes:
        what = mistake[0].upper() + mistake[1:]
        assert any(mistake in line or what in line for line in found), found


def test_all_mistakes_are_told_at_once_and_in_order() -> None:
    text = (
        "models:\n  a: {source: 7, context: 1, foo: 1, engine: vlm}\n  b: {url: [x], key: k}\n"
        "aliases: {z: q}\nkubernetes: {x: 1}\n"
    )
    lines = [line.split(":")[0] for line in told(text)]
    assert lines == ["2", "2", "2", "2", "3", "3", "4", "5"]


@pytest.mark.parametrize("key", [(section, key) for section, keys in NOT_YET.items() for key in keys])
def test_a_key_of_a_later_version_is_refused_by_name(key: tuple[str, str]) -> None:
    section, name = key
    above = {
        "": "",
        "models.*": "models: {b: {source: x, ",
        "gateway": "gateway: {",
        "weights": "weights: {",
        "machine": "machine: {",
    }[section]
    text = f"{'' if section == 'models.*' else M}{above}{name}: 1{'}' * above.count('{')}"
    # `machine` with nothing else in it is a mistake of its own.
    assert [line.partition(": ")[2] for line in told(text) if "needs one of" not in line] == [
        f"{section.replace('*', 'b')}{'.' if section else ''}{name}: is not supported yet in this version. Remove it."
    ]


@pytest.mark.parametrize("engine", NAMES)
@pytest.mark.parametrize("form", ["{}", "{{{}: {{}}}}", "{{{}: null}}"])
def test_an_engine_is_a_name_or_a_mapping_of_its_settings(engine: str, form: str) -> None:
    spec = loads(f"models: {{a: {{source: x, engine: {form.format(engine)}}}}}")
    assert spec.models["a"].engine_name == engine


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("{source: x, engine: {vllm: {}, tgi: {}}}", "names vllm and tgi, and a model runs on one engine"),
        ("{source: x, engine: {vllm: {arg: [x]}}}", "Did you mean args?"),
        ("{source: x, engine: {vllm: {args: [--api-key, k]}}}", "holds a secret"),  # process lists are no place for keys
        ("{source: x, engine: {custom: {command: serve}}}", "cannot stand beside a command"),
        ("{engine: {custom: {command: serve, class: A}}}", "has both a class and a command"),
        ("{engine: custom}", "needs a `source`"),
        ("{url: 'http://h', engine: {custom: {command: serve}}}", "models.a.engine: is not for servers given by `url`"),
        ("{url: 'http://h', memory: 1GB}", "is not for servers given by `url`"),
    ],
)
def test_what_engines_cannot_be_asked(model: str, said: str) -> None:
    assert said in " ".join(told(f"models: {{a: {model}}}"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{a: {source: x, adapters: {b: 'file:l'}}, b: x}", "models.a.adapters.b: is a model already"),
        ("{a: {source: x, adapters: {l: 'file:l'}}, b: {source: x, adapters: {l: 'file:m'}}}", "is an adapter of a already"),
    ],
)
def test_an_adapter_has_a_name_of_its_own(text: str, said: str) -> None:
    assert said in " ".join(told(f"models: {text}"))


def test_a_command_is_a_model_and_runs_in_the_folder_of_its_file(tmp_path: Path) -> None:
    spec = loads("models: {a: {engine: {custom: {command: 'python serve.py --port {port}'}}}}", folder=tmp_path)
    custom = spec.models["a"].options(CustomOptions)
    assert custom.command == ("python", "serve.py", "--port", "{port}")
    assert custom.folder == str(tmp_path)
    assert spec.models["a"].ours


@pytest.mark.parametrize(
    "text",
    [
        "models: {a: {url: 'http://me:hunter2@h'}}",  # a password in a URL
        "models: {a: {url: 'http://h', key: hunter2}}",  # the key instead of its variable
    ],
)
def test_a_secret_is_not_repeated(text: str) -> None:
    assert "hunter2" not in " ".join(told(text))


def test_no_mistake_is_in_pydantics_words() -> None:
    values = ["7", "x", "[]", "{}", "1.5", "true", "", "-1", "99999999999999999999", "{x: 1}", "[1]", ".inf"]
    places = [
        *("models: @", "models: {a: @}", *(f"models: {{a: {{source: x, {key}: @}}}}" for key in _MODEL_KEYS)),
        *(f"models: {{a: {{source: x, engine: {{llamacpp: {{{key}: @}}}}}}}}" for key in _OPTIONS),
        *(f"models: {{a: {{source: x, for: {{{key}: @}}}}}}" for key in _FOR_KEYS),
        *(f"{M}{section}: @" for section in ("aliases", "gateway", "weights", "machine")),
        *(f"{M}machine: {{{key}: @}}" for key in ("gpus", "azure", "cost")),
        *(f"{M}gateway: {{{key}: @}}" for key in ("listen", "queue", "drain", "body")),
        *(f"{M}gateway: {{queue: {{{key}: @}}}}" for key in ("limit", "wait")),
        *(f"{M}{text}" for text in ("aliases: {x: @}", "weights: {cache: @}")),
    ]
    jargon = re.compile(r"Input|pydantic|validation|type=|instance of|<name>|<options>|constrained|literal|can be read here")
    for text in (place.replace("@", value) for place in places for value in values):
        assert not jargon.search(str(refusal(text))), (text, str(refusal(text)))


_MODEL_KEYS = (
    *("source", "url", "key", "task", "engine", "context", "slots", "replicas"),
    *("for", "quantization", "tensor_parallel", "share"),
)
_FOR_KEYS = ("users", "prompt", "output", "context", "ttft", "tpot")
_OPTIONS = ("threads", "wait", "batch", "cache_type")


def test_an_alias_bomb_is_refused_quickly() -> None:
    levels = [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]" for n in range(1, 10)]
    assert "anchors expanded" in told("l0: &l0 x\n" + "\n".join(levels))[0]


def test_a_source_is_checked_where_it_stands() -> None:
    def check(text: str) -> None:
        if text.startswith("hg:"):
            raise ValueError('"hg:" is not a place for weights; write hf:org/name')

    with pytest.raises(SpecError) as caught:
        loads("models:\n  a: hg:a/b\n  b: {source: hg:c/d}\n  c: hf:a/b", "f", check)
    assert [(m.line, m.column, m.path) for m in caught.value.mistakes] == [
        (2, 6, "models.a.source"),
        (3, 15, "models.b.source"),
    ]


@pytest.mark.parametrize(
    ("source", "full"),
    [
        ("file:x.gguf", "file:{folder}/x.gguf"),  # beside the file, wherever one stands
        ("file:./d/../x.gguf", "file:{folder}/x.gguf"),
        ("file:/abs/x.gguf", "file:/abs/x.gguf"),
        ("file:~/x.gguf", "file:{home}/x.gguf"),
        ("file:///abs/x.gguf", "file:///abs/x.gguf"),  # a URL is in full already
        ("hf:a/b", "hf:a/b"),  # not a path
    ],
)
def test_a_relative_file_starts_at_the_specs_folder(
    source: str, full: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    file = tmp_path / "headrace.yaml"
    file.write_text(f"models: {{a: '{source}'}}\nweights: {{cache: ~/cache}}")
    spec = load(file)
    assert spec.models["a"].source == full.format(folder=tmp_path, home="/home/me")
    assert spec.weights.cache == "/home/me/cache"


def test_bytes_order_marks_and_foreign_line_ends_are_fine(tmp_path: Path) -> None:
    file = tmp_path / "h.yaml"
    file.write_bytes("\ufeffmodels:\r\n  é: hf:a/b\r\n  a: 7\r\n".encode())
    with pytest.raises(SpecError) as caught:
        load(file)
    assert [(m.line, m.column) for m in caught.value.mistakes] == [(2, 6), (3, 6)]


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (None, "there is no such file. `headrace init` writes an example."),
        ("folder", "is a folder, not a file."),
        (b"models:\n  a: \xff", "2:6: the byte 0xff is not UTF-8."),  # the position counts characters
        (b"#" * (LARGEST_BYTES + 1), "is larger than 1 MB."),
    ],
)
def test_a_file_that_cannot_be_read_is_said_to_be_so(content: bytes | str | None, what: str, tmp_path: Path) -> None:
    file = tmp_path / "headrace.yaml"
    if content == "folder":
        file.mkdir()
    elif isinstance(content, bytes):
        file.write_bytes(content)
    with pytest.raises(SpecError, match=re.escape(what)):
        load(file)


def test_serving_a_source_needs_no_file() -> None:
    assert spec_for("hf:a/b", "b") == loads("models: {b: hf:a/b}")


def test_serving_under_an_impossible_name_is_refused() -> None:
    with pytest.raises(UsageError, match="is not a name that a client can ask for"):
        spec_for("hf:a/b", "two words")


PIECES = (
    *("models:", "\n  ", "a", ": ", "{", "}", "[", "]", "&a ", "*a", "hf:a/b", "\n", "<<", "engine", "1:30", "no", ", ", "- "),
    *(
        "|",
        ">",
        "'",
        '"',
        "%",
        "#",
        "? ",
        "@",
        "\t",
        "\\",
        "010",
        "~",
        "=",
        "é",
        "\x85",
        "\u2028",
        "\r",
        "!!int ",
        "!x ",
        "source: ",
    ),
)
YAML_LIKE = st.lists(st.sampled_from(PIECES), max_size=25).map("".join)


@settings(max_examples=400, deadline=None)
@given(st.text(max_size=60) | YAML_LIKE)
def test_any_text_loads_or_is_refused_at_a_place_inside_it(text: str) -> None:
    error = refusal(text)
    lines = re.split(r"\r\n|\r|\n", text.removeprefix("\ufeff"))
    assert error is None or error.mistakes
    for mistake in error.mistakes if error else ():
        assert 1 <= mistake.line <= len(lines), mistake
        assert 1 <= mistake.column <= len(lines[mistake.line - 1]) + 1, mistake
        assert "\n" not in str(mistake)
