"""HR3xx: images, and how weights and the right to them come to a replica."""

import re
from collections.abc import Iterator

from headrace.importing.base import At
from headrace.importing.launchers import tag_of
from headrace.importing.words import secret_value
from headrace.lint.base import Edit, Say, rule
from headrace.lint.context import Context
from headrace.lint.serving import Served, engines, shell_text

_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_API_TOKEN", "HUGGINGFACE_HUB_TOKEN", "HUGGINGFACE_TOKEN", "HF_TOKEN_PATH")
_MOVING = re.compile(
    r"(?:.*[-_.])?(?:latest|nightly|main|master|dev|edge|stable)(?:[-_].*)?"
    r"|(?:server|full|light)(?:-(?:cuda|rocm|musa|vulkan|intel|openvino)(?:-b|1[23])?)?"
)
_VERSIONED = re.compile(r"\d+\.\d+|[0-9a-f]{7}|\d{6}")
"""A version, a commit or a day in a tag: it may still move, and nobody can know."""
_GATED = re.compile(
    r"meta-llama/(?:Llama|Meta-Llama|CodeLlama)[\w.-]*|google/gemma-(?:\d|1\.1|2|3)-\d+b\S*|bigcode/starcoder\S*", re.I
)
"""Repositories whose licence has to be accepted first, as far as that is certain."""
_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_ENDPOINT", "VLLM_USE_MODELSCOPE")
_CACHES = re.compile(r"huggingface|/models?\b|/data\b|/cache\b|\.cache|hf[-_/]?home|hub|weights", re.I)
_NO_WEIGHTS = ("configMap", "secret", "downwardAPI", "projected")
_KEY = re.compile(r"(?:secret|access|api)_?key$|password$|token$", re.I)
_TEMPORARY = ("emptyDir", "ephemeral")
"""Volumes that go with their pod."""
_SYSTEM = ("/dev/", "/etc/", "/sys/", "/proc/", "/run/", "/usr/", "/var/run/")
"""Where devices and settings of a node are mounted, and no weights."""


@rule("HR301", "warning", "an image without a version", "https://kubernetes.io/docs/concepts/containers/images/")
def unpinned_image(context: Context) -> Iterator[Say]:
    """A tag that moves gives another engine at the next start: other defaults, other flags, other metrics. `latest` also makes
    every start pull several GB again (imagePullPolicy is then Always)."""
    for one in engines(context):
        text = one.image.text
        if not text or re.search(r"[<>{}$]", text) or one.container.get("image").path == ():
            continue
        tag = tag_of(text)
        if not tag or (_MOVING.fullmatch(tag.lower()) and not _VERSIONED.search(tag)):
            said = text if tag else f"{text} (which is latest)" if ":" not in text.rpartition("/")[2] else text
            yield Say(one.image, f"{said} is another engine at the next start.", "Write a version, or a digest.")


@rule("HR302", "warning", "a model without a revision", "https://github.com/vllm-project/production-stack/issues/961")
def unpinned_model(context: Context) -> Iterator[Say]:
    """A repository on the hub can change: the same file then serves another model tomorrow, and replicas that start later serve
    another one than those that run."""
    for one in engines(context):
        served = one.engine in ("vllm", "sglang", "tgi") and one.lives
        if served and one.hub and not one.flag("--revision") and not _is_offline(one):
            what = f"{one.hub} is whatever its repository holds when a replica starts."
            yield Say(one.model_at, what, "Pin it: --revision and the commit.")


def _is_offline(one: Served) -> bool:
    return any(one.env(name) is not None for name in _OFFLINE)


@rule("HR303", "error", "a gated model and no token", "https://huggingface.co/docs/hub/models-gated")
def gated(context: Context) -> Iterator[Say]:
    """The hub refuses its weights to who has not accepted the licence and does not say who they are: the container ends at
    once, again and again."""
    for one in engines(context):
        container = one.container
        if not one.lives or not one.hub or not _GATED.fullmatch(one.hub) or _is_offline(one) or container.get("envFrom"):
            continue
        token = any(one.env(name) is not None for name in _TOKENS) or one.flag("--hf-token")
        if not token and not _has_weights(one):
            what = f"{one.hub} is gated, and the container has no token."
            yield Say(one.model_at, what, "Accept its licence, and give HF_TOKEN by a secretKeyRef.")


def _has_weights(one: Served) -> bool:
    """Whether weights may be there already: in a volume, or by another container."""
    spec = one.pod.spec if one.pod else one.container
    return bool(spec.get("initContainers")) or any(_kind(one, mount) not in (*_NO_WEIGHTS, *_TEMPORARY) for mount in _mounts(one))


@rule(
    "HR304",
    "info",
    "the token's old name",
    "https://github.com/huggingface/huggingface_hub/blob/main/src/huggingface_hub/utils/_auth.py",
)
def old_token_name(context: Context) -> Iterator[Say]:
    """huggingface_hub reads HF_TOKEN first; HUGGING_FACE_HUB_TOKEN is its name of old, which TGI before 2.1 needs. KAITO wants
    the key HF_TOKEN in the Secret: keep both keys in one Secret."""
    for one in engines(context):
        old = one.env("HUGGING_FACE_HUB_TOKEN")
        if old is not None and one.env("HF_TOKEN") is None and one.engine in ("vllm", "sglang", "tgi") and _reads_new_name(one):
            name = old.get("name")
            edits = () if "HUGGING_FACE_HUB_TOKEN" in shell_text(one.container) else (Edit("set", name, "", "HF_TOKEN"),)
            yield Say(name, "HUGGING_FACE_HUB_TOKEN is the old name.", "Write HF_TOKEN.", edits)


def _reads_new_name(one: Served) -> bool:
    tag = re.search(r":v?(\d+)\.(\d+)", one.image.text)
    version = (int(tag[1]), int(tag[2])) if tag else None
    if one.engine == "tgi":
        return version >= (2, 1) if version else one.image.text.endswith(":latest")
    return one.engine != "vllm" or version is None or version >= (0, 4)


@rule("HR305", "warning", "weights are fetched again at each start", "https://github.com/vllm-project/vllm/issues/15862")
def no_cache(context: Context) -> Iterator[Say]:
    """Without a volume that outlives the pod every restart and every new replica downloads the model: 13B is 26 GB, and scaling
    out is as slow as the network."""
    for one in engines(context):
        if not one.lives or not one.hub or one.engine not in ("vllm", "sglang", "tgi") or _host_cache(one):
            continue
        mounts = [mount for mount in _mounts(one) if _kind(one, mount) not in _NO_WEIGHTS]
        kinds = {_kind(one, mount) for mount in mounts}
        cached = [mount for mount in mounts if _kind(one, mount) in _TEMPORARY and _CACHES.search(mount.get("mountPath").text)]
        if kinds - set(_TEMPORARY):
            continue
        if cached:
            kind = "an emptyDir" if _kind(one, cached[0]) == "emptyDir" else "an ephemeral volume"
            what = f"{cached[0].get('mountPath').text} is {kind}: it goes with the pod, and {one.hub} is fetched again."
            yield Say(cached[0], what, "Use a PersistentVolumeClaim, filled once by a Job.")
        elif not kinds:
            what = f"Every replica fetches {one.hub} at each start: no volume keeps it."
            yield Say(one.container, what, "Mount a PersistentVolumeClaim at HF_HOME, filled once by a Job.")


def _host_cache(one: Served) -> bool:
    return bool(one.flag("--load-format")) and "tensorizer" in shell_text(one.container)


def _mounts(one: Served) -> list[At]:
    """What may hold weights."""
    mounts = one.container.get("volumeMounts").each()
    return [mount for mount in mounts if not f"{mount.get('mountPath').text}/".startswith(_SYSTEM)]


def _kind(one: Served, mount: At) -> str:
    """The kind of volume behind a mount; `claim` for a StatefulSet's own, "" for what is not in the file."""
    spec = one.pod.spec if one.pod else one.container
    name = mount.get("name").text
    volume = next((each for each in spec.get("volumes").each() if each.get("name").text == name), None)
    if volume is None:
        return "claim"
    return next((key for key, _ in volume.items() if key != "name"), "emptyDir")


@rule("HR306", "error", "a secret as plain text", "https://kubernetes.io/docs/concepts/security/secrets-good-practices/")
def plain_secret(context: Context) -> Iterator[Say]:
    """A token in a manifest is in the repository, in etcd and in every plan and log that shows the object; one in arguments is
    in the process list as well."""
    for pod in context.pods():
        for container in [*pod.containers, *pod.spec.get("initContainers").each()]:
            yield from _plain(container)
    for one in engines(context):
        if one.pod is None and one.owner.kind != "command":
            yield from _plain(one.container)
    for values in context.of("production-stack"):
        key = values.at.get("servingEngineSpec", "vllmApiKey")
        if isinstance(key.value, str) and _real(key.text):
            yield Say(key, "vllmApiKey is written out.", "Name a Secret: vllmApiKey: {secretName: …, secretKey: …}.")
        for spec in values.at.get("servingEngineSpec", "modelSpec").each():
            token = spec.get("hf_token")
            if isinstance(token.value, str) and _real(token.text):
                yield Say(token, "hf_token is written out.", "Name a Secret: hf_token: {secretName: …, secretKey: …}.")


def _plain(container: At) -> Iterator[Say]:
    for each in container.get("env").each():
        name, value = each.get("name").text, each.get("value")
        if (name in _TOKENS[:5] and _real(value.text)) or secret_value(value.text) or (_KEY.search(name) and _random(value.text)):
            yield Say(value, f"{name} is written out, for everybody who can read this.", "Use valueFrom.secretKeyRef.")
    for key in ("command", "args"):
        for item in container.get(key).each():
            if secret_value(item.text):
                yield Say(item, "There is a secret among the arguments.", "Give it by an environment variable with secretKeyRef.")


def _random(text: str) -> bool:
    """Whether it looks like nothing but a key: what names a key is words."""
    kinds = (r"[a-z]", r"[A-Z]", r"\d.*\d.*\d")
    return _real(text) and bool(re.fullmatch(r"\w[\w+/=-]{19,}", text)) and all(re.search(kind, text) for kind in kinds)


def _real(text: str) -> bool:
    """Whether it is a value, and no reference or place holder."""
    return bool(text) and not re.search(r"[<>{}$\s]|x{4}|\*{3}|\.\.\.|your|token|replace|change|example|todo|dummy", text, re.I)


@rule("HR311", "warning", "TGI for a new set-up", "https://github.com/huggingface/text-generation-inference#readme")
def tgi_target(context: Context) -> Iterator[Say]:
    """Text Generation Inference is in maintenance mode since 2025-12-11, and recommends vLLM, SGLang or llama.cpp itself: new
    models will not come to it."""
    for one in engines(context):
        if one.engine == "tgi":
            at = one.image if one.image.text else one.container
            yield Say(
                at,
                "TGI is in maintenance mode since December 2025.",
                "Use vLLM, SGLang or llama.cpp: headrace import reads this.",
            )
