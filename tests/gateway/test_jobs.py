"""Task types of every kind across sites give what they give on one host: tests of these are run again here."""

from tests.jobs.test_binning import halves, test_three_parties  # noqa: F401
from tests.jobs.test_boosting import (  # noqa: F401
    breast_cancer,
    test_a_classifier_is_as_good_as_xgboosts,
)
from tests.jobs.test_psi import test_every_protocol_finds_the_merge  # noqa: F401
from tests.jobs.test_statistics_correlation import (  # noqa: F401
    test_keys_are_no_features_and_a_party_may_have_none,
)
from tests.jobs.test_statistics_groupby import (  # noqa: F401
    customers,
    test_figures_are_those_of_pandas,
)
from tests.jobs.test_unbalanced_psi import test_one_cache_for_several_joins  # noqa: F401
