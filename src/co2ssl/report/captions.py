"""What was drawn for a view, in words short enough to stand below it."""

from __future__ import annotations

from collections.abc import Sequence

from co2ssl.data.operations import (
    JITTER_ORDERS,
    ColorJitter,
    GaussianBlur,
    RandomGrayscale,
    RandomHorizontalFlip,
    RandomOperation,
    RandomResizedCrop,
)
from co2ssl.data.patches import GridPatch, RandomCrop, RandomWindow, ResizeShortSide, ResizeSquare
from co2ssl.data.photometric import RandomMeanGrey, RandomPhotometric

_ADJUSTMENTS = ("brightness", "contrast", "saturation", "hue")


def caption(operation: RandomOperation, drawn: Sequence[float], *, height: int, width: int) -> str:
    """One operation with what it drew, or "" where nothing is done.

    Args:
        operation: any; what the package does not know is named with its columns.
        drawn: one row of its drawn parameters.
        height: of the image before it, in pixels.
        width: likewise.
    """
    match operation:
        case RandomResizedCrop() | RandomCrop() | RandomWindow() | GridPatch() | ResizeShortSide() | ResizeSquare():
            return _place(operation, drawn, height, width)
        case _ if "applied" in operation.columns and not drawn[operation.columns.index("applied")]:
            return ""
        case ColorJitter():
            return "jitter: " + ", ".join(_adjustment(which, drawn) for which in JITTER_ORDERS[int(drawn[5])])
        case RandomPhotometric():
            return f"{drawn[1]:g} bits, sharpness {drawn[2]:.2f}, solarised from {drawn[3]:g}, contrast stretched"
        case GaussianBlur():
            return f"blur, sigma {drawn[1]:.2f}"
        case RandomGrayscale() | RandomMeanGrey():
            return "grey"
        case RandomHorizontalFlip():
            return "flipped"
    values = ", ".join(f"{name} {value:.3g}" for name, value in zip(operation.columns, drawn, strict=True))
    return f"{type(operation).__name__}: {values}"


def _place(operation: RandomOperation, drawn: Sequence[float], height: int, width: int) -> str:
    """Places are (x, y) and sizes width x height, from the top left corner."""
    match operation:
        case RandomResizedCrop():
            top, left, tall, wide = operation.box(height, width, drawn)
            return f"crop of {100 * tall * wide / (height * width):.0f} %: {wide} x {tall} at ({left}, {top})"
        case RandomCrop() | RandomWindow():
            top, left, tall, wide = operation.box(height, width, drawn)
            what = "window" if isinstance(operation, RandomWindow) else "crop"
            return f"{what} of {wide} x {tall} at ({left}, {top})"
        case GridPatch(grid=grid, positions=positions):
            row, column = divmod(int(drawn[0]), grid)
            cell = f"row {row + 1}, column {column + 1}"
            return cell if positions == 1 else f"{cell}, at ({drawn[2]:g}, {drawn[1]:g}) in it"
        case ResizeShortSide(size=size):
            return f"short side to {size}"
        case ResizeSquare(size=size):
            return f"resized to {size} x {size}"
    raise AssertionError(f"{operation} has no place")


def _adjustment(which: int, drawn: Sequence[float]) -> str:
    amount = drawn[1 + which]
    return f"{_ADJUSTMENTS[which]} {amount:+.2f}" if which == 3 else f"{_ADJUSTMENTS[which]} {amount:.2f}"
