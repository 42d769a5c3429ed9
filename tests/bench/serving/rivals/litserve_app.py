"""LitServe with batches of up to 32 texts, gathered for 2 ms. `python litserve_app.py PORT`."""

import sys
from typing import Any

import litserve  # type: ignore[import-not-found,unused-ignore]  # installed by the bench alone

from tests.bench.serving.rivals.model import Answers


class Sentiment(litserve.LitAPI):  # type: ignore[misc,unused-ignore]
    """One text in, its answer out."""

    def setup(self, device: str) -> None:
        """Load the model, once per worker."""
        self.answers = Answers()

    def decode_request(self, request: dict[str, str]) -> str:
        """Return the text."""
        return request["text"]

    def batch(self, inputs: list[str]) -> list[str]:
        """Return the texts of a batch."""
        return list(inputs)

    def predict(self, texts: list[str]) -> list[dict[str, Any]]:
        """Answer a batch."""
        return self.answers(texts)

    def unbatch(self, output: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return one answer per request."""
        return output

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        """Return what is sent."""
        return output


if __name__ == "__main__":
    api = Sentiment(max_batch_size=32, batch_timeout=0.002)
    litserve.LitServer(api, accelerator="cpu", workers_per_device=1).run(
        host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="warning"
    )
