"""How a base model becomes the challenger: the section `training`."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, model_validator

from configs.sections import Name, Section, Share


class Lora(Section):
    """LoRA (Hu et al. 2021, arXiv:2106.09685): rank and scale of the low-rank update."""

    rank: Annotated[int, Field(ge=1, le=512)] = 16
    alpha: Annotated[float, Field(gt=0)] = 32.0
    dropout: Share = 0.0
    dora: bool = False  # decomposed weights (Liu et al. 2024, arXiv:2402.09353): often better, always slower
    quantization: Literal["none", "4bit"] = "none"  # of the frozen base weights; 4bit needs CUDA and bitsandbytes


class FewShot(Section):
    """Contrastive pairs before the head (SetFit; Tunstall et al. 2022, arXiv:2209.11055), for few rows per class."""

    mode: Literal["auto", "always", "never"] = "never"  # measured: no gain over plain training of enough epochs
    max_rows_per_class: Annotated[int, Field(ge=2, le=1000)] = 16  # auto: on while the median class has no more
    epochs: Annotated[float, Field(gt=0, le=100)] = 1  # passes over the pairs
    pairs_per_row: Annotated[int, Field(ge=1, le=100)] = 10  # as many of the same label as of another one
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 32
    learning_rate: Annotated[float, Field(gt=0, lt=1)] = 2e-5


class Augmentation(Section):
    """Changed copies of training rows (EDA; Wei & Zou 2019, arXiv:1901.11196); only they change."""

    copies: Annotated[int, Field(ge=0, le=20)] = 0  # per training row
    delete: Share = 0.1  # chance that a word is left out
    swap: Share = 0.1  # share of words that change places


class Replay(Section):
    """Old rows against forgetting, when training goes on from the champion."""

    old_per_new: Annotated[float, Field(ge=0, le=1000)] = 1.0  # rows the champion knew, per row it did not


class LabelNoise(Section):
    """Confident learning (Northcutt et al. 2021, arXiv:1911.00068) finds training rows whose label looks wrong."""

    suspect_weight: Annotated[float, Field(ge=0, le=1)] = 1.0  # of a suspicious row in the loss; 1: only listed
    folds: Annotated[int, Field(ge=2, le=20)] = 5  # each row is judged by a model that did not see it


class Training(Section):
    """How the base model becomes the challenger."""

    preset: Name | None = None  # `configs/presets/NAME.yaml` gives what this section leaves out
    base_model: str  # `package:NAME` (an installed package that carries the files), a folder, or a hub id
    origin: Literal["base", "champion"] = Field("base", alias="from")  # champion: go on from the model that serves
    replay: Replay = Replay()
    method: Literal["full", "lora"] = "full"
    lora: Lora = Lora()
    few_shot: FewShot = FewShot()
    augmentation: Augmentation = Augmentation()
    label_noise: LabelNoise = LabelNoise()
    pooling: Literal["mean", "cls", "last"] = "mean"  # causal language models: last
    max_tokens: Annotated[int, Field(ge=8, le=8192)] = 128
    epochs: Annotated[float, Field(gt=0, le=100)] = 3
    max_steps: Annotated[int, Field(ge=1)] | None = None  # stops earlier than epochs would
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 16
    learning_rate: Annotated[float, Field(gt=0, lt=1)] = 5e-5
    head_learning_rate: Annotated[float, Field(gt=0, lt=1)] = 1e-3
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0  # learning rate of each layer below, as a share of its upper
    warmup_share: Share = 0.1
    weight_decay: Annotated[float, Field(ge=0, lt=1)] = 0.01
    gradient_accumulation: Annotated[int, Field(ge=1, le=1024)] = 1  # batches per step
    dropout: Share = 0.0
    label_smoothing: Share = 0.0
    average_weights: Share = 0.0  # decay of an exponential moving average of the weights; 0: the last step's weights
    soup: Annotated[int, Field(ge=1, le=20)] = 1  # runs from one start in other orders, averaged into one model
    freeze_embeddings: bool = True
    frozen_layers: Annotated[int, Field(ge=0, le=200)] = 0  # lowest encoder layers that keep their weights
    class_weights: Literal["none", "balanced"] = "none"
    rating_weight: Annotated[float, Field(ge=0, le=100)] = 0.0  # weight of the auxiliary rating loss (squared error)
    evaluations_per_epoch: Annotated[int, Field(ge=1, le=100)] = 2
    early_stopping_patience: Annotated[int, Field(ge=1)] | None = 4  # evaluations without a better validation macro-F1
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto: bf16 where a trial shows it faster
    compile: Literal["auto", "on", "off"] = "off"  # torch.compile; auto: on CUDA, for runs long enough to pay it back
    seed: int = 13

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    @model_validator(mode="after")
    def _soups_are_of_whole_models(self) -> "Training":
        if self.soup > 1 and self.method != "full":
            raise ValueError("soup above 1 needs method: full; adapters are not averaged")
        return self
