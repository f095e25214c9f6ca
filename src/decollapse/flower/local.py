"""A federation on this machine, for trying out: a SuperLink and SuperNodes over TLS, each node with a key of its own.

Everything, Flower's own home included, is in one folder, which is removed with the processes.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from decollapse.flower.keys import write_certificates, write_node_key
from decollapse.flower.processes import kill, with_environment

NAME = "loopback"
"""What `flwr run` calls the connection."""
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""Nothing is sent, looked up or installed."""
STARTED_AS = "DECOLLAPSE_STARTED_AS"
"""In the environment of every process, so that those are found that Flower lost."""
ENDINGS = (signal.SIGINT, signal.SIGTERM)
UP_WITHIN, DOWN_WITHIN = 180.0, 10.0
"""Seconds."""


class LocalFederationError(RuntimeError):
    """A process of the local federation did not start, or died."""


@dataclass(eq=False)
class LocalFederation:
    """A SuperLink and `num_nodes` SuperNodes on the loopback interface.

    Attributes:
        folder: of certificates, keys, logs, and Flower's state.
        num_nodes: partitions.
        port: of the SuperLink, on 127.0.0.1.
        work: the folder that relative paths of an app, such as its run folder, are below.
    """

    folder: Path
    num_nodes: int
    work: Path
    port: int = 0
    superlink: subprocess.Popen[bytes] | None = None
    nodes: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """Of every process, and of commands about this federation."""
        beside = str(Path(sys.executable).parent)
        path = os.pathsep.join([beside, os.environ.get("PATH", os.defpath)])  # Flower starts its parts by name
        return os.environ | QUIET | {"FLWR_HOME": str(self.folder / "home"), "PATH": path}

    def write_keys(self) -> None:
        """Make the certificates, a key for each node, and the file in which `flwr` finds the federation."""
        write_certificates(self.folder)
        for node in range(self.num_nodes):
            write_node_key(self.key(node))
        home = self.folder / "home"
        home.mkdir()
        self.port = free_port()
        (home / "config.toml").write_text(
            f'[superlink]\ndefault = "{NAME}"\n\n[superlink.{NAME}]\naddress = "127.0.0.1:{self.port}"\n'
            f'root-certificates = "{self.folder / "ca.crt"}"\n'
        )

    def key(self, node: int) -> Path:
        """The private key of a node."""
        return self.folder / f"node-{node}"

    def start_superlink(self) -> None:
        """Start the SuperLink and wait until it answers.

        Raises:
            LocalFederationError: it does not; with the end of its log.
        """
        certificates = {"--ssl-ca-certfile": "ca.crt", "--ssl-certfile": "server.crt", "--ssl-keyfile": "server.key"}
        files = [text for option, name in certificates.items() for text in (option, str(self.folder / name))]
        self.superlink = self._start(
            "superlink",
            *("flower-superlink", "--host", "127.0.0.1", "--port", str(self.port), *files),
            *("--enable-supernode-auth", "--database", str(self.folder / "state.db")),
            *("--isolation", "subprocess", "--disable-runtime-dependency-installation"),
        )
        deadline = time.monotonic() + UP_WITHIN
        while not self._answers():
            if self.superlink.poll() is not None or time.monotonic() > deadline:
                raise LocalFederationError(f"the SuperLink did not start: {self.log('superlink')[-800:]}")
            time.sleep(0.2)

    def register(self, node: int) -> None:
        """Let the node with this key in.

        Raises:
            LocalFederationError: the SuperLink does not.
        """
        self.command("supernode", "register", str(self.key(node)) + ".pub", NAME)

    def start_node(self, node: int, *, key: Path | None = None, authority: Path | None = None) -> None:
        """Start a SuperNode, with its own key and the federation's authority unless told otherwise."""
        self.nodes[node] = self._start(
            f"node-{node}",
            *("flower-supernode", "--superlink", f"127.0.0.1:{self.port}", "--isolation", "subprocess"),
            *("--root-certificates", str(authority or self.folder / "ca.crt")),
            *("--auth-supernode-private-key", str(key or self.key(node))),
            *("--node-config", f"partition-id={node} num-partitions={self.num_nodes}"),
            *("--host", "127.0.0.1", "--port", str(free_port())),
        )

    def command(self, *arguments: str, timeout: float = 300) -> str:
        """What a `flwr` command prints.

        Raises:
            LocalFederationError: it fails; with what it printed.
        """
        done = subprocess.run(
            [*_program("flwr"), *arguments],
            env=self.environment,
            cwd=self.work,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if done.returncode:
            raise LocalFederationError(f"flwr {' '.join(arguments)}: {(done.stdout + done.stderr).strip()[-800:]}")
        return done.stdout

    def watch(self) -> NoReturn:
        """Look after the SuperLink and every node for as long as they live.

        Raises:
            LocalFederationError: one of them died.
        """
        while True:
            for name, process in self._named().items():
                if process.poll() is not None:
                    raise LocalFederationError(f"{name} died: {self.log(name)[-800:]}")
            time.sleep(0.2)

    def log(self, process: str) -> str:
        """What `superlink` or `node-0` has said."""
        return (self.folder / f"{process}.log").read_text(errors="replace")

    def processes_of(self, name: str) -> list[int]:
        """All processes that `superlink` or `node-0` has started, itself and orphans among them."""
        return with_environment(self._tag(name))

    def stop(self) -> None:
        """End every process and all they started."""
        processes = list(self._named().values())
        for process in processes:
            process.terminate()
        deadline = time.monotonic() + DOWN_WITHIN
        for process in processes:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for log in self.folder.glob("*.log"):  # of all that was ever started, also if that was interrupted
            for pid in self.processes_of(log.stem):
                kill(pid)

    def _tag(self, name: str) -> str:
        return f"{STARTED_AS}={self.folder / name}"

    def _start(self, name: str, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [*_program(program), *arguments],
                env=self.environment | {STARTED_AS: str(self.folder / name)},
                cwd=self.work,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is ours to handle
            )

    def _named(self) -> dict[str, subprocess.Popen[bytes]]:
        """What was started, nodes first: they would look for a SuperLink that has ended."""
        nodes = {f"node-{node}": process for node, process in self.nodes.items()}
        return nodes | ({} if self.superlink is None else {"superlink": self.superlink})

    def _answers(self) -> bool:
        context = ssl.create_default_context(cafile=str(self.folder / "ca.crt"))
        try:
            with urllib.request.urlopen(f"https://127.0.0.1:{self.port}/health", timeout=2, context=context):
                return True
        except (urllib.error.URLError, OSError):
            return False


@contextmanager
def local_federation(num_nodes: int, work: Path) -> Iterator[LocalFederation]:
    """A running federation for the length of a `with` block; afterwards no process and no file of it is left."""
    folder = Path(tempfile.mkdtemp(prefix="decollapse-federation-"))
    federation = LocalFederation(folder, num_nodes, work)
    try:
        federation.write_keys()
        federation.start_superlink()
        for node in range(num_nodes):
            federation.register(node)
            federation.start_node(node)
        yield federation
    finally:
        federation.stop()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def until_asked_to_end() -> Iterator[None]:
    """A block that Ctrl-C or a termination ends, at any moment and without an error, undisturbed by a second one."""

    def end(number: int, frame: object) -> None:
        for ending in ENDINGS:
            signal.signal(ending, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {ending: signal.signal(ending, end) for ending in ENDINGS}
    try:
        yield
    except KeyboardInterrupt:
        pass
    finally:
        for ending, handler in before.items():
            signal.signal(ending, handler)


def free_port() -> int:
    """A port of the loopback interface that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _program(name: str) -> list[str]:
    """One of Flower's programs, from this environment."""
    return [str(Path(sys.executable).with_name(name))]
