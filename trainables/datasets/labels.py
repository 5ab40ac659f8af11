"""Which class a picture is most easily taken for: what asymmetric label noise makes of it."""

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
# The superclasses of CIFAR-100 (Krizhevsky 2009): a class is taken for the next of its line.
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
    """The label that each class is taken for; itself where it is not taken for another.

    CIFAR-10's classes by likeness and CIFAR-100's within their superclass, as in Patrini et al.
    2017; among a subset of these only classes of the subset. Any other set's: the next label, and
    the first after the last, the pair flipping of Han et al. 2018.
    """
    names = list(class_names)
    for table in (_CIFAR10, _NEXT_OF_KIND):
        if set(names) <= {*table, *table.values(), "ship", "frog"}:
            return [
                names.index(table[name]) if table.get(name) in names else label
                for label, name in enumerate(names)
            ]
    return [(label + 1) % len(names) for label in range(len(names))]
