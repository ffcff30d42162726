"""`ss_lr`, `ss_glm` and their predictions: linear models on secret shares. Runs in the daemon and in parties."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, UnsetType

from sfworker.catalog.base import FINE_FIGURES, ColumnRef, TaskType, register
from sfworker.catalog.training import (
    MODEL_ID,
    PREDICTIONS,
    RESUMED,
    SHAPES,
    TOO_FAR,
    UNIT,
    PredictParams,
    PredictResult,
    TrainParams,
    TrainResult,
)
from sfworker.errors import ParameterValidationError

Regression = Literal["logistic", "linear"]
Sigmoid = Literal["real", "t1", "t3", "t5", "df", "sr"]
Distribution = Literal["Bernoulli", "Poisson", "Gamma", "Tweedie"]
Link = Literal["Logit", "Log", "Reciprocal", "Identity"]

LearningRate = Annotated[float, Meta(gt=0, le=100, description="Step of the gradient descent.")]
_BatchSize = Annotated[int, Meta(ge=1, le=1_000_000)]
Eps = Annotated[
    float, Meta(ge=0, lt=1, description="Stops when the model's weights change by less than this share; 0: never.")
]
Standardize = Annotated[
    bool, Meta(description="Whether each party brings its own columns to mean 0 and deviation 1 first.")
]
RevealWeights = Annotated[
    bool, Meta(description="Whether the model's weights are in the result, for all parties and its readers.")
]


class SsLrParams(TrainParams, tag="ss_lr", frozen=True, kw_only=True):
    """Trains a logistic or linear regression by mini-batch gradient descent on secret shares.

    Row n of every party's file is about the same case, as after `psi`. The label of a logistic regression is 0 or 1.
    The result says whether the training has converged.
    """

    regression: Annotated[Regression, Meta(description="Kind of model.")] = "logistic"
    epochs: Annotated[
        Annotated[int, Meta(ge=1, le=10_000)] | None,
        Meta(description="Passes over the data. Default: at least 10, and as many as make 500 steps."),
    ] = None
    learning_rate: LearningRate = 0.1
    batch_size: Annotated[
        _BatchSize | None,
        Meta(
            description="Rows per step, at most; an epoch's batches are of nearly the same size. "
            "Default: a sixteenth of the rows, but 32 at least and 1024 at most.",
        ),
    ] = None
    penalty: Annotated[Literal["none", "l2"], Meta(description="Regularisation.")] = "none"
    l2_norm: Annotated[
        float, Meta(ge=0, le=1000, description="Weight of the l2 penalty, which spares the intercept.")
    ] = 0.5
    reveal_rmse: Annotated[
        bool, Meta(description="Whether the error after each epoch is in the result, for all parties and its readers.")
    ] = False
    sig_type: Annotated[
        Sigmoid,
        Meta(
            description="What stands for the sigmoid of a logistic regression in training; `real` is exact. With `t1`, "
            "the fastest, and `t3` and `t5`, predictions have the true sigmoid; with `df` and `sr`, the same curve."
        ),
    ] = "t1"
    eps: Eps = 0.0
    standardize: Standardize = True
    reveal_weights: RevealWeights = False


class LinearResult(TrainResult, frozen=True, kw_only=True):
    """The result of a training of a linear model."""

    epochs: int
    """Epochs that were run: fewer than asked for where `eps` ended the training."""
    batch_size: int | None
    """Rows per step, at most. Null where each step takes all of them."""
    converged: bool
    """True where as many epochs again would change no weight by more than a tenth of the largest."""
    weights: dict[str, dict[str, float]] | UnsetType = UNSET
    """By party and column, where `reveal_weights` asks for them; of standardized columns, unless that is off."""
    intercept: float | UnsetType = UNSET
    """The weight without a column."""
    warnings: list[str]


class SsLrResult(LinearResult, frozen=True, kw_only=True):
    """The result of `ss_lr`."""

    regression: Regression
    rmse: list[float | None] | UnsetType = UNSET
    """Root mean squared error after each epoch, where `reveal_rmse` asks for it; null for those of earlier attempts."""


class SsLrPredictParams(PredictParams, tag="ss_lr_predict", frozen=True, kw_only=True):
    """Applies a model of `ss_lr` to new rows, aligned as in training; only the receiver sees the predictions."""

    batch_size: Annotated[int, Meta(ge=1, le=1_000_000, description="Rows that are computed at a time.")] = 16_384


class SsGlmParams(TrainParams, tag="ss_glm", frozen=True, kw_only=True):
    """Trains a generalised linear model on secret shares.

    Row n of every party's file is about the same case, as after `psi`. IRLS (iteratively reweighted least squares)
    needs few epochs and exact arithmetic: field FM128 with 40 fraction bits. What is predicted is the mean of the
    label, in its own units; `Bernoulli` wants 0 and 1, `Poisson` and `Tweedie` nothing below 0, `Gamma` all above.
    """

    distribution: Annotated[Distribution, Meta(description="Distribution of the label.")]
    link: Annotated[
        Link | None, Meta(description="Function that makes the mean linear. Default: Logit for Bernoulli, else Log.")
    ] = None
    optimizer: Annotated[
        Literal["IRLS", "SGD"],
        Meta(description="How the model is found; SGD only with Log and Logit, or Identity and `tweedie_power` 0."),
    ] = "IRLS"
    epochs: Annotated[
        Annotated[int, Meta(ge=1, le=10_000)] | None,
        Meta(description="Passes over the data. Default: 10 with IRLS; with SGD as for `ss_lr`."),
    ] = None
    learning_rate: Annotated[float, Meta(gt=0, le=100, description="Step of SGD; IRLS has none.")] = 0.1
    batch_size: Annotated[_BatchSize | None, Meta(description="Rows per step of SGD. Default: as for `ss_lr`.")] = None
    l2_lambda: Annotated[
        float, Meta(ge=0, le=10_000, description="Weight of the l2 penalty, which spares the intercept.")
    ] = 0.0
    tweedie_power: Annotated[
        float,
        Meta(
            ge=0,
            le=2,
            description="Power of a Tweedie variance: 0 is normal, 1 Poisson, 2 Gamma; 0 to 1 is none.",
        ),
    ] = 1.5
    offset: Annotated[
        ColumnRef | None,
        Meta(
            description="Column that is added to the linear predictor, such as a log exposure; with the links Log and "
            "Logit only. Default: none."
        ),
    ] = None
    weight: Annotated[ColumnRef | None, Meta(description="Column of the rows' weights. Default: all the same.")] = None
    eps: Eps = 0.0
    standardize: Standardize = True
    reveal_weights: RevealWeights = False

    def check(self, parties: list[str]) -> None:
        super().check(parties)
        if (self.distribution == "Bernoulli") != (self.resolved_link == "Logit"):
            raise ParameterValidationError("task_config.link: Logit goes with Bernoulli, and with nothing else")
        if self.distribution == "Tweedie" and 0 < self.tweedie_power < 1:
            raise ParameterValidationError("task_config.tweedie_power: has to be 0 or from 1 to 2")
        is_normal = self.distribution == "Tweedie" and self.tweedie_power == 0
        by_sgd = {"Logit", "Log", *(["Identity"] if is_normal else [])}
        if self.optimizer == "SGD" and self.resolved_link not in by_sgd:
            # Its steps divide by means that begin at 0, or at infinity, and end anywhere.
            raise ParameterValidationError(
                "task_config.optimizer: SGD finds models of the links Log and Logit, and with Identity those of "
                "tweedie_power 0; set IRLS"
            )
        if self.offset is not None and self.resolved_link not in ("Log", "Logit"):
            raise ParameterValidationError("task_config.offset: goes with the links Log and Logit only")

    @property
    def resolved_link(self) -> Link:
        """`link`, or its default."""
        return self.link or ("Logit" if self.distribution == "Bernoulli" else "Log")


class SsGlmResult(LinearResult, frozen=True, kw_only=True):
    """The result of `ss_glm`."""

    distribution: Distribution
    link: Link


class SsGlmPredictParams(PredictParams, tag="ss_glm_predict", frozen=True, kw_only=True):
    """Applies a model of `ss_glm` to new rows, aligned as in training; only the receiver sees the predictions."""

    offset: Annotated[
        ColumnRef | None, Meta(description="Column that is added to the linear predictor, where one was in training.")
    ] = None


# Exponentials by Taylor's formula, mode 2, are right to five digits with 16 squarings, to two with SecretFlow's own 8.
_EXACT = FINE_FIGURES | {"fxp_exp_mode": 2, "fxp_exp_iters": 16}
_CONVERGED = (
    "every party learns whether the training has converged; with eps > 0, after each epoch whether it changed less"
)
_UNSCALED = "with standardize false every party learns which parties have columns far from mean 0 and deviation 1"
_SHARED = (
    "the model stays shared: no party learns labels or another party's columns, nor weights without reveal_weights"
)
_REVEALED = (
    "with reveal_weights every party and readers of the result learn the names of features and the model's weights, "
    "which tell what the model says of any row, and its intercept, which tells about the labels' mean"
)
SS_LR = register(
    TaskType(
        name="ss_lr",
        summary="Trains a logistic or linear regression on secret shares",
        params=SsLrParams,
        result=SsLrResult,
        devices=frozenset({"spu"}),
        disclosures=(
            SHAPES,
            MODEL_ID,
            RESUMED,
            _CONVERGED,
            _UNSCALED,
            _SHARED,
            _REVEALED,
            "with reveal_rmse every party and readers of the result learn the root mean squared error after each epoch",
        ),
    )
)
SS_LR_PREDICT = register(
    TaskType(
        name="ss_lr_predict",
        summary="Applies a model of ss_lr",
        params=SsLrPredictParams,
        result=PredictResult,
        devices=frozenset({"spu"}),
        disclosures=(
            SHAPES,
            MODEL_ID,
            f"{PREDICTIONS}; of a logistic regression it computes them from the rows' linear scores, which tell it the "
            "same",
            UNIT,
            TOO_FAR,
        ),
    )
)
SS_GLM = register(
    TaskType(
        name="ss_glm",
        summary="Trains a generalised linear model (Bernoulli, Poisson, Gamma, Tweedie) on secret shares",
        params=SsGlmParams,
        result=SsGlmResult,
        devices=frozenset({"spu"}),
        spu_defaults=_EXACT,
        disclosures=(
            SHAPES,
            MODEL_ID,
            RESUMED,
            _CONVERGED,
            _UNSCALED,
            "with IRLS the label's party learns, in each epoch, the features' matrix of weighted cross products",
            "with link Log every party learns if the means of some rows are too far from the largest label",
            _SHARED,
            _REVEALED,
        ),
    )
)
SS_GLM_PREDICT = register(
    TaskType(
        name="ss_glm_predict",
        summary="Applies a model of ss_glm",
        params=SsGlmPredictParams,
        result=PredictResult,
        devices=frozenset({"spu"}),
        spu_defaults=_EXACT,
        disclosures=(
            SHAPES,
            MODEL_ID,
            f"{PREDICTIONS}, which it computes from the rows' linear predictors; these tell it the same",
            UNIT,
            TOO_FAR,
        ),
    )
)
