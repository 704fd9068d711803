"""From one platform to another, without a shared user: MovieLens → MovieTweetings, by the age of the new platform.

    python bench/social.py DIR [--ages 3 30 all] [--users 1500] [--out bench/social.json]

DIR holds MovieTweetings: ratings.dat and movies.dat as published (snapshots/100K of the MovieTweetings repository), or the same as
interactions.csv.gz and items.csv.gz. MovieLens comes with the extra `data`.

Protocol: `split_time` cuts the target: the last tenth of its rows is the test, in every arm the same; of its users `--users` are drawn
(0: all). A platform that is d days old has the rows of the last d days before the cut; a ninth of them, the latest, choose the gate.
The source ends where the test begins (`past_source`). No user is shared and no item id; where the same film stands on both platforms
nothing but its text says so. `strategy='unsupervised'`: equal ids are chance. NDCG@10 and recall@10, full ranking of all items of the
target that are new to the user; intervals over users, BCa; differences paired by user. Arms: the recommender with the source, its twin
without, what is popular in the latest tenth of the rows, EASE and content on the target alone. Nothing is chosen on test rows.
"""
import argparse, json, re, time
from pathlib import Path
import numpy as np, pandas as pd
from llmrec import Recommender, compare, evaluate, truncate_source, split_time
from llmrec.core import atomic_write
from llmrec.readers import load_movielens, read_movietweetings, read_table
from llmrec.baselines import Content, Popularity
from llmrec.closed_form import EASE
from llmrec.preprocess import Split

DAY = 86400


def load(folder):
    "MovieTweetings, as published or as a pair of tables."
    p = Path(folder)
    if (p/'ratings.dat').exists(): return read_movietweetings(p)
    log = pd.read_csv(p/'interactions.csv.gz', dtype={'item_id': str}); items = pd.read_csv(p/'items.csv.gz', dtype={'item_id': str})
    items['year'] = pd.to_numeric(items['title'].str.extract(r'\((\d{4})\)\s*$')[0])
    names = {'log.user': 'user_id', 'log.item': 'item_id', 'value': 'rating', 'time': 'timestamp', 'items.item': 'item_id', 'category': 'genres'}
    return read_table(log, items, names, 'MovieTweetings')


def plain(title):
    "A title that can be compared: 'Matrix, The (1999)' is 'the matrix (1999)'."
    t = re.sub(r'^(.*), (the|a|an|les?|la|il|der|die|das)( \(\d{4}\))$', r'\2 \1\3', title.lower())
    return re.sub(r'[^a-z0-9()]+', ' ', t).strip()


def young(split, days):
    "The split of a platform that opened `days` before the test; None: all rows."
    past = pd.concat([split.train, split.valid])
    if days is not None: past = past[past['time'] >= split.protocol['test_from'] - days*DAY]
    cut = np.quantile(past['time'], 8/9)
    return Split(past[past['time'] < cut], past[past['time'] >= cut], split.test, dict(split.protocol, valid_from=int(cut), days=days))


def fitted(target, source, s, seed=0):
    "All arms for one age of the platform."
    train, past = target.with_log(s.train), target.with_log(pd.concat([s.train, s.valid], ignore_index=True))
    rec = Recommender('minilm', strategy='unsupervised', seed=seed, budget='fast').fit(train, source, s.valid)
    yield 'with MovieLens', rec
    twin = Recommender('minilm', strategy='target', seed=seed, budget='fast').fit(train, None, s.valid)
    yield 'twin without', twin
    V = twin.data.vectors
    for name, e in (('trending', Popularity(.1)), ('EASE', EASE(300)), ('content', Content(5.))): yield name, e.fit(past.log, past.items, vectors=V)


def cells(name, r, days):
    "Rows of the results table: all users, then by evidence and by whether the film is known to the source."
    out = []
    for m in ('ndcg@10', 'recall@10'):
        lo, hi = r.intervals[m]
        out.append(dict(days=days, arm=name, slice='all', cell='all', metric=m, n=len(r.per_user), value=r[m], lo=lo, hi=hi))
    for x in r.slices.itertuples():
        cell = x.user if x.item == 'all' else x.item if x.user == 'all' else None
        if cell is None or x.item == x.user == 'all': continue
        kind = x.slice if x.slice != 'evidence' else 'history' if x.item == 'all' else 'item rows'
        out.append(dict(days=days, arm=name, slice=kind, cell=cell, metric='ndcg@10', n=int(x.n), value=x[6], lo=x.lo, hi=x.hi))
    return out


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('folder'); p.add_argument('--ages', nargs='+', default=['3', '30', 'all']); p.add_argument('--out', default='bench/social.json')
    p.add_argument('--users', type=int, default=1500); p.add_argument('--seed', type=int, default=0)
    a = p.parse_args()
    target, ml = load(a.folder), load_movielens()
    split = split_time(target)
    users = np.random.RandomState(a.seed).permutation(np.sort(split.test.user.unique()))[:a.users or None]
    split.test = split.test[split.test.user.isin(users)].reset_index(drop=True)
    source = truncate_source(ml, split)
    titles = set(map(plain, ml.items.title))
    table = target.items.assign(film=np.where([plain(t) in titles for t in target.items.title], 'on both', 'new to the source'))
    rows, verdicts, facts = [], [], {}
    for age in a.ages:
        days = None if age == 'all' else float(age)
        s, reports = young(split, days), {}
        for name, rec in fitted(target, source, s, a.seed):
            t = time.perf_counter()
            reports[name] = evaluate(rec, s, ks=(10,), items=table, slices=('evidence', 'film'), domain=target, seed=a.seed, evidence='train+valid', beyond=False, audit=False)
            rows += cells(name, reports[name], days)
            print(f"{age} days, {name}: {reports[name]['ndcg@10']:.4f}, fit {getattr(rec, 'cost', {}).get('fit_seconds', 0):.0f} s, evaluated in {time.perf_counter() - t:.0f} s", flush=True)
            if name == 'with MovieLens': print(*rec.plan, sep='\n', flush=True)
        c = compare(reports).table
        verdicts += [dict(days=days, **r) for r in c[['metric', 'a', 'b', 'mean_a', 'mean_b', 'difference', 'lo', 'hi', 'p', 'p_holm', 'wins', 'ties', 'losses']].to_dict('records')]
        facts[age] = dict(rows=len(s.train) + len(s.valid), users=int(pd.concat([s.train, s.valid]).user.nunique()), items=int(pd.concat([s.train, s.valid]).item.nunique()),
                          test_rows=len(s.test), test_users=int(s.test.user.nunique()))
        protocol = dict(reports['with MovieLens'].protocol, split={k: v for k, v in s.protocol.items() if k != 'rows'})
        out = dict(protocol=protocol, facts=facts, source=dict(rows=len(source.log), users=source.n_users, items=source.n_items),
                   same_film=float((table.film == 'on both').mean()), rows=rows, verdicts=verdicts)
        with atomic_write(a.out) as f: json.dump(out, f, default=float, indent=0)


if __name__ == '__main__': main()
