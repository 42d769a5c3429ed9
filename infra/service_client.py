"""The prediction service as the stack and the command line ask it."""

import os
from typing import Any

import httpx

from configs.settings import Settings
from tasks.core.errors import DataError, TransientError

TIMEOUT = httpx.Timeout(30.0, connect=2.0)


class ServiceClient:
    """Calls the prediction service of the settings."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def is_up(self) -> bool:
        """Say whether the service answers."""
        return answers(f"{self._settings.api}/healthz")

    def is_ready(self) -> bool:
        """Say whether every loop that has a champion is loaded."""
        return answers(f"{self._settings.api}/readyz")

    def champion_version(self, loop: str) -> str | None:
        """Return the version that answers for a loop, or None while none does; a service that cannot say raises."""
        response = self._request("GET", f"/v1/loops/{loop}", self._settings.read_operator_token())
        if response.status_code == httpx.codes.NOT_FOUND:
            return None
        version = _body(response).get("version")
        return None if version is None else str(version)

    def predict(self, loop: str, texts: list[str], secret: str) -> dict[str, Any]:
        """Return the service's answer to some texts."""
        inputs = [{"text": text} for text in texts]
        return _body(self._request("POST", f"/v1/loops/{loop}/predict", secret, {"inputs": inputs}))

    def _request(self, method: str, path: str, secret: str, body: object = None) -> httpx.Response:
        headers = {"Authorization": f"Bearer {secret}"}
        try:
            return httpx.request(method, f"{self._settings.api}{path}", json=body, headers=headers, timeout=TIMEOUT)
        except httpx.TransportError as error:
            raise TransientError(f"the service at {self._settings.api} does not answer: {error}") from error


def answers(url: str, timeout_seconds: float = 2.0) -> bool:
    """Say whether a URL answers with success."""
    try:
        return httpx.get(url, timeout=timeout_seconds).is_success
    except (httpx.HTTPError, httpx.InvalidURL):
        return False


def key_from_environment() -> str | None:
    """Return the API key that the person set, if any."""
    return os.environ.get("EVERTUNE_API_KEY") or None


def _body(response: httpx.Response) -> dict[str, Any]:
    if response.is_success:
        body: dict[str, Any] = response.json()
        return body
    message = f"the service answered {response.status_code}: {response.text[:300]}"
    raise DataError(message) if response.is_client_error else TransientError(message)
