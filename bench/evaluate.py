"""Evaluation at scale, beside ranx and RecTools: the same factors, the same test rows, the same lists, one run.

    python -m venv peers && peers/bin/pip install rectools       # it wants another NumPy: an environment of its own
    python bench/evaluate.py --peer-python peers/bin/python      # 100,000 users × 20,000 items
    python bench/evaluate.py --users 5000                        # smaller; without --peer-python beside ranx alone

    python bench/evaluate.py --users 5000 --threads 1 --rounds 5 --peer-python peers/bin/python --ratios bench/ratios.csv   # the rows of chapter 59

Seconds are processor time; the sides take turns in every round. Two stages. "lists": a table (user, item, rank) with 50 items a user goes in, metrics at 10 and 50 come out, on both sides without shortcuts beside them
(`bar=False`: until November 2026 ours were fitted and compared in the time of this row, which made it .28). "whole": factors go in, every
score is computed, the training items are masked, and metrics come out; RecTools ranks with its own ranker (`implicit`'s top-k), ranx has no
ranker and is given ours. "everything" is `evaluate` as users call it: full ranks, AUC, beyond accuracy, evidence cells, bootstrap intervals.
Numbers that all define alike must agree to 1e-6: NDCG (RecTools with divide_by_achievable), precision, recall, F1, hit rate, MRR, MAP.
Memory is the peak of the process above what it held with model and data in place.
"""
import argparse, json, os, resource, subprocess, tempfile, time, warnings
from pathlib import Path
import numpy as np, pandas as pd
from common import keep_ratios, machine, ratio_row

KS, NAMES = (10, 50), ('ndcg', 'precision', 'recall', 'f1', 'hit', 'mrr', 'map')


def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024


def make(users, items, n_train, n_test, seed=0):
    "Factors, and a training and a test log with a long tail."
    g = np.random.default_rng(seed)
    p = 1/np.arange(1, items + 1)**.8
    log = lambda r: pd.DataFrame(dict(user=np.repeat(np.arange(users), r), item=g.choice(items, users*r, p=p/p.sum()))).drop_duplicates()
    train, test = log(n_train), log(n_test)
    old = pd.MultiIndex.from_frame(train)
    test = test[~pd.MultiIndex.from_frame(test).isin(old)]
    P, Q = (g.normal(size=(n, 64)).astype(np.float32) for n in (users, items))
    Q[:, 0] += 25*(1 + np.arange(items))**-.2; P[:, 0] = abs(P[:, 0]) + 1   # some skill, or all metrics would be zero
    return P, Q, train[train.user.isin(test.user)].reset_index(drop=True), test.reset_index(drop=True)


class Factors:
    def __init__(self, P, Q): self.P, self.Q, self.items = P, Q, np.arange(len(Q))
    def score(self, users): return self.P[users] @ self.Q.T


def timed(f, *a, **kw):
    t = time.process_time(); out = f(*a, **kw)
    return out, time.process_time() - t


def ours(P, Q, train, test):
    "Seconds, memory, numbers."
    from llmrec.metrics import topk_metrics
    from llmrec.evaluation import evaluate, make_eval_task, rank_task
    from llmrec.preprocess import Split
    rec, split, n = Factors(P, Q), Split(train, train.iloc[:0], test, dict(name='benchmark')), len(Q)
    items = pd.DataFrame(dict(item=rec.items, title=[f'item {i}' for i in range(n)], category=rec.items % 20))
    few = test[test.user.isin(test.user.unique()[:20])]
    evaluate(rec, Split(train, train.iloc[:0], few, {}), slices=(), audit=False) # load what is loaded on first use
    out, before = {}, peak()
    def whole():
        t = make_eval_task(split, rec.items)
        top, rank, *_ , spent = rank_task(rec, t, 50)
        return t, top, topk_metrics(rank, t.row, len(t.users), KS), spent
    (t, top, v, spent), out['whole'] = timed(whole)
    out |= dict(whole_mb=peak() - before, score=spent)
    lists = pd.DataFrame(dict(user=np.repeat(t.users.to_numpy(), 50), item=top.ravel(), rank=np.tile(np.arange(1, 51), len(top))))
    lists = lists.sort_values(['user', 'rank'], ignore_index=True)
    r, out['lists'] = timed(evaluate, lists, split, KS, items, slices=(), n_boot=0, audit=False, beyond=False, bar=False)
    r2, out['lists_beyond'] = timed(evaluate, lists, split, KS, items[['item', 'title']], slices=(), n_boot=0, audit=False, bar=False)
    report, out['everything'] = timed(evaluate, rec, split, KS, items, vectors=Q)
    out |= dict(everything_mb=peak() - before, numbers={k: float(np.nanmean(x)) for k, x in v.items()})
    for k, x in out['numbers'].items(): assert abs(report[k] - x) < 1e-9 and abs(r[k] - x) < 1e-9, k
    out['also'] = {k: r2[k] for k in ('novelty@10', 'coverage@10')}
    return out, lists


def by_ranx(lists, test):
    "From the two tables to numbers."
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        from ranx import Qrels, Run, evaluate
        name = dict(hit='hit_rate')
        names = [f'{name.get(x, x)}@{k}' for k in KS for x in NAMES]
        text = lambda c: c.astype(str).astype(object) # ranx takes no other ids
        def run(l, t):
            q = Qrels.from_df(t.assign(user=text(t.user), item=text(t.item), score=1), 'user', 'item', 'score')
            r = Run.from_df(l.assign(user=text(l.user), item=text(l['item']), score=-l['rank'].astype(float)), 'user', 'item', 'score')
            return q, r
        few = test.user.unique()[:20]
        evaluate(*run(lists[lists.user.isin(few)], test[test.user.isin(few)]), names) # compile first
        (q, r), t0 = timed(run, lists, test)
        v, t1 = timed(evaluate, q, r, names)
    return dict(lists=t0 + t1, metrics_only=t1, numbers={f'{x}@{k}': float(v[f'{name.get(x, x)}@{k}']) for k in KS for x in NAMES})


def peer(folder, threads):
    "Runs in RecTools' environment."
    from rectools import metrics as M, Columns as C
    from rectools.models.rank import Distance, ImplicitRanker
    import scipy.sparse as sp
    folder = Path(folder)
    z = np.load(folder/'factors.npz'); P, Q = z['P'], z['Q']
    lists, train, test = (pd.DataFrame(dict(zip(('user_id', 'item_id', 'rank'), np.load(folder/f'{n}.npy').T))) for n in ('lists', 'train', 'test'))
    make = dict(ndcg=lambda k: M.NDCG(k, divide_by_achievable=True), precision=M.Precision, recall=M.Recall, f1=M.F1Beta, hit=M.HitRate, mrr=M.MRR, map=M.MAP)
    ms = {f'{x}@{k}': f(k) for k in KS for x, f in make.items()}
    more = ms | {f'{x}@{k}': f(k) for k in KS for x, f in dict(novelty=M.MeanInvUserFreq, popularity=M.AvgRecPopularity, coverage=lambda k: M.CatalogCoverage(k, normalize=True)).items()}
    out = {}
    few = test.user_id.unique()[:20]
    M.calc_metrics(ms, lists[lists.user_id.isin(few)], test[test.user_id.isin(few)])
    v, out['lists'] = timed(M.calc_metrics, ms, lists, test)
    w, out['lists_beyond'] = timed(M.calc_metrics, more, lists, test, prev_interactions=train, catalog=np.arange(len(Q)))
    def whole():
        users = np.unique(test.user_id)
        seen = sp.csr_matrix((np.ones(len(train), np.float32), (train.user_id, train.item_id)), (len(P), len(Q)))
        u, i, s = ImplicitRanker(Distance.DOT, P, Q, num_threads=threads).rank(users, k=50, filter_pairs_csr=seen[users])
        r = pd.DataFrame({C.User: u, C.Item: i}); r[C.Rank] = r.groupby(C.User, sort=False).cumcount() + 1
        return M.calc_metrics(ms, r, test)
    x, out['whole'] = timed(whole)
    out |= dict(numbers={k: float(a) for k, a in v.items()}, whole_numbers={k: float(a) for k, a in x.items()}, also={k: float(w[k]) for k in ('novelty@10', 'coverage@10')})
    (folder/'out.json').write_text(json.dumps(out))


def run_peer(python, P, Q, train, test, lists, threads):
    with tempfile.TemporaryDirectory() as d:
        d = Path(d)
        np.savez(d/'factors.npz', P=P, Q=Q)
        for n, x in (('lists', lists[['user', 'item', 'rank']]), ('train', train), ('test', test)): np.save(d/f'{n}.npy', x.to_numpy())
        r = subprocess.run([python, __file__, '--peer', str(d), '--threads', str(threads)], capture_output=True, text=True, env=dict(os.environ, OMP_NUM_THREADS=str(threads)))
        if r.returncode: raise SystemExit(f'the peer failed:\n{r.stderr[-3000:]}')
        return json.loads((d/'out.json').read_text())


def one_thread():
    "Torch and the algebra libraries, which are loaded by now, keep to one thread."
    import torch
    from threadpoolctl import threadpool_limits
    torch.set_num_threads(1)
    threadpool_limits(1)

def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--users', type=int, default=100_000); p.add_argument('--items', type=int, default=20_000)
    p.add_argument('--train', type=int, default=20, help='training rows a user'); p.add_argument('--test', type=int, default=5, help='test rows a user')
    p.add_argument('--rounds', type=int, default=1); p.add_argument('--ratios', help='CSV that takes the ratios'); p.add_argument('--peer-python'); p.add_argument('--threads', type=int, default=os.cpu_count())
    p.add_argument('--peer', help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.peer: return peer(a.peer, a.threads)
    if a.threads == 1: one_thread()
    data = make(a.users, a.items, a.train, a.test)
    got = []
    for _ in range(a.rounds):
        o, lists = ours(*data)
        x = by_ranx(lists, data[3])
        r = run_peer(a.peer_python, *data, lists, a.threads) if a.peer_python else {}
        got.append((o, x, r))
    for who, v in (('ranx', x), ('RecTools', r)):
        worst = max((abs(v['numbers'][k] - o['numbers'][k]) for k in v.get('numbers', {})), default=0)
        if v: print(f'{who}: largest difference over {len(v["numbers"])} numbers {worst:.1e}'); assert worst < 1e-6
    if r: print('RecTools: novelty and coverage @10 differ by', {k: f'{abs(v - o["also"][k]):.1e}' for k, v in r['also'].items()})
    times = lambda side, stage: [g[side][stage] for g in got]
    size = f'{a.users:,} users, {a.items:,} items'
    rows = [ratio_row('metrics of given lists', 'ranx', size, times(0, 'lists'), times(1, 'lists'))]
    if r: rows += [ratio_row('metrics of given lists', 'RecTools', size, times(0, 'lists'), times(2, 'lists')),
                   ratio_row('rank and evaluate', 'RecTools', size, times(0, 'whole'), times(2, 'whole'),
                             2*a.users*a.items*data[0].shape[1]/machine()['flops'])]
    keep_ratios(rows, f'python bench/evaluate.py --users {a.users} --items {a.items} --threads 1 --rounds {a.rounds}', a.ratios)
    f = lambda t: '–' if t is None else f'{t:.1f} s'
    ratio = lambda t, u: '–' if t is None else f'{t/u:.1f}×'
    print(f'\n{a.users:,} users × {a.items:,} items, {len(data[3]):,} test rows, {a.threads} threads\n\n| stage | llmrec | ranx | RecTools | ranx/llmrec | RecTools/llmrec |\n|---|---|---|---|---|---|')
    for stage, u, v, w in (('lists', o['lists'], x['lists'], r.get('lists')), ('lists, with novelty, popularity, coverage', o['lists_beyond'], None, r.get('lists_beyond')),
                           ('whole', o['whole'], x['lists'] + o['whole'], r.get('whole')), ('everything', o['everything'], None, None)):
        print(f'| {stage} | {f(u)} | {f(v)} | {f(w)} | {ratio(v, u)} | {ratio(w, u)} |')
    print(f'\nllmrec: {o["score"]:.1f} s of "whole" are the product of the factors; {o["whole_mb"]:.0f} MiB above the model for "whole", {o["everything_mb"]:.0f} MiB for "everything"'
          + f'\nranx: {x["metrics_only"]:.1f} s of "lists" without reading the tables\n{json.dumps({k: round(v, 4) for k, v in o["numbers"].items()})}')


if __name__ == '__main__': main()
