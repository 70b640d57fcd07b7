"""The application's answer to an error that no route expects."""

import httpx
import pytest
from fastapi import APIRouter

from kontext.local.app import application


@pytest.mark.hostile("API abuses")
async def test_an_unexpected_error_is_answered_in_a_sentence() -> None:
    """The answer is JSON, and does not tell the cause."""
    router = APIRouter()

    @router.get("/broken")
    async def broken() -> None:
        raise RuntimeError("secret")

    transport = httpx.ASGITransport(application(router), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://local") as client:
        answer = await client.get("/broken")

    assert answer.status_code == 500
    assert answer.json().keys() == {"error"}
    assert "secret" not in answer.text
