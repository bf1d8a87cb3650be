"""How long `headrace check` takes over many files: 1,000 manifests that refer to each other, and files made to be hard to read.

    python benchmarks/check.py [--files 1000] [--json]

Every file is a Deployment with its Service and what scales it; one in ten has a mistake of the common snippets. The hard ones are
an alias bomb, deep nesting, 100 MB, binary, a template, one document that is broken among many, and 1,000 copies in one file.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from headrace.lint.texts import examples

MANIFEST = """apiVersion: apps/v1
kind: Deployment
metadata: {{name: chat-{n}, namespace: team-{team}, labels: {{app: chat-{n}}}}}
spec:
  strategy: {{rollingUpdate: {{maxSurge: 0, maxUnavailable: 1}}}}
  selector: {{matchLabels: {{app: chat-{n}}}}}
  template:
    metadata:
      labels: {{app: chat-{n}}}
    spec:
      terminationGracePeriodSeconds: 90
      containers:
      - name: engine
        image: vllm/vllm-openai:v0.20.0
        args:
        - Qwen/Qwen3-8B
        - --revision
        - b968826d9c46dd6066d109eabc6255188de91218
        - --max-model-len
        - "8192"
        - --shutdown-timeout
        - "60"
        env:
        - {{name: HF_HOME, value: /models}}
        - name: HF_TOKEN
          valueFrom: {{secretKeyRef: {{name: hf-token-{n}, key: HF_TOKEN}}}}
        ports:
        - {{name: http, containerPort: 8000, protocol: TCP}}
        startupProbe: {{httpGet: {{path: /health, port: http}}, periodSeconds: 10, failureThreshold: 180}}
        readinessProbe: {{httpGet: {{path: /health, port: http}}, periodSeconds: 5}}
        lifecycle: {{preStop: {{sleep: {{seconds: 10}}}}}}
        resources:
          limits: {{nvidia.com/gpu: "1"}}
          requests: {{cpu: "4", memory: 16Gi}}
        volumeMounts:
        - {{name: models, mountPath: /models}}
      volumes:
      - name: models
        persistentVolumeClaim: {{claimName: models-{n}}}
---
apiVersion: v1
kind: Secret
metadata: {{name: hf-token-{n}, namespace: team-{team}}}
stringData: {{HF_TOKEN: ""}}
---
apiVersion: v1
kind: Service
metadata: {{name: chat-{n}, namespace: team-{team}, labels: {{app: chat-{n}}}}}
spec:
  selector: {{app: chat-{n}}}
  ports:
  - {{name: http, port: 8000, protocol: TCP}}
---
apiVersion: monitoring.coreos.com/v1
kind: PodMonitor
metadata: {{name: chat-{n}, namespace: team-{team}}}
spec:
  selector: {{matchLabels: {{app: chat-{n}}}}}
  podMetricsEndpoints:
  - {{port: http, interval: 15s}}
---
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata: {{name: chat-{n}, namespace: team-{team}}}
spec:
  scaleTargetRef: {{name: chat-{n}}}
  minReplicaCount: 1
  maxReplicaCount: 8
  triggers:
  - type: prometheus
    metadata:
      serverAddress: http://prometheus.monitoring.svc:9090
      query: {query}
      threshold: "10"
"""
QUERIES = (
    'sum(vllm:num_requests_waiting{model_name="chat"}) + sum(vllm:num_requests_running{model_name="chat"})',
    "sum(vllm_num_requests_waiting)",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = [many(Path(folder, "many"), options.files), *hard(Path(folder, "hard"))]
    if options.json:
        print(json.dumps(results, indent=2))
        return
    for each in results:
        print(f"{each['what']}: {each['seconds']:.2f} s ({each['cpu_seconds']:.2f} s of CPU), {each['said']}")


def many(folder: Path, count: int) -> dict[str, object]:
    folder.mkdir()
    for number in range(count):
        text = MANIFEST.format(n=number, team=number % 20, query=QUERIES[number % 10 == 0])
        (folder / f"chat-{number}.yaml").write_text(text)
    return timed(f"{count} files", folder)


def hard(folder: Path) -> list[dict[str, object]]:
    folder.mkdir()
    bomb = "apiVersion: v1\nkind: ConfigMap\na0: &a0 [x, x]\n"
    bomb += "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))
    good = examples()["HR609"].good
    texts = {
        "an alias bomb": bomb,
        "100,000 brackets": "apiVersion: v1\nkind: ConfigMap\ndata: " + "[" * 100_000,
        "10 MB of one ConfigMap": "apiVersion: v1\nkind: ConfigMap\ndata:\n"
        + "".join(f"  k{i}: value\n" for i in range(600_000)),
        "a template": "apiVersion: v1\nkind: Pod\nmetadata: {name: {{ .Values.name }}}\n",
        "one broken document among 50": "---\n".join([good] * 25 + ["apiVersion: v1\nkind: [\n"] + [good] * 25),
        "5,000 documents": "---\n".join([good] * 1000),
    }
    results = []
    for place, (what, text) in enumerate(texts.items()):
        (folder / f"{place}.yaml").write_text(text[:9_900_000])
        results.append(timed(what, folder / f"{place}.yaml"))
    with (folder / "large.yaml").open("wb") as file:
        file.truncate(100_000_000)
    (folder / "binary.yaml").write_bytes(bytes(range(256)) * 1000)
    return [*results, timed("100 MB", folder / "large.yaml"), timed("binary", folder / "binary.yaml")]


def timed(what: str, path: Path) -> dict[str, object]:
    """One run in a process of its own, start included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begun = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "headrace.cli", "check", str(path)], capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - begun
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    said = (done.stdout or done.stderr).strip().split("\n")[-1]
    return {"what": what, "seconds": round(seconds, 2), "cpu_seconds": round(cpu, 2), "exit": done.returncode, "said": said}


if __name__ == "__main__":
    main()
