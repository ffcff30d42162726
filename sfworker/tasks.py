"""The parameter structs of all task types under short names, and the structs that these are made of.

`Psi(keys=...)` is `sfworker.catalog.psi.PsiParams(keys=...)`. A client makes envelopes of them (`sfworker.flow`).
"""

from __future__ import annotations

from sfworker.catalog.base import ColumnRef
from sfworker.catalog.basic import HealthCheckParams as HealthCheck
from sfworker.catalog.basic import HelloParams as Hello
from sfworker.catalog.binning import BinningParams as Binning
from sfworker.catalog.boosting import SgbParams as Sgb
from sfworker.catalog.boosting import SgbPredictParams as SgbPredict
from sfworker.catalog.boosting import SsXgbParams as SsXgb
from sfworker.catalog.boosting import SsXgbPredictParams as SsXgbPredict
from sfworker.catalog.component import Attribute, DataRef, DistData, NodeEvalParam
from sfworker.catalog.component import ComponentParams as Component
from sfworker.catalog.evaluation import BiclassificationEvalParams as BiclassificationEval
from sfworker.catalog.evaluation import PredictionBiasEvalParams as PredictionBiasEval
from sfworker.catalog.evaluation import RegressionEvalParams as RegressionEval
from sfworker.catalog.evaluation import ScorecardParams as Scorecard
from sfworker.catalog.linear import SsGlmParams as SsGlm
from sfworker.catalog.linear import SsGlmPredictParams as SsGlmPredict
from sfworker.catalog.linear import SsLrParams as SsLr
from sfworker.catalog.linear import SsLrPredictParams as SsLrPredict
from sfworker.catalog.model_export import ExportedComponent
from sfworker.catalog.model_export import ModelExportParams as ModelExport
from sfworker.catalog.preprocessing import EncoderParams as Encoder
from sfworker.catalog.preprocessing import FillnaParams as Fillna
from sfworker.catalog.preprocessing import PreprocessingApplyParams as PreprocessingApply
from sfworker.catalog.preprocessing import ScalerParams as Scaler
from sfworker.catalog.psi import PsiParams as Psi
from sfworker.catalog.psi import UnbalancedPsiCacheParams as UnbalancedPsiCache
from sfworker.catalog.psi import UnbalancedPsiParams as UnbalancedPsi
from sfworker.catalog.rows import Condition
from sfworker.catalog.rows import ConditionFilterParams as ConditionFilter
from sfworker.catalog.rows import FeatureFilterParams as FeatureFilter
from sfworker.catalog.rows import SampleParams as Sample
from sfworker.catalog.rows import TrainTestSplitParams as TrainTestSplit
from sfworker.catalog.statistics import GroupbyStatisticsParams as GroupbyStatistics
from sfworker.catalog.statistics import PearsonCorrelationParams as PearsonCorrelation
from sfworker.catalog.statistics import PopulationStabilityParams as PopulationStability
from sfworker.catalog.statistics import PValueParams as PValue
from sfworker.catalog.statistics import TableStatisticsParams as TableStatistics
from sfworker.catalog.statistics import VifParams as Vif

__all__ = [
    "Attribute",
    "BiclassificationEval",
    "Binning",
    "ColumnRef",
    "Component",
    "Condition",
    "ConditionFilter",
    "DataRef",
    "DistData",
    "Encoder",
    "ExportedComponent",
    "FeatureFilter",
    "Fillna",
    "GroupbyStatistics",
    "HealthCheck",
    "Hello",
    "ModelExport",
    "NodeEvalParam",
    "PValue",
    "PearsonCorrelation",
    "PopulationStability",
    "PredictionBiasEval",
    "PreprocessingApply",
    "Psi",
    "RegressionEval",
    "Sample",
    "Scaler",
    "Scorecard",
    "Sgb",
    "SgbPredict",
    "SsGlm",
    "SsGlmPredict",
    "SsLr",
    "SsLrPredict",
    "SsXgb",
    "SsXgbPredict",
    "TableStatistics",
    "TrainTestSplit",
    "UnbalancedPsi",
    "UnbalancedPsiCache",
    "Vif",
]
