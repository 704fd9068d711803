"""A run killed with SIGKILL at twenty random moments, and resumed, ends with the weights of one that was not, bit for bit."""
import json, os, subprocess, sys
from pathlib import Path
import pytest

RUNS = Path(__file__).with_name('resume_runs.py')


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs fork and SIGKILL')
def test_killed_and_resumed(tmp_path):
    r = subprocess.run([sys.executable, RUNS, tmp_path, str(os.getpid())], capture_output=True, text=True, timeout=850,
                       env=dict(os.environ, OMP_NUM_THREADS='1', MKL_CBWR='AUTO,STRICT')) # MKL: the same sums wherever memory lies
    assert r.returncode == 0, r.stderr[-3000:]
    *trials, storm, _ = runs = json.loads(r.stdout.splitlines()[-1])
    assert sum(len(t['killed_at']) for t in trials) == 20
    for t in trials:
        assert t['equal'] == len(t['killed_at']), t
        assert len(set(t['killed_at'])) >= 3, f'the kills did not spread over the run: {t}'
    assert storm['kills'] >= 2 and all(s['equal'] for s in runs[2:]), runs
