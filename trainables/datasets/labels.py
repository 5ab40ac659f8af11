"""Confusions of classes: the label that asymmetric label noise puts in place of another."""

from __future__ import annotations

from collections.abc import Sequence

# Patrini et al. 2017, section 5.
_CIFAR10 = {
    "truck": "automobile",
    "bird": "airplane",
    "deer": "horse",
    "cat": "dog",
    "dog": "cat",
}
# The superclasses of CIFAR-100 (Krizhevsky 2009): a class is confused with the next in its line.
_CIFAR100 = """
beaver dolphin otter seal whale
aquarium_fish flatfish ray shark trout
orchid poppy rose sunflower tulip
bottle bowl can cup plate
apple mushroom orange pear sweet_pepper
clock keyboard lamp telephone television
bed chair couch table wardrobe
bee beetle butterfly caterpillar cockroach
bear leopard lion tiger wolf
bridge castle house road skyscraper
cloud forest mountain plain sea
camel cattle chimpanzee elephant kangaroo
fox porcupine possum raccoon skunk
crab lobster snail spider worm
baby boy girl man woman
crocodile dinosaur lizard snake turtle
hamster mouse rabbit shrew squirrel
maple_tree oak_tree palm_tree pine_tree willow_tree
bicycle bus motorcycle pickup_truck train
lawn_mower rocket streetcar tank tractor
"""
_SUPERCLASSES = [line.split() for line in _CIFAR100.split("\n") if line]
_NEXT_OF_KIND = {
    name: line[(place + 1) % len(line)]
    for line in _SUPERCLASSES
    for place, name in enumerate(line)
}


def confusions(class_names: Sequence[str]) -> list[int]:
    """Return the label that each class is confused with, or its own label if there is none.

    CIFAR-10's classes are confused by likeness and CIFAR-100's within their superclass, as in
    Patrini et al. 2017; in a subset of these, only with classes of the subset. In any other set a
    class is confused with the next one and the last with the first (pair flipping, Han et al.
    2018).
    """
    names = list(class_names)
    for table in (_CIFAR10, _NEXT_OF_KIND):
        if set(names) <= {*table, *table.values(), "ship", "frog"}:
            return [
                names.index(table[name]) if table.get(name) in names else label
                for label, name in enumerate(names)
            ]
    return [(label + 1) % len(names) for label in range(len(names))]
