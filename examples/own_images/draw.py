"""Draw a folder of images, one folder per class, to sweep on.

cd examples/own_images
python draw.py
samtune run shapes.yaml
"""

import random
from pathlib import Path

from PIL import Image, ImageDraw

SIZE = 16


def draw(shape: str, rng: random.Random) -> Image.Image:
    """Return one image of a disc or a square in random place, size and colour."""
    image = Image.new("RGB", (SIZE, SIZE), tuple(rng.choices(range(60), k=3)))
    radius = rng.randint(3, 6)
    x, y = (rng.randint(radius, SIZE - 1 - radius) for _ in range(2))
    box = (x - radius, y - radius, x + radius, y + radius)
    colour = tuple(rng.choices(range(120, 256), k=3))
    pen = ImageDraw.Draw(image)
    pen.ellipse(box, colour) if shape == "disc" else pen.rectangle(box, colour)
    return image


def main(count: int = 120) -> None:
    """Write `count` images of each class below `shapes/`."""
    rng = random.Random(0)
    for shape in ("disc", "square"):
        folder = Path("shapes", shape)
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(count):
            draw(shape, rng).save(folder / f"{number:03}.png")


if __name__ == "__main__":
    main()
