"""A small real server in place of vLLM: answers /health, and has a worker as vLLM has its engine core."""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import yaml


class Health(BaseHTTPRequestHandler):
    late_s = 0.0
    asked = 0

    def do_GET(self) -> None:
        Health.asked += 1
        print(f"asked {Health.asked}", flush=True)
        moody = self.late_s > 0 and Health.asked > 1
        if moody and Health.asked % 2:
            time.sleep(self.late_s)
        self.send_response(503 if moody else 200)
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int)
    parser.add_argument(
        "--config", type=Path, help="YAML file that has the port, as our services are started"
    )
    parser.add_argument("--worker", action="store_true", help="start a stubborn worker process")
    parser.add_argument("--fail", default="", help="raise this at start")
    parser.add_argument("--stubborn", action="store_true", help="ignore SIGTERM")
    parser.add_argument("--mute", action="store_true", help="never listen")
    parser.add_argument("--mute-if", type=Path, help="never listen if there is such a file")
    parser.add_argument("--late", type=float, default=0.0, help="of every other answer after the first")
    options, _ = parser.parse_known_args()
    port = options.port or yaml.safe_load(options.config.read_text())["port"]
    if options.stubborn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if options.worker:
        ignore = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
        subprocess.Popen([sys.executable, "-S", "-c", ignore])
    if options.fail:
        raise ValueError(options.fail)
    Health.late_s = options.late
    mute = options.mute or (options.mute_if and options.mute_if.exists())
    print(f"listening on {port}", flush=True)
    if mute:
        time.sleep(600)
    ThreadingHTTPServer(("127.0.0.1", port), Health).serve_forever()


if __name__ == "__main__":
    main()
