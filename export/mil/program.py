"""A Core ML package read back from disk, its functions run in torch.

In exact mode every float is float32 and casts between floats do nothing: what remains is the graph and the weights as
they lie in the file. Otherwise float16 tensors are float16, as on the device.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from masters_edge.common.errors import UserError
from masters_edge.export.mil.library import coremltools, load_program, types
from masters_edge.export.mil.operators import OPERATORS, UNPROVEN, Cast

State = dict[str, torch.Tensor]
# Constants of two functions with the same name and at least so many values are looked at: equal ones are kept once.
_SHARED_FROM = 1024


@dataclass
class _Step:
    """One operator: `inputs` are variables by parameter name (a list of them for some), constants already bound."""

    run: Callable[..., Any]
    operator: str
    constants: dict[str, Any]
    inputs: dict[str, str]
    lists: dict[str, list[Any]]
    outputs: list[str]
    forget: list[str]


@dataclass
class _Packed:
    """A weight as it lies in the file, unpacked for each step: in float32 all of them weigh as much as the student."""

    run: Callable[..., torch.Tensor]
    cast: Cast
    given: dict[str, Any]


@dataclass
class _Function:
    """Names of inputs, states and outputs as the package gives them, and the steps between."""

    inputs: list[str]
    states: dict[str, tuple[int, ...]]
    outputs: list[str]
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, str]
    steps: list[_Step]


class Program:
    """`functions` by name; `shapes(function)` and `run` are all that a user needs."""

    def __init__(self, package: Path, exact: bool = True) -> None:
        self.cast = Cast(exact)
        self._kept: dict[str, torch.Tensor] = {}
        mil = read(package)
        self.functions = {name: self._compile(function) for name, function in mil.functions.items()}
        self._kept.clear()

    def new_state(self, function: str) -> State:
        """Zeros, as a device begins with."""
        dtype = torch.float32 if self.cast.exact else torch.float16
        return {name: torch.zeros(shape, dtype=dtype) for name, shape in self.functions[function].states.items()}

    def shapes(self, function: str) -> dict[str, tuple[int, ...]]:
        """Shape of each input."""
        return self.functions[function].shapes

    def run(self, function: str, inputs: Mapping[str, np.ndarray], state: State | None = None) -> dict[str, np.ndarray]:
        """Outputs by name, floats as float32; `state` is changed in place."""
        chosen = self.functions[function]
        values: dict[str, Any] = {}
        for name in chosen.inputs:
            found = torch.from_numpy(np.ascontiguousarray(inputs[name]))
            if tuple(found.shape) != chosen.shapes[name]:
                raise ValueError(f"{name} is {tuple(found.shape)}, the program takes {chosen.shapes[name]}")
            values[name] = self.cast.to(found, chosen.dtypes[name])
        with torch.no_grad():
            for step in chosen.steps:
                self._step(step, values, state if state is not None else {})
        results = {name: values[name] for name in chosen.outputs}
        return {name: (v.float() if v.is_floating_point() else v).numpy() for name, v in results.items()}

    def _step(self, step: _Step, values: dict[str, Any], state: State) -> None:
        if step.operator == "read_state":
            values[step.outputs[0]] = state[step.inputs["input"]]
        elif step.operator == "coreml_update_state":
            state[step.inputs["state"]] = values[step.outputs[0]] = values[step.inputs["value"]]
        else:
            given = {name: values[variable] for name, variable in step.inputs.items()}
            lists = {
                name: [values[v] if isinstance(v, str) else _unpacked(v) for v in items]
                for name, items in step.lists.items()
            }
            constants = {name: _unpacked(value) for name, value in step.constants.items()}
            found = step.run(self.cast, **constants, **given, **lists)
            values.update(zip(step.outputs, found if isinstance(found, (list, tuple)) else [found]))
        for name in step.forget:
            values.pop(name, None)

    def _compile(self, function: Any) -> _Function:
        states = {name: v.shape for name, v in function.inputs.items() if _is_state(v)}
        taken = {name: v for name, v in function.inputs.items() if not _is_state(v)}
        shapes = {name: tuple(v.shape) for name, v in taken.items()}
        outputs = [variable.name for variable in function.outputs]
        bound: dict[str, Any] = {}
        steps: list[_Step] = []
        for operator in function.operations:
            if operator.op_type == "const":
                bound[operator.outputs[0].name] = self._constant(operator.outputs[0])
            elif operator.op_type.startswith("constexpr_"):
                bound[operator.outputs[0].name] = self._weight(operator)
            else:
                steps.append(_step(operator, bound))
        _forget_early(steps, outputs)
        dtypes = {name: _dtype(v) for name, v in taken.items()}
        return _Function(list(shapes), {n: tuple(s) for n, s in states.items()}, outputs, shapes, dtypes, steps)

    def _constant(self, variable: Any) -> Any:
        value = variable.val
        if not isinstance(value, (np.ndarray, np.generic)):
            return value
        if np.size(value) < _SHARED_FROM:
            return self.cast.tensor(value)
        return self._once(variable.name, self.cast.tensor(value))

    def _weight(self, operator: Any) -> "_Packed":
        given = {name: variable.val for name, variable in operator.inputs.items() if variable is not None}
        return _Packed(OPERATORS[operator.op_type], self.cast, given)

    def _once(self, name: str, found: torch.Tensor) -> torch.Tensor:
        known = self._kept.setdefault(name, found)
        return known if known.shape == found.shape and torch.equal(known, found) else found


def read(package: Path) -> Any:
    """coremltools' own representation of a package's program, from what was written to disk."""
    model = coremltools.models.MLModel(str(package), skip_model_load=True)
    spec = model.get_spec()
    return load_program(spec, spec.specificationVersion, model.weights_dir)


def _step(operator: Any, bound: Mapping[str, Any]) -> _Step:
    if operator.op_type not in OPERATORS and operator.op_type not in ("read_state", "coreml_update_state"):
        raise UserError(f"the operator {operator.op_type} ({operator.name}) {UNPROVEN}")
    constants: dict[str, Any] = {}
    inputs: dict[str, str] = {}
    lists: dict[str, list[Any]] = {}
    for name, variable in operator.inputs.items():
        if variable is None:
            continue
        if isinstance(variable, (list, tuple)):
            lists[name] = [bound.get(v.name, v.name) for v in variable]
        elif variable.name in bound:
            constants[name] = bound[variable.name]
        else:
            inputs[name] = variable.name
    run = OPERATORS.get(operator.op_type, print)
    return _Step(run, operator.op_type, constants, inputs, lists, [v.name for v in operator.outputs], [])


def _unpacked(value: Any) -> Any:
    return value.run(value.cast, **value.given) if isinstance(value, _Packed) else value


def _forget_early(steps: list[_Step], outputs: list[str]) -> None:
    """Let each step name the variables nobody reads after it."""
    needed = set(outputs)
    for step in reversed(steps):
        used = {*step.inputs.values(), *(v for items in step.lists.values() for v in items if isinstance(v, str))}
        step.forget = [name for name in {*used, *step.outputs} if name not in needed]
        needed |= used


def _dtype(variable: Any) -> str:
    return types.builtin_to_string(variable.dtype)


def _is_state(variable: Any) -> bool:
    return types.is_state(variable._sym_type)
