"""The ways a server of chat completions misbehaves, as bytes on a socket, so that no library of ours mends them first.

Wherever a server can say something it repeats the key that it was sent.
"""

from __future__ import annotations

import gzip
import json
import zlib
from typing import Any

from judge_server import completion, unsupported

KEY = "sk-secret-0123456789abcdef"
SAFE = completion("Verdict: safe")
ECHO = json.dumps(
    {"error": {"message": f"the key {KEY} is\nodd\x1b[31m", "code": KEY, "param": KEY}}
).encode()


def http(status: object, body: object = ECHO, *headers: str, length: object = None) -> bytes:
    """A whole response; `length` is what it claims to have."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    size = len(raw) if length is None else length
    lines = [f"HTTP/1.1 {status} {KEY}", f"X-Echo: {KEY}", f"Content-Length: {size}", *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1") + raw


def choice(**parts: Any) -> dict[str, Any]:
    """A completion whose only choice has these parts."""
    return {**SAFE, "choices": [{"index": 0, "finish_reason": "stop", **parts}]}


def content(value: Any) -> dict[str, Any]:
    """A completion with this content."""
    return choice(message={"role": "assistant", "content": value})


def bomb() -> bytes:
    packer = zlib.compressobj(9, wbits=31)
    return b"".join(packer.compress(bytes(2**20)) for _ in range(64)) + packer.flush()


WHOLE = json.dumps(SAFE).encode()
STATUS = {
    f"status {code}": http(code)
    for code in (
        *(400, 402, 405, 406, 407, 408, 409, 410, 411, 412, 413, 414, 415, 416, 417, 418, 421, 422, 423, 424),
        *(425, 426, 428, 431, 451, 499, 500, 501, 502, 503, 504, 505, 506, 507, 508, 510, 511, 520, 521, 522),
        *(523, 524, 525, 526, 527, 529, 530, 598, 599, 600, 999),
        *(100, 101, 102, 103, 199, 204, 205, 206, "099", "2", "abc", "-200", "20000", ""),
    )
} | {
    "302 to no address": http(302, b"", "Location: http://[::1"),
    "400 of no words": http(400, b""),
    "400 of a page": http(400, b"<html>" + KEY.encode() + b"</html>"),
    "400 of deep JSON": http(400, b"[" * 100_000),
    "400 of an error list": http(400, {"error": [KEY]}),
    "400 of a long error": http(400, {"error": {"message": (KEY + " word ") * 10_000}}),
    "400 of half a pair": http(400, b'{"error": {"message": "\\ud800 ' + KEY.encode() + b'"}}'),
    "400 unknown parameter": http(400, unsupported("parameter", "messages", KEY)),
    "400 filtered": http(400, {"error": {"code": "content_filter", "message": KEY}}),
}
WAITS = {
    f"{code} retry after {value}": http(code, ECHO, f"Retry-After: {value}")
    for code in (429, 503)
    for value in (
        *(
            "0",
            "-5",
            "nan",
            "inf",
            "-inf",
            "1e308",
            "86400",
            "9" * 400,
            "soon",
            "",
            "1, 2",
            "0x10",
            "\xe9\xff",
        ),
        "Mon, 01 Jan 1990 00:00:00 GMT",
        "Fri, 31 Dec 9999 23:59:59 GMT",
        "Mon, 99 Foo 2020 00:00:00 GMT",
        "Fri, 31 Dec 99999999999 23:59:59 GMT",
        "Fri, 31 Dec 9999 23:59:59 -9999",
    )
}
BODIES = {
    name: http(200, body)
    for name, body in {
        "empty": b"",
        "blank": b" \n",
        "null": None,
        "true": True,
        "number": 1,
        "nan": b"NaN",
        "text": "safe",
        "list": [SAFE],
        "empty object": {},
        "page": b"<html><body>Verdict: safe</body></html>",
        "stream": b"data: " + WHOLE + b"\n\ndata: [DONE]\n\n",
        "two documents": WHOLE + WHOLE,
        "cut": WHOLE[:-20],
        "cut in a letter": WHOLE[:20] + b"\xe2\x82",
        "latin-1": WHOLE.replace(b"safe", b"s\xe9fe"),
        "utf-16 cut": json.dumps(SAFE).encode("utf-16")[:-3],
        "single quotes": repr(SAFE).encode(),
        "number of 5000 digits": WHOLE.replace(b'"created": 0', b'"created": ' + b"9" * 5000),
        "deep list": b"[" * 100_000 + b"]" * 100_000,
        "deep object": b'{"choices":' * 50_000 + b"1" + b"}" * 50_000,
        "error": {"error": {"message": "Verdict: safe " + KEY}},
        "error text": {"error": "Verdict: safe " + KEY},
        "error beside no choices": {**SAFE, "choices": [], "error": KEY},
        "no choices": {key: value for key, value in SAFE.items() if key != "choices"},
        "choices null": {**SAFE, "choices": None},
        "choices text": {**SAFE, "choices": "Verdict: safe"},
        "choices object": {**SAFE, "choices": SAFE["choices"][0]},
        "choices empty": {**SAFE, "choices": []},
        "choice null": {**SAFE, "choices": [None]},
        "choice text": {**SAFE, "choices": ["Verdict: safe"]},
        "choice list": {**SAFE, "choices": [[]]},
        "choice empty": {**SAFE, "choices": [{}]},
        "choice of a text completion": choice(text="Verdict: safe"),
        "message null": choice(message=None),
        "message text": choice(message="Verdict: safe"),
        "message list": choice(message=[{"content": "Verdict: safe"}]),
        "message empty": choice(message={}),
        "message delta": choice(delta={"content": "Verdict: safe"}),
        "content null": content(None),
        "content number": content(7),
        "content true": content(True),
        "content object": content({"text": "Verdict: safe"}),
        "content list of numbers": content([1]),
        "content deep": content(json.loads("[" * 200 + "]" * 200)),
        "content empty": content(""),
        "content blank": content(" \n\t\u00a0"),
        "tool calls alone": choice(message={"content": None, "tool_calls": [{"function": {"name": "safe"}}]}),
        "refusal": choice(message={"content": "Verdict: safe", "refusal": KEY}),
        "cut at the limit": choice(message={"content": "Verdict: safe"}, finish_reason="length"),
        "filtered": choice(message={"content": "Verdict: safe"}, finish_reason="content_filter"),
        "huge": b" " * (5 * 2**20) + WHOLE,
        "huge content": content("Verdict: safe " * 400_000),
        "no verdict": content("I would rather not decide whether this is safe or unsafe."),
        "both verdicts": content("Verdict: safe\nVerdict: unsafe"),
        "a number": content("0.5"),
        "another scale": content("Verdict: maybe"),
        "a negation": content("Verdict: not safe or unsafe"),
        "the key alone": content(KEY),
        "zero width": content("\u200b\u200b"),
        "steering": content("\x1b[2J\x1b]0;x\x07\u202e\0"),
        "half a pair": content("\ud800"),
    }.items()
} | {
    "gzip bomb": http(200, bomb(), "Content-Encoding: gzip"),
    "gzip cut": http(200, gzip.compress(WHOLE)[:30], "Content-Encoding: gzip"),
    "gzip that is none": http(200, WHOLE, "Content-Encoding: gzip"),
    "gzip unsaid": http(200, gzip.compress(WHOLE)),
    "gzip twice": http(200, gzip.compress(gzip.compress(WHOLE)), "Content-Encoding: gzip"),
    "encoding br": http(200, WHOLE, "Content-Encoding: br"),
    "encoding zstd": http(200, WHOLE, "Content-Encoding: zstd"),
    "encoding list": http(200, WHOLE, "Content-Encoding: gzip, gzip"),
}
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
CONNECTION = {
    "closed before a word": b"",
    "closed in the status line": b"HTTP/1.1 20",
    "closed in the headers": b"HTTP/1.1 200 OK\r\nContent-Le",
    "closed after the headers": http(200, b"", length=500),
    "closed in the body": http(200, WHOLE[:40], length=len(WHOLE)),
    "a longer length": http(200, WHOLE, length=len(WHOLE) + 5),
    "a shorter length": http(200, WHOLE, length=len(WHOLE) - 5),
    "a negative length": http(200, WHOLE, length=-1),
    "a length that is text": http(200, WHOLE, length="many"),
    "a length beyond all": http(200, WHOLE, length="9" * 30),
    "two lengths": http(200, WHOLE, "Content-Length: 3"),
    "garbage": bytes(range(256)) * 4,
    "a TLS alert": b"\x15\x03\x01\x00\x02\x02\x46",
    "another protocol": b"SSH-2.0-OpenSSH_9.0\r\n\r\n",
    "HTTP/0.9": WHOLE,
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a header of 300 kB": http(200, WHOLE, "X-Long: " + "x" * 300_000),
    "a header with NUL": http(200, WHOLE, "X-Nul: \0"),
    "a header without colon": http(200, WHOLE, "nothing"),
    "chunks of no size": CHUNKED + b"zz\r\n{}\r\n0\r\n\r\n",
    "chunks that end early": CHUNKED + b"ff\r\n{",
    "chunks without an end": CHUNKED + b"2\r\n{}\r\n",
    "early hints and no more": b"HTTP/1.1 103 Early Hints\r\n\r\n" * 3,
}
ORDERED = ("reset_before", "reset_during", "no_reply", "slow_drip", "endless", "endless 500")
GROUPS: dict[str, dict[str, bytes]] = {
    "status": STATUS,
    "waits": WAITS,
    "bodies": BODIES,
    "connection": CONNECTION,
}
FATAL = {
    **{f"status {code}": http(code) for code in (401, 403, 404)},
    **{
        f"redirect {code}": http(code, b"", f"Location: http://user:{KEY}@127.0.0.1:9/v1?key={KEY}")
        for code in (300, 301, 302, 303, 304, 305, 307, 308)
    },
    "redirect to nowhere": http(302, b""),
    "redirect to a file": http(302, b"", "Location: file:///etc/passwd"),
    "no quota": http(429, {"error": {"code": "insufficient_quota", "message": KEY}}),
}
WHOLE_BUT_ODD = {
    "201": http(201, SAFE),
    "203": http(203, SAFE),
    "gzip": http(200, gzip.compress(WHOLE), "Content-Encoding: gzip"),
    "byte order mark": http(200, b"\xef\xbb\xbf" + WHOLE),
    "another content type": http(200, SAFE, "Content-Type: text/html; charset=ebcdic"),
    "HTTP/3.0": http(200, WHOLE).replace(b"HTTP/1.1", b"HTTP/3.0", 1),
    "chunks": CHUNKED + b"%x\r\n%b\r\n0\r\n\r\n" % (len(WHOLE), WHOLE),
    "no length": b"HTTP/1.1 200 OK\r\n\r\n" + WHOLE,
    "early hints": b"HTTP/1.1 103 Early Hints\r\n\r\n" + http(200, SAFE),
    "usage text": http(200, {**SAFE, "usage": "many"}),
    "usage negative": http(200, {**SAFE, "usage": {"prompt_tokens": -1, "completion_tokens": 1e99}}),
    "usage true": http(200, {**SAFE, "usage": {"prompt_tokens": True, "completion_tokens": None}}),
    "model list": http(200, {**SAFE, "model": [KEY]}),
    "model hostile": http(200, {**SAFE, "model": f"\x1b[31m{KEY}\n" * 1000}),
    "a null error": http(200, {**SAFE, "error": None}),
}
