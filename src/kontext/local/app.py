"""The ASGI application: routers, API keys, CORS, and the errors that a request is answered with.

Every error is answered as one sentence under `error`. Knows HTTP; does not know jobs or workers.
"""

import hmac
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated

from fastapi import APIRouter, FastAPI, Request, Security
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, Response
from fastapi.security import APIKeyHeader
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from kontext import __version__
from kontext.local.queue_unavailable import QueueUnavailable

log = logging.getLogger("kontext")
AUTHORIZATION = APIKeyHeader(name="Authorization", auto_error=False)
MEBIBYTE = 2**20


class ApiError(Exception):
    """A request that is answered with an error.

    Args:
        status: The HTTP status code.
        sentence: The sentence that the caller reads.
    """

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


def application(*routers: APIRouter, origins: Sequence[str] = ()) -> FastAPI:
    """Return an application with an OpenAPI page at `/docs`.

    Args:
        routers: The routes of the application.
        origins: Origins of the web pages that may read the answers; `*` for all.
    """
    app = FastAPI(
        title="kontext, local", version=__version__, summary="Runpod's API v2 on your own machine"
    )
    for router in routers:
        app.include_router(router)
    app.add_middleware(
        CORSMiddleware, allow_origins=origins, allow_methods=["*"], allow_headers=["*"]
    )
    _register_error_handlers(app)
    return app


def require_api_key(key: str) -> Callable[[str | None], Awaitable[None]]:
    """Return a dependency that admits callers that send `key`, bare or as a bearer token."""

    async def authorised(given: Annotated[str | None, Security(AUTHORIZATION)]) -> None:
        scheme, _, token = (given or "").partition(" ")
        token = token if scheme.lower() == "bearer" else given or ""
        if not hmac.compare_digest(token.encode(), key.encode()):
            raise ApiError(401, "Authorization must carry the API key")

    return authorised


async def read_body(request: Request, max_bytes: int) -> bytes:
    """Return the body of a request.

    Raises:
        ApiError: The body is larger than `max_bytes`; Runpod too answers 400, not 413.
    """
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise ApiError(400, f"body: exceeded max body size of {max_bytes // MEBIBYTE}MiB")
    return bytes(body)


def _register_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(ApiError)
    async def api_error(_request: Request, error: ApiError) -> JSONResponse:
        return JSONResponse({"error": str(error)}, error.status)

    @app.exception_handler(QueueUnavailable)
    async def queue_unavailable(_request: Request, error: QueueUnavailable) -> JSONResponse:
        return JSONResponse({"error": str(error)}, 503)

    @app.exception_handler(ClientDisconnect)
    async def client_disconnect(request: Request, _error: ClientDisconnect) -> Response:
        log.debug("%s %s was broken off by its client", request.method, request.url.path)
        return Response(status_code=400)  # no client reads it

    @app.exception_handler(HTTPException)
    async def http_exception(_request: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)

    @app.exception_handler(RequestValidationError)
    async def validation_error(_request: Request, error: RequestValidationError) -> JSONResponse:
        reasons = [f"{e['loc'][-1]}: {e['msg']}" for e in error.errors()]
        return JSONResponse({"error": "; ".join(reasons)}, 400)

    @app.exception_handler(Exception)
    async def unexpected_error(_request: Request, _error: Exception) -> JSONResponse:
        return JSONResponse({"error": "internal server error; its log has the cause"}, 500)
