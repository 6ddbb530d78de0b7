"""Optimisers and learning-rate schedules.

An optimiser changes each parameter by its gradient; parameters may come in groups, each with its
own learning rate (a localisation net wants a smaller one). A schedule changes those rates from
step to step.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from .autograd import Tensor
from .backend import Array, array_module, device_of, to_device
from .cuda import optim as on_card


class Optimizer:
    """What SGD and Adam share: groups of parameters, and the state kept for each.

    Parameters
    ----------
    params : parameters, or groups [{"params": parameters, "lr": ...}, ...]
        What a group does not set is taken from the optimiser's own settings.
    defaults
        Settings of the optimiser, such as lr.

    Raises
    ------
    ValueError
        If there is no parameter, one comes twice, or a setting is unknown or out of range.
    TypeError
        If something else than parameters is given.
    """

    kept: tuple[str, ...] = ()  # names of the arrays that a subclass keeps for a parameter
    kernel: str | None = None  # of cuda/optim.cu, which does on a GPU what `update` does

    def __init__(self, params: Iterable[Any], **defaults: Any):
        params = _listed(params)
        groups = params if params and isinstance(params[0], Mapping) else [{"params": params}]
        self.groups: list[dict[str, Any]] = []
        for group in groups:
            if not isinstance(group, Mapping) or "params" not in group:
                raise TypeError(
                    f'{type(self).__name__}: every group must be a dict with "params", '
                    f"not {group!r}"
                )
            unknown = group.keys() - defaults.keys() - {"params"}
            if unknown:
                raise ValueError(
                    f"{type(self).__name__}: unknown setting {', '.join(sorted(unknown))} in a "
                    f"group; there are {', '.join(defaults)}"
                )
            self.groups.append({**defaults, **group, "params": _listed(group["params"])})
        every = self.parameters()
        if not every:
            raise ValueError(f"{type(self).__name__}: no parameters to optimise")
        for p in every:
            if not isinstance(p, Tensor) or p.grad_fn is not None:
                kind = "the result of an operation" if isinstance(p, Tensor) else type(p).__name__
                raise TypeError(
                    f"{type(self).__name__}: expected a list of parameters, such as "
                    f"model.parameters(), with {kind} in it"
                )
        if len({id(p) for p in every}) < len(every):
            raise ValueError(f"{type(self).__name__}: a parameter comes twice")
        for group in self.groups:
            self.check(group)
        self.state: dict[Tensor, dict[str, Array]] = {}
        self.steps: Counter[Tensor] = Counter()  # a parameter without a gradient stands still

    def check(self, group: dict[str, Any]) -> None:
        """Make a group's numbers Python's; raise ValueError for one out of range."""
        for name in group.keys() & {"lr", "momentum", "weight_decay", "eps"}:
            group[name] = float(group[name])  # NumPy's would make float32 steps float64
            if not group[name] >= 0:
                raise ValueError(
                    f"{type(self).__name__}: {name} must be 0 or more, not {group[name]}"
                )

    def parameters(self) -> list[Tensor]:
        """The parameters of all groups, in their order."""
        return [parameter for group in self.groups for parameter in group["params"]]

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter in self.parameters():
            parameter.grad = None

    def step(self) -> None:
        """Change every parameter that has a gradient, in place.

        So never between a forward and its backward, whose gradients would silently be wrong.
        """
        learning = [
            (p, group) for group in self.groups for p in group["params"] if p.grad is not None
        ]
        for p, group in learning:
            self.steps[p] += 1
            if not self.state.get(p):
                self.state[p] = self.first_state(p.data, group)
        arrays = [[p.data, p.grad, *self.state[p].values()] for p, _ in learning]
        if self.kernel and on_card.takes(arrays):
            numbers = [self.numbers(self.steps[p], group) for p, group in learning]
            on_card.update(self.kernel, arrays, numbers)
            return
        for p, group in learning:
            self.update(p.data, p.grad, self.steps[p], self.state[p], group)

    def numbers(self, t: int, group: dict[str, Any]) -> list[float]:
        """What the kernel is given of a group, at a parameter's t-th step."""
        raise NotImplementedError

    def first_state(self, weight: Array, group: dict[str, Any]) -> dict[str, Array]:
        """What is kept for a parameter before its first step: zeros, in the order of `kept`."""
        return {name: array_module(weight).zeros_like(weight) for name in self.kept}

    def update(
        self, weight: Array, grad: Array, t: int, state: dict[str, Array], group: dict
    ) -> None:
        """Change one parameter's array in place, for the t-th time (t = 1, 2, ...).

        `state` is kept for the parameter from step to step.
        """
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs: "steps" of each parameter, "lr" of each group, and arrays
        (not copied) by name, "<number of the parameter>.<name of the state>"."""
        every = self.parameters()
        arrays = {
            f"{i}.{name}": array
            for i, parameter in enumerate(every)
            for name, array in self.state.get(parameter, {}).items()
        }
        rates = [group["lr"] for group in self.groups]
        return {"steps": [self.steps[p] for p in every], "lr": rates, "arrays": arrays}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave, on the parameters' device.

        Raises
        ------
        ValueError
            If it is of another optimiser, of one with other groups or parameters, or has some of
            the arrays of a parameter and not all.
        """
        every, name = self.parameters(), type(self).__name__
        if (found := len(state["lr"])) != (expected := len(self.groups)):
            raise ValueError(f"{name}: the state has {found} groups, this optimiser {expected}")
        if (found := len(state["steps"])) != (expected := len(every)):
            raise ValueError(f"{name}: the state has {found} parameters, this optimiser {expected}")
        own: dict[int, dict[str, Array]] = {}
        for key, array in state["arrays"].items():
            number, _, kept = key.partition(".")
            parameter = every[int(number)] if number in map(str, range(len(every))) else None
            if (
                parameter is None
                or kept not in self.kept
                or (array.shape, array.dtype) != (parameter.shape, parameter.dtype)
            ):
                raise ValueError(f"{name}: the state's {key}, {array.shape}, fits no parameter")
            own.setdefault(int(number), {})[kept] = array
        for i, parts in own.items():
            if missing := [kept for kept in self.kept if kept not in parts]:
                raise ValueError(f"{name}: the state's {i}.{missing[0]} is missing")
        # In the order of `kept`, and copied, also on the same device: steps change them in place.
        self.state = {
            every[i]: {
                kept: to_device(parts[kept], device_of(every[i].data)).copy() for kept in self.kept
            }
            for i, parts in own.items()
        }
        self.steps = Counter(dict(zip(every, state["steps"], strict=True)))
        for group, lr in zip(self.groups, state["lr"], strict=True):
            group["lr"] = lr


def _listed(params: Any) -> list[Any]:
    """Several, or a single one, as a list."""
    return list(params) if isinstance(params, Iterable) else [params]


class SGD(Optimizer):
    """Stochastic gradient descent (Sect. 4.1), with momentum m as in PyTorch.

    params are parameters or groups, as of `Optimizer`; lr and the rest are settings of a group.

    v <- m v + g;   w <- w - lr v,   or with nesterov   w <- w - lr (g + m v).
    weight_decay d adds d w to g.
    """

    kept, kernel = ("velocity",), "sgd"

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
    ):
        super().__init__(
            params, lr=lr, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay
        )

    def check(self, group: dict[str, Any]) -> None:
        super().check(group)
        if group["nesterov"] and not group["momentum"]:
            raise ValueError("SGD: Nesterov's step needs a momentum")

    def numbers(self, t: int, group: dict[str, Any]) -> list[float]:
        return [group["lr"], group["momentum"], group["nesterov"], group["weight_decay"]]

    def first_state(self, weight: Array, group: dict[str, Any]) -> dict[str, Array]:
        return super().first_state(weight, group) if group["momentum"] else {}

    def update(
        self, weight: Array, grad: Array, t: int, state: dict[str, Array], group: dict
    ) -> None:
        if group["weight_decay"]:
            grad = grad + group["weight_decay"] * weight
        if group["momentum"]:
            velocity = state["velocity"]
            velocity *= group["momentum"]
            velocity += grad
            grad = grad + group["momentum"] * velocity if group["nesterov"] else velocity
        weight -= group["lr"] * grad


class Adam(Optimizer):
    """Adam (Kingma and Ba, 2015).

    params are parameters or groups, as of `Optimizer`; the rest are settings of a group, betas =
    (b1, b2) among them.

    m <- b1 m + (1 - b1) g;   v <- b2 v + (1 - b2) g^2;
    w <- w - lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps),  t the parameter's own step.
    weight_decay d adds d w to g.
    """

    kept, kernel = ("m", "v"), "adam"

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ):
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)

    def check(self, group: dict[str, Any]) -> None:
        super().check(group)
        group["betas"] = betas = tuple(map(float, np.ravel(group["betas"])))
        if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"Adam: betas must be two numbers in 0..1, below 1, not {betas}")

    def numbers(self, t: int, group: dict[str, Any]) -> list[float]:
        b1, b2 = group["betas"]
        rate, root = group["lr"] / (1 - b1**t), math.sqrt(1 - b2**t)
        return [rate, root, b1, b2, group["eps"], group["weight_decay"]]

    def update(
        self, weight: Array, grad: Array, t: int, state: dict[str, Array], group: dict
    ) -> None:
        xp = array_module(weight)
        b1, b2 = group["betas"]
        if group["weight_decay"]:
            grad = grad + group["weight_decay"] * weight
        m, v = state["m"], state["v"]
        m *= b1
        m += (1 - b1) * grad
        v *= b2
        v += (1 - b2) * grad * grad
        # The corrections by 1 - b^t are numbers: they go where they cost nothing.
        denominator = xp.sqrt(v)
        denominator /= math.sqrt(1 - b2**t)
        denominator += group["eps"]
        weight -= (group["lr"] / (1 - b1**t)) * m / denominator


def clip_grad_norm(parameters: Iterable[Tensor], max_norm: float) -> Array:
    """Scale all gradients so that their norm together is at most `max_norm`.

    Returns the norm before, as a 0-d array (a number would make a GPU wait).
    """
    learning = [p for p in _listed(parameters) if p.grad is not None]
    if not learning:
        return np.zeros(())
    xp = array_module(learning[0].data)
    norm = xp.asarray(xp.sqrt(sum((p.grad * p.grad).sum() for p in learning)))
    scale = xp.minimum(max_norm / (norm + 1e-6), 1.0)
    for p in learning:
        p.grad *= scale.astype(p.dtype)
    return norm


# --- schedules ----------------------------------------------------------------------------------


class Schedule:
    """Multiplies each group's own learning rate by `factor(t)` at step t = 0, 1, 2, ...

    Call `step()` after each `optimizer.step()`. `state_dict()` is the number of steps and the
    rates that are multiplied.
    """

    def __init__(self, optimizer: Optimizer):
        self.optimizer = optimizer
        self.base = [group["lr"] for group in optimizer.groups]
        self.t = 0

    def factor(self, t: int) -> float:
        """What the rates are multiplied by at step t; a subclass says it."""
        raise NotImplementedError

    def step(self) -> None:
        """Go on to the next step's rates."""
        self.t += 1
        self.apply()

    def apply(self) -> None:
        """Set the rates of step t."""
        for group, lr in zip(self.optimizer.groups, self.base, strict=True):
            group["lr"] = lr * self.factor(self.t)

    def state_dict(self) -> dict[str, Any]:
        """The number of steps, and the rates that are multiplied."""
        return {"t": self.t, "base": list(self.base)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self.t, self.base = state["t"], list(state["base"])
        self.apply()


class StepLR(Schedule):
    """The optimizer's rates times gamma after every `step_size` steps: the paper's schedule.

    Raises ValueError for a step_size below 1.
    """

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1):
        if step_size < 1:
            raise ValueError(f"StepLR: step_size must be 1 or more, not {step_size}")
        super().__init__(optimizer)
        self.step_size, self.gamma = step_size, gamma
        self.apply()

    def factor(self, t: int) -> float:
        return self.gamma ** (t // self.step_size)


class CosineLR(Schedule):
    """The optimizer's rates to `final` times themselves along half a cosine, over `steps` steps."""

    def __init__(self, optimizer: Optimizer, steps: int, final: float = 0.0):
        super().__init__(optimizer)
        self.steps, self.final = max(steps, 1), final
        self.apply()

    def factor(self, t: int) -> float:
        wave = 0.5 + 0.5 * math.cos(math.pi * min(t / self.steps, 1.0))
        return self.final + (1 - self.final) * wave


class LinearWarmup(Schedule):
    """Another schedule, its rates rising from near 0 over the first `steps` steps.

    Takes the place of the schedule that it is given; step only this one.
    """

    def __init__(self, schedule: Schedule, steps: int):
        self.schedule, self.steps = schedule, steps
        self.optimizer, self.base, self.t = schedule.optimizer, schedule.base, schedule.t
        self.apply()

    def factor(self, t: int) -> float:
        return min((t + 1) / max(self.steps, 1), 1.0) * self.schedule.factor(t)
