"""The gateways' pods, asked one by one through the API server: what they were told of a model, and what both sides answered."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from headrace.targets.kubernetes.client import Api
from headrace.targets.kubernetes.order import INSTANCE
from headrace.targets.kubernetes.refusals import ClusterError, DeniedError
from headrace.targets.kubernetes.sides import GATEWAY
from headrace.targets.kubernetes.snapshot import Object, Snapshot, alive, is_ready, name
from headrace.traffic import Finished

_PORT = 8000


@dataclass(frozen=True, slots=True)
class Told:
    """What one gateway said. `trial` is the Service on trial, "" for none; pairs are of the old side and of the new."""

    pod: str
    service: str
    trial: str
    share: float
    ready: tuple[int, int]
    running: tuple[int, int]
    compared: tuple[str, str] | None = None
    """(why the new one is no good, what was found)."""


@dataclass(slots=True)
class News:
    """What came since the last question, from all of them."""

    told: list[Told] = field(default_factory=list)
    finished: list[Finished] = field(default_factory=list)
    trial: set[str] = field(default_factory=set)
    """Replicas on trial that answered."""
    lost: int = 0
    """Attempts that the trial failed and the old side answered."""
    silent: str = ""
    """Why a gateway did not answer."""


@dataclass(slots=True)
class _Place:
    """Up to where a gateway was heard. Another id is another process."""

    port: int
    id: str = ""
    after: int = 0
    lost: int = 0


class Gateways:
    """Those of one namespace. `key` is one that may read /admin/, where the gateway asks for keys."""

    def __init__(self, api: Api, namespace: str, model: str, key: str | None) -> None:
        self._api, self._namespace, self._model = api, namespace, model
        self._headers = {"X-Api-Key": key} if key else {}
        self._places: dict[str, _Place] = {}

    def ask(self, snapshot: Snapshot) -> News:
        """Every gateway that is ready."""
        news = News()
        for pod, port in gateway_pods(snapshot).items():
            place = self._places.setdefault(pod, _Place(port))
            try:
                said = self._get(pod, place)
                news.told.append(_told(pod, said))
                _hear(news, place, said)
            except DeniedError as error:
                news.silent = f"{pod} wants a key that may read /admin/ (it answered {error.status})"
            except ClusterError as error:
                news.silent = f"{pod}: {error}"
            except (KeyError, TypeError, ValueError) as error:
                news.silent = f"{pod} does not answer as a gateway that can do this ({error!r}): is its image older?"
        if not news.told and not news.silent:
            news.silent = "no gateway is ready"
        return news

    def compare(self, pod: str, prompts: Sequence[str], tokens: int, slower: float) -> None:
        """Have one of them ask both sides the same. Raises ClusterError."""
        body = {"model": self._model, "prompts": list(prompts), "tokens": tokens, "slower": slower}
        path = self._path(pod, self._places[pod].port)
        self._api.request("POST", path, f"have {pod} compare", body=body, headers=self._headers)

    def _get(self, pod: str, place: _Place) -> dict[str, Any]:
        params = {"model": self._model, "after": place.after, "id": place.id}
        return self._api.request("GET", self._path(pod, place.port), f"ask {pod}", params=params, headers=self._headers)

    def _path(self, pod: str, port: int) -> str:
        """By number: the API server's proxy knows no names of pods' ports."""
        return f"/api/v1/namespaces/{self._namespace}/pods/{pod}:{port}/proxy/admin/trials"


def gateway_pods(snapshot: Snapshot) -> dict[str, int]:
    """The gateways that are ready, and where they listen."""
    return {
        name(pod): _port(pod)
        for pod in snapshot.pods
        if (pod["metadata"].get("labels") or {}).get(INSTANCE) == GATEWAY and is_ready(pod) and alive(pod)
    }


def _port(pod: Object) -> int:
    containers = (pod.get("spec") or {}).get("containers") or ()
    ports = [port for each in containers for port in each.get("ports") or () if port.get("name") == "http"]
    return int(ports[0]["containerPort"]) if ports else _PORT


def _told(pod: str, said: dict[str, Any]) -> Told:
    found = said["compared"]
    compared = (str(found["trouble"]), str(found["remark"])) if found else None
    old, new = said["ready"]
    running = said["running"]
    return Told(pod, said["service"], said["trial"], float(said["share"]), (old, new), (running[0], running[1]), compared)


def _hear(news: News, place: _Place, said: dict[str, Any]) -> None:
    if said["id"] != place.id:
        place.id, place.lost = said["id"], 0
    for replica, status, tokens_in, tokens_out, waited, ttft, seconds, new in said["finished"]:
        news.finished.append(Finished(0.0, "", replica, status, tokens_in, tokens_out, waited, ttft, seconds))
        if new:
            news.trial.add(replica)
    place.after = int(said["next"])
    news.lost += max(0, said["lost"] - place.lost)
    place.lost = max(place.lost, said["lost"])
