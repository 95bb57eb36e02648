"""Connections to a server: no redirects, a limit on what it may send, and the proxies of the environment."""

from __future__ import annotations

import ipaddress
import urllib.request
import zlib
from urllib.parse import urlsplit

import httpx

from shiftdc_eval.core.api.endpoint import OPENAI_URL, Endpoint
from shiftdc_eval.core.api.reply import Fault
from shiftdc_eval.core.environment import foreign, proxy_variable

OPENAI_HEADERS = {"OPENAI_ORG_ID": "OpenAI-Organization", "OPENAI_PROJECT_ID": "OpenAI-Project"}
"""Variables of OpenAI's own client -> header; sent to OpenAI alone."""
MOST_BYTES = 4 * 2**20
"""Decompressed bytes of one reply; a chat completion has a few thousand."""


def open_client(endpoint: Endpoint) -> httpx.AsyncClient:
    """Connections to one endpoint; httpx follows no redirect unless asked.

    Raises:
        ShiftDCError: the proxy that the environment names cannot be used.
    """
    timeout = httpx.Timeout(endpoint.timeout, connect=min(10.0, endpoint.timeout / 2))
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=endpoint.concurrency)
    headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
    if endpoint.base_url.startswith(OPENAI_URL):
        headers |= {
            header: value for variable, header in OPENAI_HEADERS.items() if (value := foreign(variable))
        }
    scheme = urlsplit(endpoint.base_url).scheme
    variable = proxy_variable(scheme)
    try:
        return httpx.AsyncClient(timeout=timeout, limits=limits, headers=headers)
    except (ImportError, ValueError, httpx.InvalidURL) as error:
        if not _proxied(endpoint.base_url):
            return httpx.AsyncClient(timeout=timeout, limits=limits, headers=headers, trust_env=False)
        why = (
            "SOCKS needs the package socksio (`pip install socksio`)"
            if isinstance(error, ImportError)
            else "no proxy URL"
        )
        raise endpoint.role.error(
            f"the proxy in {variable} cannot be used: {why}; or add {endpoint.host} to NO_PROXY"
        ) from None


def _proxied(base_url: str) -> bool:
    parts = urlsplit(base_url)
    return bool(proxy_variable(parts.scheme)) and not urllib.request.proxy_bypass(parts.hostname or "")


def proxy_in_the_way(base_url: str) -> str:
    """A clause that names the proxy between us and a server on this machine; empty without one."""
    parts = urlsplit(base_url)
    host = parts.hostname or ""
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = host == "localhost" or host.endswith(".localhost")
    if not (loopback and _proxied(base_url)):
        return ""
    return (
        f"; {proxy_variable(parts.scheme)} sends requests for this machine to a proxy: add {host} to NO_PROXY"
    )


async def capped(response: httpx.Response) -> bytes:
    """The body of a response, decompressed.

    Raises:
        Fault: it is larger than `MOST_BYTES`, or in an encoding that nobody asked for.
    """
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "", "gzip", "deflate"):
        raise Fault(
            "final", "the reply is in an encoding that was not asked for", status=response.status_code
        )
    inflate = zlib.decompressobj(wbits=47) if encoding in ("gzip", "deflate") else None  # 47: gzip or zlib
    body = bytearray()
    async for chunk in response.aiter_raw():
        try:
            body += inflate.decompress(chunk, MOST_BYTES + 1 - len(body)) if inflate else chunk
        except zlib.error:
            raise Fault(
                "transient", "the reply cannot be decompressed", status=response.status_code
            ) from None
        if len(body) > MOST_BYTES:
            raise Fault(
                "final", f"the reply is larger than {MOST_BYTES // 2**20} MiB", status=response.status_code
            )
    return bytes(body)
