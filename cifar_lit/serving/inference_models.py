"""The JSON of the Open Inference Protocol, in requests and responses."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, FailFast, Field, InstanceOf, model_validator

MODEL_NAME = "cifar10"
PLATFORM = "onnxruntime_onnx"
MAX_ITEMS = 64
"""Images in one request."""

InputName = Literal["image", "pixels"]
OutputName = Literal["probabilities", "prediction", "confidence"]


# Requests


class _Part(BaseModel):
    """Members that are not known, and null, count as absent; true is no integer."""

    model_config = ConfigDict(strict=True)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: Any) -> Any:
        return {key: each for key, each in value.items() if each is not None} if isinstance(value, dict) else value


class Parameters(_Part):
    """What a client may wish of an input, an output or all of them."""

    binary_data_size: int | None = None
    binary_data: bool | None = None
    binary_data_output: bool = False
    classification: Any = None
    shared_memory_region: Any = None

    @model_validator(mode="after")
    def _offered(self) -> "Parameters":
        if self.classification:
            raise ValueError("'classification' is not offered. Ask for 'prediction' and 'confidence'.")
        if self.shared_memory_region is not None:
            raise ValueError("shared memory is not offered. Send and ask for data in the body.")
        return self


class InputTensor(_Part):
    """Images; their values are not looked at yet."""

    name: InputName
    datatype: str
    shape: Annotated[list[int], FailFast()]
    parameters: Parameters = Parameters()
    data: InstanceOf[list[Any]] | None = None


class RequestedOutput(_Part):
    """An output that is asked for."""

    name: OutputName
    parameters: Parameters = Parameters()


class InferenceRequest(_Part):
    """A request to `/infer`; binary tensors may follow the JSON."""

    id: str | None = Field(default=None, max_length=256)
    parameters: Parameters = Parameters()
    inputs: Annotated[list[InputTensor], FailFast()] = []
    outputs: Annotated[list[RequestedOutput], FailFast()] = []


# Responses


class ServerMetadata(BaseModel):
    """What this server is."""

    name: str = Field(examples=["cifar_lit"])
    version: str = Field(description="Of the code.", examples=["1.0"])
    extensions: list[str] = Field(examples=[["binary_tensor_data"]])


class ServerLive(BaseModel):
    """The process lives."""

    live: bool = Field(examples=[True])


class ServerReady(BaseModel):
    """Images are classified."""

    ready: bool = Field(examples=[True])


class ModelReady(BaseModel):
    """The model is served."""

    name: str = Field(examples=[MODEL_NAME])
    ready: bool = Field(examples=[True])


class TensorMetadata(BaseModel):
    """An input or an output."""

    name: str = Field(examples=["image"])
    datatype: str = Field(examples=["BYTES"])
    shape: list[int] = Field(description="-1 is the number of images.", examples=[[-1]])
    parameters: dict[str, str] = Field(examples=[{"description": "image files (JPEG, PNG, WebP and others)"}])


class ModelMetadata(BaseModel):
    """What the model takes and gives."""

    name: str = Field(examples=[MODEL_NAME])
    versions: list[str] = Field(examples=[["v0001"]])
    platform: str = Field(examples=[PLATFORM])
    inputs: list[TensorMetadata] = Field(description="One of them is to be given.")
    outputs: list[TensorMetadata]
    parameters: dict[str, str | int] = Field(examples=[{"class_names": "airplane,automobile", "max_items": 64}])


class OutputTensor(BaseModel):
    """An output of all images."""

    name: str = Field(examples=["prediction"])
    datatype: str = Field(examples=["BYTES"])
    shape: list[int] = Field(examples=[[1]])
    data: list[float] | list[str] | None = Field(
        default=None, description="Row by row; left out if the values follow the JSON.", examples=[["cat"]]
    )
    parameters: dict[str, int] | None = Field(
        default=None, description="binary_data_size, if the values follow the JSON.", examples=[None]
    )


class InferenceResponse(BaseModel):
    """The predictions for all images; binary tensors may follow the JSON."""

    model_name: str = Field(examples=[MODEL_NAME])
    model_version: str = Field(description="The version that made it.", examples=["v0001"])
    outputs: list[OutputTensor]
    id: str | None = Field(default=None, description="The request's, if it had one.", examples=["42"])
