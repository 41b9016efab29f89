"""How a student's function is compared with the right one, and the answer that the student reads."""

import functools
import traceback
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from toy.data import generator

EXERCISES: dict[str, Callable] = {}
Mistakes = list[tuple[Callable, str]]  # a wrong answer, and what to say of it


class Verdict(NamedTuple):
    """What a check answers; a notebook shows it as a line."""

    right: bool
    text: str

    def __repr__(self) -> str:
        return f"{'✓ Right.' if self.right else '✗ Not yet:'} {self.text}"


def exercise(check: Callable[[Callable], str | None]) -> Callable[[Callable], Verdict]:
    """Make a check of a function that says what is wrong with the student's, or None if nothing is; its
    docstring is what is then said."""

    @functools.wraps(check)
    def judge(student: Callable) -> Verdict:
        if not callable(student):
            kind = type(student).__name__
            return Verdict(
                False, f"give the check the function by its name, without brackets: this is {kind}"
            )
        try:
            wrong = check(student)
        except Exception as error:
            wrong = _stopped(student, error)
        return Verdict(wrong is None, wrong or check.__doc__)

    EXERCISES[check.__name__] = judge
    return judge


def points(seed: int) -> Tensor:
    """Points in the plane to check with, (4, 2)."""
    return torch.randn(4, 2, generator=generator("exercise points", seed))


def errors(seed: int) -> Tensor:
    """Denoising errors to check with, (8,)."""
    return torch.rand(8, generator=generator("exercise errors", seed))


def compare(
    student: Callable, right: Callable, inputs: tuple, mistakes: Mistakes, gradients: int = 9
) -> str | None:
    """None if both give the same value, and the same gradient for every floating (B,) or (B, 2) input among
    the first `gradients`.
    Else the sentence of the mistake that explains it, or what was returned and what would be right."""
    answer, solution = (_answer(function, inputs, gradients) for function in (student, right))
    if not isinstance(answer[0], Tensor):
        return no_tensor(answer[0])
    if _same(answer, solution):
        return None
    if not _same(answer, _answer(student, inputs, gradients)):
        return "it answers differently each time: nothing here is drawn by chance"
    for mistake, text in mistakes:
        if _same(answer, _answer(mistake, inputs, gradients)):
            return text
    if answer[0].shape != solution[0].shape:
        return wrong_shape(answer[0], solution[0].shape)
    if not _same(answer[:1], solution[:1]):
        return f"this check's inputs give {_few(answer[0])}, where {_few(solution[0])} is right"
    return (
        "the value is right, its gradient is not: is something detached that should not be, or not detached?"
    )


def compare_numbers(student: Callable, right: Callable, cases: list[tuple], mistakes: Mistakes) -> str | None:
    """The same for functions of plain numbers, on several cases at once."""

    def on_all(function: Callable) -> Callable:
        return lambda: torch.tensor([float(function(*case)) for case in cases])

    for value in (student(*case) for case in cases):
        if not isinstance(value, int | float | Tensor):
            return no_tensor(value, "a number")

    return compare(on_all(student), on_all(right), (), [(on_all(m), text) for m, text in mistakes])


def wrong_shape(value, shape: tuple) -> str | None:
    """None for a tensor of this shape."""
    if not isinstance(value, Tensor):
        return no_tensor(value)
    if value.shape != torch.Size(shape):
        return f"it returns the shape {tuple(value.shape)}; asked for is {tuple(shape)}"
    return None


def no_tensor(value, asked: str = "a tensor") -> str:
    if value is None or value is ...:
        return "it returns nothing yet; put your answer where the dots are"
    return f"it returns {type(value).__name__}; asked for is {asked}"


def _answer(function: Callable, inputs: tuple, gradients: int) -> list:
    """The value of a function and its gradient for each floating input, zeros where there is none."""

    def needs_gradient(value) -> bool:
        return isinstance(value, Tensor) and value.is_floating_point() and value.numel() < 100

    places = [i for i, value in enumerate(inputs[:gradients]) if needs_gradient(value)]
    inputs = [v.clone().requires_grad_() if i in places else v for i, v in enumerate(inputs)]
    value = function(*inputs)
    if isinstance(value, int | float):
        value = torch.tensor(float(value))
    if not isinstance(value, Tensor):
        return [value]
    variables = [inputs[i] for i in places]
    slopes = [None] * len(variables)
    if value.requires_grad and variables:
        slopes = torch.autograd.grad(value.sum(), variables, allow_unused=True)
    slopes = [torch.zeros_like(v) if s is None else s for v, s in zip(variables, slopes, strict=True)]
    return [value.detach().float(), *slopes]


def _same(answer: list, solution: list) -> bool:
    return all(
        a.shape == s.shape and torch.allclose(a, s, rtol=1e-4, atol=1e-5, equal_nan=True)
        for a, s in zip(answer, solution, strict=True)
    )


def _few(value: Tensor) -> str:
    numbers = ", ".join(f"{v:.3g}" for v in value.flatten()[:4].tolist())
    return f"{numbers}, ..." if value.numel() > 4 else numbers


def _stopped(student: Callable, error: Exception) -> str:
    """Where and why a student's function stopped, in one sentence."""
    file = getattr(getattr(student, "__code__", None), "co_filename", None)
    lines = [frame.line for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    where = f" at `{lines[-1]}`" if lines and lines[-1] else ""
    return f"it stops{where} with {type(error).__name__}: {str(error).partition(chr(10))[0]}"
