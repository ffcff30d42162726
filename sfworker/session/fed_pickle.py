"""Pickles fed objects of a few harmless types, and unpickles nothing else. Runs in the party process.

SecretFlow unpickles with a list of forbidden names, which a peer can get around and run code. Here only listed types
can be built, and the text of a library's exception, which may quote data, stays with the party where it was raised.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow.lib
from secretflow.distributed.fed.exception import FedRemoteError
from secretflow.utils import secure_pickle

from sfworker import errors
from sfworker.errors import RecurringError, SecretFlowTaskError

dumps: Callable[[Any], bytes] = secure_pickle.dumps
_allowed: set[tuple[str, str]] = {
    ("heu.numpy", "CiphertextArray"),
    ("heu.numpy", "PlaintextArray"),
    ("heu.phe", "PublicKey"),
    ("jax._src.api", "ShapeDtypeStruct"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy.core.numeric", "_frombuffer"),
    ("secretflow.device.device.spu", "SPUIOInfo"),
    ("secretflow.device.device.spu", "SPUValueMeta"),
    ("secretflow.distributed.fed.exception", "FedRemoteError"),
    ("spu.libspu", "Executable"),
    ("spu.libspu", "FieldType"),
    ("spu.libspu", "ProtocolKind"),
    ("spu.libspu", "Visibility"),
    *(("numpy", kind.__name__) for kind in np.sctypeDict.values() if issubclass(kind, np.number | np.bool_)),
    *((errors.__name__, name) for name, kind in vars(errors).items() if isinstance(kind, type)),
}


def _arrow_array(data: Any) -> Any:
    # Arrow takes offsets and lengths as they are, and would read beyond the buffers.
    array = pyarrow.lib._restore_array(data)
    array.validate(full=True)
    return array


_checked: dict[tuple[str, str], Callable[..., Any]] = {("pyarrow.lib", "_restore_array"): _arrow_array}
"""Functions called in place of types that are harmless only if the built object is checked."""


def allow(module: str, *names: str) -> None:
    """Let the parties send each other objects of more types. For job modules, at their import.

    Whoever can call such a type with arguments of their choice must not gain anything by it.
    """
    _allowed.update((module, name) for name in names)


def loads(data: bytes) -> Any:
    """Return the object that a peer has sent. Raises RecurringError where it holds a type that is not allowed."""
    return _Unpickler(io.BytesIO(data)).load()


def without_foreign_text(data: Any) -> Any:
    """Return `data` as it may be sent, which is without the text of an error that is not ours."""
    if not isinstance(data, FedRemoteError):
        return data
    cause: Any = data
    while hasattr(cause, "cause"):
        cause = cause.cause()
    return FedRemoteError(data.party(), cause if isinstance(cause, SecretFlowTaskError) else None)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _checked:
            return _checked[module, name]
        if (module, name) not in _allowed:
            raise RecurringError(
                "a party sent an object of a type that is not accepted; "
                "a job that needs it allows it with sfworker.session.fed_pickle.allow"
            )
        return super().find_class(module, name)
