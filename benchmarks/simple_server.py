"""The simplest server of a classifier: a FastAPI handler that runs torch's own layers on each request by itself.

`python -m benchmarks.simple_server FOLDER PORT` is what `bench_serve` compares ours with. FastAPI runs the handler in
several threads at a time; with a third argument, `serial`, it is a coroutine, and requests take turns.
"""

from __future__ import annotations

import sys
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

from benchmarks.served_models import PlainClassifier

app = FastAPI()


class Body(BaseModel):
    texts: str


def predict(body: Body) -> dict[str, object]:
    probabilities = app.state.model.predict(body.texts)
    best = int(probabilities.argmax())
    return {"prediction": app.state.model.task.labels[best], "confidence": float(probabilities[best])}


async def in_turn(body: Body) -> dict[str, object]:
    return predict(body)


@app.get("/health")
def health() -> str:
    return "ok"


def main() -> None:
    app.state.model = PlainClassifier(Path(sys.argv[1]))
    app.post("/predict")(in_turn if sys.argv[3:] == ["serial"] else predict)
    uvicorn.run(app, port=int(sys.argv[2]), log_level="error")


if __name__ == "__main__":
    main()
