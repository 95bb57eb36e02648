"""A real HTTP server on loopback that speaks chat completions and misbehaves on order.

An order stands in the judged text: `[[500]]` is answered with HTTP 500 for ever, `[[500 once]]` only the
first time that text is seen. `[[say WORDS]]` makes the judge's reply. Without an order it says safe.
"""

from __future__ import annotations

import asyncio
import email.utils
import gzip
import json
import re
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

ORDER = re.compile(r"\[\[(.+?)\]\]", re.DOTALL)
STATUS = {"400", "408", "413", "422", "500", "502", "503", "504", "401", "403", "404"}


@dataclass
class Seen:
    """One request as it came."""

    at: float
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def text(self) -> str:
        """The last message."""
        content = self.body["messages"][-1]["content"]
        return (
            content if isinstance(content, str) else next(part["text"] for part in content if "text" in part)
        )

    @property
    def order(self) -> str:
        """What the judged text orders."""
        found = ORDER.findall(self.text)
        return found[-1] if found else ""


@dataclass
class JudgeServer:
    """Runs in a thread of its own; use it as a context."""

    reply: Callable[[Seen], str] | None = None
    """Makes the reply where no order does."""
    latency: float = 0.0
    limit: int | None = None
    """More requests than this at once are answered with 429."""
    schema: bool = True
    """False: a request for structured output is answered with 400."""
    schema_delay: float = 0.0
    """Seconds before that 400."""
    newer: bool = False
    """True: like OpenAI's newer models, `max_tokens` and any `temperature` but the default are refused."""
    always: str = ""
    """The order that every request without one of its own carries."""
    retry_after: float = 0.3
    raw: dict[str, bytes] = field(default_factory=dict)
    """Name -> all bytes that `[[raw NAME]]` is answered with before the connection is closed."""
    seen: list[Seen] = field(default_factory=list)
    sent: int = 0
    """Bytes of the last endless body."""
    peak: int = 0
    now: int = 0

    def __enter__(self) -> JudgeServer:
        ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(ready)), daemon=True)
        self._thread.start()
        ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def _serve(self, ready: threading.Event) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._orders: dict[str, int] = {}
        listener = await asyncio.start_server(self._connection, "127.0.0.1", 0, backlog=256)
        self.port = listener.sockets[0].getsockname()[1]
        ready.set()
        await self._stop.wait()
        listener.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                headers = {
                    k.lower(): v.strip() for k, _, v in (line.partition(":") for line in head[1:] if line)
                }
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                seen = Seen(time.monotonic(), headers, json.loads(body))
                self.seen.append(seen)
                self.now += 1
                self.peak = max(self.peak, self.now)
                try:
                    alive = await self._answer(seen, writer)
                finally:
                    self.now -= 1
                if not alive:
                    return
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    def _due(self, seen: Seen) -> str:
        order, _, _ = seen.order.partition(" once")
        if seen.order.endswith(" once"):
            self._orders[seen.text] = self._orders.get(seen.text, 0) + 1
            return order if self._orders[seen.text] == 1 else ""
        return seen.order

    async def _answer(self, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        if self.limit is not None and self.now > self.limit:
            return await self._send(writer, 429, {"error": {"message": "slow down"}})
        if self.latency:
            await asyncio.sleep(self.latency)
        if not self.schema and "response_format" in seen.body:
            await asyncio.sleep(self.schema_delay)
            return await self._send(writer, 400, {"error": {"message": "response_format is not supported"}})
        if self.newer and "max_tokens" in seen.body:
            return await self._send(
                writer, 400, unsupported("parameter", "max_tokens", "max_completion_tokens")
            )
        if self.newer and "temperature" in seen.body:
            return await self._send(writer, 400, unsupported("value", "temperature", "the default (1)"))
        order = self._due(seen) or self.always
        if order.split(" ")[0] in STATUS:
            return await self._send(writer, int(order.split(" ")[0]), {"error": {"message": "as ordered"}})
        special = getattr(self, "_" + order.split(" ")[0].replace("-", "_"), None) if order else None
        if special is not None:
            return bool(await special(seen, writer))
        if order.startswith("say "):
            return await self._send(writer, 200, completion(order[4:]))
        return await self._send(writer, 200, completion(self.reply(seen) if self.reply else "Verdict: safe"))

    async def _send(
        self, writer: asyncio.StreamWriter, status: int, body: object, headers: dict[str, str] | None = None
    ) -> bool:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        lines = {"Content-Type": "application/json", "Content-Length": str(len(raw)), **(headers or {})}
        head = f"HTTP/1.1 {status} X\r\n" + "".join(f"{k}: {v}\r\n" for k, v in lines.items()) + "\r\n"
        writer.write(head.encode() + raw)
        await writer.drain()
        return True

    async def _raw(self, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        writer.write(self.raw[seen.order.partition(" ")[2]])
        await writer.drain()
        return False

    async def _429_seconds(self, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        return await self._send(writer, 429, {}, {"Retry-After": f"{self.retry_after:g}"})

    async def _429_date(self, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        moment = email.utils.formatdate(time.time() + 2, usegmt=True)
        return await self._send(writer, 429, {}, {"Retry-After": moment})

    async def _429_none(self, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        return await self._send(writer, 429, {})

    async def _429_says(self, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        return await self._send(writer, 429, {}, {"Retry-After": seen.order.split(" ")[1]})

    async def _bad(self, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        error = {"message": "Invalid 'n': key sk-abcdef123456 is\nodd", "param": "n", "code": "invalid_value"}
        return await self._send(writer, 400, {"error": error})

    async def _filtered(self, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        return await self._send(writer, 400, {"error": {"code": "content_filter", "message": "filtered"}})

    async def _redirect(self, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        status = int(seen.order.split(" ")[1])
        return await self._send(
            writer, status, {}, {"Location": f"http://127.0.0.1:{self.port}/v1/elsewhere"}
        )

    async def _gzip(self, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        body = gzip.compress(json.dumps(completion("Verdict: safe")).encode())
        return await self._send(writer, 200, body, {"Content-Encoding": "gzip"})

    async def _bomb(self, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        packer = zlib.compressobj(9, wbits=31)
        body = b"".join(packer.compress(bytes(2**20)) for _ in range(300)) + packer.flush()
        return await self._send(writer, 200, body, {"Content-Encoding": "gzip"})

    async def _endless(self, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        status = seen.order.partition(" ")[2] or "200"
        writer.write(f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n\r\n".encode())
        self.sent = 0
        for _ in range(300):
            writer.write(bytes(2**20))
            await writer.drain()
            self.sent += 2**20
        return False

    async def _429_long(self, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        return await self._send(writer, 429, {}, {"Retry-After": "86400"})

    async def _quota(self, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        return await self._send(writer, 429, {"error": {"code": "insufficient_quota", "message": ""}})

    async def _reset_before(self, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        return self._reset(writer)

    async def _reset_during(self, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        raw = json.dumps(completion("Verdict: safe")).encode()
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(raw)}\r\n\r\n".encode() + raw[:40])
        await writer.drain()
        return self._reset(writer)

    def _reset(self, writer: asyncio.StreamWriter) -> bool:
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
        return False

    async def _closed_early(self, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{")
        await writer.drain()
        return False

    async def _no_reply(self, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        await asyncio.sleep(30)
        return False

    async def _slow_drip(self, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 3000\r\n\r\n")
        for _ in range(300):
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.1)
        return False

    async def _html(self, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        page = b"<html><body>Verdict: safe</body></html>"
        return await self._send(writer, 200, page, {"Content-Type": "text/html"})

    async def _html_as_json(self, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        return await self._send(writer, 200, b"<html>safe</html>")

    async def _truncated(self, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        return await self._send(writer, 200, json.dumps(completion("Verdict: safe")).encode()[:-20])

    async def _empty_body(self, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        return await self._send(writer, 200, b"")

    async def _json_list(self, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        return await self._send(writer, 200, ["safe"])

    async def _error_in_200(self, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        return await self._send(writer, 200, {"error": {"message": "safe"}})

    async def _empty_choices(self, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        return await self._send(writer, 200, {**completion(""), "choices": []})

    async def _null_content(self, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        return await self._send(writer, 200, completion(None))

    async def _blank_content(self, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        return await self._send(writer, 200, completion(" \n"))

    async def _no_usage(self, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        return await self._send(writer, 200, {**completion("Verdict: safe"), "usage": None})

    async def _length(self, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        return await self._send(writer, 200, completion("Verdict: safe", finish="length"))

    async def _content_filter(self, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        return await self._send(writer, 200, completion("Verdict: safe", finish="content_filter"))

    async def _refusal(self, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        return await self._send(writer, 200, completion("Verdict: safe", refusal="I cannot judge this"))


def unsupported(what: str, parameter: str, instead: str) -> dict[str, Any]:
    """The error of a newer OpenAI model, in its words."""
    message = f"Unsupported {what}: '{parameter}' is not supported with this model. Use {instead} instead."
    error = {
        "message": message,
        "type": "invalid_request_error",
        "param": parameter,
        "code": f"unsupported_{what}",
    }
    return {"error": error}


def completion(text: str | None, finish: str = "stop", refusal: str | None = None) -> dict[str, Any]:
    """The body of a chat completion."""
    message = {"role": "assistant", "content": text, "refusal": refusal}
    return {
        "id": "c",
        "object": "chat.completion",
        "created": 0,
        "model": "judge-1-0613",
        "choices": [{"index": 0, "finish_reason": finish, "message": message, "logprobs": None}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 7, "total_tokens": 107},
    }
