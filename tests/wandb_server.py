"""W&B without an account: a session of the test's own, what an offline run holds, and as much of a server as runs need.

The server keeps what is sent and says it again to a run that resumes, as W&B does.
"""

from __future__ import annotations

import json
import re
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest

from harness.tracking import wandb as wandb_tracking

KEY = "f4k3" * 10
SECRET = "hunter2-of-the-environment"
BLOCK = 32768


@contextmanager
def own_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give a test a W&B session of its own: no login, no settings, nothing in the home folder."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "WANDB_SERVICE", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    for name in ("DATA", "CACHE", "CONFIG"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / "home" / name.lower()))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HARNESS_TEST_SECRET", SECRET)
    monkeypatch.setattr(wandb_tracking._network, "retry_at", 0.0)
    yield
    wandb_tracking.wandb_library().teardown()


def chunks(data: bytes) -> Iterator[bytes]:
    """Split a ``.wandb`` file into records: LevelDB's log format (7-byte headers, blocks of 32 KiB)."""
    at, record = 7, b""  # the file's own header is 7 bytes long and part of the first block
    while at + 7 <= len(data):
        if BLOCK - at % BLOCK < 7:
            at += BLOCK - at % BLOCK
        _, length, kind = struct.unpack_from("<IHB", data, at)
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            yield record
            record = b""


def read(folder: Path) -> SimpleNamespace:
    """Read back what ``wandb sync`` would upload of the single run in `folder`."""
    # The service closes a finished run's file a moment later, at the latest here.
    wandb_tracking.wandb_library().teardown()
    (file,) = folder.glob("wandb/*run-*/*.wandb")
    return read_file(file)


def read_file(file: Path) -> SimpleNamespace:
    """Read back a closed ``.wandb`` file."""
    from wandb.proto import wandb_internal_pb2

    found = SimpleNamespace(history=[], summary={}, artifacts=[], exit_code=None, run=None, kinds=set())
    for chunk in chunks(file.read_bytes()):
        record = wandb_internal_pb2.Record.FromString(chunk)
        kind = record.WhichOneof("record_type")
        found.kinds.add(kind)
        if kind == "run":
            found.run = record.run
        elif kind == "history":
            found.history.append(values(record.history.item))
        elif kind == "summary":
            found.summary |= values(record.summary.update)
        elif kind == "artifact":
            found.artifacts.append(record.artifact)
        elif kind == "exit":
            found.exit_code = record.exit.exit_code
    return found


def values(items: Any) -> dict[str, Any]:
    """Return protobuf items as a flat dict."""
    return {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}


class Server(ThreadingHTTPServer):
    """As much of a W&B server as a run needs: it keeps what is uploaded and the history it is sent."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.files: dict[str, bytes] = {}
        self.stream: dict[str, list[Any]] = {}
        self.runs: list[dict[str, Any]] = []
        self.exit_codes: list[int] = []
        self.configs: dict[str, dict[str, Any]] = {}

    def answer(self, name: str, variables: dict[str, Any]) -> dict[str, Any]:
        """Return the fields of W&B's reply to the GraphQL operation `name`."""
        place = {"id": "1", "name": "p", "entity": {"id": "1", "name": "me"}}
        if name == "UpsertBucket":
            self.runs.append(variables)
            if variables["config"] is not None:
                self.configs[variables["name"]] = json.loads(variables["config"])
            bucket = {
                "id": "1",
                "name": variables["name"],
                "displayName": "d",
                "config": "{}",
                "project": place,
            }
            return {"upsertBucket": {"bucket": bucket, "inserted": True}}
        if name == "CreateRunFiles":
            files = [self.slot(file) for file in variables["files"]]
            return {"createRunFiles": {"runID": "1", "uploadHeaders": [], "files": files}}
        if name == "CreateArtifactFiles":
            edges = [{"node": self.slot(file["name"])} for file in variables["input"]["artifactFiles"]]
            return {"createArtifactFiles": {"files": {"edges": edges}}}
        if name in ("CreateArtifactManifest", "UpdateArtifactManifest"):
            manifest = {"artifactManifest": {"id": "1", "file": self.slot("manifest")}}
            return {name[0].lower() + name[1:]: manifest}
        artifact = {"id": "1", "digest": "d", "state": "PENDING", "artifactSequence": {"id": "1"}}
        others: dict[str, dict[str, Any]] = {
            "RunResumeStatus": {"model": {**place, "bucket": self.bucket(str(variables.get("name")))}},
            "ServerFeaturesQuery": {"serverInfo": {"features": []}},
            "Viewer": {"viewer": {"id": "1", "entity": "me", "username": "me", "flags": "{}"}},
            "ArtifactType": {"project": {"artifact": None}},
            "CreateArtifact": {"createArtifact": {"artifact": artifact}},
            "CommitArtifact": {"commitArtifact": {"artifact": artifact}},
        }
        return others.get(name, {})

    def bucket(self, name: str) -> dict[str, Any] | None:
        """Return what a run that resumes is told of itself; None where there is none yet."""
        if name not in self.configs:
            return None
        lines = self.stream.get("wandb-history.jsonl", [])
        counts = {"historyLineCount": len(lines), "logLineCount": 0, "eventsLineCount": 0}
        summary = (self.stream.get("wandb-summary.json") or [{}])[-1]
        return {
            "id": "1",
            "name": name,
            "displayName": "d",
            "summaryMetrics": json.dumps(summary),
            "historyTail": json.dumps([json.dumps(line) for line in lines[-1:]]),
            "eventsTail": "[]",
            "config": json.dumps(self.configs[name]),
            "tags": [],
            "notes": None,
            "wandbConfig": json.dumps({"t": 1}),  # what tells W&B that the run has begun
            **counts,
        }

    def slot(self, name: str) -> dict[str, Any]:
        """Offer a place to upload the file `name` to."""
        upload = {"uploadUrl": f"{self.url}/upload/{name}", "uploadHeaders": []}
        return {"id": "1", "name": name, "displayName": name, "artifact": {"id": "1"}, **upload}

    def handle_error(self, *args: Any) -> None:
        """Print nothing where W&B closes a connection early."""


class Answers(BaseHTTPRequestHandler):
    """One connection to the :class:`Server`."""

    protocol_version = "HTTP/1.1"
    server: Server

    def body(self) -> bytes:
        """Return what was sent."""
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def reply(self, content: dict[str, Any]) -> None:
        """Send `content` as JSON."""
        data = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_POST(self) -> None:
        """Answer a GraphQL operation, or keep a piece of history."""
        sent = json.loads(self.body())
        if self.path == "/graphql":
            (name,) = re.findall(r"(?:query|mutation)\s+(\w+)", sent["query"])
            return self.reply({"data": self.server.answer(name, sent.get("variables") or {})})
        for file, piece in sent.get("files", {}).items():
            self.server.stream.setdefault(file, [])[piece["offset"] :] = map(json.loads, piece["content"])
        if sent.get("complete"):
            self.server.exit_codes.append(sent["exitcode"])
        return self.reply({})

    def do_PUT(self) -> None:
        """Keep an uploaded file."""
        self.server.files[self.path.removeprefix("/upload/")] = self.body()
        self.reply({})

    def log_request(self, *args: Any) -> None:
        """Print nothing."""


Made = TypeVar("Made", bound=Server)


@contextmanager
def serve(monkeypatch: pytest.MonkeyPatch, server: Made) -> Iterator[Made]:
    """Serve W&B on this machine, and be logged in to it."""
    with server as serving:
        thread = threading.Thread(target=serving.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        monkeypatch.setenv("WANDB_BASE_URL", serving.url)
        yield serving
        wandb_tracking.wandb_library().teardown()
        serving.shutdown()
        thread.join()
