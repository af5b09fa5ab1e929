"""Make the pictures of this folder that come from `convmat.plot` alone: ``python docs/make_images.py``."""

from pathlib import Path

import numpy as np

from convmat import Conv2d, ConvTranspose2d, plot

FOLDER = Path(__file__).parent / "images"

A = Conv2d(np.arange(1, 10).reshape(3, 3), (5, 5), stride=2, padding=1)
plot.animate(A, FOLDER / "arithmetic.gif", fps=1)

channels = Conv2d(np.ones((3, 2, 3, 3)), (5, 5), stride=2, padding=1)
plot.save(plot.matrix(channels).figure, FOLDER / "matrix.png")

figure = plot.new_figure(9, 4.2)
left, right = figure.subplots(1, 2)
plot.overlap(ConvTranspose2d(np.ones((3, 3)), (5, 5), stride=2), left, title="kernel 3, stride 2: checkerboard")
plot.overlap(
    ConvTranspose2d(np.ones((4, 4)), (5, 5), stride=2, padding=1), right, title="kernel 4, stride 2: none inside"
)
figure.suptitle("How many inputs a transposed convolution adds up at each output", fontsize=13)
plot.save(figure, FOLDER / "overlap.png")
