"""A W&B server of the tests' own on 127.0.0.1: keeps what the client posts and answers what it asks. Holds no test.

Speaks as much of the protocol as wandb 0.31 uses: GraphQL for runs, their resumption and the public API; the file
stream for history, summary and the end of a run; plain uploads for files. What it does not know it refuses by name.
"""

from __future__ import annotations

import gzip
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

KEY = "0123456789abcdef" * 2 + "01234567"
"""A key of the length that the client expects; this server takes any."""

ENTITY = "me"
"""Whom the key belongs to, so where runs without an entity go."""

Tree = dict[str, Any]


@dataclass
class StubRun:
    """What arrived of one run."""

    entity: str
    project: str
    name: str
    display_name: str = ""
    group: str | None = None
    job_type: str | None = None
    tags: list[str] = field(default_factory=list)
    config: Tree = field(default_factory=dict)
    summary: Tree = field(default_factory=dict)
    history: list[Tree] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    exit_code: int | None = None
    sessions: int = 0
    """How often a client began it."""
    preempting: bool = False

    @property
    def state(self) -> str:
        """As the service calls it."""
        if self.exit_code is None:
            return "running"
        return "finished" if self.exit_code == 0 else "preempted" if self.preempting else "failed"

    @property
    def values(self) -> Tree:
        """The config without the client's notes on itself."""
        return {key: item["value"] for key, item in self.config.items() if key != "_wandb"}

    @property
    def steps(self) -> list[int]:
        """The step of each row of the history, in the order of arrival."""
        return [row["_step"] for row in self.history]


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """Say nothing of a client that has gone."""


class WandbStub:
    """The server; a context manager. `url` is for `WANDB_BASE_URL`."""

    def __init__(self, page: int = 50) -> None:
        self.runs: dict[str, StubRun] = {}
        self.artifacts: dict[str, Tree] = {}
        self.asked: list[str] = []
        self.refused: list[str] = []
        self.page = page
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def environment(self) -> dict[str, str]:
        """Variables with which a client talks to this server and to no other."""
        return {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": KEY}

    def __enter__(self) -> WandbStub:
        self._thread.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.die()

    def die(self) -> None:
        """Stop listening: what connects from now on is refused."""
        self._server.shutdown()
        self._server.server_close()

    def of(self, entity: str | None, project: str | None) -> list[StubRun]:
        """Runs of a project, oldest first."""
        return [run for run in self.runs.values() if (run.entity, run.project) == (entity or ENTITY, project)]

    # -- GraphQL: one method for each operation, named as the client names it

    def answer(self, body: Tree) -> Tree:
        """Answer one GraphQL request."""
        found = re.search(r"(?:query|mutation)\s+(\w+)", body.get("query", ""))
        name = body.get("operationName") or (found.group(1) if found else "")
        self.asked.append(name)
        method: Callable[[Tree], Tree] | None = getattr(self, f"do_{name}", None)
        if method is None:
            self.refused.append(name or body.get("query", ""))
            return {"errors": [{"message": f"the stub knows no {name}"}]}
        return {"data": method(body.get("variables") or {})}

    def do_Viewer(self, asked: Tree) -> Tree:  # noqa: N802 - names of the protocol
        user = {"id": "u", "entity": ENTITY, "username": ENTITY, "name": ENTITY, "email": "", "flags": "{}"}
        return {"viewer": user | {"teams": {"edges": []}, "apiKeys": {"edges": []}}}

    def do_GetDefaultEntity(self, asked: Tree) -> Tree:  # noqa: N802
        return {"viewer": {"id": "u", "entity": ENTITY}}

    def do_RunResumeStatus(self, asked: Tree) -> Tree:  # noqa: N802
        run = self.runs.get(asked["name"])
        entity, project = asked["entity"] or ENTITY, asked["project"]
        if run is None or (run.entity, run.project) != (entity, project):
            return {"model": None}
        entity_tree = {"id": "e", "name": entity}
        return {"model": {"id": "p", "name": project, "entity": entity_tree, "bucket": _resume(run)}}

    def do_UpsertBucket(self, asked: Tree) -> Tree:  # noqa: N802
        inserted = asked["name"] not in self.runs
        run = self.runs.setdefault(
            asked["name"], StubRun(asked["entity"] or ENTITY, asked["project"] or "uncategorized", asked["name"])
        )
        if asked.get("displayName"):
            run.sessions, run.exit_code = run.sessions + 1, None
        run.display_name = asked.get("displayName") or run.display_name
        run.group, run.job_type = asked.get("groupName") or run.group, asked.get("jobType") or run.job_type
        run.tags = asked.get("tags") or run.tags
        if asked.get("config"):
            run.config = json.loads(asked["config"])
        if asked.get("summaryMetrics"):
            run.summary = json.loads(asked["summaryMetrics"])
        return {"upsertBucket": {"bucket": _bucket(run), "inserted": inserted}}

    def do_Runs(self, asked: Tree) -> Tree:  # noqa: N802
        projects = {run.project for run in self.runs.values() if run.entity == asked["entity"]}
        if asked["project"] not in projects:
            return {"project": None}
        filters = json.loads(asked["filters"])
        group = filters.pop("group", None)
        assert not filters, f"the stub knows no filter {filters}"
        found = [run for run in self.of(asked["entity"], asked["project"]) if group is None or run.group == group]
        begin, size = int(asked.get("cursor") or 0), min(asked["perPage"], self.page)
        shown = list(enumerate(found))[begin : begin + size]
        edges = [{"node": _node(run), "cursor": str(index + 1)} for index, run in shown]
        more = {"endCursor": edges[-1]["cursor"] if edges else None, "hasNextPage": begin + size < len(found)}
        return {"project": {"internalId": "1", "runCount": len(found), "readOnly": False,
                            "runs": {"edges": edges, "pageInfo": more}}}  # fmt: skip

    def do_RunFullHistory(self, asked: Tree) -> Tree:  # noqa: N802
        run = self.runs[asked["name"]]
        return {"project": {"run": {"history": [json.dumps(row) for row in run.history[: asked["samples"]]]}}}

    def do_CreateRunFiles(self, asked: Tree) -> Tree:  # noqa: N802
        files = [{"name": name, "uploadUrl": f"{self.url}/up/{asked['run']}/{name}"} for name in asked["files"]]
        return {"createRunFiles": {"runID": asked["run"], "uploadHeaders": [], "files": files}}

    def do_ServerFeaturesQuery(self, asked: Tree) -> Tree:  # noqa: N802
        return {"serverInfo": {"features": []}}

    def do_ArtifactType(self, asked: Tree) -> Tree:  # noqa: N802
        return {"project": {"artifact": None}}

    def do_CreateArtifact(self, asked: Tree) -> Tree:  # noqa: N802
        self.artifacts[asked["input"]["artifactCollectionName"]] = asked["input"]
        kept = {"id": "a", "state": "COMMITTED", "artifactSequence": {"id": "s", "latestArtifact": None}}
        return {"createArtifact": {"artifact": kept}}

    # -- what is no GraphQL

    def stream(self, path: str, body: Tree) -> None:
        """Take a piece of a run's file stream."""
        run = self.runs[path.split("/")[4]]
        files = body.get("files") or {}
        for name, content in files.items():
            rows = [json.loads(line) for line in content["content"] if name.endswith((".json", ".jsonl"))]
            if name == "wandb-history.jsonl":
                del run.history[content["offset"] :]
                run.history.extend(rows)
            elif name == "wandb-summary.json":
                run.summary = rows[-1]
        run.preempting |= bool(body.get("preempting"))
        if body.get("complete"):
            run.exit_code = body["exitcode"]

    def upload(self, path: str, data: bytes) -> None:
        """Take a file."""
        _, _, name, file = path.split("/", 3)
        if name in self.runs:
            self.runs[name].files[file] = data


def _bucket(run: StubRun) -> Tree:
    project = {"id": "p", "name": run.project, "entity": {"id": "e", "name": run.entity}}
    return {
        "id": f"id-{run.name}", "name": run.name, "displayName": run.display_name, "description": None,
        "config": json.dumps(run.config), "sweepName": None, "project": project, "historyLineCount": len(run.history),
    }  # fmt: skip


def _resume(run: StubRun) -> Tree:
    return {
        "id": f"id-{run.name}", "name": run.name, "displayName": run.display_name,
        "summaryMetrics": json.dumps(run.summary), "config": json.dumps(run.config), "tags": run.tags, "notes": None,
        "historyLineCount": len(run.history), "eventsLineCount": 0, "logLineCount": 0,
        "historyTail": json.dumps([json.dumps(row) for row in run.history[-1:]]), "eventsTail": "[]",
        "wandbConfig": json.dumps({"t": run.config.get("_wandb", {}).get("value", {}).get("t", {})}),
    }  # fmt: skip


def _node(run: StubRun) -> Tree:
    return {
        "id": f"id-{run.name}", "projectId": "1", "tags": run.tags, "name": run.name, "displayName": run.display_name,
        "sweepName": None, "state": run.state, "config": json.dumps(run.config), "group": run.group,
        "jobType": run.job_type, "commit": None, "readOnly": False, "createdAt": "2026-01-01T00:00:00",
        "heartbeatAt": "2026-01-01T00:00:00", "description": None, "notes": None, "systemMetrics": "{}",
        "summaryMetrics": json.dumps(run.summary), "historyLineCount": len(run.history), "historyKeys": None,
        "user": {"name": ENTITY, "username": ENTITY},
    }  # fmt: skip


def _handler(stub: WandbStub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

        def do_GET(self) -> None:
            self._send({})

        def do_PUT(self) -> None:
            stub.upload(self.path, self._body())
            self._send({})

        def do_POST(self) -> None:
            body = self._body()
            if self.path.startswith("/graphql"):
                self._send(stub.answer(json.loads(body)))
                return
            if self.path.endswith("/file_stream"):
                stub.stream(self.path, json.loads(body))
            self._send({"exitcode": None, "limits": {}})

        def _body(self) -> bytes:
            size = self.headers.get("Content-Length")
            data = self.rfile.read(int(size)) if size else self._chunks()
            return gzip.decompress(data) if self.headers.get("Content-Encoding") == "gzip" else data

        def _chunks(self) -> bytes:
            parts = []
            while "chunked" in self.headers.get("Transfer-Encoding", ""):
                part = self.rfile.read(int(self.rfile.readline(), 16))
                self.rfile.readline()
                if not part:
                    break
                parts.append(part)
            return b"".join(parts)

        def _send(self, tree: Tree) -> None:
            data = json.dumps(tree).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    return Handler
