"""How the tests run: two workers, one thread each, no network, a limit of 15 minutes a test. Options given by hand win."""
import os
import pytest

for k, v in dict(OMP_NUM_THREADS='1', HF_HUB_OFFLINE='1', TOKENIZERS_PARALLELISM='false', MPLBACKEND='Agg').items():
    os.environ.setdefault(k, v)


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
    if 'PYTEST_XDIST_WORKER' in os.environ: return # a worker must not start workers
    o = config.option
    if o.numprocesses is None and o.dist == 'no' and not o.usepdb and not o.collectonly: o.numprocesses, o.dist = 2, 'worksteal'
    if o.timeout is None: o.timeout = 900
    if o.durations is None: o.durations, o.durations_min = 5, 1
