"""The operations of an evaluation."""

from __future__ import annotations

from typing import Any

from support.c_frame import Frame
from support.c_samples.sample import X, against


def expected(m: Any, _: Any) -> Any:
    operations = [["Square", [X.nbytes] * 2], ["Tanh", [X.nbytes] * 2]]
    return [operations * 2, m.tanh(m.square(X))]


@against(expected)
def an_evaluation(f: Frame) -> Any:
    seen: list[list[Any]] = []
    handle = f.ffi.new_handle("payload")

    def note(operation: Any, payload: Any) -> None:
        assert f.ffi.from_handle(payload) == "payload"
        assert 0 <= operation.start <= operation.end
        arrays = [operation.inputs[i] for i in range(operation.num_inputs)]
        arrays += [operation.outputs[i] for i in range(operation.num_outputs)]
        name = f.ffi.string(operation.name).decode()
        seen.append([name, [array.bytes for array in arrays]])

    callback = f.callback("graft_profile_eval", 1, note)
    for apart in (False, True):
        y = f.op("mlx_tanh", f.op("mlx_square", X))
        nanoseconds = f.get("int64_t", "graft_profile_eval", callback, handle, f.arrays(y), apart)
        assert nanoseconds > 0
    return [seen, f.read(y)]
