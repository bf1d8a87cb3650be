"""The gateway as its pod runs it, with the pod's own account: `gateway_pod.py FILE ACCOUNT API-HOST API-PORT LISTEN`."""

import sys
from pathlib import Path

from headrace import cluster_gateway
from headrace.cli import main
from headrace.targets.pods.api import Api

file, account, host, port, listen = sys.argv[1:]
cluster_gateway.from_environment = lambda url: Api(host, int(port), Path(account))  # Kubernetes mounts it at a fixed place
sys.exit(main(["gateway", file, "--listen", listen, "--insecure"]))
