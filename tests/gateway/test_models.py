"""Models that each site saves its part of and applies later: tests of linear models are run again across sites."""

import pytest

from tests.jobs.test_glm import test_poisson_with_an_offset_and_weights  # noqa: F401
from tests.jobs.test_linear import (  # noqa: F401
    breast_cancer,
    test_a_logistic_regression_is_as_good_as_scikit_learns,
    test_predictions_of_a_saved_model_are_the_same_whoever_receives_them,
)
from tests.jobs.test_statistics_p_value import test_a_linear_models_are_those_of_least_squares  # noqa: F401

pytestmark = pytest.mark.slow
"""As `test_jobs` saves and applies trees in each run."""
