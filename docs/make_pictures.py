"""The picture of the neighbourhood in `concepts/sam.md`, drawn from a formula."""

from __future__ import annotations

import math
from collections.abc import Sequence

WIDTH, HEIGHT, LEFT, BOTTOM = 720, 260, 20, 225
POINTS = 361
RHO = 0.05


def loss(w: float) -> float:
    """Return the loss of one weight: a narrow minimum at 0.27 and a wide, higher one at 0.68."""
    narrow = 0.92 * math.exp(-(((w - 0.27) / 0.035) ** 2) / 2)
    wide = 0.74 * math.exp(-(((w - 0.68) / 0.15) ** 2) / 2)
    return 1 - narrow - wide


def largest(w: float) -> float:
    """Return the largest loss within RHO of a weight."""
    return max(loss(w + RHO * step / 20) for step in range(-20, 21))


def neighbourhood() -> str:
    """Return the picture: the loss, the largest loss within RHO, and the minimum of each."""
    weights = [i / (POINTS - 1) for i in range(POINTS)]
    low, flat = min(weights, key=loss), min(weights, key=largest)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        'aria-label="The loss of one weight, and the largest loss within rho of it">',
        "<style>text{font:13px system-ui,sans-serif;fill:#1b1f24}.page{fill:#fff}"
        ".loss{fill:none;stroke:#1a353d;stroke-width:2}.axis{stroke:#5b6570}"
        ".worst{fill:none;stroke:#a51f02;stroke-width:2;stroke-dasharray:6 4}"
        ".ball{fill:#3111ff;fill-opacity:.12}.sgd{fill:#1a353d}.sam{fill:#a51f02}</style>",
        '<rect class="page" width="100%" height="100%"/>',
        *(_ball(w) for w in (low, flat)),
        f'<path class="axis" d="M{LEFT} {BOTTOM}H{WIDTH - LEFT}"/>',
        f'<path class="loss" d="{_path(weights, [loss(w) for w in weights])}"/>',
        f'<path class="worst" d="{_path(weights, [largest(w) for w in weights])}"/>',
        *_point("sgd", low, loss(low)),
        *_point("sam", flat, largest(flat)),
        _text(low + 0.05, loss(low) + 0.02, "lowest loss, narrow"),
        _text(flat - 0.09, loss(flat) - 0.13, "lowest within rho, flat"),
        _text(0.36, loss(0.42) + 0.12, "dashed: largest loss within rho"),
        _text(0.0, loss(0.0) + 0.06, "solid: loss"),
        f'<text x="{WIDTH - LEFT}" y="{BOTTOM + 22}" text-anchor="end">weight w</text>',
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _x(w: float) -> float:
    return LEFT + w * (WIDTH - 2 * LEFT)


def _y(value: float) -> float:
    return BOTTOM - 185 * value


def _path(weights: Sequence[float], values: Sequence[float]) -> str:
    places = (f"{_x(w):.1f} {_y(v):.1f}" for w, v in zip(weights, values, strict=True))
    return "M" + "L".join(places)


def _ball(w: float) -> str:
    left, right = _x(w - RHO), _x(w + RHO)
    return f'<rect class="ball" x="{left:.1f}" y="14" width="{right - left:.1f}" height="211"/>'


def _point(kind: str, w: float, value: float) -> list[str]:
    return [f'<circle class="{kind}" cx="{_x(w):.1f}" cy="{_y(value):.1f}" r="5"/>']


def _text(w: float, value: float, words: str) -> str:
    return f'<text x="{_x(w):.1f}" y="{_y(value):.1f}">{words}</text>'
