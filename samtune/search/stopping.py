"""The rule `stop`: a trial is judged once, when it arrives at a rung."""

from __future__ import annotations

import math
from bisect import bisect_left

from samtune.record.rows import Verdict
from samtune.search.judging import Rungs, extra_places


class StoppingRungs(Rungs):
    """Rungs at which a trial goes on if it is among the best when it arrives.

    The best are 1/factor of the trials that its rung has seen, rounded up and itself included. The
    first trial at a rung always goes on.
    """

    def _arrived(self, trial: int, rung: int, score: float, margin: float) -> Verdict:
        here = self._rungs[rung]
        # Of equals, those that have a place are ahead.
        ahead = bisect_left(here.entries, (-score,)) + here.kept_scores[score]
        here.enter(trial, score)
        places = math.ceil(len(here.entries) / self.factor)
        if trial in self._done:
            return self._verdict("continue", trial, rung, places)
        if ahead < places:
            here.kept.add(trial)
            here.kept_scores[score] += 1
        elif self._is_near(here, places, score, margin) and len(here.near) < extra_places(
            len(here.entries), places
        ):
            here.near.add(trial)
        goes_on = trial in here.kept or trial in here.near
        return self._verdict("continue" if goes_on else "stop", trial, rung, places)

    def promoted(self) -> int | None:
        """Return None: no trial pauses under this rule."""
        return None

    def waiting(self) -> bool:
        """Return False: no trial pauses under this rule."""
        return False

    def ended(self, trial: int) -> None:
        """Do nothing: no trial waits for the place of another under this rule."""
