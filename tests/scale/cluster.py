"""Least squares on two worker processes, of which one is killed in the middle. Run by test_dask.py."""

import os
import signal

import dask.array as da
import numpy as np
from distributed import Client, LocalCluster

import convmat


def main():
    rng = np.random.default_rng(0)
    A = convmat.Conv2d(rng.standard_normal((5, 5)), (48, 40), stride=2, padding=2, padding_mode="reflect")
    y = A.apply(rng.standard_normal((48, 40)))
    expected, _ = convmat.cgls(A, y, damp=0.5, rtol=1e-12)
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        pids = client.run(os.getpid)
        assert len(set(pids.values())) == 2
        victim, steps = next(iter(pids.values())), []

        def callback(x):
            steps.append(x)
            if len(steps) == 3:
                os.kill(victim, signal.SIGKILL)

        data = da.from_array(y, chunks=(9, 7))
        x, info = convmat.cgls(convmat.to_dask(A), data, damp=0.5, rtol=1e-12, callback=callback)
        found = x.compute()
        assert victim not in client.run(os.getpid).values()
    assert info.converged, info
    assert len(steps) == info.iterations > 6
    assert np.abs(found - expected).max() <= 1e-10 * np.abs(expected).max()
    print("the same")


if __name__ == "__main__":
    main()
