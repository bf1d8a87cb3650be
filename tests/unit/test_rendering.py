"""`headrace render`: what it writes where, what it leaves alone, and what it says when something cannot be."""

from pathlib import Path

import pytest
import yaml

from headrace.cli import main

LLAMA = "hf:meta-llama/Llama-3.1-8B-Instruct"  # its facts are in the catalogue: no network is needed
FILE = f"""\
models:
  chat: {{source: "{LLAMA}", replicas: 0..8}}
  own: file:./own.py
  remote: {{url: "http://there:9000"}}
machine: {{azure: Standard_NC24ads_A100_v4}}
kubernetes: {{scaler: keda, image: "registry.example.com/headrace:1"}}
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "own.py").write_text("class Own:\n    def predict(self, batch):\n        return batch\n")
    (tmp_path / "headrace.yaml").write_text(FILE)
    return tmp_path


def render(*more: str) -> int:
    return main(["render", "headrace.yaml", "--offline", *more])


def test_a_file_for_each_object_and_a_kustomization_of_them_all(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert render("-o", "k8s") == 0
    listed = yaml.safe_load((here / "k8s" / "kustomization.yaml").read_text())["resources"]
    there = {file.relative_to(here / "k8s").as_posix() for file in (here / "k8s").rglob("*.yaml")}
    assert set(listed) == there - {"kustomization.yaml"}
    assert listed[0] == "namespace.yaml"
    assert {"chat/deployment.yaml", "chat/scaledobject.yaml", "own/configmap-own-files.yaml", "gateway/service.yaml"} <= there
    assert "kubectl apply --server-side -k k8s" in capsys.readouterr().out


def test_rendered_again_nothing_is_written(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    render("-o", "k8s")
    before = {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in here.glob("k8s/**/*.yaml")}
    capsys.readouterr()
    assert render("-o", "k8s") == 0
    assert capsys.readouterr().out.startswith("0 of ")
    assert {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in here.glob("k8s/**/*.yaml")} == before


def test_a_dash_prints_all_objects_as_one_stream(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert render("-o", "-") == 0
    kinds = [each["kind"] for each in yaml.safe_load_all(capsys.readouterr().out)]
    assert kinds[0] == "Namespace"
    assert "ScaledObject" in kinds
    assert not (here / "k8s").exists()


def test_a_file_that_is_not_ours_is_never_written_over(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "k8s" / "chat").mkdir(parents=True)
    (here / "k8s" / "chat" / "service.yaml").write_text("kind: Service\n")
    assert render("-o", "k8s") == 64
    assert "chat/service.yaml was not made by headrace render; nothing was written" in capsys.readouterr().err
    assert [file.name for file in here.glob("k8s/**/*") if file.is_file()] == ["service.yaml"]


def test_what_is_in_it_no_more_is_removed_when_that_is_asked_for(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    render("-o", "k8s")
    (here / "k8s" / "mine.yaml").write_text("kind: ConfigMap\n")
    (here / "headrace.yaml").write_text(FILE.replace("  own: file:./own.py\n", ""))
    assert render("-o", "k8s") == 0
    assert "of an earlier render are left" in capsys.readouterr().out
    assert (here / "k8s" / "own" / "deployment.yaml").exists()
    assert "own/deployment.yaml" not in (here / "k8s" / "kustomization.yaml").read_text()
    assert render("-o", "k8s", "--prune") == 0
    assert not (here / "k8s" / "own").exists()
    assert (here / "k8s" / "mine.yaml").exists()


def test_every_choice_is_said_with_its_reason(capsys: pytest.CaptureFixture[str]) -> None:
    render("-o", "-")
    said = capsys.readouterr().err
    assert "chat: vllm, 0..8 x 1 GPU, 8 cores" in said
    assert "weights 14.96 + cache" in said
    assert f"revision none: {LLAMA} is whatever is newest" in said


@pytest.mark.parametrize(
    ("models", "said"),
    [
        ('a: "file:./model.gguf"', "is on this machine, and a cluster fetches its weights"),
        (f'a: {{source: "{LLAMA}", engine: sglang}}', ""),
        (f'a: {{source: "{LLAMA}", engine: openvino}}', "openvino is not rendered"),
        (f'a: {{source: "{LLAMA}", adapters: {{sql: "file:./sql"}}}}', "adapters are not rendered for Kubernetes yet"),
        ('a: "hf:org/m:m.onnx"', "hf:org/m:m.onnx is no language model, and a cluster fetches weights of those only"),
        ('a: {source: "hf:org/m", engine: triton, task: infer}', "is no language model"),
        ('a: "hf:org/m:own.py"', "is code, and such files are taken from this machine only"),
        ("a: {engine: {custom: {command: [serve]}}}", "its command needs an image"),
        (f'a: {{source: "{LLAMA}", for: {{context: 131072, users: 4000}}, replicas: 2}}', ""),
    ],
)
def test_what_cannot_be_rendered_is_said_with_a_way_out(
    here: Path, models: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    machine = "machine: auto" if "openvino" in models else "machine: {azure: Standard_NC24ads_A100_v4}"
    (here / "headrace.yaml").write_text(f"models: {{{models}}}\n{machine}\n")
    code = render("-o", "k8s")
    assert said in capsys.readouterr().err
    assert (code == 0) is (said == "")
    assert (here / "k8s").exists() is (said == "")


@pytest.mark.parametrize(
    "url",
    [
        "https://acct.blob.core.windows.net/models/m.gguf?sv=2024&sig=SECRET",
        "https://user:SECRET@there.example.com/m.gguf",
        "https://SECRET@there.example.com/m.gguf",
        "https://there.example.com/m.gguf?token=SECRET#sha256=" + 64 * "0",
        "https://there.example.com/m.onnx?token=SECRET",  # refused as such, too
    ],
)
def test_a_url_with_a_secret_gets_into_no_manifest_and_no_message(
    here: Path, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "headrace.yaml").write_text(f'models: {{a: {{source: "{url}"}}}}\n')
    assert render("-o", "k8s") == 64
    said = "".join(capsys.readouterr())
    assert f"models.a.source: the URL {url.replace('SECRET@', '').replace('user:', '').split('?')[0]} is written" in said
    assert "kubernetes.storage.images" in said
    assert "SECRET" not in said
    assert not (here / "k8s").exists()


def test_what_is_in_an_image_is_fetched_by_nobody(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url, images = "https://there.example.com/m.onnx?token=SECRET", "{a: 'registry.example.com/m:1'}"
    (here / "headrace.yaml").write_text(f'models: {{a: "{url}"}}\nkubernetes: {{storage: {{images: {images}}}}}\n')
    render("-o", "k8s")
    said = "".join(capsys.readouterr())
    assert "https://there.example.com/m.onnx is no language model" in said
    assert "SECRET" not in said


@pytest.mark.parametrize(("replicas", "code"), [(1, 0), (2, 64)])
def test_no_model_is_called_as_a_replica_over_several_machines(
    here: Path, replicas: int, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """LeaderWorkerSet makes a Service of that name, or none where there is one."""
    big = f'{{source: "{LLAMA}", engine: vllm, replicas: {replicas}}}'
    (here / "headrace.yaml").write_text(
        f"models: {{big: {big}, big-1: 'file:./own.py'}}\nmachine: {{azure: Standard_NC24ads_A100_v4}}\n"
        "kubernetes: {split: {big: 2}}\n"
    )
    assert render("-o", "k8s") == code
    assert ("big-1 is where a replica of big meets" in capsys.readouterr().err) is (code == 64)


def test_pulled_weights_get_a_link_once_they_are_complete(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What engines in a cluster wait for; the folder may be mounted elsewhere, so the link is relative."""
    from headrace.planning import link_weights
    from headrace.terminal import Terminal

    (here / "weights" / "models").mkdir(parents=True)
    link_weights(here / "weights" / "ready", str(here / "weights" / "models"), Terminal())
    link_weights(here / "weights" / "ready", str(here / "weights" / "models"), Terminal())  # again: a Job that is repeated
    (here / "weights").rename(here / "elsewhere")
    assert (here / "elsewhere" / "ready").resolve() == here / "elsewhere" / "models"
