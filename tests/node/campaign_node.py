"""The node of the campaign: `python -m tests.node.campaign_node FOLDER ADOPT EVERY`.

It is the product's supervisor and server on a socket in the folder, with short times.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from wasmsr.node.supervision.node_rules import NodeRules
from wasmsr.node.supervision.node_supervisor import NodeSupervisor
from wasmsr.rpc.control.control_server import ControlServer


def main() -> int:
    """Serve until SIGTERM, which saves all programs."""
    _, folder, adopt, every = sys.argv
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    rules = NodeRules(
        adopt=float(adopt),
        every=float(every) or None,
        note=lambda event, **values: print(event, values, file=sys.stderr, flush=True),
    )
    supervisor = NodeSupervisor(Path(folder) / "state", rules)
    admit = lambda peer, certificate, token: "campaign"  # noqa: E731
    server = ControlServer(supervisor, f"unix:{folder}/control", "0", admit)
    signal.sigwait({signal.SIGTERM})
    server.stop(0)
    supervisor.stop(save=True, seconds=20)
    return 0


if __name__ == "__main__":
    sys.exit(main())
