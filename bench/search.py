"""Search among many vectors: ours beside faiss, exact and approximate, in one run.

    pip install "llmrec[search,minilm,data]"
    python bench/search.py                        # 1,000,000 x 384; 11 to 18 minutes on one core, most of it for building the graphs; 5.5 GiB, the exact part 4.5
    python bench/search.py --n 100000             # a quick look
    OMP_NUM_THREADS=1 python bench/search.py --n 100000 --queries 200 --rounds 5 --ratios bench/ratios.csv     # the rows that chapter 59 shows

Vectors: real ones, MiniLM on the texts of Complete Journey's products (GROCERY and NUTRITION), mixed to the wanted number as
unit(x + s (y - z)) with x, y, z drawn from the real ones, so that the spectrum of real text stays; queries are drawn in the
same way, with another seed. A small spread s leaves a cloud around each real vector, as many variants of a product do; at 1 no clouds are left. Inner product, ten neighbours. Rounds alternate between the contestants; the median is printed.
"Batch" asks all queries at once with all threads, "single" one after the other. Both graphs and the cells are tuned to the same recall
on other queries, by the same rule. `--out bench/search.csv`
keeps the table that chapter 55 shows, for `--spread` .4 and 1.
The truth for recall is faiss.IndexFlatIP; our exact search must return the same scores (checked to 1e-5) and ids.
"""
import argparse, resource, time
from pathlib import Path
import numpy as np, pandas as pd
from common import keep_ratios, machine, ratio_row, write


def real_vectors():
    from llmrec.readers import load_journey
    from llmrec.encode import TextEncoder
    from llmrec.preprocess import item_text
    j = load_journey()
    return TextEncoder('minilm').encode(list(dict.fromkeys(item_text(j.source.items) + item_text(j.target.items))))


def mixed(R, n, seed, spread):
    "n unit vectors like the real ones."
    g, out = np.random.default_rng(seed), np.empty((n, R.shape[1]), np.float32)
    for i in range(0, n, 50_000):
        x, y, z = (R[g.integers(len(R), size=min(50_000, n - i))] for _ in range(3))
        v = x + spread*(y - z)
        out[i:i+len(v)] = v/np.linalg.norm(v, axis=1, keepdims=True)
    return out


def timed(f):
    t = time.perf_counter(); out = f()
    return time.perf_counter() - t, out


def rounds(contestants, n):
    "Median seconds of each contestant, taken in turns."
    t, c = ({k: [] for k in contestants} for _ in range(2))
    for _ in range(n):
        for k, f in contestants.items():
            began = time.process_time(); t[k].append(timed(f)[0]); c[k].append(time.process_time() - began)
    CPU.append(c)
    return {k: float(np.median(v)) for k, v in t.items()}

CPU = []   # processor seconds of each contest, by contestant and round


def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/2**20


def main():
    p = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    p.add_argument('--n', type=int, default=1_000_000); p.add_argument('--queries', type=int, default=1000)
    p.add_argument('--rounds', type=int, default=3); p.add_argument('--recall', type=float, default=.98)
    p.add_argument('--exact-only', action='store_true'); p.add_argument('--spread', type=float, default=.4); p.add_argument('--out'); p.add_argument('--ratios', help='CSV that takes the ratios')
    a = p.parse_args()
    import faiss
    from llmrec.search import IVFIndex, ExactIndex, HNSWIndex, half_pays, recall
    R = real_vectors()
    V, Q, T = (mixed(R, n, seed, a.spread) for seed, n in enumerate((a.n, a.queries, 2000)))
    flat = faiss.IndexFlatIP(V.shape[1]); flat.add(V)
    print(f'{a.n:,} x {V.shape[1]}, {a.queries:,} queries, {faiss.omp_get_max_threads()} threads, bfloat16 pays: {half_pays(V.shape[1])}, peak {peak():.1f} GiB', flush=True)
    truth = flat.search(Q, 10)
    exact = {'float32': ExactIndex(V, half=False), 'bfloat16 first': ExactIndex(V, half=True)}
    for k, ix in exact.items():
        i, s = ix.search(Q, 10)
        print(f'exact, {k}: same ids {np.mean(i == truth[1]):.5f}, largest difference of scores {np.abs(s - truth[0]).max():.1e}', flush=True)
        assert np.abs(s - truth[0]).max() < 1e-5
    few = Q[:20]
    one = lambda ix, q: [ix.search(x[None], 10) for x in q]
    b = rounds({'faiss': lambda: flat.search(Q, 10)} | {k: (lambda ix=ix: ix.search(Q, 10)) for k, ix in exact.items()}, a.rounds)
    s = rounds({'faiss': lambda: one(flat, few)} | {k: (lambda ix=ix: one(ix, few)) for k, ix in exact.items()}, a.rounds)
    rows = [dict(index='exact, ' + k, recall=1., build_s=0., batch_ms=1e3*b[k]/len(Q), single_ms=1e3*s[k]/len(few)) for k in b]
    print(f'peak {peak():.1f} GiB', flush=True)
    size, rate, kept = f'{a.n:,} x {V.shape[1]}', machine(), []
    for what, c, limit in zip((f'exact search, {len(Q):,} queries', f'exact search, {len(few)} single queries'), CPU,
                              (2*len(Q)*V.size/rate['flops'], len(few)*V.nbytes/rate['bytes'])):
        best = min(exact, key=lambda k: np.median(c[k]))
        kept.append(ratio_row(f'{what}, {best}', 'faiss.IndexFlatIP', size, c[best], c['faiss'], limit))
    if not a.exact_only:
        Tt = flat.search(T, 10)[1]; del exact, flat
        many, both = Q[:300], {}
        for kind in (IVFIndex, HNSWIndex):
            t_build, g = timed(lambda: kind(V)); both[kind.__name__] = g, t_build
            t_tune, _ = timed(lambda: g.tune(T, recall_at_least=a.recall, truth=Tt))
            print(f'ours: built in {t_build:.0f} s, tuned in {t_tune:.0f} s: {g}', flush=True)
        def peer_graph():
            x = faiss.IndexHNSWFlat(V.shape[1], 32, faiss.METRIC_INNER_PRODUCT); x.hnsw.efConstruction = 80; x.add(V)
            return x
        t_build, peer = timed(peer_graph); both['faiss.IndexHNSWFlat'] = peer, t_build
        for peer.hnsw.efSearch in HNSWIndex.efforts:
            if recall(peer.search(T, 10)[1], Tt) >= a.recall + .01: break
        print(f'faiss.IndexHNSWFlat: built in {t_build:.0f} s, efSearch {peer.hnsw.efSearch}; peak {peak():.1f} GiB', flush=True)
        b = rounds({k: (lambda x=x: x.search(Q, 10)) for k, (x, _) in both.items()}, a.rounds)
        s = rounds({k: (lambda x=x: one(x, many)) for k, (x, _) in both.items()}, a.rounds)
        rows += [dict(index=k, recall=recall(x.search(Q, 10)[x is peer], truth[1]), build_s=t, batch_ms=1e3*b[k]/len(Q), single_ms=1e3*s[k]/len(many)) for k, (x, t) in both.items()]
        for what, c in zip((f'search, {len(Q):,} queries', f'search, {len(many)} single queries'), CPU[2:]):
            found = {x['index']: x['recall'] for x in rows}
            for kind in ('IVFIndex', 'HNSWIndex'):
                kept.append(ratio_row(f'{what}, {kind}', 'faiss.IndexHNSWFlat', size, c[kind], c['faiss.IndexHNSWFlat'],
                                      agree=f'recall {found[kind]:.3f}, {found["faiss.IndexHNSWFlat"]:.3f}'))
    keep_ratios(kept, f'python bench/search.py --n {a.n} --queries {a.queries} --rounds {a.rounds} --spread {a.spread:g}', a.ratios)
    t = pd.DataFrame(rows)
    for k in ('batch', 'single'): t[f'{k} x exact faiss'] = t[f'{k}_ms'][0]/t[f'{k}_ms']
    print(t.round(4).to_string(index=False))
    if a.out:
        t, old = t.assign(n=a.n, d=V.shape[1], spread=a.spread).round(4), pd.read_csv(a.out) if Path(a.out).exists() else None
        write(pd.concat([t if old is None else old[old.spread != a.spread], *([] if old is None else [t])]), a.out, '%.10g')


if __name__ == '__main__': main()
