"""Matrices shared among processes: how many there are, and that threads do not wait for each other."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import scipy.linalg  # the BLAS whose threads are counted
from threadpoolctl import threadpool_info, threadpool_limits

from analysis.spectra.processes import SHARE, each, processes


def blas_threads(_: str = "") -> list[int]:
    scipy.linalg.blas.dgemm(1.0, np.eye(2), np.eye(2))
    return [one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"]


@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_scipys_blas_has_one_thread_in_each_process_and_its_own_afterwards(jobs: int) -> None:
    with threadpool_limits(2, user_api="blas"):
        if set(before := blas_threads()) != {2}:
            pytest.skip("this BLAS has one thread")
        assert all(set(found) == {1} for found in each(blas_threads, ["a", "b", "c"], jobs))
        assert blas_threads() == before


FRESH = """
from analysis.spectra.processes import each
def work(_):
    import scipy.linalg
    from threadpoolctl import threadpool_info
    return [one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"]
print({count for found in each(work, ["a", "b"], 1) for count in found})
"""


def test_scipys_blas_has_one_thread_where_nothing_has_loaded_it_yet() -> None:
    """SciPy brings a BLAS of its own beside NumPy's, and a limit is one of what is loaded."""
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "2"}
    found = subprocess.run([sys.executable, "-c", FRESH], env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "{1}"


def test_processes_are_started_unasked_where_there_are_many_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("analysis.spectra.processes.cores", lambda: 8)
    assert [processes(None, SHARE * n) for n in (0, 1, 2, 8, 100)] == [1, 1, 2, 8, 8]
    assert processes(None, 2 * SHARE - 1) == processes(None, 100 * SHARE, "cuda") == 1
    assert [processes(3, 1), processes(1, 10 * SHARE)] == [3, 1]
