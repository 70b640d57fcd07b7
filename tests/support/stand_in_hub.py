"""Serve the part of the Hugging Face Hub that `snapshot_download` needs, from a directory.

The models' files are at `ROOT/organisation/name/**`. `--gated` models need the token; other tokens
may not read them, and the token `expired` is invalid. Prints its address. The tests and
`make image-check` use it instead of the real Hub.
"""

import argparse
import hashlib
import json
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import unquote, urlsplit

_TREE = re.compile(r"/api/models/(?P<model>[^/]+/[^/]+)/tree/(?P<revision>[^/]+)")
_FILE = re.compile(r"/(?P<model>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")


class Hub(BaseHTTPRequestHandler):
    """Answers like the Hub, error codes included. Every revision exists except `0...0`."""

    root: ClassVar[Path]
    gated: ClassVar[list[str]]
    token: ClassVar[str]
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer one request."""
        path = unquote(urlsplit(self.path).path)
        match = _TREE.fullmatch(path) or _FILE.fullmatch(path)
        asked = match.groupdict() if match else {"model": "", "revision": ""}
        model = self.root / asked["model"]
        given = self.headers.get("Authorization", "")
        if given == "Bearer expired":
            self._refuse(401, message="Invalid credentials in Authorization header")
        elif not asked["model"] or not model.is_dir():
            self._refuse(404 if given else 401, "RepoNotFound")
        elif not asked["revision"].strip("0"):
            self._refuse(404, "RevisionNotFound")
        elif "file" not in asked:
            self._answer(json.dumps(_tree(model)).encode(), "tree", asked["revision"])
        elif asked["model"] in self.gated and given != f"Bearer {self.token}":
            self._refuse(403 if given else 401, "GatedRepo")
        else:
            content = (model / asked["file"]).read_bytes()
            self._answer(content, hashlib.sha256(content).hexdigest(), asked["revision"])

    do_HEAD = do_GET  # noqa: N815 - http.server's name

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
        """Log nothing."""

    def _answer(self, content: bytes, etag: str, revision: str) -> None:
        self.send_response(200)
        self.send_header("ETag", f'"{etag}"')
        self.send_header("X-Repo-Commit", revision)
        self._finish(content)

    def _refuse(self, status: int, code: str = "", message: str = "") -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", message)
        self._finish(b"")

    def _finish(self, content: bytes) -> None:
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)


def _tree(model: Path) -> list[dict[str, object]]:
    files = sorted(path for path in model.rglob("*") if path.is_file())
    return [
        {
            "type": "file",
            "path": path.relative_to(model).as_posix(),
            "size": path.stat().st_size,
            "oid": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for path in files
    ]


def main() -> None:
    """Serve until the process is ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("--gated", action="append", default=[])
    parser.add_argument("--token", default="")
    arguments = parser.parse_args()
    Hub.root, Hub.gated, Hub.token = arguments.root, arguments.gated, arguments.token
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
