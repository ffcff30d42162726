"""Errors: their names are what the web side reads, and whether a retry can help decides what the worker does."""

from __future__ import annotations

import inspect

import pytest

from sfworker import errors
from sfworker.errors import Failure, PartyProcessLostError, SecretFlowTaskError

# Adding a line is fine; changing one changes the contract.
RETRYABLE = {
    "SecretFlowTaskError": False,
    "EnvelopeError": False,
    "ParameterValidationError": False,
    "TaskTypeNotFoundError": False,
    "InputDataError": False,
    "ModelMismatchError": False,
    "ExpiredError": False,
    "ClusterInitializationError": True,
    "DeviceInitializationError": False,
    "TaskExecutionError": True,
    "RecurringError": False,
    "PartyProcessLostError": True,
    "PeerFailedError": True,
    "PeerAbsentError": True,
    "GatewayLostError": True,
    "StalledError": True,
    "ResultSaveError": False,
    "SoftTimeLimitExceededError": False,
    "TimeLimitExceededError": False,
    "MemoryLimitExceededError": False,
    "ScratchLimitExceededError": False,
    "CrashLoopError": False,
    "JobLostError": False,
    "JobCancelledError": False,
    "SettingsError": False,
    "BrokerError": False,
    "FlowError": False,
}
CLASSES = [
    found
    for _, found in inspect.getmembers(errors, inspect.isclass)
    if issubclass(found, Exception) and found.__module__ == errors.__name__
]


def test_names_and_retryability() -> None:
    assert {found.__name__: found.retryable for found in CLASSES} == RETRYABLE


@pytest.mark.parametrize("found", CLASSES)
class TestEveryClass:
    def test_is_of_the_one_tree(self, found: type[SecretFlowTaskError]) -> None:
        assert issubclass(found, SecretFlowTaskError)

    def test_its_docstring_is_a_sentence_and_the_default_message(self, found: type[SecretFlowTaskError]) -> None:
        said = str(found())
        assert said == inspect.getdoc(found)
        assert said[0].isupper()
        assert said.endswith(".")
        assert "\n" not in said

    def test_says_what_it_is_given(self, found: type[SecretFlowTaskError]) -> None:
        assert str(found("keys.alice: no such column")) == "keys.alice: no such column"

    def test_its_type_is_its_name(self, found: type[SecretFlowTaskError]) -> None:
        assert found().error_type == found.__name__


def test_an_error_as_a_value() -> None:
    failure = Failure.of(PartyProcessLostError("alice was killed"))
    assert failure == Failure("alice was killed", "PartyProcessLostError", True)
