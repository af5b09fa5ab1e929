"""
Transposed is not inverse
=========================

The transposed convolution is often called deconvolution. It is not: A^T puts the samples back where they came from,
but does not undo the blur. To invert is to solve a system, and the operators here go straight into scipy's solvers.
For some kernels the transpose *is* the inverse: those with A^T A = I, such as the Haar filters.
"""

import numpy as np
from _picture import save_picture
from scipy.sparse import eye_array
from scipy.sparse.linalg import lsmr, lsqr

from convmat import Conv2d, plot

# %%
# A photograph, blurred and decimated, with a little noise: y = A x + noise.

rng = np.random.default_rng(0)
k = np.exp(-0.5 * np.arange(-3, 4) ** 2)
W = np.outer(k, k) / k.sum() ** 2
x = plot.photo(256)
A = Conv2d(W, x.shape, stride=2, padding=3, padding_mode="reflect")
y = A @ x.ravel() + 0.002 * rng.standard_normal(A.shape[0])
print(f"{A.geometry}\n")

# %%
# Four ways back to x. A^T y is a quarter as bright, so it gets its factor s^2 = 4 as a present. Fourier division
# zero-fills y and divides by the transform of the kernel, as if there had been no decimation and no border.

transposed = A.T @ y
by_lsqr, _, lsqr_steps = lsqr(A, y, atol=1e-6, btol=1e-6)[:3]
by_lsmr, _, lsmr_steps = lsmr(A, y, atol=1e-6, btol=1e-6)[:3]

centred = np.zeros(x.shape)
centred[:7, :7] = W
transfer = np.fft.fft2(np.roll(centred, (-3, -3), axis=(0, 1)))
filled = np.zeros(x.shape)
filled[::2, ::2] = 4 * y.reshape(A.output_shape)
by_fourier = np.fft.ifft2(np.fft.fft2(filled) / transfer).real

results = {
    "A^T y": transposed,
    "4 A^T y": 4 * transposed,
    "Fourier division": by_fourier,
    f"lsqr ({lsqr_steps} steps)": by_lsqr,
    f"lsmr ({lsmr_steps} steps)": by_lsmr,
}
print(f"{'':<20} {'error (PSNR)':>12}   residual |A x^ - y| / |y|")
for name, result in results.items():
    residual = np.linalg.norm(A @ result.ravel() - y) / np.linalg.norm(y)
    print(f"{name:<20} {plot.psnr(result.reshape(x.shape), x):>9.2f} dB   {residual:.1e}")
print(f"Fourier division divides by values down to {np.abs(transfer).min():.1e}")

# %%
# The Haar filters: four orthonormal 2 x 2 kernels, stride 2. Blocks do not overlap, each is turned by an orthogonal 4
# x 4 matrix, and A^T A = I: here the transposed convolution is the inverse.

haar = np.array([[[1, 1], [1, 1]], [[1, -1], [1, -1]], [[1, 1], [-1, -1]], [[1, -1], [-1, 1]]])[:, None] / 2
H = Conv2d(haar, x.shape, stride=2)
coefficients = H.apply(x[None])
rebuilt = H.T.apply(coefficients)[0]
gram = H.tosparse().T @ H.tosparse()
deviation = abs(gram - eye_array(gram.shape[0])).max()
print(f"\nHaar filters, A {H.shape[0]} x {H.shape[1]}: largest |A^T A - I| = {deviation:.1e}")
print(f"largest |A^T A x - x| = {np.abs(rebuilt - x).max():.1e}")
assert deviation < 1e-15
assert np.abs(rebuilt - x).max() < 1e-14


def draw():
    def with_error(name, image):
        return f"{name}: {plot.psnr(image.reshape(x.shape), x):.1f} dB"

    tiles = np.block([[coefficients[0] / 2, coefficients[1] + 0.5], [coefficients[2] + 0.5, coefficients[3] + 0.5]])
    return plot.image_pair(
        {
            "x": x,
            "y: blurred, stride 2, noise": y.reshape(A.output_shape),
            with_error("A$^T$ y", transposed): transposed.reshape(x.shape),
            with_error("4 A$^T$ y", transposed * 4): 4 * transposed.reshape(x.shape),
            with_error("Fourier division", by_fourier): by_fourier,
            with_error("lsqr(A, y)", by_lsqr): by_lsqr.reshape(x.shape),
            "Haar: y = A x, four channels": tiles,
            "Haar: A$^T$ y = x, A$^T$A = I": rebuilt,
        },
        columns=4,
        title="Transposed is not inverse: the solver inverts, the transpose does not",
        caption="PSNR against x. The last two: the Haar filters, where the transpose is the inverse",
    )


save_picture("04_transposed_is_not_inverse.png", draw)
