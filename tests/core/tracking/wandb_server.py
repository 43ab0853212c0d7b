"""A W&B server on loopback, as much of it as `wandb-core` asks for: it keeps one run's history, and can fail on demand.

The requests and answers were recorded from wandb 0.31.
"""

import gzip
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class WandbServer:
    """Serves until `close`; `status` other than 200 makes it refuse everything."""

    def __init__(self, status: int = 200) -> None:
        self.status = status
        self.requests = 0
        self.history: dict[int, dict[str, Any]] = {}  # line number -> row
        self.config: dict[str, Any] = {}
        self.text = ""  # everything that was ever sent
        self._run = ""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, path: str, body: bytes) -> dict[str, Any]:
        text = body.decode(errors="replace")
        self.text += text
        if "file_stream" in path:
            chunk = json.loads(text).get("files", {}).get("wandb-history.jsonl", {"offset": 0, "content": []})
            for number, line in enumerate(chunk["content"], start=chunk["offset"]):
                self.history[number] = json.loads(line)
            return {"exitcode": None, "limits": {}}
        if path != "/graphql":
            return {}
        request = json.loads(text)
        variables = request.get("variables") or {}
        if "upsertBucket" in request["query"]:
            self._run = variables.get("name") or self._run
            self.config = json.loads(variables["config"]) if variables.get("config") else self.config
            return {"data": {"upsertBucket": {"bucket": self._bucket(), "inserted": not self.history}}}
        if "createRunFiles" in request["query"]:
            return {"data": {"createRunFiles": {"runID": "UnVu", "uploadHeaders": [], "files": []}}}
        if "RunResumeStatus" in request["query"]:
            bucket = self._bucket() if self._run == variables["name"] else None
            return {"data": {"model": {"id": "TW9kZWw=", "name": "hexareme", "entity": {"id": "RQ==", "name": "me"}, "bucket": bucket}}}
        return {"data": {}}

    def _bucket(self) -> dict[str, Any]:
        rows = [self.history[number] for number in sorted(self.history)]
        summary = {key: value for row in rows for key, value in row.items()}
        return {"id": "UnVu", "name": self._run, "displayName": "x", "description": "", "config": "{}", "sweepName": None, "tags": [],
                "notes": None, "summaryMetrics": json.dumps(summary), "logLineCount": 0, "historyLineCount": len(rows),
                "eventsLineCount": 0, "historyTail": json.dumps([json.dumps(row) for row in rows[-1:]]), "eventsTail": "[]",
                "wandbConfig": json.dumps({"t": 1}),
                "project": {"id": "UA==", "name": "hexareme", "entity": {"id": "RQ==", "name": "me"}}}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                outer.requests += 1
                answer = json.dumps(outer.answer(self.path, body) if outer.status == 200 else {}).encode()
                self.send_response(outer.status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            do_GET = do_PUT = do_POST

            def log_message(self, format: str, *arguments: Any) -> None:
                """Quiet."""

        return Handler
