"""The moving pictures of the demo world: an actor with a motion in front of a moving background.

Everything is a function of (class, random generator, time), so that photos, short clips and long
videos of a class are the same world seen differently. Frames are exposed for half of their
duration, as a camera does, so that motion also shows in a single picture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

_EXPOSURES = 4  # pictures that are averaged into one frame
_FINE = 16  # sub-pixel positions of cv2's drawing, as a power-of-two shift below
_SHIFT = 4


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


class Scene:
    """One place with one actor, or none, from one camera.

    Args:
        action: the class, or None for a scene in which no actor shows.
        width, height: pixels.
        rng: draws colours, textures, speeds and the actor's path.
    """

    def __init__(self, action: Action | None, width: int, height: int, rng: np.random.Generator):
        self.action, self.width, self.height = action, width, height
        self._short = min(width, height)
        self._texture = _texture(rng, 3 * max(width, height) // 2)
        self._pan = rng.uniform(-0.25, 0.25, 2) * self._short  # pixels a second
        self._pan_phase = rng.uniform(0, 2 * math.pi, 2)
        base = self._texture.mean(axis=(0, 1))
        self._colour = _contrasting(base, rng)
        self._second = _contrasting(base, rng)
        self._clutter = [
            (
                rng.uniform(0, 1, 2),
                rng.uniform(-0.15, 0.15, 2),
                rng.uniform(0.02, 0.045),
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
        """The picture exposed from ``seconds`` on for ``shutter`` seconds: uint8 (height, width,
        3), RGB.
        """
        total = np.zeros((self.height, self.width, 3), np.float32)
        for exposure in range(_EXPOSURES):
            total += self._instant(seconds + shutter * exposure / _EXPOSURES, show_actor)
        return (total / _EXPOSURES).round().astype(np.uint8)

    def _instant(self, t: float, show_actor: bool) -> np.ndarray:
        room = np.array(self._texture.shape[1::-1]) - (self.width, self.height)
        sway = 0.5 + 0.5 * np.sin(self._pan * t / np.maximum(room, 1) * 2 + self._pan_phase)
        left, top = (sway * room).astype(int)
        picture = self._texture[top : top + self.height, left : left + self.width].copy()
        for start, speed, size, colour in self._clutter:
            x, y = ((start + speed * t) % 1.0) * (self.width, self.height)
            cv2.circle(
                picture,
                _fine(x, y),
                int(size * self._short * _FINE),
                colour,
                -1,
                cv2.LINE_AA,
                _SHIFT,
            )
        if show_actor and self.action is not None:
            self._draw(picture, *self._pose(t))
        return picture

    def _pose(self, t: float) -> tuple[float, float, float, float]:
        """x and y in pixels, size in pixels and angle in radians at time ``t``."""
        beat = self._phase + 2 * math.pi * self._pace * t
        x, y, size, angle = (
            self._place[0] * self.width,
            self._place[1] * self.height,
            self._size,
            0.0,
        )
        motion = self.action.motion
        if motion == "drift":
            x += 0.12 * self._short * math.sin(0.5 * beat)
            y += 0.08 * self._short * math.cos(0.37 * beat)
            angle = 0.15 * math.sin(0.6 * beat)
        elif motion == "bounce":
            y = self.height - size - (self.height - 2.2 * size) * abs(math.sin(beat))
        elif motion == "roll":
            x = self.width / 2 + (self.width / 2 - size) * math.sin(beat)
            y, angle = self.height - 1.1 * size, beat
        elif motion == "approach":
            size *= 0.35 + 1.5 * (0.5 + 0.5 * math.sin(beat)) ** 2
        elif motion == "spin":
            angle = 2.0 * self._turn * beat
        elif motion == "swing":
            angle = 1.1 * math.sin(beat)
        return x, y, size, angle

    def _draw(self, picture: np.ndarray, x: float, y: float, size: float, angle: float) -> None:
        actor, colour, second = self.action.actor, self._colour, self._second

        def polygon(points, fill):
            points = np.asarray(points, float)
            cos, sin = math.cos(angle), math.sin(angle)
            turned = points @ np.array([[cos, sin], [-sin, cos]]) * size + (x, y)
            cv2.fillPoly(
                picture, [(turned * _FINE).round().astype(np.int32)], fill, cv2.LINE_AA, _SHIFT
            )

        def disc(radius, fill, at=(0.0, 0.0)):
            cv2.circle(
                picture,
                _fine(x + at[0] * size, y + at[1] * size),
                int(radius * size * _FINE),
                fill,
                -1,
                cv2.LINE_AA,
                _SHIFT,
            )

        if actor == "ball":
            disc(1.0, colour)
            for k in range(3):  # stripes show that it turns
                a = angle + k * math.pi / 3
                cv2.line(
                    picture,
                    _fine(x - size * math.cos(a), y - size * math.sin(a)),
                    _fine(x + size * math.cos(a), y + size * math.sin(a)),
                    second,
                    max(1, int(size / 7)),
                    cv2.LINE_AA,
                    _SHIFT,
                )
        elif actor == "balloon":
            turns = np.linspace(0, 2 * math.pi, 32)
            polygon([(-0.04, 1.1), (0.04, 1.1), (0.04, 2.0), (-0.04, 2.0)], second)
            polygon(np.column_stack([0.85 * np.cos(turns), 1.15 * np.sin(turns)]), colour)
        elif actor == "kite":
            polygon([(0, -1.2), (0.8, 0), (0, 1.4), (-0.8, 0)], colour)
            polygon([(-0.8, 0), (0.8, 0), (0, 0.18)], second)
            polygon([(-0.05, 1.4), (0.3, 1.8), (-0.2, 2.2), (0.05, 1.4)], second)
        elif actor == "star":
            turns = np.arange(10) * math.pi / 5 - math.pi / 2
            radii = np.where(np.arange(10) % 2, 0.5, 1.25)
            polygon(np.column_stack([radii * np.cos(turns), radii * np.sin(turns)]), colour)
        elif actor == "fan":
            for k in range(3):
                middle = k * 2 * math.pi / 3
                turns = np.linspace(middle - 0.45, middle + 0.45, 8)
                rim = np.column_stack([1.4 * np.cos(turns), 1.4 * np.sin(turns)])
                polygon(np.vstack([[(0.0, 0.0)], rim]), colour)
            disc(0.3, second)
        elif actor == "hammer":
            polygon([(-0.12, -1.4), (0.12, -1.4), (0.12, 1.0), (-0.12, 1.0)], second)
            polygon([(-0.75, 0.6), (0.75, 0.6), (0.75, 1.3), (-0.75, 1.3)], colour)


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
