"""Encoding on a local Ray cluster of two workers: the vectors of one process, also when a worker is killed, and from the command line.

Needs the extra `ray`:  pytest -n 0 tests/test_ray.py    # one minute on a quiet machine; each worker imports torch"""
import os, signal
import numpy as np
import pytest

ray = pytest.importorskip('ray')
from llmrec.encode import TextEncoder
from llmrec.cli import cli_encode
from llmrec.scale import RayEncoder, encode_ray

TEXTS = [f'{a} {b} number {i}' for i, (a, b) in enumerate(zip(['red', 'small', 'old', 'quiet']*30, ['kettle', 'river', 'novel']*40))]


def mortal():
    "Class of a worker that is killed, once in the life of the cluster, while it holds a block; made here, so that it travels by value."
    class Mortal(RayEncoder):
        def __init__(self, name, flag, **kw): super().__init__(name, **kw); self.flag = flag
        def __call__(self, block):
            if 60 in block['row'] and not os.path.exists(self.flag): open(self.flag, 'w').close(); os.kill(os.getpid(), signal.SIGKILL)
            return super().__call__(block)
    return Mortal


@pytest.fixture(scope='module')
def cluster():
    os.environ.setdefault('RAY_worker_niceness', '0')     # Ray's 15 leaves its workers nothing where other programs run
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=200 << 20)
    yield
    ray.shutdown()

def test_same_vectors_and_nothing_lost(cluster, tmp_path):
    one = TextEncoder('minilm', cache=False).encode(TEXTS)
    two = encode_ray(TEXTS, workers=2, block=10, worker=mortal(), flag=str(tmp_path/'killed'))
    assert (tmp_path/'killed').exists(), 'no worker was killed'
    assert np.allclose(one, two, atol=1e-5)

def test_command_line(cluster, tmp_path):
    (tmp_path/'items.csv').write_text('item,title\n' + ''.join(f'{i},{t}\n' for i, t in enumerate(TEXTS)))
    cli_encode(str(tmp_path/'items.csv'), ray=2, out=str(tmp_path/'two.npy'))
    cli_encode(str(tmp_path/'items.csv'), out=str(tmp_path/'one.npy'))
    assert np.allclose(np.load(tmp_path/'one.npy'), np.load(tmp_path/'two.npy'), atol=1e-5)
