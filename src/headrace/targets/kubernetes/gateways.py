"""The gateways' pods, asked one by one through the API server: what they were told of a model, and what both sides answered."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from headrace.targets.kubernetes.client import Api
from headrace.targets.kubernetes.order import INSTANCE
from headrace.targets.kubernetes.refusals import ClusterError, DeniedError
from headrace.targets.kubernetes.sides import GATEWAY
from headrace.targets.kubernetes.snapshot import Object, Snapshot, alive, is_ready, name
from headrace.targets.kubernetes.survey import at_once
from headrace.traffic import Finished

_PORT = 8000


@dataclass(frozen=True, slots=True)
class Told:
    """What one gateway said. `trial` is the Service on trial, "" for none; pairs are of the old side and of the new."""

    pod: str
    id: str
    """Of its process."""
    service: str
    trial: str
    share: float
    ready: tuple[int, int]
    running: tuple[int, int]
    compared: tuple[str, str] | None = None
    """(why the new one is no good, what was found)."""

    def sends(self, called: str) -> bool:
        """Whether new requests go to the pods of a Service."""
        return self.share > 0 if called == self.trial else called == self.service and self.share < 1

    def runs(self, called: str) -> int:
        """Requests at the pods of a Service. Of one that the gateway was told of no more it says nothing."""
        return self.running[1] if called == self.trial else self.running[0] if called == self.service else 0


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

    def left(self, called: str) -> bool:
        """Whether every gateway is known to send nothing new to the pods of a Service."""
        return bool(self.told) and not self.silent and not any(one.sends(called) for one in self.told)

    def runs(self, called: str) -> int:
        """Requests at the pods of a Service, through all gateways."""
        return sum(one.runs(called) for one in self.told)


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

    def ask(self, snapshot: Snapshot, *, watch: bool = True) -> News:
        """Every gateway that is ready. Unless they are to `watch`, they send nothing to the trial from then on."""
        news = News()
        places = [(pod, self._places.setdefault(pod, _Place(port))) for pod, port in gateway_pods(snapshot).items()]
        # At once: one that hangs must not have the others take it that nobody watches.
        answers = at_once(lambda each: self._said(*each, watch=watch), places)
        for (pod, place), said in zip(places, answers, strict=True):
            try:
                if isinstance(said, ClusterError):
                    news.silent = _why(pod, said)
                    continue
                news.told.append(_told(pod, said))
                _hear(news, place, said)
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

    def _said(self, pod: str, place: _Place, *, watch: bool) -> dict[str, Any] | ClusterError:
        params = {"model": self._model, "after": place.after, "id": place.id, **({} if watch else {"watch": "no"})}
        try:
            return self._api.request("GET", self._path(pod, place.port), f"ask {pod}", params=params, headers=self._headers)
        except ClusterError as error:
            return error

    def _path(self, pod: str, port: int) -> str:
        """By number: the API server's proxy knows no names of pods' ports."""
        return f"/api/v1/namespaces/{self._namespace}/pods/{pod}:{port}/proxy/admin/trials"


def _why(pod: str, error: ClusterError) -> str:
    if isinstance(error, DeniedError):
        return f"{pod} wants a key that may read /admin/ (it answered {error.status})"
    return f"{pod}: {error}"


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
    pairs = (old, new), (running[0], running[1])
    return Told(pod, said["id"], said["service"], said["trial"], float(said["share"]), *pairs, compared)


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
