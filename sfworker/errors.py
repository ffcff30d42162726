"""Defines the errors of executions, each with a stable name, a sentence for people, and whether a retry can help.

The class name is the `error_type` of events and results, so renaming a class changes the contract. Messages are written
here or by whoever raises, never copied from a library's exception, which may quote data.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from msgspec import Struct


class SecretFlowTaskError(Exception):
    """The job failed."""

    retryable: ClassVar[bool] = False

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").split("\n", 1)[0])

    @property
    def error_type(self) -> str:
        return type(self).__name__


class EnvelopeError(SecretFlowTaskError):
    """The stream entry is not a job envelope."""


class JobLostError(SecretFlowTaskError):
    """The job's entry was deleted from the stream before its end; send a new one, and do not trim job streams."""


class ParameterValidationError(SecretFlowTaskError):
    """A parameter of the job is missing, unknown or out of its bounds."""


class TaskTypeNotFoundError(SecretFlowTaskError):
    """No task type of this name is installed."""


class InputDataError(SecretFlowTaskError):
    """An input file does not hold what the job needs."""


class ModelMismatchError(SecretFlowTaskError):
    """The saved model does not fit the data or devices it is applied with."""


class ExpiredError(SecretFlowTaskError):
    """The job's expires_at had passed before it could start."""


class ClusterInitializationError(SecretFlowTaskError):
    """The parties could not be joined to a session."""

    retryable = True


class DeviceInitializationError(SecretFlowTaskError):
    """A device (SPU, HEU) could not be set up from its configuration."""


class TaskExecutionError(SecretFlowTaskError):
    """The computation failed."""

    retryable = True


class RecurringError(TaskExecutionError):
    """The computation failed in a way in which it fails again with the same parameters and files."""

    retryable = False


class PartyProcessLostError(TaskExecutionError):
    """A party process ended before its execution ended."""


class StalledError(TaskExecutionError):
    """The job's processes waited for each other and computed nothing, so they were ended."""


class PeerFailedError(TaskExecutionError):
    """The computation stopped because another party failed."""


class PeerAbsentError(TaskExecutionError):
    """Another party did not come to this execution, or left it and is to be back."""


class GatewayLostError(TaskExecutionError):
    """The gateway by which this party reaches the others ended, was not there or did not serve this worker."""


class ResultSaveError(SecretFlowTaskError):
    """An output could not be written."""


class SoftTimeLimitExceededError(SecretFlowTaskError):
    """The job reached its soft time limit; raise options.soft_time_limit if it needs longer."""


class TimeLimitExceededError(SecretFlowTaskError):
    """The job reached its time limit and was ended; raise options.time_limit if it needs longer."""


class MemoryLimitExceededError(SecretFlowTaskError):
    """The job used more memory than its limit and was ended; raise options.memory_limit_bytes."""


class ScratchLimitExceededError(SecretFlowTaskError):
    """The job wrote more to its scratch directories than its limit and was ended; raise options.scratch_limit_bytes."""


class CrashLoopError(SecretFlowTaskError):
    """The job's worker died each time it ran this job, so it is not started again."""


class JobCancelledError(SecretFlowTaskError):
    """The job was cancelled."""


class SettingsError(SecretFlowTaskError):
    """A setting of the worker is missing or wrong."""


class BrokerError(SecretFlowTaskError):
    """Redis refused a command that the worker needs."""


class FlowError(SecretFlowTaskError):
    """A step of a flow did not succeed."""


# A command line or the client says these; and what was cancelled has no error.
_NEVER_PUBLISHED = (SettingsError, BrokerError, FlowError, JobCancelledError)


def published_error_types() -> list[str]:
    """Lists the names that `error_type` of an answer can have, those of the errors of imported modules included."""

    def tree(root: type[SecretFlowTaskError]) -> Iterator[type[SecretFlowTaskError]]:
        yield root
        for child in root.__subclasses__():
            yield from tree(child)

    return sorted({found.__name__ for found in tree(SecretFlowTaskError) if found not in _NEVER_PUBLISHED})


class Failure(Struct, frozen=True):
    """An error as it is published, and whether the job may be tried again."""

    error: str
    error_type: str
    retryable: bool

    @classmethod
    def of(cls, error: SecretFlowTaskError) -> Failure:
        return cls(str(error), error.error_type, error.retryable)
