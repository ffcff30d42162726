"""What takes longer of `test_jobs`: every protocol, two and three sites, homomorphic encryption, models and rules."""

import pytest

from tests.jobs.test_binning import (  # noqa: F401
    halves,
    test_woe_and_iv_are_those_of_the_joined_table,
)
from tests.jobs.test_boosting import (  # noqa: F401
    breast_cancer,
    test_a_regression_is_as_good_as_xgboosts_in_units_of_the_label,
    test_three_parties_of_which_the_labels_has_no_feature,
    test_trees_can_grow_by_leaf,
)
from tests.jobs.test_evaluation import (  # noqa: F401
    scores,
    test_figures_are_scikit_learns,
)
from tests.jobs.test_preprocessing import (  # noqa: F401
    test_every_rule_treats_unknown_categories_alike,
    test_scaling_is_scikit_learns_and_applies_to_other_files,
)
from tests.jobs.test_psi_three import (  # noqa: F401
    test_keys_that_all_have_several_times,
    test_the_receiver_alone,
    test_unique_keys,
)
from tests.jobs.test_statistics_correlation import (  # noqa: F401
    measured,
    test_correlations_are_those_of_pandas,
)
from tests.jobs.test_statistics_groupby import test_groups_of_any_magnitude_in_one_column  # noqa: F401

pytestmark = pytest.mark.slow
