"""FastAPI and a transformers pipeline: the service of most tutorials. `uvicorn ...fastapi_pipeline:app`."""

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from transformers import pipeline

from tests.bench.serving.rivals.model import load

tokenizer, model = load()
classify = pipeline("text-classification", model=model, tokenizer=tokenizer, top_k=None)
app = FastAPI()


class Request(BaseModel):
    """One text."""

    text: str


@app.post("/predict")
def predict(request: Request) -> Any:
    """Return the labels with their scores."""
    return classify(request.text, truncation=True)
