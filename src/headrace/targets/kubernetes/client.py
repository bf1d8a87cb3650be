"""One cluster over HTTP, as one user sees it: lightkube finds and opens it, objects go through as they are.

lightkube's typed models drop fields that they do not know (facts/kubernetes.md, section 10), so it is used for kubeconfig,
credentials and TLS, and what is sent and read are plain JSON values.
"""

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from headrace.errors import UsageError
from headrace.targets.kubernetes.order import FIELD_MANAGER
from headrace.targets.kubernetes.refusals import AbsentError, ClusterError, refusal
from headrace.targets.kubernetes.resources import Resource, group_path, served

_CONNECT_SECONDS = 10.0
_READ_SECONDS = 40.0
"""A webhook may take 30 s (admissionregistration.k8s.io, timeoutSeconds)."""

_TRIES = 4
_FIRST_PAUSE_SECONDS = 0.25
_PAGE = 500
_APPLY = "application/apply-patch+yaml"
_METADATA_ONLY = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
_DEFAULT_FILE = "~/.kube/config"
_PATHS = ("certificate_auth", "client_cert", "client_key", "token_file")
"""Fields of lightkube's clusters and users that name files."""


class Api:
    """Requests to one cluster. Safe to use from several threads. `where` names it to people."""

    def __init__(self, http: Any, where: str, *, tries: int = _TRIES) -> None:
        self._http = http
        self._tries = tries
        self._served: dict[str, dict[str, Resource]] = {}
        self.where = where

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def version(self) -> str:
        """As v1.30.2."""
        return str(self.request("GET", "/version", "ask the version").get("gitVersion", "unknown"))

    def resource(self, api_version: str, kind: str) -> Resource | None:
        """Where a kind is; None where the cluster does not have it."""
        if api_version not in self._served:
            try:
                listing = self.request("GET", group_path(api_version), f"see what {api_version} has")
                self._served[api_version] = served(api_version, listing)
            except AbsentError:
                self._served[api_version] = {}
        return self._served[api_version].get(kind)

    def get(self, resource: Resource, namespace: str, name: str, *, metadata_only: bool = False) -> dict[str, Any] | None:
        """One object; None where it is not there."""
        headers = {"Accept": _METADATA_ONLY} if metadata_only else {}
        try:
            return self.request("GET", resource.path(namespace, name), f"get {resource.kind} {name}", headers=headers)
        except AbsentError:
            return None

    def all(self, resource: Resource, namespace: str, labels: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
        """All objects of a kind with the labels, page by page. None are there where the kind or the namespace is not."""
        selector = ",".join(f"{key}={value}" for key, value in (labels or {}).items())
        params: dict[str, Any] = {"limit": _PAGE, **({"labelSelector": selector} if selector else {})}
        found: list[dict[str, Any]] = []
        while True:
            try:
                page = self.request("GET", resource.path(namespace), f"list {resource.named}", params=params)
            except AbsentError:
                return found
            # Items of a list have neither.
            found += [{"apiVersion": resource.api_version, "kind": resource.kind, **each} for each in page.get("items") or ()]
            params["continue"] = (page.get("metadata") or {}).get("continue")
            if not params["continue"]:
                return found

    def apply(
        self,
        resource: Resource,
        manifest: Mapping[str, Any],
        *,
        force: bool = False,
        dry_run: bool = False,
        manager: str = FIELD_MANAGER,
    ) -> tuple[dict[str, Any], bool]:
        """Server-side apply; the object as it is then, or (`dry_run`) as it would be, and whether it is new."""
        about = manifest["metadata"]
        params = {"fieldManager": manager, "force": "true" if force else "false", **({"dryRun": "All"} if dry_run else {})}
        path = resource.path(about.get("namespace", ""), about["name"])
        what = f"apply {manifest['kind']} {about['name']}"
        answer = self._send("PATCH", path, what, params, manifest, {"Content-Type": _APPLY})
        return answer.json(), answer.status_code == 201

    def create(self, path: str, body: Mapping[str, Any], what: str) -> dict[str, Any]:
        """For what is asked by creating it: reviews."""
        return self.request("POST", path, what, body=body)

    def delete(self, resource: Resource, namespace: str, name: str, *, dry_run: bool = False) -> bool:
        """Whether it was there. What it owns goes with it, in the background."""
        params = {"propagationPolicy": "Background", **({"dryRun": "All"} if dry_run else {})}
        try:
            self.request("DELETE", resource.path(namespace, name), f"delete {resource.kind} {name}", params=params)
        except AbsentError:
            return False
        return True

    def logs(self, namespace: str, pod: str, container: str, lines: int, *, previous: bool = False) -> list[str]:
        """The last lines of a container, or of the one before it."""
        params = {"container": container, "tailLines": lines, **({"previous": "true"} if previous else {})}
        path = f"/api/v1/namespaces/{namespace}/pods/{pod}/log"
        text: str = self._send("GET", path, f"read the log of {pod}", params, None, {}).text
        return text.splitlines()

    def request(
        self,
        method: str,
        path: str,
        what: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """The JSON of an answer. `what` says for errors what was asked. Raises ClusterError."""
        answer = self._send(method, path, what, params or {}, body, headers or {})
        try:
            found: dict[str, Any] = answer.json()
        except ValueError:
            raise ClusterError(
                f"{self.where} does not answer as an API server (to {what}).", "Check the server's address."
            ) from None
        return found

    def _send(
        self,
        method: str,
        path: str,
        what: str,
        params: Mapping[str, Any],
        body: Mapping[str, Any] | None,
        headers: Mapping[str, str],
    ) -> Any:
        """Tried again where the server is busy or the connection broke: all that is asked here can be asked twice."""
        said = {key: value for key, value in params.items() if value is not None}
        for left in reversed(range(self._tries)):
            try:
                answer = self._http.request(method, path, params=said, json=body, headers=dict(headers))
            except Exception as error:
                if not left or not _broke(error):
                    raise _unreachable(error, self.where) from None
            else:
                if answer.status_code < 300:
                    return answer
                if not left or answer.status_code not in (429, 503):
                    raise refusal(answer.status_code, _status(answer), what)
            time.sleep(_FIRST_PAUSE_SECONDS * 2 ** (self._tries - 1 - left))
        raise AssertionError("the last try returns or raises")


def connect(kubeconfig: str | None = None, context: str | None = None) -> Api:
    """The cluster of a context, by default of the current one. Raises ClusterError, UsageError. Nothing is sent yet."""
    try:
        import httpx2
        import yaml
        from lightkube.config.client_adapter import Client, ConnectionParams
        from lightkube.config.models import User
        from lightkube.core.exceptions import ConfigError
    except ImportError:
        raise ClusterError("Clusters need lightkube, which is not installed.", "pip install 'headrace[kubernetes]'") from None
    try:
        config = _config(kubeconfig, context)
        if config.user is None:
            config = config._replace(user=User())
        timeout = httpx2.Timeout(_READ_SECONDS, connect=_CONNECT_SECONDS)
        http = Client(config, ConnectionParams(timeout=timeout))
    except ConfigError as error:
        raise ClusterError(
            f"The kubeconfig cannot be used: {error}.", "kubectl config get-contexts shows what there is."
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise ClusterError(
            f"The kubeconfig cannot be used: {type(error).__name__}: {error}.", "kubectl config view shows it."
        ) from None
    return Api(http, f"the cluster of context {config.context_name} ({config.cluster.server})")


def _config(kubeconfig: str | None, context: str | None) -> Any:
    """As kubectl finds it: the file named, those of KUBECONFIG, ~/.kube/config, else the pod's own account."""
    from lightkube.config.kubeconfig import KubeConfig
    from lightkube.core.exceptions import ConfigError

    files = [Path(each).expanduser() for each in _files(kubeconfig)]
    there = [each for each in files if each.is_file()]
    if kubeconfig and not there:
        raise UsageError(f"There is no kubeconfig {kubeconfig}.")
    if there:
        return _chosen(there, context)
    if context:
        raise UsageError(f'There is no context "{context}".', "There are: none.")
    try:
        return KubeConfig.from_service_account().get()
    except (ConfigError, KeyError):
        raise ClusterError(
            f"There is no kubeconfig ({', '.join(map(str, files))}).",
            "Get one for your cluster (az aks get-credentials …), or name it with --kubeconfig.",
        ) from None


def _chosen(files: Sequence[Path], context: str | None) -> Any:
    """A context, else the current one. Files are one as for kubectl: the first to have a name says what it is, the first to
    say a current context chooses, and a context may name the cluster or the user of another file.
    """
    from lightkube.config.kubeconfig import KubeConfig

    configs = [_read(each) for each in files]
    where = ", ".join(map(str, files))
    chosen = context or next((each.current_context for each in configs if each.current_context), None)
    if not chosen:
        said = "says" if len(files) == 1 else "say"
        raise ClusterError(
            f"{where} {said} no current context.", "Name one with --context, or choose it: kubectl config use-context NAME"
        )
    clusters, users, contexts = (
        {name: about for each in reversed(configs) for name, about in getattr(each, part).items()}
        for part in ("clusters", "users", "contexts")
    )
    if chosen not in contexts:
        known = f"There are: {', '.join(sorted(contexts)) or 'none'}."
        if context:
            raise UsageError(f'There is no context "{context}".', known)
        raise ClusterError(f'The current context is "{chosen}", which is not in {where}.', known)
    about = contexts[chosen]
    for what, meant, there in (("cluster", about.cluster, clusters), ("user", about.user, users)):
        if meant and meant not in there:
            raise ClusterError(f'The context "{chosen}" names the {what} "{meant}", which is not in {where}.')
    return KubeConfig(clusters=clusters, users=users, contexts=contexts).get(chosen)


def _read(file: Path) -> Any:
    """One kubeconfig, its paths absolute. Parts may be null: kubectl writes files of nothing but a current context."""
    import yaml
    from lightkube.config.kubeconfig import KubeConfig

    said = yaml.safe_load(file.read_text())
    lists = {part: said.get(part) or [] for part in ("clusters", "users", "contexts")}
    config = KubeConfig.from_dict({**said, **lists})
    folder = file.parent.absolute()
    for each in (*config.clusters.values(), *config.users.values()):
        for field in _PATHS:
            if path := getattr(each, field, None):
                setattr(each, field, str(folder / path))
    return config


def _files(kubeconfig: str | None) -> Iterable[str]:
    if kubeconfig:
        return [kubeconfig]
    named = [each for each in os.environ.get("KUBECONFIG", "").split(os.pathsep) if each]
    return named or [_DEFAULT_FILE]


def _broke(error: Exception) -> bool:
    """Whether it was the connection, and no matter of addresses or certificates."""
    import httpx2

    if isinstance(error, httpx2.ConnectError):  # a handshake that was cut; seen once of a real API server that was busy
        return "[SSL: " in str(error) and "CERTIFICATE" not in str(error)
    return isinstance(error, httpx2.ReadError | httpx2.RemoteProtocolError | httpx2.WriteError)


def _unreachable(error: Exception, where: str) -> ClusterError:
    import httpx2
    from lightkube.core.exceptions import ConfigError

    if isinstance(error, httpx2.TimeoutException):
        limit = _CONNECT_SECONDS if isinstance(error, httpx2.ConnectTimeout) else _READ_SECONDS
        return ClusterError(
            f"{sentence(where)} does not answer within {limit:.0f} s.", "Check the network: VPN, private cluster, firewall."
        )
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return ClusterError(
            f"The certificate of {where} is not to be trusted: {error}.", "Get fresh credentials for the cluster."
        )
    if isinstance(error, httpx2.TransportError):
        return ClusterError(
            f"{sentence(where)} cannot be reached: {error}.", "Does it run? Check the network, or name another --context."
        )
    if isinstance(error, ConfigError | OSError):
        return ClusterError(f"No credentials for {where}: {error}.", "Install or run the login that the kubeconfig names.")
    raise error


def _status(answer: Any) -> dict[str, Any]:
    try:
        body = answer.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def sentence(text: str) -> str:
    """`text` as it begins a sentence."""
    return text[:1].upper() + text[1:]
