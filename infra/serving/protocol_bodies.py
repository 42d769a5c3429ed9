"""What MLflow's scoring protocol and the Open Inference Protocol give, as the OpenAPI page shows it."""

from pydantic import BaseModel, ConfigDict, Field


class InvocationsAnswer(BaseModel):
    """The answers in the order of the rows, with the columns of a version that MLflow itself serves."""

    predictions: list[dict[str, str | float | bool]] = Field(
        examples=[
            [{"label": "negative", "score": 0.97, "p_negative": 0.97, "p_positive": 0.03,
              "prediction_id": "0198c2a57b1e4f0d9c3a6b8e2d714f05", "truncated": False}]
        ]
    )  # fmt: skip
    loop: str
    version: str


class ProtocolError(BaseModel):
    """The body of every answer of the Open Inference Protocol that is no success."""

    error: str


class ServerMetadata(BaseModel):
    """Which server this is."""

    name: str
    version: str
    extensions: list[str]


class LiveAnswer(BaseModel):
    """The process answers."""

    live: bool


class ReadyAnswer(BaseModel):
    """Every loop that has a champion is loaded."""

    ready: bool


class ModelReady(BaseModel):
    """A loop answers."""

    name: str
    ready: bool


class TensorMetadata(BaseModel):
    """A tensor that a model takes or gives; -1 in its shape is the number of texts."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, str] | None = Field(None, description="`labels`: of the columns of `scores`, as JSON")


class ModelMetadata(BaseModel):
    """What a loop takes and gives; `group` need not be given."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class OutputTensor(BaseModel):
    """An output; its `data` are missing where it follows in binary, `binary_data_size` bytes long."""

    name: str
    datatype: str
    shape: list[int]
    data: list[str | float | bool] | None = None
    parameters: dict[str, int] | None = None


class InferAnswer(BaseModel):
    """The outputs, one element per text; a JSON part and then bytes where binary outputs were asked for."""

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[OutputTensor]

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model_name": "product-sentiment",
                    "model_version": "3",
                    "outputs": [
                        {"name": "label", "datatype": "BYTES", "shape": [1], "data": ["negative"]},
                        {"name": "score", "datatype": "FP32", "shape": [1], "data": [0.98]},
                    ],
                }
            ]
        }
    )
