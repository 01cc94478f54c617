"""What clients send and get, checked by pydantic; the API's page (/docs) is made of these."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool

from ulmfit_fast.inference.explain import METHODS
from ulmfit_fast.text.rules import encodable

# Half a surrogate pair, which JSON can spell, is read as "?", as everywhere else.
Text = Annotated[str, BeforeValidator(lambda value: encodable(value) if isinstance(value, str) else value)]
Value = str | int | float


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    model: Text | None = Field(None, description="a name that /models lists; the first one where it is left out")


class PredictBody(_Body):
    """Texts to predict."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"texts": ["A text.", "Another."]}]})

    texts: Text | list[Text] = Field(description="one text, or several")
    probabilities: StrictBool = Field(False, description="tell the probability of each label, too")


class StreamBody(_Body):
    """A text to predict while it comes."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"text": "A text that comes word by word."}]})

    text: Text
    steps: int = Field(60, ge=1, le=500, description="about how many predictions, spread over the text")


class ExplainBody(_Body):
    """A text whose prediction is explained."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"text": "A text that comes word by word."}]})

    text: Text
    method: str | None = Field(None, description=f"{', '.join(METHODS)}; left out: the first that the model takes")
    label: str | int | float | None = Field(None, description="that is explained; left out: the predicted one")


class Part(BaseModel):
    """A part of the text and what it adds to the evidence."""

    text: str
    start: int = Field(description="in characters")
    end: int
    weight: float
    share_of_maximum: float | None = Field(None, description="of a chunk: in how many features it has the maximum")
    share_of_mean: float | None = Field(None, description="of a chunk")
    heads: list[float] | None = Field(None, description="of method attention: the share of each head's attention")


class ExplainAnswer(BaseModel):
    model: str
    method: str
    predicted: Value | list[Value]
    label: Value | None
    evidence_for: str = Field(description="what the weights speak for: the label, 'at least' it, or number")
    probability: float | None
    evidence: float = Field(description="the label's log-odds, or the number")
    baseline: float | None = Field(description="of a text that says nothing; the weights sum to what is above it")
    missing: float = Field(description="by how much their sum is off; of method attention what lies on no word")
    parts: list[Part] = Field(description="in the order of the text")


class Prediction(BaseModel):
    """What is predicted of one text."""

    prediction: Value | list[Value] = Field(description="a label; labels where a text may have several; or a number")
    confidence: float | None = Field(None, description="0 to 1; left out where the task has none")
    probabilities: dict[str, float] | None = Field(None, description="of each label, if asked for")


class PredictAnswer(BaseModel):
    model: str
    predictions: list[Prediction] = Field(description="in the order of the texts")


class ModelAnswer(BaseModel):
    """A model that is served."""

    name: str
    task: str
    labels: list[Value] = Field(description="none where a number is predicted")
    precision: str
    streams: bool = Field(description="whether /stream takes it")
    explains: list[str] = Field(description="the methods of /explain that it takes")


class Refusal(BaseModel):
    """Why a request was not served."""

    detail: str


def reason_of(errors: list[dict[str, Any]]) -> str:
    """The first of pydantic's errors, in a line: where and what."""
    error = errors[0]
    where = [part for part in error["loc"] if part != "body"]
    if error["type"] == "json_invalid":
        return f"the body is not JSON ({error.get('ctx', {}).get('error', error['msg'])})"
    # Of `texts`, pydantic tells how it failed to be either kind; the list's own items say more.
    if where[:1] == ["texts"]:
        better = [each for each in errors if any(isinstance(part, int) for part in each["loc"])]
        if better:
            place = next(part for part in better[0]["loc"] if isinstance(part, int))
            return f"texts[{place}] must be a string"
        if error["type"] != "missing":
            return "texts must be a string or a list of strings"
    if not where:
        return 'the body must be a JSON object, such as {"texts": ["A text."]}, sent as application/json'
    name = ".".join(str(part) for part in where)
    if error["type"] == "extra_forbidden":
        return f"unknown field {name[:100]!r}"
    if error["type"] == "missing":
        return f"the field {name!r} is missing"
    return f"{name}: {error['msg'][0].lower()}{error['msg'][1:]}"
