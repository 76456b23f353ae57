"""Write synthetic pictures in the layout of our hospital."""

from pathlib import Path

from medssl_data import load_dataset

images = load_dataset("phantom:chest-xray,count=40,size=96")
folder = Path("data/our-hospital")
folder.mkdir(parents=True, exist_ok=True)
for row in range(len(images)):
    picture, label = images[row]
    picture.save(folder / f"p{row:02}_{label}.png")
