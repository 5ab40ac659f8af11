"""Statistics of a leaderboard: paired tests, verdicts, ranks and power.

Every function is pure and works on plain sequences. Scores are oriented so that larger is better:
a caller negates a metric that is minimised. NaN marks a seed bundle that a variant did not
complete; a comparison uses the bundles that both variants completed. Distributions come from
scipy.
"""

from analysis.statistics.anytime import e_reach, e_value
from analysis.statistics.nested import (
    between_searches,
    images_test,
    over_images,
    over_studies,
    over_task_means,
    over_tasks,
)
from analysis.statistics.pairs import ALPHA, Paired, Scores, Word, holm, margin, paired, word
from analysis.statistics.plans import (
    LEVELS,
    LOOKS,
    Judged,
    decide,
    decide_once,
    rank_sets,
    ranks,
    until_decided,
    verdicts,
)
from analysis.statistics.power import detectable, power, seeds_needed

__all__ = [
    "ALPHA",
    "LEVELS",
    "LOOKS",
    "Judged",
    "Paired",
    "Scores",
    "Word",
    "between_searches",
    "decide",
    "decide_once",
    "detectable",
    "e_reach",
    "e_value",
    "holm",
    "images_test",
    "margin",
    "over_images",
    "over_studies",
    "over_task_means",
    "over_tasks",
    "paired",
    "power",
    "rank_sets",
    "ranks",
    "seeds_needed",
    "until_decided",
    "verdicts",
    "word",
]
