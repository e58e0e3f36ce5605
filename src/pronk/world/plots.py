"""The plots: which want meets which obstacle. A plot is one such pair, named "want, obstacle"."""

from dataclasses import dataclass
from typing import Final

from pronk.world.obstacles_inside import HARD_FOR_THE_HEART, HARD_TO_LEARN, HARD_TO_MAKE
from pronk.world.obstacles_outside import ON_THE_WAY, OUT_OF_REACH
from pronk.world.wants import AT_HOME, JOURNEYS

WANTS: Final = {**JOURNEYS, **AT_HOME}
OBSTACLES: Final = {**ON_THE_WAY, **OUT_OF_REACH, **HARD_TO_LEARN, **HARD_TO_MAKE, **HARD_FOR_THE_HEART}

_OBSTACLES_OF: Final = {
    **dict.fromkeys(JOURNEYS, tuple(ON_THE_WAY)),
    "lost": tuple(OUT_OF_REACH),
    "reach": tuple(OUT_OF_REACH),
    "learn": ("scared", "laughter", "weary", "teacher", "mistakes"),
    "race": ("laughter", "slow", "fall"),
    "show": ("scared", "laughter", "forgot"),
    "build": ("wind", "heavy", "nails", "crooked"),
    "bake": ("sugar", "burned", "recipe", "spilled"),
    "grow": ("dry", "bugs", "weeds", "frost"),
    "friend": ("hello", "busy", "newcomer", "game"),
    "sleep": ("shadows", "noise", "nightmare", "cold"),
    "rescue": ("nest", "hawk", "weak"),
    "mend": ("truth", "pieces", "glue"),
}


@dataclass(frozen=True)
class Plot:
    """One want and the one obstacle that stands in its way."""

    want: str
    obstacle: str

    @property
    def name(self) -> str:
        """How the plot is called."""
        return f"{self.want}, {self.obstacle}"

    @property
    def thing(self) -> str:
        """The slot that the want turns on, or ""."""
        return WANTS[self.want].thing

    def suits(self, kind: str) -> bool:
        """Whether the obstacle is one for a hero of this kind."""
        return kind not in OBSTACLES[self.obstacle].unfit


PLOTS: Final = tuple(Plot(want, obstacle) for want, obstacles in _OBSTACLES_OF.items() for obstacle in obstacles)
# Plots in which the hero comes to find the object: what "a frog who finds a key" asks for.
FINDING: Final = tuple(plot for plot in PLOTS if plot.thing == "object" and plot.want != "lost")
# Beats in the order of telling. Every story has all but the optional ones.
BEATS: Final = ("opening", "wish", "trouble", "feeling", "meeting", "solution", "thanks", "fulfilment", "ending")
OPTIONAL: Final = ("feeling", "thanks")
