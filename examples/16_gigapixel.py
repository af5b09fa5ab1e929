"""
An image that does not fit
==========================

Whole slides, satellite scenes and volumes do not fit in memory. `to_dask` puts an operator on dask arrays: each block
of the result is one task, which reads the blocks that it needs, border and stride included, and A^T is a gather as A
is. Here a photograph, tiled to any size, is blurred, decimated and sent back by A^T, from zarr to zarr, with the memory
of a few blocks. ``--size 32768`` makes it a gigapixel.
"""

import resource
import tempfile
import time
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import zarr
from _picture import picture_options, save_picture
from dask.diagnostics import ProgressBar

from convmat import Conv2d, plot, to_dask

parser = picture_options()
parser.add_argument("--size", type=int, default=2048, help="height and width of the image (2048)")
parser.add_argument("--chunk", type=int, default=512, help="height and width of a block (512)")
parser.add_argument("--folder", type=Path, help="where a temporary folder for the zarr arrays is made")
options = parser.parse_args()
size, chunk, stride = options.size, options.chunk, 4
temporary = tempfile.TemporaryDirectory(dir=options.folder)
folder = Path(temporary.name)


def file(name, side, block):
    """An empty zarr array of an image."""
    return zarr.create_array(folder / name, shape=(side, side), chunks=(block, block), dtype="float32", overwrite=True)


def written(array, name, side, block):
    """Compute a dask array block by block, into a zarr array, from which it can be read again."""
    target, start = file(name, side, block), time.perf_counter()
    with ProgressBar():  # persist, and not compute: one last task for all blocks upsets the order of the others
        dask.persist(da.store(array, target, lock=False, compute=False))
    print(f"  {name}: {side} x {side}, {4 * side**2 / 2**20:.0f} MB, {time.perf_counter() - start:.1f} s")
    return da.from_zarr(target)


# %%
# The image x is written block by block as well: nothing of this script ever holds all of it.

photo = plot.photo(512).astype(np.float32)


def part_of_tiling(block_info=None):
    """The samples of a block, of a plane that is tiled with the photograph and its mirror images."""
    rows, columns = (np.arange(*place) for place in block_info[None]["array-location"])
    tile = np.pad(photo, ((0, 512), (0, 512)), mode="symmetric")
    return tile[np.ix_(rows % 1024, columns % 1024)]


tiling = da.map_blocks(part_of_tiling, chunks=da.core.normalize_chunks(chunk, (size, size)), dtype=np.float32)
x = written(tiling, "x", size, chunk)

# %%
# A is made for the whole image, which takes no memory. Its blocks follow those of x: 512 samples become 128.

a, b = np.mgrid[-12:13, -12:13]
disc = np.clip(12.5 - np.hypot(a, b), 0, 1).astype(np.float32)
A = Conv2d(disc / disc.sum(), (size, size), stride=stride, padding=12, padding_mode="reflect")
D = to_dask(A)
y = written(D.apply(x), "y", size // stride, chunk // stride)
z = written(D.T.apply(y), "z", size, chunk)

# %%
# The dot test, <A x, y> = <x, A^T y>, on the arrays that were written, and a detail computed by itself: `A.block` says
# what it reads.

left, right = (float((p.astype(np.float64) * q).sum().compute()) for p, q in ((y, y), (x, z)))
print(f"\n<A x, y> = {left:.6f}, <x, A^T y> = {right:.6f}, they differ by {abs(left / right - 1):.1e}")
assert abs(left / right - 1) < 1e-6

detail = slice(size // stride // 2 - 32, size // stride // 2 + 32)
operator, inputs = A.block((detail, detail))
read = np.asarray(x[tuple(along for (along,) in inputs)])
print(f"64 x 64 outputs read {read.shape[0]} x {read.shape[1]} samples")
assert np.allclose(operator.apply(read), y[detail, detail], atol=1e-5)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
print(f"the images take {4 * (2 * size**2 + (size // stride) ** 2) / 2**20:.0f} MB, this process {peak:.0f} MB")


def draw():
    shown = min(size, 1024)
    return plot.image_pair(
        {
            f"x, a part of {size} x {size}": np.asarray(x[:shown, :shown]),
            "y = A x: blurred, every 4th": np.asarray(y[: shown // stride, : shown // stride]),
            "A$^T$ y (16 x brighter)": 16 * np.asarray(z[:shown, :shown]),
        },
        title="Block by block, from zarr to zarr",
        caption="A$^T$ y is a gather too: the borders of the blocks are not to be seen",
    )


save_picture("16_gigapixel.png", draw, options)
temporary.cleanup()
