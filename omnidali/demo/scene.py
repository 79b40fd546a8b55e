"""The moving images of the demo world: an actor with a motion in front of a moving background.

Everything is a function of (class, random generator, time), so that images, short clips and long
videos of a class show the same world in different ways. As in a camera, a frame is exposed for half
of its duration, so that motion also shows in a single image.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

_EXPOSURES = 4  # instants that are averaged into one frame
_SHIFT = 4  # bits after the point in cv2's coordinates
_FINE = 1 << _SHIFT


@dataclass(frozen=True)
class Action:
    """A class: what is seen, and how it moves."""

    name: str
    actor: str
    motion: str


# Some classes differ by appearance alone (the drifting ones), some by motion alone (the balls),
# some by both.
ACTIONS = (
    Action("drifting balloon", "balloon", "drift"),
    Action("drifting kite", "kite", "drift"),
    Action("drifting star", "star", "drift"),
    Action("bouncing ball", "ball", "bounce"),
    Action("rolling ball", "ball", "roll"),
    Action("approaching ball", "ball", "approach"),
    Action("spinning fan", "fan", "spin"),
    Action("swinging hammer", "hammer", "swing"),
)


def _ring(
    angles: np.ndarray, across: np.ndarray | float, down: np.ndarray | float
) -> Sequence[Sequence[float]]:
    """Points (n, 2) around the centre, at some angles and with radii of their own in x and y."""
    return np.column_stack([across * np.cos(angles), down * np.sin(angles)]).tolist()


# (colour, corners) of polygons, in the order of drawing: of two colours; in sizes of the actor
_STAR_RADII = np.where(np.arange(10) % 2, 0.5, 1.25)
_POLYGONS: dict[str, list[tuple[int, Sequence[Sequence[float]]]]] = {
    "balloon": [
        (1, [(-0.04, 1.1), (0.04, 1.1), (0.04, 2.0), (-0.04, 2.0)]),
        (0, _ring(np.linspace(0, 2 * math.pi, 32), 0.85, 1.15)),
    ],
    "kite": [
        (0, [(0, -1.2), (0.8, 0), (0, 1.4), (-0.8, 0)]),
        (1, [(-0.8, 0), (0.8, 0), (0, 0.18)]),
        (1, [(-0.05, 1.4), (0.3, 1.8), (-0.2, 2.2), (0.05, 1.4)]),
    ],
    "star": [(0, _ring(np.arange(10) * math.pi / 5 - math.pi / 2, _STAR_RADII, _STAR_RADII))],
    "fan": [  # three blades
        (0, [(0.0, 0.0), *_ring(np.linspace(middle - 0.45, middle + 0.45, 8), 1.4, 1.4)])
        for middle in (0.0, 2 * math.pi / 3, 4 * math.pi / 3)
    ],
    "hammer": [
        (1, [(-0.12, -1.4), (0.12, -1.4), (0.12, 1.0), (-0.12, 1.0)]),
        (0, [(-0.75, 0.6), (0.75, 0.6), (0.75, 1.3), (-0.75, 1.3)]),
    ],
}
_DISCS = {"ball": (0, 1.0), "fan": (1, 0.3)}  # (colour, radius), drawn over the polygons


class Scene:
    """One place with one actor, or none, from one camera.

    Args:
        action: the class, or None for a scene in which no actor shows.
        width: pixels.
        height: pixels.
        rng: draws colours, textures, speeds and the actor's path.
    """

    def __init__(self, action: Action | None, width: int, height: int, rng: np.random.Generator):
        self.action = action
        self.width = width
        self.height = height
        self._short = min(width, height)
        self._texture = _texture(rng, 3 * max(width, height) // 2)
        self._pan = rng.uniform(-0.25, 0.25, 2) * self._short  # pixels a second
        self._pan_phase = rng.uniform(0, 2 * math.pi, 2)

        background = self._texture.mean(axis=(0, 1))
        self._colours = (_contrasting(background, rng), _contrasting(background, rng))
        self._clutter = [
            (
                rng.uniform(0, 1, 2),  # place, as shares of the sides
                rng.uniform(-0.15, 0.15, 2),  # speed, sides a second
                rng.uniform(0.02, 0.045),  # radius, short sides
                tuple(rng.uniform(0, 255, 3)),
            )
            for _ in range(rng.integers(1, 5))
        ]

        self._size = rng.uniform(0.24, 0.34) * self._short
        self._place = rng.uniform(0.35, 0.65, 2)
        self._phase = rng.uniform(0, 2 * math.pi)
        self._pace = rng.uniform(0.75, 1.3)
        self._turn = rng.choice([-1.0, 1.0])

    def frame(self, seconds: float, shutter: float, show_actor: bool = True) -> np.ndarray:
        """The image exposed from ``seconds`` on for ``shutter`` seconds.

        Returns:
            uint8 (height, width, 3), RGB.
        """
        total = np.zeros((self.height, self.width, 3), np.float32)
        for exposure in range(_EXPOSURES):
            total += self._instant(seconds + shutter * exposure / _EXPOSURES, show_actor)
        return (total / _EXPOSURES).round().astype(np.uint8)

    def _instant(self, t: float, show_actor: bool) -> np.ndarray:
        room = np.array(self._texture.shape[1::-1]) - (self.width, self.height)
        sway = 0.5 + 0.5 * np.sin(self._pan * t / np.maximum(room, 1) * 2 + self._pan_phase)
        left, top = (sway * room).astype(int)
        image = self._texture[top : top + self.height, left : left + self.width].copy()

        for start, speed, size, colour in self._clutter:
            x, y = ((start + speed * t) % 1.0) * (self.width, self.height)
            _draw_disc(image, x, y, size * self._short, colour)
        if show_actor and self.action is not None:
            self._draw(image, self.action.actor, *self._pose(self.action.motion, t))
        return image

    def _pose(self, motion: str, t: float) -> tuple[float, float, float, float]:
        """x and y in pixels, size in pixels and angle in radians at time ``t``."""
        beat = self._phase + 2 * math.pi * self._pace * t
        x = self._place[0] * self.width
        y = self._place[1] * self.height
        size = self._size
        angle = 0.0

        if motion == "drift":
            x += 0.12 * self._short * math.sin(0.5 * beat)
            y += 0.08 * self._short * math.cos(0.37 * beat)
            angle = 0.15 * math.sin(0.6 * beat)
        elif motion == "bounce":
            y = self.height - size - (self.height - 2.2 * size) * abs(math.sin(beat))
        elif motion == "roll":
            x = self.width / 2 + (self.width / 2 - size) * math.sin(beat)
            y = self.height - 1.1 * size
            angle = beat
        elif motion == "approach":
            size *= 0.35 + 1.5 * (0.5 + 0.5 * math.sin(beat)) ** 2
        elif motion == "spin":
            angle = 2.0 * self._turn * beat
        elif motion == "swing":
            angle = 1.1 * math.sin(beat)
        return x, y, size, angle

    def _draw(
        self, image: np.ndarray, actor: str, x: float, y: float, size: float, angle: float
    ) -> None:
        turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
        for colour, corners in _POLYGONS.get(actor, ()):
            points = np.asarray(corners, float) @ turn * size + (x, y)
            places = (points * _FINE).round().astype(np.int32)
            cv2.fillPoly(image, [places], self._colours[colour], cv2.LINE_AA, _SHIFT)

        if actor in _DISCS:
            colour, radius = _DISCS[actor]
            _draw_disc(image, x, y, radius * size, self._colours[colour])

        if actor == "ball":
            for stripe in range(3):  # stripes show that it turns
                a = angle + stripe * math.pi / 3
                cv2.line(
                    image,
                    _fine(x - size * math.cos(a), y - size * math.sin(a)),
                    _fine(x + size * math.cos(a), y + size * math.sin(a)),
                    self._colours[1],
                    max(1, int(size / 7)),
                    cv2.LINE_AA,
                    _SHIFT,
                )


def _draw_disc(
    image: np.ndarray, x: float, y: float, radius: float, colour: Sequence[float]
) -> None:
    """Fill a circle; place and radius in pixels."""
    cv2.circle(image, _fine(x, y), int(radius * _FINE), colour, -1, cv2.LINE_AA, _SHIFT)


def _fine(x: float, y: float) -> tuple[int, int]:
    return round(x * _FINE), round(y * _FINE)


def _texture(rng: np.random.Generator, side: int) -> np.ndarray:
    """A square of noise at several scales in two colours: uint8 (side, side, 3)."""
    noise = np.zeros((side, side), np.float32)
    for cells, strength in ((4, 1.0), (9, 0.6), (24, 0.35), (64, 0.2)):
        noise += strength * cv2.resize(
            rng.standard_normal((cells, cells)).astype(np.float32),
            (side, side),
            interpolation=cv2.INTER_CUBIC,
        )
    mix = (1 / (1 + np.exp(-2 * noise)))[:, :, None]
    dark = rng.uniform(0, 170, 3)
    light = dark + rng.uniform(10, 65, 3)
    grain = rng.standard_normal((side, side, 1)).astype(np.float32) * 4
    return np.clip(dark + mix * (light - dark) + grain, 0, 255).astype(np.uint8)


def _contrasting(base: np.ndarray, rng: np.random.Generator) -> tuple[float, ...]:
    """A random colour far from ``base``."""
    while True:
        colour = rng.uniform(0, 255, 3)
        if np.abs(colour - base).sum() > 240:
            return tuple(colour)
