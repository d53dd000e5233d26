"""The server: OpenAI's /v1/models, /v1/completions and /v1/chat/completions, /health, /metrics, and the page at /."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import anyio
from fastapi import APIRouter, Depends, FastAPI, Request
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from .engine_thread import Job, Update
from .errors import ApiError, internal_error, json_response
from .growing_answer import GrowingAnswer, Piece, usage
from .protocol import Asked, ChatRequest, CompletionRequest, read_request
from .replies import ChatReply, CompletionReply
from .service import Service

PAGE = Path(__file__).parent / "page"
PAGE_FILES = {"/": "index.html", "/page.css": "page.css", "/page.js": "page.js"}
PAGE_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}
GONE = 499  # nobody reads it: the client left
GRACE_SECONDS = 10.0  # for a client that reads slowly, once its answer is complete


def create_app(service: Service, api_key: str | None = None) -> FastAPI:
    """The server of a service. With a key, everything under /v1 asks for it."""

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        await service.stop()

    app = FastAPI(title="paradraft", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.include_router(page_routes())
    app.include_router(watching_routes(service, api_key is not None))
    app.include_router(api_routes(service), dependencies=[Depends(key_check(api_key))])

    @app.exception_handler(ApiError)
    async def refused(request: Request, error: ApiError) -> Response:
        service.metrics.requests.labels(endpoint_of(request), str(error.status)).inc()
        return error.response()

    @app.exception_handler(HTTPException)
    async def not_there(request: Request, error: HTTPException) -> Response:
        return await refused(request, ApiError(error.status_code, str(error.detail).lower()))

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        return await refused(request, internal_error())

    return app


def key_check(api_key: str | None) -> Any:
    """Compares in constant time, so that no answer's delay tells how much of a guess is right."""

    async def check(request: Request) -> None:
        given = request.headers.get("authorization", "").encode("latin-1")
        if api_key is not None and not hmac.compare_digest(given, f"Bearer {api_key}".encode()):
            raise ApiError(
                401, "the API key is missing or wrong; send it as Authorization: Bearer KEY", None, "invalid_api_key"
            )

    return check


def page_routes() -> APIRouter:
    router = APIRouter()

    def add(path: str, name: str) -> None:
        @router.get(path)
        async def page() -> Response:
            return FileResponse(PAGE / name, headers=PAGE_HEADERS)

    for path, name in PAGE_FILES.items():
        add(path, name)
    return router


def watching_routes(service: Service, needs_key: bool) -> APIRouter:
    """For those who look after the server; open to all who reach it."""
    router = APIRouter()

    @router.get("/health")
    async def health() -> Response:
        ready = service.thread.healthy
        return json_response({"status": "ok" if ready else "failed", "needs_key": needs_key}, 200 if ready else 503)

    @router.get("/metrics")
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    return router


def api_routes(service: Service) -> APIRouter:
    router = APIRouter(prefix="/v1")
    model = {"id": service.target.name, "object": "model", "created": 0, "owned_by": "paradraft"}
    drafters = [{"name": name, "max_draft": drafter.max_draft} for name, drafter in service.drafters.items()]
    usual = {"drafter": service.usual.drafter, "draft_length": service.usual.draft_length}
    model |= {"max_model_len": service.limits.max_length, "paradraft": {"drafters": drafters, "usual": usual}}

    @router.get("/models")
    async def models() -> Response:
        return json_response({"object": "list", "data": [model]})

    @router.get("/models/{name:path}")
    async def one_model(name: str) -> Response:
        if name != service.target.name:
            raise ApiError(404, "there is no such model here", "model", "model_not_found")
        return json_response(model)

    @router.post("/chat/completions")
    async def chat(request: Request) -> Response:
        asked = read_request(ChatRequest, await body_of(request, service))
        return await answer(request, service, asked, ChatReply(service.target.name, service.chat.tokenizer))

    @router.post("/completions")
    async def completion(request: Request) -> Response:
        asked = read_request(CompletionRequest, await body_of(request, service))
        return await answer(request, service, asked, CompletionReply(service.target.name, service.chat.tokenizer))

    return router


# --- a request ------------------------------------------------------------------------------------------------------


async def body_of(request: Request, service: Service) -> bytes:
    """The body of a JSON request; ApiError for one that is too large, too slow, or not said to be JSON.

    Browsers send JSON to another site only with its leave, so no page elsewhere can use a server on this machine.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, "the body must come with the header Content-Type: application/json")
    limits = service.limits
    too_large = ApiError(413, f"the body is larger than {limits.max_bytes} bytes", None, "body_too_large")
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length[:20]) > limits.max_bytes:
        raise too_large
    parts, size = list[bytes](), 0
    with anyio.move_on_after(limits.body_seconds):
        try:
            async for part in request.stream():
                parts.append(part)
                size += len(part)
                if size > limits.max_bytes:
                    raise too_large
        except ClientDisconnect:
            raise ApiError(GONE, "the client left before its request was complete") from None
        return b"".join(parts)
    raise ApiError(408, f"the body did not arrive within {limits.body_seconds:g} seconds", None, "timeout")


async def answer(request: Request, service: Service, asked: Asked, reply: ChatReply) -> Response:
    """Decode what is asked for; what has begun ends with the request, however that ends."""
    prompts = await service.prompts(asked)
    jobs = service.jobs(asked, prompts)
    answers = service.answers(asked, jobs)
    count = sum(len(prompt) for prompt in prompts)
    inbox = service.submit(jobs)
    if asked.stream:
        service.metrics.requests.labels(endpoint_of(request), "200").inc()
        return Events(service, jobs, chunks(service, asked, jobs, answers, inbox, reply, count))
    try:
        pieces = await unless_gone(request, collected(service, jobs, answers, inbox))
    finally:
        service.release(jobs)
    if isinstance(pieces, ApiError):
        raise pieces
    service.metrics.requests.labels(endpoint_of(request), str(200 if pieces is not None else GONE)).inc()
    if pieces is None:
        return Response(status_code=GONE)
    return json_response(reply.whole(pieces, usage(count, [one.counts for one in answers])))


async def collected(
    service: Service, jobs: Sequence[Job], answers: Sequence[GrowingAnswer], inbox: asyncio.Queue[Update | None]
) -> list[list[Piece]] | ApiError:
    """All pieces of every answer."""
    found: list[list[Piece]] = [[] for _ in answers]
    try:
        async for piece in service.pieces(jobs, answers, inbox):
            found[piece.index].append(piece)
    except ApiError as error:
        return error
    return found


async def unless_gone(request: Request, work: Any) -> Any:
    """The result of some work, or None as soon as the client leaves."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    tasks = [asyncio.ensure_future(work), asyncio.ensure_future(gone())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return tasks[0].result() if tasks[0].done() else None
    finally:
        for task in tasks:
            task.cancel()


async def chunks(
    service: Service,
    asked: Asked,
    jobs: Sequence[Job],
    answers: Sequence[GrowingAnswer],
    inbox: asyncio.Queue[Update | None],
    reply: ChatReply,
    prompt_tokens: int,
) -> AsyncIterator[bytes]:
    """A stream of server-sent events. An error inside it is its last one."""
    nothing = {"usage": None} if asked.with_usage else {}
    try:
        for index in range(len(answers)):
            opening = reply.opening(index)
            if opening is not None:
                yield event(opening | nothing)
        async for piece in service.pieces(jobs, answers, inbox):
            if piece.text or piece.logprobs or piece.reason or piece.round:
                yield event(reply.chunk([piece]) | nothing)
        if asked.with_usage:
            yield event(reply.chunk([]) | {"usage": usage(prompt_tokens, [one.counts for one in answers])})
    except ApiError as error:
        yield event(error.body())
    yield b"data: [DONE]\n\n"


def event(content: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(content).encode() + b"\n\n"


class Events(StreamingResponse):
    """Server-sent events that let go of their jobs as soon as the client is gone."""

    def __init__(self, service: Service, jobs: Sequence[Job], content: AsyncIterator[bytes]) -> None:
        headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        super().__init__(content, headers=headers, media_type="text/event-stream")
        self.service, self.jobs = service, jobs

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            with anyio.move_on_after(self.service.limits.seconds + GRACE_SECONDS):
                await super().__call__(scope, receive, send)
        finally:
            self.service.release(self.jobs)


def endpoint_of(request: Request) -> str:
    """The route's path; one name for all that do not exist, so that nobody can make up metrics."""
    route = request.scope.get("route")
    return str(getattr(route, "path", "other"))
