"""A dataset hub on loopback: it speaks what huggingface_hub speaks, and refuses what the real hub refuses.

Written from the client's own source (huggingface_hub 2.4.0: hf_api.py, _commit_api.py, lfs.py, file_download.py,
utils/_http.py), which says what it sends and what it reads from an answer. What only the server knows (the wording of a
refusal, which names git forbids) is a guess, and no test rests on it. It has no Xet storage: whoever talks to it sets
HF_HUB_DISABLE_XET, since with hf_xet installed the client does not ask whether the server has one.
"""

import base64
import hashlib
import json
import re
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

GITATTRIBUTES = b"*.zst filter=lfs diff=lfs merge=lfs -text\n*.parquet filter=lfs diff=lfs merge=lfs -text\n"
WRITES, READS = "hf_loopback_writes", "hf_loopback_reads"  # the tokens that the hub knows
LARGE = 10_000_000  # bytes from which a file is kept as LFS, whatever its name


class Refused(Exception):
    """An answer that is an error: status, the hub's own code (X-Error-Code), and its words."""

    def __init__(self, status: int, code: str = "", message: str = "", **more: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.more = status, code, message, more


@dataclass(frozen=True)
class File:
    content: bytes
    is_lfs: bool

    @property
    def oid(self) -> str:
        """What git calls it: of a file in LFS that of its pointer's target."""
        if self.is_lfs:
            return hashlib.sha256(self.content).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()


@dataclass
class Repository:
    private: bool
    commits: list[tuple[str, dict[str, File]]] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, File]) -> str:
        told = "".join(f"{name} {file.oid}\n" for name, file in sorted(files.items()))
        sha = hashlib.sha1(f"{len(self.commits)} {told}".encode()).hexdigest()
        self.commits.append((sha, files))
        return sha

    @property
    def head(self) -> str:
        return self.commits[-1][0]

    @property
    def files(self) -> dict[str, File]:
        return self.commits[-1][1]

    def at(self, revision: str) -> tuple[str, dict[str, File]]:
        wanted = self.head if revision == "main" else self.tags.get(revision, revision)
        for sha, files in self.commits:
            if sha == wanted:
                return sha, files
        raise Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")


class Hub:
    """The server. What tests turn: `refuse` (a status for everything), `busy` (requests, as a pattern of method and path,
    that get a status so many times), `claims` (sizes of files that it makes up), `spoil` (what becomes of a file's bytes
    on the way down), `cut` (names whose download ends in the middle, so many times), `drop` (uploads that are cut off,
    so many), `wait` (seconds before each download), and `before_commit` (called when a commit has arrived). `requests`
    holds method and path of what came, `messages` what commits say.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.announced: dict[str, int] = {}
        self.requests: list[str] = []
        self.refuse = 0
        self.spoil: dict[str, Callable[[bytes], bytes]] = {}
        self.busy: dict[str, list[int]] = {}
        self.cut: dict[str, int] = {}
        self.drop = 0
        self.claims: dict[str, int] = {}
        self.messages: list[str] = []
        self.wait = 0.0
        self.downloads = 0
        self.before_commit: Callable[[], None] = lambda: None
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def hold(self, name: str, folder: Path, tag: str) -> None:
        """Have a repository with the files of a folder, as if they had been pushed."""
        names = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
        files = {name: File(path.read_bytes(), name.endswith(".zst")) for name, path in names.items()}
        self.objects |= {file.oid: file.content for file in files.values() if file.is_lfs}
        held = self.repositories[name] = Repository(private=True)
        held.tags[tag] = held.commit({".gitattributes": File(GITATTRIBUTES, False), **files})

    def close(self) -> None:
        """Stop."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def repository(self, name: str, token: str | None) -> Repository:
        """Return a repository that the token may see; of one that it may not, the hub does not tell that it exists."""
        found = self.repositories.get(name)
        if token not in (None, WRITES, READS):
            raise Refused(401, "", "Invalid credentials in Authorization header")
        if found is None or (found.private and token is None):
            raise Refused(404 if token else 401, "RepoNotFound", "Repository not found")
        return found


def require_writing(token: str | None) -> None:
    if token is None or token not in (WRITES, READS):
        raise Refused(401, "", "Invalid username or password.")
    if token != WRITES:
        raise Refused(403, "", "You don't have the rights to create a model under the namespace")


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

        def do_GET(self) -> None:
            self._serve()

        do_HEAD = do_POST = do_PUT = do_GET

        def _serve(self) -> None:
            url = urlsplit(self.path)
            if self.command == "PUT" and hub.drop:
                hub.drop -= 1
                self.rfile.read(int(self.headers["Content-Length"]) // 2)
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
                return
            body = self._body()
            self.query = parse_qs(url.query)
            said = self.headers.get("Authorization", "")
            self.token = said.removeprefix("Bearer ") or None
            hub.requests.append(f"{self.command} {url.path}")
            try:
                if hub.refuse:
                    raise Refused(hub.refuse, "", "no")
                for pattern, statuses in hub.busy.items():
                    if statuses and re.search(pattern, hub.requests[-1]):
                        raise Refused(statuses.pop(0), "", "too busy")
                for method, pattern, answer in ROUTES:
                    found = re.fullmatch(pattern, url.path)
                    if found and self.command in method:
                        answer(self, body, *[unquote(each) for each in found.groups() if each is not None])
                        return
                raise Refused(404, "", f"no route {self.command} {url.path}")
            except Refused as refused:
                headers = {"X-Error-Message": refused.message}
                if refused.code:
                    headers["X-Error-Code"] = refused.code
                if refused.status == 429:
                    headers |= {"Retry-After": "0", "RateLimit": '"api";r=0;t=0'}
                self.say({"error": refused.message, **refused.more}, refused.status, headers)
            except (ConnectionError, BrokenPipeError):
                self.close_connection = True

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") == "chunked":
                parts = []
                while size := int(self.rfile.readline(), 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(parts)
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))

        def say(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
            content = json.dumps(value).encode()
            self.bytes(content, status, {"Content-Type": "application/json", **(headers or {})})

        def bytes(self, content: bytes, status: int, headers: dict[str, str], cut: bool = False) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content[: len(content) // 2] if cut else content)
            if cut:
                self.close_connection = True

        # -- the routes ----------------------------------------------------------------------------------------------

        def create(self, body: bytes) -> None:
            require_writing(self.token)
            asked = json.loads(body)
            assert asked["type"] == "dataset"
            name = f"{asked['organization']}/{asked['name']}"
            if name in hub.repositories:
                raise Refused(409, "", "You already created this dataset repo", url=f"{hub.url}/datasets/{name}")
            is_private = (
                asked.get("visibility") == "private" or asked.get("private") is True
            )  # 1.0.0 says the latter, 2.4.0 the former
            made = hub.repositories[name] = Repository(private=is_private)
            made.commit({".gitattributes": File(GITATTRIBUTES, False)})
            self.say({"url": f"{hub.url}/datasets/{name}", "name": name})

        def info(self, _: bytes, name: str, revision: str = "main") -> None:
            found = hub.repository(name, self.token)
            sha, files = found.at(revision)
            siblings: list[dict[str, Any]] = [{"rfilename": each} for each in sorted(files)]
            if self.query.get("blobs") in (["true"], ["True"], ["1"]):
                for each in siblings:
                    each["size"] = hub.claims.get(each["rfilename"], len(files[each["rfilename"]].content))
            self.say({"id": name, "sha": sha, "private": found.private, "siblings": siblings, "tags": []})

        def tree(self, _: bytes, name: str, revision: str, below: str = "") -> None:
            """All files below a folder, and the folders where it is not asked for what is in them."""
            files = hub.repository(name, self.token).at(revision)[1]
            start = f"{below}/" if below else ""
            inside = {path: file for path, file in files.items() if path.startswith(start)}
            if below and not inside:
                raise Refused(404, "EntryNotFound", f"{below} does not exist on {revision}")
            told = [_described(path, file) for path, file in sorted(inside.items()) if self._is_wanted(path, start)]
            folders = {
                path[: len(start)] + path[len(start) :].partition("/")[0]
                for path in inside
                if "/" in path[len(start) :]
            }
            self.say(
                told + [{"type": "directory", "oid": "0" * 40, "path": each, "size": 0} for each in sorted(folders)]
            )

        def _is_wanted(self, path: str, start: str) -> bool:
            return self.query.get("recursive") in (["true"], ["True"], ["1"]) or "/" not in path[len(start) :]

        def paths(self, body: bytes, name: str, revision: str) -> None:
            files = hub.repository(name, self.token).at(revision)[1]
            asked = parse_qs(body.decode()).get("paths", [])
            told = [_described(path, files[path]) for path in asked if path in files]
            told += [
                {"type": "directory", "oid": "0" * 40, "path": path, "size": 0}
                for path in asked
                if path not in files and any(each.startswith(f"{path}/") for each in files)
            ]
            self.say(told)

        def refs(self, _: bytes, name: str) -> None:
            found = hub.repository(name, self.token)
            tags = [{"name": t, "ref": f"refs/tags/{t}", "targetCommit": sha} for t, sha in found.tags.items()]
            main = {"name": "main", "ref": "refs/heads/main", "targetCommit": found.head}
            self.say({"branches": [main], "converts": [], "tags": tags})

        def tag(self, body: bytes, name: str, revision: str) -> None:
            require_writing(self.token)
            found, asked = hub.repository(name, self.token), json.loads(body)
            if asked["tag"] in found.tags:
                raise Refused(409, "", "Tag reference exists already")
            found.tags[asked["tag"]] = found.at(revision)[0]
            self.say({})

        def validate(self, body: bytes) -> None:
            asked = json.loads(body)
            assert asked["repoType"] == "dataset"
            errors = []
            if front := re.match(r"---\n(.*?)\n---(?:\n|$)", asked["content"], re.DOTALL):
                try:
                    is_table = isinstance(yaml.safe_load(front[1]), dict)
                except yaml.YAMLError:
                    is_table = False
                errors = [] if is_table else [{"message": "the front matter is no YAML mapping"}]
            elif asked["content"].startswith("---"):
                errors = [{"message": "the front matter does not end"}]
            self.say({"errors": errors, "warnings": []}, 400 if errors else 200)

        def preupload(self, body: bytes, name: str, revision: str) -> None:
            require_writing(self.token)
            files = hub.repository(name, self.token).at(revision)[1]
            told = []
            for asked in json.loads(body)["files"]:
                base64.b64decode(asked["sample"], validate=True)
                is_lfs = asked["size"] >= LARGE or asked["path"].endswith((".zst", ".parquet"))
                there = files.get(asked["path"])
                told.append(
                    {"path": asked["path"], "uploadMode": "lfs" if is_lfs else "regular", "shouldIgnore": False}
                    | ({"oid": there.oid} if there else {})
                )
            self.say({"files": told})

        def batch(self, body: bytes, name: str) -> None:
            require_writing(self.token)
            hub.repository(name, self.token)
            asked = json.loads(body)
            assert asked["operation"] == "upload" and asked["hash_algo"] == "sha256" and "basic" in asked["transfers"]
            told = []
            for each in asked["objects"]:
                answer: dict[str, Any] = {"oid": each["oid"], "size": each["size"]}
                if each["oid"] not in hub.objects:
                    hub.announced[each["oid"]] = each["size"]
                    verify = {"href": f"{hub.url}/{name}/lfs-verify"}
                    answer["actions"] = {"upload": {"href": f"{hub.url}/lfs/{each['oid']}"}, "verify": verify}
                told.append(answer)
            self.say({"transfer": "basic", "objects": told})

        def upload(self, body: bytes, oid: str) -> None:
            """The bucket: the address is signed for one sha256 and one size."""
            if len(body) != hub.announced.get(oid):
                raise Refused(400, "", "EntityTooSmall: not the size that was announced")
            if hashlib.sha256(body).hexdigest() != oid:
                raise Refused(400, "", "BadDigest: the sha256 is not the one that was announced")
            hub.objects[oid] = body
            self.bytes(b"", 200, {})

        def verify(self, body: bytes, _: str) -> None:
            require_writing(self.token)
            asked = json.loads(body)
            if len(hub.objects.get(asked["oid"], b"")) != asked["size"]:
                raise Refused(400, "", "the object is not there, or of another size")
            self.say({})

        def commit(self, body: bytes, name: str, revision: str) -> None:
            require_writing(self.token)
            hub.before_commit()
            found = hub.repository(name, self.token)
            lines = [json.loads(line) for line in body.splitlines()]
            if self.headers["Content-Type"] != "application/x-ndjson" or lines[0]["key"] != "header":
                raise Refused(400, "", "a commit is ndjson, its header first")
            parent = lines[0]["value"].get("parentCommit")
            if revision != "main" or (parent is not None and parent != found.head):
                raise Refused(412, "", "A commit has happened since. Please refresh and try again.")
            files = dict(found.files)
            hub.messages.append(f"{lines[0]['value']['summary']}\n\n{lines[0]['value']['description']}")
            for line in lines[1:]:
                _apply(line["key"], line["value"], files)
            sha = found.commit(files)
            self.say({"success": True, "commitOid": sha, "commitUrl": f"{hub.url}/datasets/{name}/commit/{sha}"})

        def resolve(self, _: bytes, name: str, revision: str, path: str) -> None:
            sha, files = hub.repository(name, self.token).at(revision)
            headers = {"X-Repo-Commit": sha}
            if path not in files:
                raise Refused(404, "EntryNotFound", "Entry not found")
            file = files[path]
            if file.is_lfs:
                elsewhere = hub.url.replace("127.0.0.1", "localhost")  # another host, as the real one's storage is
                linked = {"X-Linked-Etag": f'"{file.oid}"', "X-Linked-Size": str(len(file.content))}
                self.bytes(b"", 302, {**headers, **linked, "Location": f"{elsewhere}/cdn/{file.oid}/{path}"})
                return
            self._download(path, file, {**headers, "ETag": f'"{file.oid}"'})

        def cdn(self, _: bytes, oid: str, path: str) -> None:
            self._download(path, File(hub.objects[oid], True), {"ETag": f'"{oid}"'})

        def _download(self, path: str, file: File, headers: dict[str, str]) -> None:
            content = hub.spoil.get(path, lambda same: same)(file.content)
            is_cut = self.command == "GET" and hub.cut.get(path, 0) > 0
            if self.command == "GET":
                hub.downloads += 1
                hub.cut[path] = hub.cut.get(path, 0) - is_cut
                time.sleep(hub.wait)
            self.bytes(content, 200, headers, cut=is_cut)

    def _described(path: str, file: File) -> dict[str, Any]:
        told: dict[str, Any] = {"type": "file", "oid": file.oid, "size": len(file.content), "path": path}
        if file.is_lfs:
            told["lfs"] = {"oid": file.oid, "size": len(file.content), "pointerSize": 130}
        return told

    def _apply(key: str, value: dict[str, Any], files: dict[str, File]) -> None:
        path = value["path"]
        if any(part in ("", ".", "..", ".git") for part in path.split("/")) or "\0" in path:
            raise Refused(400, "", "a path that git does not take")
        if key == "file":
            files[path] = File(base64.b64decode(value["content"], validate=True), False)
        elif key == "lfsFile":
            if value["algo"] != "sha256" or value["oid"] not in hub.objects:
                raise Refused(400, "", f"LFS pointer pointed to a file that does not exist: {path}")
            if value.get("size") != len(hub.objects[value["oid"]]):
                raise Refused(400, "", f"another size than that of the file uploaded: {path}")
            files[path] = File(hub.objects[value["oid"]], True)
        elif key == "deletedFile":
            if path not in files:
                raise Refused(404, "EntryNotFound", "A file with this name doesn't exist")
            del files[path]
        else:
            raise Refused(400, "", f"unknown operation {key}")

    repository, rest = r"([\w.-]+/[\w.-]+)", r"([^/]+)"
    ROUTES: list[tuple[tuple[str, ...], str, Callable[..., None]]] = [
        (("POST",), "/api/repos/create", Handler.create),
        (("POST",), "/api/validate-yaml", Handler.validate),
        (("GET",), f"/api/datasets/{repository}", Handler.info),
        (("GET",), f"/api/datasets/{repository}/revision/{rest}", Handler.info),
        (("GET",), f"/api/datasets/{repository}/refs", Handler.refs),
        (("GET",), f"/api/datasets/{repository}/tree/{rest}(?:/(.+))?", Handler.tree),
        (("POST",), f"/api/datasets/{repository}/paths-info/{rest}", Handler.paths),
        (("POST",), f"/api/datasets/{repository}/tag/{rest}", Handler.tag),
        (("POST",), f"/api/datasets/{repository}/preupload/{rest}", Handler.preupload),
        (("POST",), f"/api/datasets/{repository}/commit/{rest}", Handler.commit),
        (("POST",), rf"/datasets/{repository}\.git/info/lfs/objects/batch", Handler.batch),
        (("PUT",), f"/lfs/{rest}", Handler.upload),
        (("POST",), f"/{repository}/lfs-verify", Handler.verify),
        (("GET", "HEAD"), f"/datasets/{repository}/resolve/{rest}/(.+)", Handler.resolve),
        (("GET", "HEAD"), f"/cdn/{rest}/(.+)", Handler.cdn),
    ]
    return Handler
