"""A little Ollama: a process named «ollama» that tells its version and, in its log, its settings.

``python little_server.py serve``; reads OLLAMA_HOST and what else the tests set.
"""

from __future__ import annotations

import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

SHOWN = {
    "CUDA_VISIBLE_DEVICES": "",
    "LLAMA_ARG_FIT": "",
    "LLAMA_ARG_FIT_TARGET": "",
    "OLLAMA_CONTEXT_LENGTH": "0",
    "OLLAMA_FLASH_ATTENTION": "false",
    "OLLAMA_KEEP_ALIVE": "5m0s",
    "OLLAMA_KV_CACHE_TYPE": "",
    "OLLAMA_NUM_PARALLEL": "1",
}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = os.environ.get("LITTLE_ANSWER") or json.dumps({"version": os.environ["LITTLE_VERSION"]})
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *args: object) -> None:
        print(f'[GIN] 2026/11/22 - 11:19:08 | 200 | 1µs | 127.0.0.1 | GET "{self.path}"', flush=True)


def main() -> None:
    Path("/proc/self/comm").write_text(os.environ.get("LITTLE_NAME", "ollama"))
    env = {**SHOWN, **{name: value for name, value in os.environ.items() if name in SHOWN}}
    told = " ".join(f"{name}:{value}" for name, value in sorted(env.items()))
    print(f'time=2026-11-22T11:19:07.830Z level=INFO msg="server config" env="map[{told}]"', file=sys.stderr)
    if os.environ.get("OLLAMA_KV_CACHE_TYPE") == "nonsense":
        sys.exit("Error: this cache type is nonsense")
    while os.environ.get("OLLAMA_KV_CACHE_TYPE") == "hangs":
        time.sleep(1)
    host, _, port = os.environ["OLLAMA_HOST"].rpartition(":")
    server = HTTPServer((host, int(port)), Handler)
    print(
        f'level=INFO msg="Listening on {host}:{port} (version {os.environ["LITTLE_VERSION"]})"',
        file=sys.stderr,
    )
    print(os.environ.get("LITTLE_SAYS", ""), file=sys.stderr, flush=True)
    server.serve_forever(0.02)


if __name__ == "__main__":
    main()
