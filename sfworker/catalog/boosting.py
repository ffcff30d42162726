"""`ss_xgb`, `sgb` and their predictions: boosted trees. Runs in the daemon and in party processes."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from sfworker.catalog.base import TaskType, register
from sfworker.catalog.training import (
    MODEL_ID,
    PREDICTIONS,
    RESUMED,
    SHAPES,
    UNIT,
    PredictParams,
    PredictResult,
    TrainParams,
    TrainResult,
)


class BoostingParams(TrainParams, frozen=True, kw_only=True):
    """The parameters of both kinds of boosted trees, in the words of XGBoost."""

    num_boost_round: Annotated[int, Meta(ge=1, le=1024, description="Number of trees.")] = 10
    max_depth: Annotated[int, Meta(ge=1, le=16, description="Depth of a tree, at most.")] = 5
    learning_rate: Annotated[float, Meta(gt=0, le=1, description="Share of each tree that counts.")] = 0.3
    reg_lambda: Annotated[float, Meta(ge=0, le=10_000, description="Weight of the l2 penalty on leaves.")] = 1.0
    subsample: Annotated[float, Meta(gt=0, le=1, description="Share of the rows that each tree is grown from.")] = 1.0
    colsample_by_tree: Annotated[
        float, Meta(gt=0, le=1, description="Share of each party's columns that each tree is grown from.")
    ] = 1.0
    sketch_eps: Annotated[
        float, Meta(ge=0.01, le=1, description="A feature is cut into at most 1 / sketch_eps bins of as many rows.")
    ] = 0.1
    base_score: Annotated[
        float, Meta(ge=-10, le=10, description="Where predictions start, in log odds; for `logistic` only.")
    ] = 0.0
    seed: Annotated[int, Meta(ge=0, le=2**31 - 1, description="Start of the random numbers.")] = 42
    reveal_rmse: Annotated[
        bool, Meta(description="Whether the error after each tree is in the result, for all parties and its readers.")
    ] = False


class SsXgbParams(BoostingParams, tag="ss_xgb", frozen=True, kw_only=True):
    """Trains boosted trees on secret shares: slower than `sgb`, and no party learns labels or gradients.

    Row n of every party's file is about the same case, as after `psi`. The label is 0 or 1 for `logistic`.
    """

    objective: Annotated[Literal["logistic", "linear"], Meta(description="What is predicted.")] = "logistic"


class SgbParams(BoostingParams, tag="sgb", frozen=True, kw_only=True):
    """Trains boosted trees with homomorphic encryption (SecureBoost); the label's party coordinates.

    Row n of every party's file is about the same case, as after `psi`. The label is 0 or 1 for `logistic` and not below
    0 for `tweedie`. In `heu_config` the label's party is the `sk_keeper` and all others are `evaluators`; its flat
    form, `{"mode": "PHEU", "schema": "ou", "key_size": 2048}`, names no parties and fits any.
    """

    objective: Annotated[Literal["logistic", "linear", "tweedie"], Meta(description="What is predicted.")] = "logistic"
    gamma: Annotated[float, Meta(ge=0, le=10_000, description="Gain below which a node is not split.")] = 0.0
    tree_growing_method: Annotated[
        Literal["level", "leaf"],
        Meta(description="By levels up to `max_depth`, or the best leaf first up to `max_leaf`."),
    ] = "level"
    max_depth: Annotated[int, Meta(ge=1, le=16, description="Depth of a tree that grows by level, at most.")] = 5
    max_leaf: Annotated[int, Meta(ge=1, le=2**15, description="Leaves of a tree that grows by leaf, at most.")] = 15
    tweedie_variance_power: Annotated[float, Meta(gt=1, lt=2, description="Power of the variance of `tweedie`.")] = 1.5
    reveal_importances: Annotated[
        bool,
        Meta(description="Whether it is in the result, for all parties and its readers, how each feature was used."),
    ] = False


class Importance(Struct, frozen=True, kw_only=True):
    """The use of one feature in all trees."""

    splits: int
    gain: float | None
    """Mean gain of its splits, 0 without any. Null where an earlier attempt was cut off, which has kept no gains."""


class BoostingResult(TrainResult, frozen=True, kw_only=True):
    """The result of a training of boosted trees."""

    trees: int
    """Fewer than asked for where no further split gained anything."""
    rmse: list[float] | UnsetType = UNSET
    """Root mean squared error of the training's own rows after each tree, where `reveal_rmse` asks for it."""
    importances: dict[str, dict[str, Importance]] | UnsetType = UNSET
    """By party and column, where `reveal_importances` asks for them."""


class SsXgbPredictParams(PredictParams, tag="ss_xgb_predict", frozen=True, kw_only=True):
    """Applies a model of `ss_xgb` to new rows, aligned as in training; only the receiver sees the predictions."""


class SgbPredictParams(PredictParams, tag="sgb_predict", frozen=True, kw_only=True):
    """Applies a model of `sgb` to new rows, aligned as in training; the label's party sees the predictions, too."""


_RMSE = "with reveal_rmse every party and readers of the result learn the root mean squared error after each tree"
SS_XGB = register(
    TaskType(
        name="ss_xgb",
        summary="Trains boosted trees on secret shares",
        params=SsXgbParams,
        result=BoostingResult,
        devices=frozenset({"spu"}),
        disclosures=(
            SHAPES,
            MODEL_ID,
            RESUMED,
            "every party learns how many bins each party's features have, which rows and columns were drawn for a tree "
            "and by which party's feature and bin, as numbers, each node is split",
            "what a split means (column and value) is known to the party of the feature only",
            "labels, gradients and leaf weights stay shared",
            _RMSE,
        ),
    )
)
SS_XGB_PREDICT = register(
    TaskType(
        name="ss_xgb_predict",
        summary="Applies a model of ss_xgb",
        params=SsXgbPredictParams,
        result=PredictResult,
        devices=frozenset({"spu"}),
        disclosures=(SHAPES, MODEL_ID, PREDICTIONS, UNIT),
    )
)
SGB = register(
    TaskType(
        name="sgb",
        summary="Trains boosted trees with homomorphic encryption (SecureBoost)",
        params=SgbParams,
        result=BoostingResult,
        devices=frozenset({"heu"}),
        disclosures=(
            SHAPES,
            MODEL_ID,
            RESUMED,
            "every party learns the shape of each tree, which rows are in which of its nodes, which party splits a "
            "node and with what gain, and which rows and columns were drawn for it",
            "the label's party learns the sums of gradients in each bin of the others' features, which stay unnamed "
            "and in an order that it does not know, and holds the leaf weights",
            "what a split means (column and value) is known to the party of the feature only",
            "labels and gradients leave the label's party encrypted",
            _RMSE,
            "with reveal_importances every party and readers of the result learn the names of features, and how many "
            "nodes each splits and with what mean gain",
        ),
    )
)
SGB_PREDICT = register(
    TaskType(
        name="sgb_predict",
        summary="Applies a model of sgb",
        params=SgbPredictParams,
        result=PredictResult,
        disclosures=(
            SHAPES,
            MODEL_ID,
            PREDICTIONS,
            UNIT,
            "the party of the label in training learns the predictions, too, and which leaves a row can be in by each "
            "party's features",
        ),
    )
)
