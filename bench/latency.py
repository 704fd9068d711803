"""Time of one request, `rec.recommend([user])`, on generated catalogues: median and 99th percentile, with what is read and computed.

    python bench/latency.py                              # 36,000 and 100,000 items; about 8 minutes on one core
    python bench/latency.py --items 36000 --requests 300

A catalogue of n items with 384-dimensional text vectors (unit length, spectrum falling like that of MiniLM on real texts), a category
and a price each; item rows follow a power law, users have 5 to 200 rows. All default experts; `--cap` bounds the items that take part in the
closed-form item-item matrices, to keep the fit below 4 GiB. One thread. "exact" scores every item; "served" is `rec.serve()`, whose scores are
exact and whose candidates are not: the share of the exact top ten that it finds is printed.
The limit below which no exact scan can go is printed, too: bytes of item matrices over the machine's measured bandwidth.
"""
import argparse, os, time
os.environ.setdefault('OMP_NUM_THREADS', '1')
import numpy as np, pandas as pd


def catalogue(n, users=20_000, rows=600_000, dim=384, seed=0):
    "Log, item table and text vectors of n items; people have tastes, and follow what is popular."
    g = np.random.default_rng(seed)
    topics = g.normal(size=(60, dim))*(1 + np.arange(dim))**-.45
    t = g.integers(60, size=n)
    V = topics[t] + 1.2*g.normal(size=(n, dim))*(1 + np.arange(dim))**-.45
    V = (V/np.linalg.norm(V, axis=1, keepdims=True)).astype(np.float32)
    items = pd.DataFrame(dict(item=np.arange(n), title=[f'thing {i}' for i in range(n)], category=[f't{x}' for x in t], price=g.gamma(2., 5., n).round(2)))
    pop = g.permutation(n)
    by = [np.nonzero(t == k)[0] for k in range(60)]
    by = [b[np.argsort(pop[b])] for b in by]
    like = g.integers(60, size=(users, 4))
    w = (5 + g.pareto(1.1, users)*8).clip(5, 200); u = np.repeat(np.arange(users), np.maximum(1, (w*rows/w.sum()).astype(int)))
    k = like[u, g.integers(4, size=len(u))]
    size = np.array([len(b) for b in by])[k]
    place = (size*g.random(len(u))**3).astype(int)                     # the head of a topic is taken most
    item = np.array([by[a][p] for a, p in zip(k, place)])
    log = pd.DataFrame(dict(user=u, item=item, time=g.integers(10**8, size=len(u)))).drop_duplicates(['user', 'item'])
    return log, items, V


def fitted(n, cap):
    "A recommender with the default experts on such a catalogue."
    from llmrec.data import Domain
    from llmrec.fusion import Recommender, default_experts
    log, items, V = catalogue(n)
    valid = log.sort_values('time').groupby('user').tail(1).iloc[:100]
    def make(d, budget, seed):
        es = default_experts(d, budget, seed)
        for e in es: e.__dict__.update(cap=min(e.cap, cap)) if hasattr(e, 'cap') else None
        return es
    return Recommender(None, 'target', experts=make).fit(Domain('things', log.drop(valid.index), items), valid=valid, vectors={'text': V})


def bandwidth(mb=200):
    "Bytes a second of a read."
    x = np.zeros(mb*2**18, np.float32)
    return x.nbytes/min(-time.perf_counter() + (x.sum(), time.perf_counter())[1] for _ in range(9))


def ms(f, asks):
    "Wall and processor time of each request in ms, and the answers."
    wall, cpu, out = [], [], []
    for a in asks:
        t, c = time.perf_counter(), time.thread_time()
        out.append(f(a)); wall.append(1e3*(time.perf_counter() - t)); cpu.append(1e3*(time.thread_time() - c))
    return np.array(wall), np.array(cpu), out


def says(name, wall, cpu):
    q = lambda t: f'p50 {np.median(t):7.2f}  p99 {np.quantile(t, .99):7.2f} ms'
    print(f'{name:8} wall {q(wall)}   processor {q(cpu)}   ({len(wall)} requests)', flush=True)


def account(rec, rank, pool=0):
    "Bytes and operations of the products of one request: matrices of `item_side`, whole or sketched, and rows of candidates."
    seen, b, f = set(), 0, 0
    for e in rec.experts:
        if (M := e.item_side()) is None: continue
        n, d = M.shape
        r, key = min(rank, d), (M.ctypes.data, M.shape)
        f += 2*n*r + 2*pool*d
        if rank == np.inf or key not in seen: b += 4*n*r + 4*pool*d        # a sketch is read once for all its queries
        seen.add(key)
    return b, f


def kept(n, cap, folder):
    "Fitted now, or taken from a folder."
    from llmrec.fusion import Recommender
    import pathlib
    path = folder and pathlib.Path(folder)/f'catalogue-{n}-{cap}'
    if path and path.exists(): return Recommender.load(path)
    t = time.perf_counter(); rec = fitted(n, cap)
    print(f'{n:,} items, {len(rec.experts)} experts, fitted in {time.perf_counter() - t:.0f} s: {rec.plan[-1]}', flush=True)
    if path: rec.save(path)
    return rec


def main():
    p = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    p.add_argument('--items', type=int, nargs='+', default=[36_000, 100_000]); p.add_argument('--requests', type=int, default=1000)
    p.add_argument('--cap', type=int, default=1000); p.add_argument('--rank', type=int, default=64); p.add_argument('--pool', type=int, default=500)
    p.add_argument('--saved', help='folder to keep fitted recommenders in, to measure again')
    a = p.parse_args()
    import llmrec.recommend                                          # gives Recommender its serve
    speed = bandwidth()
    print(f'one thread; bandwidth of a read: {speed/1e9:.1f} GB/s')
    for n in a.items:
        rec = kept(n, a.cap, a.saved)
        asks = np.random.default_rng(1).choice(rec.data.users, a.requests + 20)
        sample = asks[20:20 + max(50, a.requests//5)]
        rec.recommend(asks[:1])
        w0, c0, full = ms(lambda u: rec.recommend([u]), sample)
        t = time.perf_counter(); rec.serve(a.rank, a.pool); ready = time.perf_counter() - t
        for u in asks[:20]: rec.recommend([u])
        w, c, fast = ms(lambda u: rec.recommend([u]), asks[20:])
        says('exact', w0, c0); says('served', w, c)
        found = np.mean([len(set(x[0][0]) & set(y[0][0]))/10 for x, y in zip(fast, full)])
        off = max(np.abs(x[1] - y[1]).max() for x, y in zip(fast, full) if list(x[0][0]) == list(y[0][0]))
        print(f'served finds {found:.1%} of the exact first ten, its scores differ by at most {off:.0e}; prepared in {ready:.1f} s, '
              f'{sum(s.X.nbytes for s in rec.server.sketches.values())/2**20:.0f} MiB of sketches')
        for name, (b, f) in dict(exact=account(rec, np.inf), served=account(rec, a.rank, a.pool)).items():
            print(f'{name}: reads {b/1e6:.0f} MB and computes {f/1e6:.0f} MFLOP in matrix products; at the bandwidth that takes {1e3*b/speed:.1f} ms')
        rec.serve(0)


if __name__ == '__main__': main()
