"""What a client is told when something is wrong, in the shape that OpenAI's clients read."""

from __future__ import annotations

import json
from typing import Any

from starlette.responses import Response

INVALID = "invalid_request_error"


class ApiError(Exception):
    """A refusal: HTTP status, one plain sentence, the field it is about, and a code that programs may look at."""

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.retry_after = status, message, param, code, retry_after

    def body(self) -> dict[str, Any]:
        return {
            "error": {"message": self.message, "type": kind_of(self.status), "param": self.param, "code": self.code}
        }

    def response(self) -> Response:
        headers = {} if self.retry_after is None else {"retry-after": str(self.retry_after)}
        return json_response(self.body(), self.status, headers)


def kind_of(status: int) -> str:
    """OpenAI's name for the kind of an error."""
    special = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
    return special.get(status, INVALID if status < 500 else "server_error")


def json_response(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(json.dumps(content), status, headers, "application/json")


def internal_error() -> ApiError:
    """A bug of ours; the log has it, the client learns nothing of this machine."""
    return ApiError(500, "the server failed on this request; its log says why")
