"""Running the server until a signal stops it."""

from __future__ import annotations

import asyncio
import ipaddress
import signal
import socket
import sys

import uvicorn

from ..errors import UserError
from .server import create_app
from .service import Service


def serve(service: Service, listening: socket.socket, host: str, api_key: str | None) -> None:
    """Serve until SIGTERM or Ctrl-C: then no new connections are taken, and the requests that are there end first."""
    address, port, *_ = listening.getsockname()
    shown = f"[{host}]" if ":" in host else host
    print(f"serving {service.target.name} at http://{shown}:{port}", flush=True)
    warning = open_warning(address, api_key)
    if warning:
        print(warning, file=sys.stderr, flush=True)
    config = uvicorn.Config(
        create_app(service, api_key),
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(service.limits.seconds) + 1,
    )
    # uvicorn raises the signal that stopped it once more; a drained server has done what it was told.
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.signal(signal.SIGINT, lambda *_: None)
    asyncio.run(uvicorn.Server(config).serve([listening]))


def bind(host: str, port: int) -> socket.socket:
    """A socket bound to that place; UserError where none can be. It takes no connection before the server runs."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(found[0], socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(found[4])
    except OSError as error:
        raise UserError(
            f"port {port} of {host} cannot be used ({error.strerror}); choose others with --host and --port"
        ) from None
    return listening


def open_warning(address: str, api_key: str | None) -> str | None:
    """What to say of a server that others can reach without a key."""
    if api_key is not None or ipaddress.ip_address(address.partition("%")[0]).is_loopback:
        return None
    return f"warning: {address} can be reached from other machines and there is no API key; set one with --api-key"
