"""Starts `pfl_rank.py`: once, or, with --processes, once for each process that shares the cohort, as torchrun would."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from side import parser

RANK = str(Path(__file__).with_name("pfl_rank.py"))


def start_all(arguments: list[str], processes: int) -> int:
    """Start every rank, on loopback; return 0, or an exit code that is not."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {
        "TORCHELASTIC_RUN_ID": "benchmark",
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": "lo",
    }
    ranks = [
        subprocess.Popen(
            [sys.executable, RANK, *arguments],
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(processes)
    ]
    return max((rank.wait() for rank in ranks), key=abs)


def main() -> None:
    """Start, wait, and end as they end."""
    options = parser(__doc__)
    options.add_argument("--processes", type=int, default=1, help="that share the cohort")
    args = options.parse_args()
    arguments = [str(args.problem), "--threads", str(args.threads)]
    if args.processes == 1:
        os.execv(sys.executable, [sys.executable, RANK, *arguments])
    sys.exit(start_all(arguments, args.processes))


if __name__ == "__main__":
    main()
