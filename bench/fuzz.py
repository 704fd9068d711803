"""Logs and item tables of any shape against the whole pipeline: sound rankings, or an error of ours.

    python bench/fuzz.py --examples 10000

A case is made by `cases()` and judged by `judge()`; tests/test_fuzz.py runs a few hundred of the same. Either the two
domains, the fit or the question are refused with an `InputError`, or the rankings are finite, of the right shape, sorted,
without an item twice, without what the user has had, and the same when the run, the model on disk or the order of rows is
another. Anything else, an exception from inside pandas among it, is a failure, and hypothesis prints the smallest case."""
import argparse, collections, os, sys, tempfile, warnings
from dataclasses import dataclass
for k, v in dict(OMP_NUM_THREADS='1', HF_HUB_OFFLINE='1').items(): os.environ.setdefault(k, v)
import numpy as np, pandas as pd
from hypothesis import HealthCheck, Phase, given, seed, settings, strategies as st
from llmrec.core import InputError
from llmrec.data import Domain
from llmrec.recommender import Recommender

COUNT = collections.Counter()

letters = st.characters(codec=None)
ODD = [' ', '\x00', 'nan', 'None', '\ud800', '\u202e', '0', '007', '<script>', '=1+1', '../x', 'Ä', 'ﷺ', '🧑‍🚀', 'x'*5000, 'a\nb', 'a\x1fb', '|', '{}']
text_ids = st.one_of(st.text(letters, min_size=1, max_size=6), st.sampled_from(ODD))
int_ids = st.one_of(st.integers(-3, 40), st.integers(-2**63, 2**63 - 1), st.integers(-2**70, 2**70))
any_ids = st.one_of(st.just(''), text_ids, int_ids, st.floats(), st.none(), st.booleans(), st.binary(max_size=2))
pools = st.one_of(*(st.lists(x, min_size=1, max_size=12, unique_by=repr) for x in
                    (text_ids, text_ids, text_ids, st.integers(-3, 40), st.integers(-2**63, 2**63 - 1), st.integers(-9, 9).map(float), any_ids)))
TITLES = ['green tea', 'black tea, 20 bags', 'engine oil', 'хлеб ржаной', '手机壳', 'خبز', '', ' ', None, np.nan, 3.5, ['a', 'b'], '<img onerror=x>', '\ud800', 'tea '*500, '\x00']
titles = st.one_of(st.sampled_from(TITLES), st.text(letters, max_size=20))
TIMES = ['none', 'rising', 'rising', 'rising', 'equal', 'dates', 'text', 'odd', 'negative', 'milliseconds']

@dataclass
class Case:
    "Raw tables and options; made small by hypothesis when they fail."
    target: tuple       # (log, items)
    source: tuple|None
    encoder: str|None
    strategy: str
    seed: int
    k: int

def times(kind, rng, n):
    "A column of times of one kind."
    if kind == 'equal': return np.full(n, 1_600_000_000)
    if kind == 'dates': return pd.to_datetime(1_500_000_000 + rng.integers(0, 10**8, n), unit='s')
    if kind == 'text': return [str(x) for x in pd.to_datetime(1_500_000_000 + rng.integers(0, 10**8, n), unit='s')]
    if kind == 'odd': return rng.choice(np.array([np.nan, np.inf, -1, 0, 1, 1.5e9, 1.6e9], float), n)
    if kind == 'negative': return -rng.integers(1, 10**9, n)
    return np.sort(rng.integers(1_500_000_000, 1_600_000_000, n))*(1000 if kind == 'milliseconds' else 1)

def extras(df, rng, n, flags):
    "Optional columns with odd values."
    pick = lambda xs: [xs[i] for i in rng.integers(0, len(xs), n)]
    if flags & 1: df['category'] = pick(['tea', 'oil|car', None, '', np.nan, 'a|b|c'])
    if flags & 2: df['price'] = pick([1., -1., np.nan, np.inf, 0., 1e308])
    if flags & 4: df['kind'] = pick(['film', 'series', None, ''])
    if flags & 8: df['brand'] = pick(['x', 1, None, 'é'])
    if flags & 16: df['year'] = pick([1999, np.nan, np.inf, -5])
    return df

def column(xs):
    "A Series as pandas makes it; of plain objects where pandas cannot."
    try: return pd.Series(xs)
    except (UnicodeEncodeError, OverflowError): return pd.Series(xs, dtype=object)

@st.composite
def tables(draw, users=None):
    "A raw log and item table; `users` to draw from, or None."
    users, items, seed = users or draw(pools), draw(pools), draw(st.integers(0, 2**16))
    rng, n, rows = np.random.default_rng(seed), len(items), draw(st.sampled_from([0, 1, 3, 8, 30, 90]))
    table = pd.DataFrame(dict(item=column(items), title=pd.Series([draw(titles) for _ in items], dtype=object)))
    table = extras(table, rng, n, draw(st.integers(0, 31)))
    warm = max(1, int(n*draw(st.sampled_from([0., .5, 1.]))))       # the others are cold
    known = items[:warm] + (draw(pools) if draw(st.integers(0, 5)) == 0 else [])
    log = pd.DataFrame(dict(user=column([users[i] for i in rng.integers(0, len(users), rows)]),
                            item=column([known[i] for i in rng.integers(0, len(known), rows)])))
    if (kind := draw(st.sampled_from(TIMES))) != 'none': log['time'] = times(kind, rng, rows)
    flags = draw(st.integers(0, 7))
    if flags & 1: log['value'] = rng.choice(np.array([1, 5, np.nan, np.inf, -3]), rows)
    if flags & 2: log['event'] = rng.choice(np.array(['view', 'buy', '', None], object), rows)
    if flags & 4: log = pd.concat([log, log.head(5)])               # repeated rows, repeated index
    return log, table

@st.composite
def cases(draw):
    "A target, perhaps a source with the same or other people, and options."
    users = draw(pools)
    target = draw(tables(users))
    source = draw(st.one_of(st.none(), tables(users), tables()))
    return Case(target, source, draw(st.sampled_from(['tfidf', 'tfidf', None])), draw(st.sampled_from(['auto', 'auto', 'supervised', 'unsupervised', 'target'])),
                draw(st.sampled_from([0, 1, 2**32 - 1])), draw(st.sampled_from([1, 3, 10, 1000])))

def fitted(case, target, source): return Recommender(case.encoder, strategy=case.strategy, seed=case.seed, budget='fast').fit(target, source)

def sound(items, scores, rec, k, seen=None):
    "What holds of any ranking."
    n = len(rec.items)
    assert items.shape == scores.shape and items.shape[-1] == k, (items.shape, scores.shape, k, n)
    for a, (row, s) in enumerate(zip(np.atleast_2d(items).tolist(), np.atleast_2d(scores))):
        there = [x for x in row if x is not None]
        assert not np.isnan(s).any() and (np.isfinite(s) == [x is not None for x in row]).all(), s
        assert (s[:-1] >= s[1:]).all() and len(set(there)) == len(there) and set(there) <= set(rec.items.tolist())
        if seen is not None: assert not set(there) & seen[a] and len(there) == min(k, n - len(seen[a]))

def same(a, b, eps=1e-4):
    "Two rankings agree, but for items whose scores are as good as equal."
    (i, s), (j, t) = a, b
    ok = np.isfinite(s)
    assert i.shape == j.shape and (ok == np.isfinite(t)).all()
    assert np.allclose(s[ok], t[ok], atol=eps, rtol=eps), np.abs(s[ok] - t[ok]).max()
    for r, q, x in zip(i.tolist(), j.tolist(), s):
        for p, (u, v) in enumerate(zip(r, q)): assert u == v or np.sum(np.abs(x - x[p]) < 20*eps) > 1 or p == len(r) - 1, (r, q, x)

def ask(rec, target, k):
    "All questions one can ask a fitted recommender."
    log = target.log
    users = pd.unique(log['user'].astype(object)).tolist()[:8] + ['nobody at all', -12345]
    had = log.groupby(log['user'].astype(object), sort=False)['item'].agg(lambda x: set(x.tolist()))
    seen = [had[u] if u in had.index else set() for u in users]
    first = rec.recommend(users, k)
    sound(*first, rec, k, seen)
    sound(*rec.recommend(users, k, exclude_seen=False), rec, k, [set()]*len(users))
    sound(*rec.recommend_from_history(target.items['item'].tolist()[:3] + ['unheard of'], k), rec, k)
    sound(*rec.recommend([], k), rec, k, [])
    if rec.encoder is not None and rec.data.vectors is not None: sound(*rec.recommend_from_text('чай green tea', k), rec, k)
    return users, first

def later(rec, target, users, k):
    "New rows and new items, taken in without a refit."
    row = target.log.tail(1) if len(target.log) else pd.DataFrame(dict(user=['new'], item=target.items['item'].head(1).to_list()))
    rec.update(row.assign(user=['someone new']))
    had = set(row['item'].tolist())
    sound(*rec.recommend(['someone new'], k), rec, k, [had])
    new = 'brand new' if isinstance(rec.items[0], str) else 10**15 + 1
    rec.add_items(pd.DataFrame(dict(item=[new], title=['a new tea'])))
    sound(*rec.recommend(users, k), rec, k)
    assert rec.items.tolist() == target.items['item'].tolist() + [new]

def shuffled(d, seed):
    "The same domain with its rows in another order; without times the order is what we know, so users are shuffled as blocks."
    if 'time' in d.log: return d.with_log(d.log.sample(frac=1, random_state=seed))
    o = np.random.default_rng(seed).permutation(d.log['user'].nunique())
    return d.with_log(d.log.iloc[np.argsort(o[pd.factorize(d.log['user'])[0]], kind='stable')])

def judge(case, deep=False):
    "Run one case; raise if it is not as promised. `deep`: also fit twice, save, shuffle and update."
    COUNT['tried'] += 1
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try:
            target = Domain('target', *case.target)
            source = None if case.source is None else Domain('source', *case.source)
            rec = fitted(case, target, source)
            users, first = ask(rec, target, case.k)
        except InputError as e: COUNT['refused'] += 1; COUNT[f'refused: {str(e).split(":")[0][:40]}'] += 1; return
        COUNT['ranked'] += 1
        if not deep: return
        COUNT['deep'] += 1
        again = fitted(case, target, source).recommend(users, case.k)
        same(again, first, 1e-5)                                    # sums after BLAS: not to the last bit
        if source is None or 'time' in target.log and 'time' in source.log:
            same(fitted(case, shuffled(target, 1), source and shuffled(source, 2)).recommend(users, case.k), first)
        with tempfile.TemporaryDirectory() as d:
            rec.save(d)
            back = Recommender.load(d).recommend(users, case.k)
        same(back, first, 1e-5)                                     # the loaded model ranks alike
        try: later(rec, target, users, case.k)
        except InputError as e: COUNT[f'later refused: {str(e)[:60]}'] += 1

def signature(e):
    "Type of an exception and the line of this package it came through last."
    tb, at = e.__traceback__, ''
    while tb:
        f = tb.tb_frame.f_code
        if 'llmrec' in f.co_filename or tb.tb_frame.f_globals.get('__name__') in ('__main__', 'fuzz'): at = f'{os.path.basename(f.co_filename)}:{tb.tb_lineno} {f.co_name}'
        tb = tb.tb_next
    return f'{type(e).__name__} at {at}: {str(e)[:300]!r}'

def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--examples', type=int, default=1000)
    p.add_argument('--seed', type=int, default=0)
    a = p.parse_args()
    found = {}
    @seed(a.seed)
    @settings(max_examples=a.examples, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(cases(), st.integers(0, 3))
    def run(case, deep):
        try: judge(case, deep == 0)
        except Exception as e: found.setdefault(signature(e), []).append(case)
    run()
    for k, v in COUNT.most_common(): print(f'{v:8,}  {k}')
    for k, v in found.items(): print(f'\n{len(v)} times {k}\n{min(map(ascii, v), key=len)[:1500]}'.encode('ascii', 'replace').decode())
    sys.exit(bool(found))

if __name__ == '__main__': main()
