"""A web server on the loopback that serves what a test puts into a dictionary, or breaks off."""

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class FileServer:
    """Files by their path, with the oddities of a server; all that was asked for is noted."""

    files: dict[str, bytes] = field(default_factory=dict)
    #: Paths whose transfers break off half-way, and how many of them do.
    breaking: dict[str, int] = field(default_factory=dict)
    #: Paths whose transfers send a first byte and then nothing until the server ends.
    stalling: set[str] = field(default_factory=set)
    #: Whether the size is announced.
    announces: bool = True
    asked: list[str] = field(default_factory=list)
    port: int = 0

    def url(self, path: str = "") -> str:
        return f"http://127.0.0.1:{self.port}{path}"


@contextmanager
def file_server() -> Iterator[FileServer]:
    state, ended = FileServer(), threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.asked.append(self.path)
            content = state.files.get(self.path)
            if content is None:
                self.send_error(404)
                return
            self.send_response(200)
            if state.announces:
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if state.breaking.get(self.path, 0) > 0:
                state.breaking[self.path] -= 1
                content = content[: len(content) // 2]
            if self.path in state.stalling:
                self.wfile.write(content[:1])
                ended.wait()
                return
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        state.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield state
        finally:
            ended.set()
            server.shutdown()
            thread.join()
