"""A Hub small enough for tests: on loopback, over HTTP, for the unmodified ``huggingface_hub`` client.

It knows users' tokens, creates repositories, checks cards, takes files (small ones in the commit, large ones by
Git LFS) and serves them. ``refuse`` makes it answer a request with an error, or not at all; ``log`` and ``received``
record the requests and their bodies.
"""

import base64
import hashlib
import io
import json
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import yaml

CUT, LOST = 0, -1  # the connection is closed in the middle of the request, or after it succeeded, without a reply
LFS_FROM = 10_000  # bytes; larger files and weights go by LFS
WRITE, READ, FINE, NARROW = "hf_write_secret", "hf_read_secret", "hf_fine_secret", "hf_narrow_secret"


def fine_grained(repository: str) -> dict:
    scope = {"entity": {"type": "model", "name": repository}, "permissions": ["repo.content.read", "repo.write"]}
    return {"role": "fineGrained", "fineGrained": {"global": [], "scoped": [scope]}}


TOKENS = {
    WRITE: {"role": "write"},
    READ: {"role": "read"},
    FINE: fine_grained("me/model"),
    NARROW: fine_grained("me/other"),
}


@dataclass
class Repository:
    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)  # commit to path to content, oldest first
    refs: dict[str, str] = field(default_factory=dict)  # branch or tag to commit
    tags: set[str] = field(default_factory=set)
    pull_requests: dict[int, str] = field(default_factory=dict)  # number to author; its files are in refs/pr/NUMBER

    def commit(self, branch: str, files: dict[str, bytes]) -> str:
        digest = hashlib.sha1(repr([len(self.commits), sorted(files)]).encode()).hexdigest()
        self.commits[digest] = files
        self.refs[branch] = digest
        return digest

    def files(self, revision: str) -> dict[str, bytes]:
        return self.commits[self.refs.get(revision, revision)]

    def __contains__(self, revision: str) -> bool:
        return self.refs.get(revision, revision) in self.commits


@dataclass
class Refusal:
    """What the server does with requests whose ``METHOD path`` matches: a status, CUT or LOST."""

    pattern: str
    status: int
    times: int
    headers: dict[str, str]
    message: str


def is_lfs(path: str, size: int) -> bool:
    return size > LFS_FROM or path.endswith(".safetensors")


def blob_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class HubServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server_port}"
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}  # LFS
        self.log: list[str] = []  # "METHOD path"
        self.received: list[bytes] = []  # every body
        self.refusals: list[Refusal] = []
        self.errors: list[str] = []  # of the server itself

    def refuse(self, pattern: str, status: int, times: int = 1000, message: str = "refused", **headers: str) -> None:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        self.refusals.append(Refusal(pattern, status, times, names, message))

    def refusal(self, request: str) -> Refusal | None:
        for refusal in self.refusals:
            if refusal.times and re.search(refusal.pattern, request):
                refusal.times -= 1
                return refusal
        return None

    def uploads(self) -> list[str]:
        return [request for request in self.log if request.startswith("PUT ")]

    def handle_error(self, request, client_address):
        if not isinstance(sys.exception(), (ConnectionError, ValueError)):  # a closed connection is not an error
            self.errors.append(repr(sys.exception()))


@contextmanager
def serve() -> Iterator[HubServer]:
    server = HubServer()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def serve_to_client(monkeypatch, cache: Path) -> Iterator[HubServer]:
    """Start a server and give the client its address, a token with write access and an empty cache."""
    with serve() as server:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.endpoint)
        template = server.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
        monkeypatch.setattr("transformers.utils.hub._hf_api", None)  # it caches the address
        monkeypatch.setenv("HF_TOKEN", WRITE)
        yield server
        assert server.errors == []


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # buffered, so that a reply is one packet
    disable_nagle_algorithm = True
    server: HubServer

    def log_message(self, *args):
        pass

    def do_GET(self):
        self.route()

    do_HEAD = do_POST = do_PUT = do_GET

    def route(self) -> None:
        path = urlsplit(self.path).path
        request = f"{self.command} {path}"
        self.server.log.append(request)
        size = int(self.headers.get("Content-Length", 0))
        refusal = self.server.refusal(request)
        if refusal and refusal.status == CUT:
            self.rfile.read(min(size, 100))  # hangs up in the middle of the upload
            self.close_connection = True
            self.connection.close()
            return
        body = self.read_body(size)
        self.server.received.append(body)
        if refusal and refusal.status == LOST:
            self.wfile, self.close_connection = io.BytesIO(), True
        elif refusal:
            self.reply(refusal.status, {"error": refusal.message}, **refusal.headers)
            return
        for method, pattern, handle in ROUTES:
            match = re.fullmatch(pattern, path)
            if method in (self.command, "GET" if self.command == "HEAD" else "") and match:
                handle(self, body, *map(unquote, match.groups()))
                return
        self.reply(404, {"error": f"no such route: {request}"})

    def read_body(self, size: int) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(size)
        parts = []
        while length := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(length))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def reply(self, status: int, value: object = b"", **headers: str) -> None:
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        kind = "application/octet-stream" if isinstance(value, bytes) else "application/json"
        for name, text in ({"Content-Type": kind, "Content-Length": str(len(content))} | headers).items():
            self.send_header(name.replace("_", "-"), text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def token(self) -> dict | None:
        return TOKENS.get(self.headers.get("Authorization", "").removeprefix("Bearer "))

    def repository(self, name: str) -> Repository | None:
        """Return the repository, or None after replying that it does not exist or is private."""
        found = self.server.repositories.get(name)
        if found is None or (found.private and not self.token()):
            self.reply(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
            return None
        return found

    def may_write(self) -> bool:
        token = self.token()
        if token and token["role"] != "read":
            return True
        self.reply(403 if token else 401, {"error": "You don't have the rights" if token else "Invalid username"})
        return False

    def whoami(self, _: bytes) -> None:
        token = self.token()
        if not token:
            self.reply(
                401, {"error": "Invalid credentials"}, X_Error_Message="Invalid credentials in Authorization header"
            )
            return
        orgs = [{"name": "lab", "roleInOrg": "write"}, {"name": "club", "roleInOrg": "read"}]
        self.reply(
            200, {"type": "user", "name": "me", "orgs": orgs, "auth": {"type": "access_token", "accessToken": token}}
        )

    def create(self, body: bytes) -> None:
        asked = json.loads(body)
        name = f"{asked.get('organization') or 'me'}/{asked['name']}"
        if not self.may_write():
            return
        there = name in self.server.repositories
        if not there:
            new = self.server.repositories[name] = Repository(asked.get("visibility") == "private")
            new.commit("main", {".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"})
        url = {"url": f"{self.server.endpoint}/{name}", "name": name}
        self.reply(409 if there else 200, url | ({"error": "You already created this model repo"} if there else {}))

    def validate(self, body: bytes) -> None:
        """Validate a card as the Hub does: YAML metadata; results in the model-index name task, dataset and metrics."""
        content, errors = json.loads(body)["content"], []
        try:
            data = yaml.safe_load(re.match(r"---\n(.*?)\n---", content, re.S).group(1))
            for model in data.get("model-index", []):
                for result in model["results"]:
                    result["task"]["type"], result["dataset"]["type"], result["dataset"]["name"]
                    errors += [
                        {"message": "a metric has no value"} for m in result["metrics"] if m.get("value") is None
                    ]
                if not model.get("name"):
                    errors.append({"message": "the model has no name"})
        except (AttributeError, KeyError, TypeError, yaml.YAMLError) as error:
            errors.append({"message": f"invalid metadata: {error!r}"})
        self.reply(400 if errors else 200, {"errors": errors, "warnings": []})

    def branch(self, _: bytes, name: str, branch: str) -> None:
        if self.may_write() and (repository := self.repository(name)):
            there = branch in repository.refs
            if not there:
                repository.refs[branch] = repository.refs["main"]
            self.reply(409 if there else 200, {"error": "Reference already exists"} if there else {})

    def tag(self, body: bytes, name: str, revision: str) -> None:
        if self.may_write() and (repository := self.repository(name)):
            tag = json.loads(body)["tag"]
            there = tag in repository.refs
            if not there:
                repository.refs[tag] = repository.refs.get(revision, revision)
                repository.tags.add(tag)
            self.reply(409 if there else 200, {"error": "Tag reference exists already"} if there else {})

    def preupload(self, body: bytes, name: str, revision: str) -> None:
        if not self.may_write() or not (repository := self.repository(name)):
            return
        files = repository.files(revision)
        rows = []
        for item in json.loads(body)["files"]:
            lfs, known = is_lfs(item["path"], item["size"]), files.get(item["path"])
            oid = None if known is None else hashlib.sha256(known).hexdigest() if lfs else blob_id(known)
            row = {"path": item["path"], "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False}
            rows.append(row | ({"oid": oid} if oid else {}))
        self.reply(200, {"files": rows})

    def batch(self, body: bytes, name: str) -> None:
        if not self.may_write():
            return
        objects = []
        for item in json.loads(body)["objects"]:
            row = {"oid": item["oid"], "size": item["size"]}
            if item["oid"] not in self.server.objects:
                row["actions"] = {"upload": {"href": f"{self.server.endpoint}/lfs/{item['oid']}"}}
            objects.append(row)
        self.reply(200, {"transfer": "basic", "objects": objects})

    def store(self, body: bytes, oid: str) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            self.reply(400, {"error": "the content is not what was announced"})
            return
        self.server.objects[oid] = body
        self.reply(200)

    def commit(self, body: bytes, name: str, branch: str) -> None:
        if not self.may_write() or not (repository := self.repository(name)):
            return
        files = dict(repository.files(branch))
        for line in body.decode().splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                files[value["path"]] = self.server.objects[value["oid"]]
        oid = repository.commit(branch, files)
        url = f"{self.server.endpoint}/{name}/commit/{oid}"
        self.reply(200, {"success": True, "commitOid": oid, "commitUrl": url})

    def info(self, _: bytes, name: str, revision: str = "main") -> None:
        if repository := self.repository(name):
            if revision not in repository:
                self.reply(404, {"error": "Invalid rev id"}, X_Error_Code="RevisionNotFound")
                return
            commit = repository.refs.get(revision, revision)
            siblings = [{"rfilename": path} for path in repository.files(revision)]
            more = {"private": repository.private, "siblings": siblings, "tags": [], "downloads": 0, "likes": 0}
            self.reply(200, {"_id": "1", "id": name, "modelId": name, "sha": commit} | more)

    def discussions(self, _: bytes, name: str) -> None:
        if repository := self.repository(name):
            more = {"createdAt": "2026-01-01T00:00:00.000Z", "status": "open", "isPullRequest": True}
            rows = [
                {"num": number, "title": "a change", "author": {"name": author}} | more
                for number, author in repository.pull_requests.items()
            ]
            repo = {"repo": {"name": name, "type": "model"}}
            self.reply(200, {"discussions": [row | repo for row in rows], "count": len(rows), "start": 0})

    def tree(self, _: bytes, name: str, revision: str, folder: str = "") -> None:
        if repository := self.repository(name):
            rows = []
            for path, content in repository.files(revision).items():
                row = {"type": "file", "path": path, "size": len(content), "oid": blob_id(content)}
                if is_lfs(path, len(content)):
                    row["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
                if path.startswith(folder.strip("/")):
                    rows.append(row)
            self.reply(200, rows)

    def resolve(self, _: bytes, name: str, revision: str, path: str) -> None:
        if not (repository := self.repository(name)):
            return
        if revision not in repository:
            self.reply(404, {"error": "Invalid rev id"}, X_Error_Code="RevisionNotFound")
            return
        commit = {"X_Repo_Commit": repository.refs.get(revision, revision)}
        content = repository.files(revision).get(path)
        if content is None:
            self.reply(404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound", **commit)
            return
        etag = hashlib.sha256(content).hexdigest() if is_lfs(path, len(content)) else blob_id(content)
        headers = {"ETag": f'"{etag}"', "Accept_Ranges": "bytes", "X_Linked_Size": str(len(content))} | commit
        if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            begin, last = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
            headers["Content_Range"] = f"bytes {begin}-{last}/{len(content)}"
            self.reply(206, content[begin : last + 1], **headers)
            return
        self.reply(200, content, **headers)


REPO = r"([^/]+/[^/]+)"
ROUTES = (
    ("GET", r"/api/whoami-v2", Handler.whoami),
    ("POST", r"/api/repos/create", Handler.create),
    ("POST", r"/api/validate-yaml", Handler.validate),
    ("POST", rf"/api/models/{REPO}/branch/([^/]+)", Handler.branch),
    ("POST", rf"/api/models/{REPO}/tag/([^/]+)", Handler.tag),
    ("POST", rf"/api/models/{REPO}/preupload/([^/]+)", Handler.preupload),
    ("POST", rf"/{REPO}\.git/info/lfs/objects/batch", Handler.batch),
    ("PUT", r"/lfs/(\w+)", Handler.store),
    ("POST", rf"/api/models/{REPO}/commit/([^/]+)", Handler.commit),
    ("GET", rf"/api/models/{REPO}", Handler.info),
    ("GET", rf"/api/models/{REPO}/revision/([^/]+)", Handler.info),
    ("GET", rf"/api/models/{REPO}/discussions", Handler.discussions),
    ("GET", rf"/api/models/{REPO}/tree/([^/]+)(.*)", Handler.tree),
    ("GET", rf"/{REPO}/resolve/([^/]+)/(.+)", Handler.resolve),
)
