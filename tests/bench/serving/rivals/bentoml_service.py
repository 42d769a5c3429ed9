"""BentoML with adaptive batching. `bentoml serve tests.bench.serving.rivals.bentoml_service:Sentiment`."""

from typing import Any

import bentoml  # type: ignore[import-not-found,unused-ignore]  # installed by the bench alone

from tests.bench.serving.rivals.model import Answers


@bentoml.service(workers=1, traffic={"timeout": 60})  # type: ignore[untyped-decorator,unused-ignore]
class Model:
    """Answers batches that BentoML gathers."""

    def __init__(self) -> None:
        self.answers = Answers()

    @bentoml.api(batchable=True, max_batch_size=32, max_latency_ms=1000)  # type: ignore[untyped-decorator,unused-ignore]
    def predict(self, texts: list[str]) -> list[dict[str, Any]]:
        """Answer a batch."""
        return self.answers(texts)


@bentoml.service(workers=1, traffic={"timeout": 60})  # type: ignore[untyped-decorator,unused-ignore]
class Sentiment:
    """One text in, its answer out."""

    model = bentoml.depends(Model)

    @bentoml.api  # type: ignore[untyped-decorator,unused-ignore]
    async def predict(self, text: str) -> dict[str, Any]:
        """Answer one text."""
        (answer,) = await self.model.to_async.predict([text])
        found: dict[str, Any] = answer
        return found
