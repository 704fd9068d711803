"""Time of one request, `rec.recommend([user])`, on generated catalogues: median and 99th percentile, with what is read and computed.

    python bench/latency.py                              # 36,000 and 100,000 items; about 15 minutes on one core; writes bench/latency.csv
    python bench/latency.py --items 36000 --requests 300 --out /tmp/latency.csv

A catalogue of n items with 384-dimensional text vectors (unit length, spectrum falling like that of MiniLM on real texts), a title of
four words of its topic, a category and a price each; item rows follow a power law, users have 5 to 200 rows. Experts of `--budget`
('fast': the closed-form ones; 'auto': two networks, too); `--cap` bounds the items that take part in the closed-form item-item matrices,
to keep the fit below 4 GiB. One thread. "exact" scores every item; "served" is `rec.serve()`, whose scores are exact and whose candidates
are not: the share of the exact top ten that it finds is measured. A gate gives some experts no weight, and `serve` skips what cannot
matter; so that no luck of a fit enters, "all vote" measures the same with a weight for every expert. "filtered" asks for one category
within a price range, the mask made anew in every request. The limit below which no scan can go is given, too: bytes of item matrices over
the machine's measured bandwidth. Wall time needs an idle machine; processor time is given beside it. Each request is served in three
rounds: p50 and p99 are of all, least99 of the least of each request's three, which leaves out what another program took of the machine
once.
"""
import argparse, os, time, timeit
from common import write
os.environ.setdefault('OMP_NUM_THREADS', '1')
import numpy as np, pandas as pd


def catalogue(n, users=20_000, rows=600_000, dim=384, seed=0):
    "Log, item table and text vectors of n items; people have tastes, and follow what is popular."
    g = np.random.default_rng(seed)
    topics = g.normal(size=(60, dim))*(1 + np.arange(dim))**-.45
    t = g.integers(60, size=n)
    V = topics[t] + 1.2*g.normal(size=(n, dim))*(1 + np.arange(dim))**-.45
    V = (V/np.linalg.norm(V, axis=1, keepdims=True)).astype(np.float32)
    words = np.minimum(g.zipf(1.3, (n, 4)), 400)                        # four words of a topic's four hundred, few of them frequent
    titles = [' '.join(f't{a}w{b}' for b in row) for a, row in zip(t, words)]
    items = pd.DataFrame(dict(item=np.arange(n), title=titles, category=[f't{x}' for x in t], price=g.gamma(2., 5., n).round(2)))
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


def fitted(n, cap, budget):
    "A recommender with the experts of a budget on such a catalogue."
    from llmrec.data import Domain
    from llmrec.fusion import default_experts
    from llmrec.recommender import Recommender
    log, items, V = catalogue(n)
    valid = log.sort_values('time').groupby('user').tail(1).iloc[:100]
    def make(d, budget, seed):
        es = default_experts(d, budget, seed)
        for e in es:
            if hasattr(e, 'max_items'): e.set_params(max_items=min(e.max_items, cap))
        return es
    return Recommender(None, 'target', budget=budget, experts=make).fit(Domain('things', log.drop(valid.index), items), valid=valid, vectors={'text': V})


def bandwidth(mb=200):
    "Bytes a second of a read."
    x = np.zeros(mb*2**18, np.float32)
    return x.nbytes/min(timeit.repeat(x.sum, number=1, repeat=9))


def ms(f, asks, rounds=1):
    "Wall and processor time of each request in ms, (rounds, requests), and the answers of the last round."
    wall, cpu = np.zeros((2, rounds, len(asks)))
    for r in range(rounds):
        out = []
        for i, a in enumerate(asks):
            t, c = time.perf_counter(), time.thread_time()
            out.append(f(a))
            wall[r, i], cpu[r, i] = 1e3*(time.perf_counter() - t), 1e3*(time.thread_time() - c)
    return wall, cpu, out


def says(row):
    print('  '.join(f'{k} {v:.4g}' if isinstance(v, float) else f'{k} {v}' for k, v in row.items()), flush=True)


def account(rec, server=None, hist=None):
    "Bytes and operations of the products of one request: item matrices, whole or sketched, and rows of candidates."
    seen, size, flop, n = set(), 0, 0, rec.data.n_target
    if server is None:
        for e in rec.fusion.experts:
            M = e.item_matrix()
            if M is None: continue
            size += M.nbytes
            flop += 2*M.size
        return size, flop
    for term, rank in directions(server, hist):
        X, d = term.sketch.coordinates, term.sketch.matrix.shape[1]
        flop += 2*n*rank + 2*server.pool*d
        size += X.itemsize*n*rank                                                      # direction by direction, for each query
        if id(term.sketch) not in seen: size += 4*server.pool*d                        # rows of candidates, once for all its queries
        seen.add(id(term.sketch))
    return size, flop


def directions(server, hist):
    "Terms of one request that are products, and how many directions of their sketches it reads."
    from llmrec.serve import directions_needed
    request = server._request(hist, np.unique(hist.item[hist.item < server.data.n_target]))
    return [(request.terms[place], rank) for place, rank in directions_needed(request, server.tolerance).items()]


def kept(n, cap, budget, folder):
    "Fitted now, or taken from a folder."
    from llmrec.recommender import Recommender
    import pathlib
    path = folder and pathlib.Path(folder)/f'catalogue-{n}-{cap}-{budget}'
    if path and path.exists(): return Recommender.load(path)
    t = time.perf_counter(); rec = fitted(n, cap, budget)
    print(f'{n:,} items, {len(rec.fusion.experts)} experts, fitted in {time.perf_counter() - t:.0f} s: {rec.plan[-1]}', flush=True)
    if path: rec.save(path)
    return rec


def measure(rec, asks, few, speed, **row):
    "Rows of the table: every item scored, and served."
    from llmrec.dataset import histories
    def plain(u): return rec.recommend([u])
    def filtered(u): return rec.recommend([u], mask=rec.item_filter(category='t7', price=(5, 20)))
    ways = dict(exact=plain) | {'exact, filtered': filtered}
    for u in asks[:3]: rec.recommend([u])
    first = {way: ms(ask, few) for way, ask in ways.items()}
    t = time.perf_counter(); rec.serve(); ready = time.perf_counter() - t
    for u in asks[:20]: rec.recommend([u])
    out = []
    for way, ask in dict(served=plain, **{'served, filtered': filtered}).items():
        before, now = first[way.replace('served', 'exact')], ms(ask, asks, 3)
        again = [ask(u) for u in few]
        full = before[2]
        found = np.mean([len(set(x[0][0]) & set(y[0][0]))/len(set(y[0][0])) for x, y in zip(again, full)])
        off = max(np.abs(x[1] - y[1]).max() for x, y in zip(again, full) if list(x[0][0]) == list(y[0][0]))
        for name, (w, c, _), server in ((way.replace('served', 'exact'), before, None), (way, now, rec.server)):
            b, f = account(rec) if server is None else np.mean([account(rec, server, histories(rec.data, [u])) for u in few], 0)
            q = dict(p50=np.median(w), p99=np.quantile(w, .99), cpu50=np.median(c), cpu99=np.quantile(c, .99),
                     least99=np.quantile(w.min(0), .99), requests=w.shape[1])
            share = dict(found=1., off=0., prepare=0.) if server is None else dict(found=found, off=float(off), prepare=ready)
            out.append(row | dict(way=name) | q | dict(MB=b/1e6, MFLOP=f/1e6, limit=1e3*b/speed) | share)
            says(out[-1])
    rec.serve(0)
    return out


def main():
    p = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    p.add_argument('--items', type=int, nargs='+', default=[36_000, 100_000]); p.add_argument('--requests', type=int, default=1000)
    p.add_argument('--cap', type=int, default=1000); p.add_argument('--budget', default='fast')
    p.add_argument('--saved', help='folder to keep fitted recommenders in, to measure again')
    p.add_argument('--out', default=os.path.join(os.path.dirname(os.path.abspath(__file__)), 'latency.csv'))
    a = p.parse_args()
    import torch
    torch.set_num_threads(1)
    speed, table = bandwidth(), []
    print(f'one thread; bandwidth of a read: {speed/1e9:.1f} GB/s')
    for n in a.items:
        rec = kept(n, a.cap, a.budget, a.saved)
        asks = np.random.default_rng(1).choice(rec.data.users, a.requests)
        row = dict(items=n, experts=len(rec.fusion.experts))
        table += measure(rec, asks, asks[:max(20, a.requests//10)], speed, votes='as fitted', **row)
        rec.fusion.gate.bias.data.clamp_(min=-1.5)                              # a weight of at least about 0.2 for every expert
        table += measure(rec, asks, asks[:max(20, a.requests//10)], speed, votes='all vote', **row)
    write(pd.DataFrame(table).round(6), a.out, '%.10g')


if __name__ == '__main__': main()
