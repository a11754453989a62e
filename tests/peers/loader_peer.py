"""Images per second of a PyTorch DataLoader that does what the training's loader does: decode, random crop, flips,
quarter turns, colour jitter, normalisation.

    loader_peer.py FOLDER SIDE_PX [SECONDS] [WORKERS]
"""
import pathlib
import random
import sys
import time

import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms import functional

folder, side = pathlib.Path(sys.argv[1]), int(sys.argv[2])
seconds = float(sys.argv[3]) if len(sys.argv) > 3 else 10.0
workers = int(sys.argv[4]) if len(sys.argv) > 4 else 2


class Turn:
    def __call__(self, image):
        return image.rotate(90 * random.randrange(4))


class Images(torch.utils.data.Dataset):
    def __init__(self):
        self.paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in {".jpg", ".jpeg", ".png"})
        self.transform = transforms.Compose([
            transforms.RandomResizedCrop(side, (0.5, 1.0), interpolation=functional.InterpolationMode.BICUBIC),
            transforms.RandomHorizontalFlip(),
            transforms.RandomVerticalFlip(),
            Turn(),
            transforms.ColorJitter(0.2, 0.2, 0.2),
            transforms.ToTensor(),
            transforms.Normalize((0.4815, 0.4578, 0.4082), (0.2686, 0.2613, 0.2758)),
        ])

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        return self.transform(Image.open(self.paths[index]).convert("RGB"))


torch.set_num_threads(1)
loader = torch.utils.data.DataLoader(Images(), batch_size=64, shuffle=True, num_workers=workers, drop_last=True)
count, start = 0, None
while start is None or time.time() - start < seconds:
    for batch in loader:
        if start is None:  # the first batch starts the workers
            start = time.time()
            continue
        count += len(batch)
        if time.time() - start >= seconds:
            break
print(f"DataLoader, {side} px, {workers} workers: {count / (time.time() - start):.1f} images/s ({count} images)")
