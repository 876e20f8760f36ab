"""A clock that moves by itself: one tick a reading."""


class Clock:
    """Each reading is `tick` later than the one before."""

    def __init__(self, tick: float = 1.0) -> None:
        self.now = 0.0
        self.tick = tick

    def __call__(self) -> float:
        self.now += self.tick
        return self.now
