"""Registers the values that components send from party to party or keep in models. Runs in party processes.

They are data and containers of data. A rule names functions, which are among those of Arrow that compute on columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from jax.scipy.special import expit
from jaxlib.xla_extension import ArrayImpl
from secretflow.component.preprocessing.binning.base import BinningRunner
from secretflow.component.preprocessing.preprocessing import ArrowRunner
from secretflow.component.stats.stats_psi import PsiBinInfo, PsiInfos
from secretflow.compute.tracer import TraceRunner, _Tracer, _TracerType
from secretflow.ml.boost.ss_xgb_v.core.xgb_tree import XgbTree
from secretflow.preprocessing.binning.vert_woe_binning_pyu import ParticipantTransactionInfo
from secretflow.preprocessing.scaler import _STDScaler
from secretflow.stats.core.biclassification_eval_core import EqBinReport, PrReport, Report, SummaryReport
from secretflow.stats.core.prediction_bias_core import BucketPredictionBiasReport, PredictionBiasReport
from secretflow_serving_lib.compute_trace_pb2 import ExtendFunctionName
from secretflow_spec.core.dist_data.vtable import VTableFieldKind
from secretflow_spec.v1.data_pb2 import DistData
from sml.cluster.kmeans import KMEANS
from sml.gaussian_process._gpc import GaussianProcessClassifier, _BinaryGaussianProcessClassifierLaplace
from sml.gaussian_process.kernels import RBF
from sml.gaussian_process.ovo_ovr import OneVsRestClassifier
from sml.naive_bayes.gnb import GaussianNB

from sfworker.session import codec
from sfworker.session.codec import require

_NUMBER = (int, float, np.generic, np.ndarray, ArrayImpl, type(None))
_COLUMN = (pd.Series, type(None))
_OPTION = (bool, type(None))
_KERNEL = (RBF, type(None))
_FUNCTIONS = {name for name in pc.list_functions() if name == "cast" or pc.get_function(name).kind == "scalar"}
_ON_TABLES = set(ExtendFunctionName.keys())
_CAST_FLAGS = [name for name in dir(pc.CastOptions) if name.startswith("allow_")]


def _trace_parts(trace: TraceRunner) -> Sequence[Any]:
    """Take a graph of functions apart, in which a step names earlier ones by their places."""
    places = {step: place for place, step in enumerate(trace.dag)}
    return [_step_parts(step, places) for step in trace.dag]


def _step_parts(step: _Tracer, places: dict[_Tracer, int]) -> list[Any]:
    inputs = step.inputs and [
        [True, places[each]] if isinstance(each, _Tracer) else [False, each] for each in step.inputs
    ]
    cast = None
    if step.use_options:
        options = pc.FunctionOptions.deserialize(pa.py_buffer(step.options))
        flags = {name: getattr(options, name) for name in _CAST_FLAGS}
        cast = [pc.cast(pa.nulls(0), options=options).type, flags]
    return [step.operate, step.output_type.name, inputs, step.py_args, step.py_kwargs, cast, step.output_schema]


def _trace(*steps: Any) -> TraceRunner:
    made: list[_Tracer] = []
    for function, output, inputs, positional, named, cast, schema in steps:
        given = None if inputs is None else [made[held] if earlier else held for earlier, held in inputs]
        options = None if not made else _options(function, positional, named, cast)
        held = (given, positional, named, options, schema, bool(made) and cast is not None)
        made.append(_Tracer(require(function, str), _TracerType[output], *held))
    return TraceRunner(made)


def _options(function: Any, positional: Any, named: Any, cast: Any) -> bytes | None:
    """Make a function's options anew, as Arrow reads the bytes of a stranger's beyond their end.

    Raises ValueError where it is no function that steps may call.
    """
    if function not in _FUNCTIONS | _ON_TABLES or (cast is not None and function != "cast"):
        raise ValueError
    if function in _ON_TABLES:
        return None
    called = pc.get_function(function)
    if cast is not None:
        to, flags = cast
        if not isinstance(to, pa.DataType):
            raise TypeError
        options = pc.CastOptions(to, **flags)
    else:
        more = () if called.arity is Ellipsis else tuple(positional)
        options = pc._handle_options(function, pc._get_options_class(called), None, more, named)
    return None if options is None else bytes(options.serialize())


def _figures(of: type, count: int) -> None:
    """Register a report whose fields are all numbers, which it takes from an array of so many."""
    fields: dict[str, Any] = dict.fromkeys(vars(of(np.zeros(count))), _NUMBER)
    codec.record(of, **fields)


codec.kind("trace", TraceRunner, _trace_parts, _trace)
codec.kind("dist data", DistData, lambda data: [data.SerializeToString()], DistData.FromString)
codec.enumeration(VTableFieldKind, map(VTableFieldKind, range(VTableFieldKind.ALL + 1)))
codec.record(ArrowRunner, trace=TraceRunner, kinds=dict)
codec.record(BinningRunner, rule=(dict, BinningRunner))
codec.record(PsiBinInfo, bin_label=str, psi=_NUMBER, base_ratio=_NUMBER, test_ratio=_NUMBER)
codec.record(PsiInfos, feature=str, psi=_NUMBER, details=list)
codec.record(XgbTree, split_features=list, split_values=list)
codec.record(_STDScaler, with_mean=bool, with_std=bool, mean_=_COLUMN, var_=_COLUMN, scale_=_COLUMN)
codec.record(
    ParticipantTransactionInfo,
    else_counts=list,
    total_counts=list,
    bin_names=list,
    binning_method=str,
    is_string_features=list,
    split_points_sizes=list,
    chimerge_target_bins=_NUMBER,
    chimerge_target_chi=_NUMBER,
)
codec.record(
    Report, eq_frequent_bin_report=list, eq_range_bin_report=list, summary_report=SummaryReport, head_report=list
)
_figures(SummaryReport, 6)
_figures(PrReport, 4)
_figures(EqBinReport, 17)
codec.record(PredictionBiasReport, buckets=list)
codec.record(
    BucketPredictionBiasReport,
    left_endpoint=_NUMBER,
    left_closed=bool,
    right_endpoint=_NUMBER,
    right_closed=bool,
    isna=bool,
    avg_prediction=_NUMBER,
    avg_label=_NUMBER,
    bias=_NUMBER,
    absolute=_OPTION,
)

# What the SPU has trained, of which parties send each other shapes and descriptions in place of numbers.
codec.record(
    KMEANS,
    n_clusters=int,
    max_iter=int,
    init=str,
    n_init=int,
    init_center_id=object,
    init_params=object,
    n_samples=int,
    _centers=object,
)
codec.record(RBF, length_scale=_NUMBER)
codec.record(
    _BinaryGaussianProcessClassifierLaplace,
    fixed={"approx_func": expit},
    kernel=_KERNEL,
    kernel_=_KERNEL,
    max_iter_predict=int,
    poss=str,
    pi_=object,
    W_sr_=object,
    L_=object,
    X_train_=object,
    y_train=object,
)
codec.record(OneVsRestClassifier, classes_=int, estimators_=list)
codec.record(
    GaussianProcessClassifier,
    kernel=_KERNEL,
    max_iter_predict=int,
    multi_class=str,
    poss=str,
    n_classes=int,
    base_estimator_=(OneVsRestClassifier, _BinaryGaussianProcessClassifierLaplace),
    y_train=object,
    X=object,
)
codec.record(
    GaussianNB,
    first_=bool,
    var_smoothing=float,
    classes_=object,
    n_sample=_NUMBER,
    n_features=_NUMBER,
    theta_=object,
    var_=object,
    class_count_=object,
    total_count_=object,
    class_prior_=object,
    epsilon_=object,
)
