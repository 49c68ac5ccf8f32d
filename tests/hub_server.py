"""A stand-in for the Hugging Face hub on this machine: as much of its API as its client needs for models."""

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_of-the-test"


class Hub(ThreadingHTTPServer):
    """Attributes: ``models``: OWNER/NAME -> its files; ``private``: names of private ones; ``seen``: requests."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.models: dict[str, dict[str, bytes]] = {}
        self.private: set[str] = set()
        self.large: dict[str, bytes] = {}
        self.seen: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def serving() -> Iterator[Hub]:
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self, status: int, content: bytes | dict[str, Any] = b"", **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        headers = {"Content-Length": str(len(body))} | {k.replace("_", "-"): v for k, v in headers.items()}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    @property
    def place(self) -> list[str]:
        return [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]

    def allowed(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def do_HEAD(self) -> None:
        self.read()

    def do_GET(self) -> None:
        self.read()

    def read(self) -> None:
        self.server.seen.append(f"{self.command} {urlsplit(self.path).path}")
        match self.place:
            case [""]:
                self.answer(200)
            case ["api", "models", owner, name, "revision", _] | ["api", "models", owner, name]:
                files = self.files(f"{owner}/{name}")
                if files is not None:
                    siblings = [{"rfilename": file} for file in files]
                    self.answer(200, {"id": f"{owner}/{name}", "sha": _revision(files), "siblings": siblings})
            case ["api", "models", owner, name, "tree", _]:
                files = self.files(f"{owner}/{name}")
                if files is not None:
                    tree = [{"type": "file", "path": f, "size": len(c), "oid": _sha(c)[:40]} for f, c in files.items()]
                    self.answer(200, json.dumps(tree).encode())
            case [owner, name, "resolve", _, *file]:
                files = self.files(f"{owner}/{name}")
                if files is None:
                    return
                content = files.get("/".join(file))
                if content is None:
                    self.answer(404, X_Error_Code="EntryNotFound")
                else:
                    self.answer(200, content, ETag=f'"{_sha(content)}"', X_Repo_Commit=_revision(files))
            case _:
                self.answer(404)

    def files(self, repository: str) -> dict[str, bytes] | None:
        files = self.server.models.get(repository)
        if files is None or (repository in self.server.private and not self.allowed()):
            self.answer(401, X_Error_Code="RepoNotFound", X_Error_Message="Repository not found")
            return None
        return files

    def do_PUT(self) -> None:
        content = self.body()
        oid = self.place[-1]
        assert _sha(content) == oid
        self.server.large[oid] = content
        self.answer(200)

    def do_POST(self) -> None:
        self.server.seen.append(f"POST {urlsplit(self.path).path}")
        content = self.body()
        if not self.allowed():
            self.answer(401, {"error": "Invalid username or password."})
            return
        match self.place:
            case ["api", "repos", "create"]:
                asked = json.loads(content)
                repository = f"{asked['organization']}/{asked['name']}"
                there = repository in self.server.models
                self.server.models.setdefault(repository, {})
                if asked.get("private") or asked.get("visibility") == "private":
                    self.server.private.add(repository)
                self.answer(409 if there else 200, {"url": f"{self.server.url}/{repository}"})
            case ["api", "models", _, _, "preupload", _]:
                files = [
                    {
                        "path": file["path"],
                        "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                        "shouldIgnore": False,
                    }
                    for file in json.loads(content)["files"]
                ]
                self.answer(200, {"files": files})
            case [_, _, "info", "lfs", "objects", "batch"]:
                objects = [
                    {**one, "actions": {"upload": {"href": f"{self.server.url}/large/{one['oid']}"}}}
                    for one in json.loads(content)["objects"]
                ]
                self.answer(200, {"transfer": "basic", "objects": objects})
            case ["api", "models", owner, name, "commit", _]:
                files = self.server.models[f"{owner}/{name}"]
                for line in map(json.loads, content.splitlines()):
                    if line["key"] == "file":
                        files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                    elif line["key"] == "lfsFile":
                        files[line["value"]["path"]] = self.server.large[line["value"]["oid"]]
                url = f"{self.server.url}/{owner}/{name}/commit/{_revision(files)}"
                self.answer(200, {"success": True, "commitUrl": url, "commitOid": _revision(files)})
            case ["api", "validate-yaml"]:
                assert "library_name: focaldet" in json.loads(content)["content"]
                self.answer(200, {"errors": [], "warnings": []})
            case _:
                self.answer(404)


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _revision(files: dict[str, bytes]) -> str:
    return _sha(repr(sorted((name, _sha(content)) for name, content in files.items())).encode())[:40]


def environment(hub: Hub | None, home: Path, token: str = TOKEN) -> dict[str, str]:
    """Environment of a process that uses the stand-in or has no network."""
    own = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGINGFACE_"))}
    own |= {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1", "HF_HOME": str(home)}
    url = "http://127.0.0.1:1" if hub is None else hub.url
    # The stand-in has no store for deduplicated chunks.
    return own | {"HF_ENDPOINT": url, "HF_TOKEN": token, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}


def focal(*commands: list[object], **environ: str) -> list[tuple[int, str, str]]:
    """Exit code, output and errors of commands that run one after another in one process, which imports torch once."""
    asked = json.dumps([[str(argument) for argument in command] for command in commands])
    done = subprocess.run(
        [sys.executable, "-c", _RUN, asked], env=environ, capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stderr
    return [tuple(answer) for answer in json.loads(done.stdout)]


_RUN = """
import json, sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from focaldet.cli import main

answers = []
for command in json.loads(sys.argv[1]):
    with redirect_stdout(StringIO()) as said, redirect_stderr(StringIO()) as wrong:
        code = main(command)
    answers.append((code, said.getvalue(), wrong.getvalue()))
print(json.dumps(answers))
"""
