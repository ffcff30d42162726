"""Registers the values of SecretFlow, JAX, SPU and HEU that parties send each other. Runs in party processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
from heu import numpy as hnp
from heu import phe
from jaxlib.xla_extension import ArrayImpl
from secretflow.data.core.base import AgentIndex
from secretflow.device.device.spu import SPUIOInfo, SPUValueMeta
from secretflow.distributed.fed.exception import FedRemoteError
from secretflow.utils import secure_pickle
from spu import libspu

from sfworker import errors
from sfworker.errors import SecretFlowTaskError
from sfworker.session import codec
from sfworker.session.codec import require, require_shape

_LONGEST_SENTENCE = 2000
_ERRORS = {
    name: of for name, of in vars(errors).items() if isinstance(of, type) and issubclass(of, SecretFlowTaskError)
}


def _error_parts(error: FedRemoteError) -> Sequence[Any]:
    """Name the error and its sentence, where both are ours. Text of others may quote data, and stays where it was."""
    cause: Any = error
    while hasattr(cause, "cause"):
        cause = cause.cause()
    name = next((of.__name__ for of in type(cause).__mro__ if _ERRORS.get(of.__name__) is of), None)
    return [error.party(), name, str(cause) if name else ""]


def _error(party: Any, name: Any, sentence: Any) -> FedRemoteError:
    shown = "".join(each if each.isprintable() else " " for each in require(sentence, str)[:_LONGEST_SENTENCE])
    return FedRemoteError(require(party, str), None if name is None else _ERRORS[name](shown))


codec.kind("error", FedRemoteError, _error_parts, _error)


def _jax_array(array: Any) -> Any:
    return jnp.asarray(require(array, np.ndarray))


def _described(shape: Any, dtype: Any) -> Any:
    of: Any = jax.ShapeDtypeStruct
    return of(require_shape(shape), np.dtype(_element(dtype)))


def _element(of: Any) -> Any:
    if not isinstance(of, np.dtype | type):
        raise TypeError
    return of


codec.kind("jax array", ArrayImpl, lambda array: [np.asarray(array)], _jax_array)
codec.kind("jax shape", jax.ShapeDtypeStruct, lambda value: [value.shape, np.dtype(value.dtype)], _described)

for _of in (libspu.FieldType, libspu.ProtocolKind, libspu.Visibility):
    codec.enumeration(_of, _of.__members__.values())


def _spu_meta(shape: Any, dtype: Any, vtype: Any, protocol: Any, field: Any, bits: Any) -> SPUValueMeta:
    return SPUValueMeta(
        require_shape(shape),
        _element(dtype),
        require(vtype, libspu.Visibility),
        require(protocol, libspu.ProtocolKind),
        require(field, libspu.FieldType),
        require(bits, int),
    )


def _spu_info(start: Any, end: Any, meta: Any) -> SPUIOInfo:
    return SPUIOInfo(require(start, int), require(end, int), require(meta, bytes))


def _spu_share(meta: Any, chunks: Any) -> libspu.Share:
    share = libspu.Share()
    share.meta, share.share_chunks = require(meta, bytes), [require(chunk, bytes) for chunk in require(chunks, list)]
    return share


def _spu_program(name: Any, inputs: Any, outputs: Any, code: Any) -> libspu.Executable:
    return libspu.Executable(
        name=require(name, str),
        input_names=[require(each, str) for each in require(inputs, list)],
        output_names=[require(each, str) for each in require(outputs, list)],
        code=require(code, bytes),
    )


codec.kind(
    "spu meta",
    SPUValueMeta,
    lambda meta: [meta.shape, meta.dtype, meta.vtype, meta.protocol, meta.field, meta.fxp_fraction_bits],
    _spu_meta,
)
codec.kind("spu info", SPUIOInfo, lambda info: [info.start_chunk_index, info.end_chunk_index, info.meta], _spu_info)
codec.kind("spu share", libspu.Share, lambda share: [share.meta, list(share.share_chunks)], _spu_share)
codec.kind(
    "spu program",
    libspu.Executable,
    lambda program: [program.name, list(program.input_names), list(program.output_names), program.code],
    _spu_program,
)

# HEU's own reader makes room for as many elements as bytes say, and loops for hours where there are fewer.
_HEU_ARRAY = msgspec.msgpack.Decoder(tuple[int, int, int, list[msgspec.Raw]])
_HEU_KEY = msgspec.msgpack.Decoder(list[msgspec.Raw])
_HEU_SCHEMA_BYTES = 8
_LONGEST_KEY = 1 << 14


def _heu_state(value: Any) -> Sequence[Any]:
    return [value.__getstate__()]


def _heu_array(of: Any) -> Any:
    def make(state: Any) -> Any:
        rows, columns, dimensions, elements = _HEU_ARRAY.decode(require(state, bytes))
        if rows < 0 or columns < 0 or rows * columns != len(elements) or not 0 <= dimensions <= 2:
            raise ValueError
        return _heu_made(of, state)

    return make


def _heu_key(state: Any) -> phe.PublicKey:
    if len(require(state, bytes)) > _LONGEST_KEY:
        raise ValueError
    _HEU_KEY.decode(state[:-_HEU_SCHEMA_BYTES])
    return _heu_made(phe.PublicKey, state)


def _heu_made(of: Any, state: bytes) -> Any:
    made = of.__new__(of)
    made.__setstate__(state)
    return made


codec.kind("heu ciphertexts", hnp.CiphertextArray, _heu_state, _heu_array(hnp.CiphertextArray))
codec.kind("heu plaintexts", hnp.PlaintextArray, _heu_state, _heu_array(hnp.PlaintextArray))
codec.kind("heu key", phe.PublicKey, _heu_state, _heu_key)
# SecretFlow copies what it has received. A key does not change, and a copy computes its tables anew, for 0.3 s.
phe.PublicKey.__deepcopy__ = lambda key, _: key

codec.record(AgentIndex, idx=int)


def use_codec() -> None:
    """Make SecretFlow send, save and load by the codec what it would pickle. Call once per process.

    All its modules take these functions from this one. Its own pickles are read by a list of forbidden names.
    """
    secure_pickle.dumps = lambda value, **_: codec.dumps(value)
    secure_pickle.loads = lambda message, **_: codec.loads(message)
    secure_pickle.dump = lambda value, file, **_: file.write(codec.dumps(value))
    secure_pickle.load = lambda file, **_: codec.loads(file.read())
