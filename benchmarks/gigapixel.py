"""An image that does not fit, from zarr to zarr: ``python benchmarks/gigapixel.py --sizes 4096 8192 16384 32768``.

Forward and adjoint of a blur by a 25 x 25 kernel with stride 4, in float32, through `to_dask`. It prints a Markdown
table: the seconds, the peak of resident memory of the process that does it, and the time over that of its parts, which
are reading and writing the same zarr arrays, block by block, and A.apply on an image that fits, for as many pixels.
Each figure is from a process of its own.

With ``--graph`` it prints what limits larger images: how long a graph takes to build, how large it is, and how many of
its tasks the scheduler of dask.distributed hands out in a second, to two workers that have next to nothing to compute.
With ``--solve`` it prints the time of steps of `cgls` on 8192^2, on one worker process and on two, and the peak of the
memory of the workers.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import zarr

from convmat import Conv2d, cgls, to_dask

STRIDE, FITS = 4, 4096


def kernel(separable: bool) -> np.ndarray:
    """A defocused lens, a disc; or a Gaussian."""
    a, b = np.mgrid[-12:13, -12:13]
    k = np.exp(-(a**2 + b**2) / 50.0) if separable else np.clip(12.5 - np.hypot(a, b), 0, 1)
    return (k / k.sum()).astype(np.float32)


def blur(size: int, separable: bool) -> Conv2d:
    return Conv2d(kernel(separable), (size, size), stride=STRIDE, padding=12, padding_mode="reflect")


def array(folder: Path, name: str, size: int, chunk: int) -> zarr.Array:
    return zarr.create_array(
        folder / name, shape=(size, size), chunks=(chunk, chunk), dtype="float32", compressors=None, overwrite=True
    )


def make(folder: Path, size: int, chunk: int) -> None:
    """Noise, written block by block."""
    x, rng = array(folder, "x", size, chunk), np.random.default_rng(0)
    for a in range(0, size, chunk):
        for b in range(0, size, chunk):
            block = x[a : a + chunk, b : b + chunk]
            x[a : a + chunk, b : b + chunk] = rng.random(block.shape, dtype=np.float32)


def write(blocks: da.Array, target: zarr.Array) -> None:
    """Compute and write all blocks. By `persist`: one last task for all of them upsets the order of the others."""
    dask.persist(da.store(blocks, target, lock=False, compute=False))


def read_and_write(folder: Path, source: str, target: zarr.Array) -> None:
    """Read every block of one array, and write every block of another."""
    blocks = da.from_zarr(folder / source)
    height, width = target.chunks

    def made(block: np.ndarray) -> np.ndarray:
        return np.full((height, width), block[0, 0])

    write(blocks.map_blocks(made, chunks=(height, width), dtype=np.float32), target)


def run(job: str, folder: Path, size: int, chunk: int, separable: bool) -> float:
    """The seconds of one job."""
    A, (small, each) = blur(size, separable), (size // STRIDE, chunk // STRIDE)
    with tempfile.TemporaryDirectory() as name:  # imports, compilers, thread pools
        make(Path(name), 512, 256)
        tiny = to_dask(blur(512, separable))
        y = tiny.apply(da.from_zarr(Path(name) / "x"))
        write(y, array(Path(name), "y", 128, 64))
        write(tiny.T.apply(y), array(Path(name), "z", 512, 256))
    start = time.perf_counter()
    if job == "forward":
        write(to_dask(A).apply(da.from_zarr(folder / "x")), array(folder, "y", small, each))
    elif job == "adjoint":
        write(to_dask(A).T.apply(da.from_zarr(folder / "y")), array(folder, "z", size, chunk))
    elif job == "copy forward":
        read_and_write(folder, "x", array(folder, "copy", small, each))
    elif job == "copy adjoint":
        read_and_write(folder, "y", array(folder, "copy", size, chunk))
    else:
        B, pixels = blur(FITS, separable), (size / FITS) ** 2
        T = B if job == "apply forward" else B.T
        image = np.random.default_rng(0).random(T.input_shape, dtype=np.float32)
        T.apply(image)
        start = time.perf_counter()
        T.apply(image)
        return (time.perf_counter() - start) * pixels
    return time.perf_counter() - start


def graph() -> None:
    """What the graph of a product costs, in time and bytes."""
    import cloudpickle
    from distributed import Client, LocalCluster

    A, chunk = blur(32768, False), 512
    x = da.zeros((32768, 32768), chunks=chunk, dtype=np.float32)
    start = time.perf_counter()
    y = to_dask(A).apply(x)
    seconds, tasks = time.perf_counter() - start, len(y.dask.to_dict()) - len(x.dask.to_dict())
    size = len(cloudpickle.dumps(y.dask.to_dict()))
    print("| | |\n| --- | ---: |")
    print(f"| blocks | {y.npartitions} |\n| tasks for each block | {tasks / y.npartitions:.1f} |")
    print(f"| graph, milliseconds for each block | {seconds / y.npartitions * 1e3:.2f} |")
    print(f"| graph, bytes for each task | {size / tasks:.0f} |")
    small = Conv2d(np.ones((3, 3), np.float32), (512, 512), padding=1, method="gemm")
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster):
        y = to_dask(small).apply(da.zeros((512, 512), chunks=8, dtype=np.float32))
        y.sum().compute()
        start = time.perf_counter()
        y.sum().compute()
        print(f"| tasks in a second | {len(y.dask.to_dict()) / (time.perf_counter() - start):.0f} |")


def solve(size: int, chunk: int, steps: int) -> None:
    """Steps of cgls on worker processes; the data are made there."""
    from distributed import Client, LocalCluster

    A, found = blur(size, False), []
    print("| workers | seconds a step | over one worker | peak MB of a worker |\n| ---: | ---: | ---: | ---: |")
    for workers in (1, 2):
        with (
            LocalCluster(n_workers=workers, threads_per_worker=1, memory_limit=0, dashboard_address=None) as cluster,
            Client(cluster) as client,
        ):
            D, times = to_dask(A), []
            y = D.apply(da.random.default_rng(0).random((size, size), dtype=np.float32, chunks=chunk)).persist()
            cgls(
                D,
                y,
                damp=0.01,
                rtol=0,
                maxiter=steps,
                callback=lambda x, times=times: times.append(time.perf_counter()),
            )
            found.append(float(np.median(np.diff(times))))
            peak = max(client.run(lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss).values()) / 1000
        print(f"| {workers} | {found[-1]:.2f} | {found[0] / found[-1]:.2f} | {peak:.0f} |", flush=True)


def measured(*arguments: object) -> tuple[float, float]:
    """Seconds and peak of resident memory, in megabytes, of a job in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--job", *map(str, arguments)], check=True, stdout=subprocess.PIPE, text=True
    )
    seconds, peak = json.loads(done.stdout)
    return seconds, peak


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[4096, 8192])
    parser.add_argument("--chunk", type=int, default=2048)
    parser.add_argument("--separable", action="store_true", help="a Gaussian in place of a disc")
    parser.add_argument("--folder", type=Path, help="where the images are made (a temporary folder)")
    parser.add_argument("--graph", action="store_true", help="what a graph costs")
    parser.add_argument("--solve", action="store_true", help="steps of cgls on one and two workers")
    parser.add_argument("--job", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        job, folder, size, chunk, separable = options.job
        with dask.config.set(scheduler="threads"):
            seconds = run(job, Path(folder), int(size), int(chunk), separable == "True")
        print(json.dumps([seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000]))
        return
    if options.graph:
        graph()
        return
    if options.solve:
        solve(options.sizes[-1], options.chunk, 6)
        return
    print(f"blocks of {options.chunk}^2, {'Gaussian' if options.separable else 'disc'} of 25 x 25, stride {STRIDE}\n")
    print("| image | | seconds | ns per pixel | zarr alone | A.apply | over their sum | peak MB |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for size in options.sizes:
        with tempfile.TemporaryDirectory(dir=options.folder) as name:
            folder = Path(name)
            make(folder, size, options.chunk)
            os.sync()
            common, rows = (folder, size, options.chunk, options.separable), []
            for way in ("forward", "adjoint"):
                copy, _ = measured(f"copy {way}", *common)
                seconds, peak = measured(way, *common)
                rows.append((seconds, copy, measured(f"apply {way}", *common)[0], peak))
            (a, b, c, d), (e, f, g, h) = rows
            rows.append((a + e, b + f, c + g, max(d, h)))
            for label, (seconds, copy, applied, peak) in zip(("A x", "A^T y", "both"), rows, strict=True):
                print(
                    f"| {size}^2 | {label} | {seconds:.2f} | {seconds / size**2 * 1e9:.2f} | {copy:.2f} | "
                    f"{applied:.2f} | {seconds / (copy + applied):.2f} | {peak:.0f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
