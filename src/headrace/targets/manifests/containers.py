"""Engines as containers: images, how a Launch becomes command and arguments, whose user they run as, where they may write.

Images and entrypoints: facts/kubernetes.md and facts/engine-*.md. vLLM's image has a user `vllm`, 2000:0, since
vllm-project/vllm#40275; a user without a name stops torch (getpass.getuser), hence USER where an image has none.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from headrace.engines import engines, sglang, tgi, triton_config, vllm
from headrace.engines.base import Launch, Placement
from headrace.targets.manifests.base import PORT

HOME = "/tmp"
"""Writable, and the home of engines: what they compile goes below it."""

_CACHE = f"{HOME}/engine-cache"


@dataclass(frozen=True, slots=True)
class Container:
    """How an engine runs in a container.

    `image(placement)` is None where Headrace's own image has it. `skip` words of the launch's argv are what the image's
    entrypoint, or `command` in its place, stands for. `drain_flag` bounds how long it runs on after SIGTERM.
    """

    image: Callable[[Placement], str] | None
    command: tuple[str, ...]
    skip: int
    user: int = 1000
    group: int = 1000
    environment: Mapping[str, str] = field(default_factory=dict)
    drain_flag: str = ""
    metrics_port: int = PORT
    live_path: str = ""
    """Answers 200 while it lives, where that is another path than that for readiness."""


def _gpu(placement: Placement) -> bool:
    return placement.options.get("device") == "cuda"


def _vllm_image(placement: Placement) -> str:
    version = placement.options.get("version", vllm.VERSION)
    # The project publishes its CPU images there, not on Docker Hub: docs/getting_started/installation/cpu.md.
    return f"vllm/vllm-openai:v{version}" if _gpu(placement) else f"public.ecr.aws/q9t5s3a7/vllm-cpu-release-repo:v{version}"


def _triton_image(placement: Placement) -> str:
    return triton_config.IMAGES["vllm" if placement.options.get("kind") == "vllm" else "onnxruntime"]


_OURS = {"USER": "headrace"}

CONTAINERS: Mapping[str, Container] = {
    "vllm": Container(
        _vllm_image,
        ("vllm",),
        skip=4,
        user=2000,
        group=0,
        environment={"USER": "vllm", "TORCHINDUCTOR_CACHE_DIR": f"{_CACHE}/inductor", "TRITON_CACHE_DIR": f"{_CACHE}/triton"},
        drain_flag="--shutdown-timeout",
    ),
    "sglang": Container(
        lambda placement: f"lmsysorg/sglang:v{sglang.VERSION}",
        ("python3", "-m", "sglang.launch_server"),
        skip=4,
        environment={**_OURS, "TORCHINDUCTOR_CACHE_DIR": f"{_CACHE}/inductor", "TRITON_CACHE_DIR": f"{_CACHE}/triton"},
    ),
    "tgi": Container(
        lambda placement: tgi.IMAGE,
        (),  # its entrypoint finds the image's own Python
        skip=1,
        environment={**_OURS, "HF_HOME": f"{_CACHE}/hub", "TRITON_CACHE_DIR": f"{_CACHE}/triton"},
        drain_flag="--graceful-termination-timeout",
    ),
    "triton": Container(
        _triton_image,
        (),
        skip=0,
        environment={**_OURS, "TRITON_CACHE_DIR": f"{_CACHE}/triton"},
        drain_flag="--exit-timeout-secs",
        metrics_port=triton_config.METRICS_PORT,
        live_path="/v2/health/live",
    ),
    "llamacpp": Container(None, ("python",), skip=1),
    "custom": Container(None, ("python",), skip=1),
}
"""By engine. `triton`'s image has a user triton-server, 1000; Headrace's own is built for 1000:1000."""


@dataclass(frozen=True, slots=True)
class Run:
    """What a container runs: `command` replaces the image's entrypoint where it is not empty."""

    command: tuple[str, ...]
    args: tuple[str, ...]
    environment: Mapping[str, str]


def run(placement: Placement, drain_seconds: int) -> Run:
    """The command of a replica, made of the same launch as on any machine. Without a key: only the gateway reaches it."""
    container = CONTAINERS[placement.engine]
    if placement.engine == "triton":
        args = triton_config.command((placement.model,), "/models", drain_seconds)
        return Run(args[:1], args[1:], {**container.environment, **_home()})
    launch = engines()[placement.engine].launch(_inside(placement), f"http://0.0.0.0:{PORT}")
    words = launch.argv[container.skip :]
    own = bool(placement.options.get("command"))
    args = words if own else _told(_drained(words, container.drain_flag, drain_seconds))
    environment = {name: value for name, value in launch.environment.items() if value is not None}
    return Run(
        launch.argv[:1] if own else container.command,
        args,
        {**environment, **container.environment, **_home(), **_cpu(placement), **_cached(launch)},
    )


def _inside(placement: Placement) -> Placement:
    """Without what is of this machine: the interpreter, the folder, and vLLM's cores, which a quota replaces."""
    options = {name: value for name, value in placement.options.items() if name not in ("cores", "version")}
    if placement.engine == "custom" and placement.options.get("folder"):
        options["folder"] = ""
    return replace(placement, python="", options=options)


def _home() -> dict[str, str]:
    return {"HOME": HOME, "XDG_CACHE_HOME": f"{HOME}/.cache"}


def _cached(launch: Launch) -> dict[str, str]:
    return {launch.cache_variable: _CACHE}


def _cpu(placement: Placement) -> dict[str, str]:
    """Threads by number: a pod sees all cores of its node, and its quota covers some."""
    if placement.engine != "vllm" or _gpu(placement):
        return {}
    return {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": str(placement.threads)}


def _drained(words: tuple[str, ...], flag: str, seconds: int) -> tuple[str, ...]:
    """`words` with the engine's own limit on draining at `seconds`: longer than the pod's grace it would be cut."""
    if not flag or flag not in words:
        return words
    at = words.index(flag) + 1
    return (*words[:at], str(seconds), *words[at + 1 :])


def _told(words: tuple[str, ...]) -> tuple[str, ...]:
    """Without what is the engine's default: a manifest is read by people."""
    at = words.index("--dtype") if "--dtype" in words else len(words)
    return words[:at] + words[at + 2 :] if words[at + 1 : at + 2] == ("auto",) else words
