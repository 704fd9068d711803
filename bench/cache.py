"""The vector cache at one million rows of 384 numbers: time to write, to open, to read, beside a writer and after damage.

    python bench/cache.py [--rows 1000000] [--dir DIR]      # needs 1.6 GB of disk
"""
import argparse, json, os, shutil, subprocess, sys, tempfile, time
from pathlib import Path
import numpy as np
from llmrec.embedding_cache import EmbeddingCache, hash_texts

DIM = 384
OPEN = ('import sys, time\nfrom llmrec.embedding_cache import EmbeddingCache\nt = time.perf_counter()\n'
        'n = len(EmbeddingCache(sys.argv[1], 384)); print(time.perf_counter() - t, n)')


def vectors(b): return np.random.default_rng(b.start).normal(size=(b.stop - b.start, DIM)).astype('float32')
def texts(b): return [f'article number {i}' for i in range(b.start, b.stop)]
def timed(f, *a):
    t = time.perf_counter(); r = f(*a)
    return time.perf_counter() - t, r

def forget(folder):
    "Drop the folder's pages from memory, where the system can."
    if hasattr(os, 'posix_fadvise'):
        for p in Path(folder).iterdir():
            fd = os.open(p, os.O_RDONLY); os.fsync(fd); os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED); os.close(fd)

def opened(folder):
    "Seconds until a fresh process has opened the store, and its rows."
    s, n = subprocess.run([sys.executable, '-c', OPEN, str(folder)], capture_output=True, text=True, check=True).stdout.split()
    return float(s), int(n)

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--rows', type=int, default=1_000_000); p.add_argument('--segment', type=int, default=32_768)
    p.add_argument('--dir'); p.add_argument('--repeats', type=int, default=5); p.add_argument('--out')
    a = p.parse_args()
    folder, out = Path(tempfile.mkdtemp(dir=a.dir)), dict(rows=a.rows, segment=a.segment)
    try:
        s, parts = EmbeddingCache(folder, DIM), [slice(i, min(i + a.segment, a.rows)) for i in range(0, a.rows, a.segment)]
        out['write s'] = sum(timed(s.write, hash_texts(texts(b)), vectors(b))[0] for b in parts)
        for kind in ('warm', 'cold'):
            t = []
            for _ in range(a.repeats):
                if kind == 'cold': forget(folder)
                t.append(opened(folder))
                assert t[-1][1] == a.rows
            out[f'open {kind} s, median'], out[f'open {kind} s, slowest'] = np.median([x for x, _ in t]), max(x for x, _ in t)
        b = parts[len(parts)//2]; some = hash_texts(texts(b)); X = np.empty((len(some), DIM), 'float32')
        out[f'read {len(some)} rows s'], lost = timed(EmbeddingCache(folder, DIM).read, some, X)
        assert not len(lost) and np.array_equal(X, vectors(b))
        f = sorted(folder.glob('*.f32'))[0]
        with open(f, 'r+b') as g:                       # flip one bit in each of 100 rows
            for i in range(100): g.seek(i*7*4*DIM); x = g.read(1)[0]; g.seek(i*7*4*DIM); g.write(bytes([x ^ 1]))
        keys = hash_texts(texts(slice(0, a.rows))); X = np.empty((a.rows, DIM), 'float32')
        out['read all and check s'], lost = timed(EmbeddingCache(folder, DIM).read, keys, X)
        out['damaged rows found'] = len(lost); assert len(lost) == 100
        EmbeddingCache(folder, DIM).write(keys[lost], X[lost])
        assert not len(EmbeddingCache(folder, DIM).read(keys, X))
    finally: shutil.rmtree(folder)
    print(json.dumps(out, indent=1, default=float))
    if a.out: Path(a.out).write_text(json.dumps(out, default=float))


if __name__ == '__main__': main()
