"""The Ray cluster of a run: found, or started on this machine and ended with the run."""

from __future__ import annotations

import importlib.util
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.llm.checkpoints import first_line
from syn_pipelines.utils.options import EngineOptions

log = logging.getLogger(__name__)

PACKAGE = Path(__file__).resolve().parents[2]
STORE_BYTES = 128 * 2**20  # only numbers of blocks go through the object store
CONNECT_S = 10.0


@dataclass(frozen=True)
class Node:
    """What a node has in all."""

    cpus: float
    gpus: float

    def room(self, cpus: float, gpus: float) -> int:
        """How many workers of this size fit."""
        fit = [int(has / needs + 1e-9) for has, needs in ((self.cpus, cpus), (self.gpus, gpus)) if needs > 0]
        return min(fit, default=10**6)


@dataclass(frozen=True)
class Cluster:
    """A cluster that this process is connected to. own: started by it."""

    address: str
    own: bool

    def nodes(self) -> list[Node]:
        """Those that are alive."""
        import ray

        return [Node(found.get("CPU", 0.0), found.get("GPU", 0.0))
                for found in (node.get("Resources", {}) for node in ray.nodes() if node["Alive"])]

    def __str__(self) -> str:
        nodes = self.nodes()
        where = "started here" if self.own else f"at {self.address}"
        return (f"Ray cluster {where}: {len(nodes)} node{'s' if len(nodes) != 1 else ''}, {sum(n.cpus for n in nodes):g} CPUs, "
                f"{sum(n.gpus for n in nodes):g} GPUs")


def require_ray() -> None:
    """UserError where Ray is not installed."""
    missing = [name for name in ("ray", "pyarrow") if not importlib.util.find_spec(name)]
    if missing:
        raise UserError(f"--engine=ray needs the package {missing[0]}, which is not installed here. Install it: pip install "
                        "'syn_pipelines[ray]' (or: pip install 'ray[data]'), or use --engine=local.")


_kept = 0


@contextmanager
def kept_cluster() -> Iterator[None]:
    """Within this, all work shares one connection, and one cluster where none is there. Nothing is started by this itself."""
    global _kept
    _kept += 1
    try:
        yield
    finally:
        _kept -= 1
        if not _kept:
            _leave()


_connected: Cluster | None = None


@contextmanager
def connected(opts: EngineOptions) -> Iterator[Cluster]:
    """The cluster that --ray_address names. A connection that the program has made by itself is used and left alone.

    Raises:
        UserError: it cannot be reached, or does not take this Python or this Ray.
    """
    global _connected
    require_ray()
    import ray

    if ray.is_initialized() and _connected is None:
        yield Cluster("the one that this program is connected to", own=False)
        return
    if _connected is None:
        _connected = _connect(opts.ray_address)
    try:
        yield _connected
    finally:
        if not _kept:
            _leave()


def _leave() -> None:
    """End the connection, and the cluster if it is ours."""
    global _connected
    if _connected is not None:
        import ray

        _connected = None
        ray.shutdown()


def refuse_hopeless(address: str) -> None:
    """UserError for what can be known to fail without a connection: a wrong working directory, nobody at the address."""
    near = Path.cwd() / PACKAGE.name
    if near.is_dir() and not near.samefile(PACKAGE):
        raise UserError(f"--engine=ray: the working directory holds another copy of this program ({near}), which the workers would "
                        "take. Start it from another directory.")
    if (named := _named(address)) not in ("", "auto", "local"):
        _refuse_unreachable(named, address)


def _named(address: str) -> str:
    return os.environ.get("RAY_ADDRESS", "") if address == "auto" else address


def _connect(address: str) -> Cluster:
    refuse_hopeless(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address != "local":
        named = _named(address)
        try:
            if named != "local":
                return Cluster(_init(named or "auto", ship=True), own=False)
        except ConnectionError as exc:
            if named not in ("", "auto"):
                raise UserError(f"{_source(named, address)}: something listens there, but no Ray cluster takes this program "
                                f"({first_line(exc)}). Correct the address, or set the RAY_AUTH_MODE and the token of the cluster "
                                "here, too.") from exc
    return Cluster(_init("local", ship=False), own=True)  # on this machine workers find the code, and start in half the time


def _source(named: str, address: str) -> str:
    return f"RAY_ADDRESS={named}" if address == "auto" else f"--ray_address={named}"


def _refuse_unreachable(named: str, address: str) -> None:
    """UserError where nobody listens: Ray itself would try for minutes."""
    host, _, port = named.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host, int(port)), CONNECT_S).close()
    except (OSError, ValueError, OverflowError) as exc:
        raise UserError(f"{_source(named, address)}: no Ray cluster can be reached there ({first_line(exc)}). Start it, correct "
                        "the address, or use --ray_address=local.") from exc


def _init(address: str, *, ship: bool) -> str:
    """Connect, or start a cluster; its address. Our signal handlers stay. ship: send this code to the workers."""
    import ray
    import ray._private.worker as internals

    # Ray prints deaths of workers, a paragraph each, on standard output, which is for results; log_to_driver does not stop it.
    if hasattr(internals, "print_to_stdstream"):
        internals.print_to_stdstream = lambda data, *_, **__: log.debug("Ray: %s", " ".join(data.get("lines", ())))
    settings: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address == "local":
        settings |= {"include_dashboard": False, "object_store_memory": STORE_BYTES}
    if ship:
        settings["runtime_env"] = {"py_modules": [str(PACKAGE)]}
    main = threading.current_thread() is threading.main_thread()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)} if main else {}
    try:
        ray.init(address=address, **settings)
    except ConnectionError:
        raise
    except Exception as exc:  # Ray raises that class itself, too
        what = "does not fit this program" if "ersion mismatch" in str(exc) else (
            "cannot be started" if address == "local" else "cannot be used")
        advice = ("Run the same command again once the machine has less to do, or use --engine=local." if address == "local" else
                  "Use the same Python and the same Ray on all machines, or --ray_address=local.")
        raise UserError(f"the Ray cluster ({address}) {what}: {' '.join(str(exc).split())[:500].rstrip('.')}. {advice}") from exc
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return ray.get_runtime_context().gcs_address
