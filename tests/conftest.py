"""How the tests run: two workers, one thread each, no network, a limit of 15 minutes a test; generated examples are
the same in every run (bench/fuzz.py draws others) and have no deadline of their own. Options given by hand win."""
import os
import pytest

for k, v in dict(OMP_NUM_THREADS='1', HF_HUB_OFFLINE='1', TOKENIZERS_PARALLELISM='false', MPLBACKEND='Agg').items():
    os.environ.setdefault(k, v)

try: from hypothesis import HealthCheck, settings
except ImportError: pass                    # the files that need it say so
else:
    settings.register_profile('llmrec', deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile('llmrec')


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
    if 'PYTEST_XDIST_WORKER' in os.environ: return # a worker must not start workers
    o = config.option
    if o.numprocesses is None and o.dist == 'no' and not o.usepdb and not o.collectonly: o.numprocesses, o.dist = 2, 'worksteal'
    if o.timeout is None: o.timeout = 900
    if o.durations is None: o.durations, o.durations_min = 5, 1
