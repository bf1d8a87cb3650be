"""The OpenVINO process by itself: how it starts, fails and ends, whoever started it."""

import asyncio
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from engine_client import chat
from openvino_process import ENDLESS, Runner

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """One conversion for all."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def run(cache):
    """`run(model, **spec)`: a Runner, killed after the test."""
    started = []
    with tempfile.TemporaryDirectory(prefix="hr-") as folder:

        def ran(model, **more):
            started.append(Runner(model, folder, cache, **more))
            return started[-1]

        yield ran
        for runner in started:
            runner.close()


async def test_sigterm_lets_every_stream_finish_and_nobody_in(run, weights):
    runner = run(weights("generate"), slots=4)
    runner.said("serving")
    streams = [await runner.send("POST", "/v1/chat/completions", chat(**ENDLESS | {"max_tokens": 30})) for _ in range(8)]
    await runner.until(lambda found: (found.running, found.waiting) == (4, 4))
    runner.process.terminate()
    await closed(runner)
    for stream in streams:
        answer = await stream.until()
        assert answer.events[-1] == "[DONE]"
        stream.close()
    assert await asyncio.to_thread(runner.process.wait, 60) == 0


async def closed(runner):
    """Until it lets nobody in."""
    async with asyncio.timeout(30):
        while True:
            try:
                (await runner.send("GET", "/health")).close()
            except OSError:
                return
            await asyncio.sleep(0.01)


async def test_ctrl_c_is_not_for_it_and_the_end_of_its_stdin_is_its_end(run, weights):
    runner = run(weights("generate"))
    runner.said("serving")
    runner.process.send_signal(2)
    assert (await runner.ask("GET", "/health")).status == 200
    runner.process.stdin.close()
    assert await asyncio.to_thread(runner.process.wait, 30) == 0


async def test_a_converted_model_starts_from_its_folder_and_leaves_the_file_alone(run, weights, cache):
    model = Path(weights("generate"))
    beside = sorted(model.parent.iterdir())
    run(model).said("serving")
    assert sorted(model.parent.iterdir()) == beside
    (folder,) = (path for path in (cache / "openvino").iterdir() if path.is_dir())
    runner = run(folder)
    runner.said("serving")
    answer = await runner.complete("The capital of France is")
    assert answer.json["choices"][0]["text"].startswith(" Paris")


def test_openvino_reports_to_nobody_and_writes_nothing_at_home(run, weights, tmp_path):
    """Its telemetry keeps an id of the user in ~/intel and sends it with every import, unless it is kept out."""
    run(weights("generate"), home=tmp_path).said("serving")
    assert not list(tmp_path.iterdir())


def ended(runner):
    """All that it wrote until it ended because it cannot load its model."""
    output = runner.process.stdout.read()
    assert runner.process.wait(60) == 3
    return output


@pytest.mark.parametrize(
    ("bytes_kept", "cause"),
    [(None, "there is no such file"), (0, ""), (100_000, ""), (40_000_000, "")],
)
def test_a_file_that_is_no_model_is_exit_code_3_with_the_cause_last(run, weights, tmp_path, bytes_kept, cause):
    model = tmp_path / "broken.gguf"
    if bytes_kept is not None:
        model.write_bytes(Path(weights("generate")).read_bytes()[:bytes_kept])
    runner = run(model)
    output = ended(runner)
    last = output.splitlines()[-1]
    assert last.startswith(f"cannot load {model}: ")
    assert len(last) > len(f"cannot load {model}: ")
    assert cause in last
    assert "s3cret" not in output


def test_an_architecture_that_it_does_not_know_is_exit_code_3_with_its_name(run, weights, tmp_path):
    model = tmp_path / "strange.gguf"
    whole = Path(weights("generate")).read_bytes()
    name = b"general.architecture" + (8).to_bytes(4, "little") + (5).to_bytes(8, "little")
    assert name + b"llama" in whole
    model.write_bytes(whole.replace(name + b"llama", name + b"strng", 1))
    last = ended(run(model)).splitlines()[-1]
    assert last == f"cannot load {model}: OpenVINO reads llama, qwen2, qwen3 from GGUF files, not strng"


def test_a_cache_too_small_for_one_request_is_exit_code_3(run, weights):
    last = ended(run(weights("generate"), cache_bytes=1_000_000)).splitlines()[-1]
    assert last.endswith("a KV cache of 1,000,000 bytes holds 64 tokens, below the context of 256")


def test_without_a_spec_it_says_how_to_be_called():
    done = subprocess.run([sys.executable, "-m", "headrace.runners.openvino"], capture_output=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith(b"usage: ")
