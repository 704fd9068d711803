"""How many planted leaks does `leakage_audit` find, and by how much does each raise NDCG@10 of a rule that uses it?

    python bench/leaks.py [--out bench/leaks.csv] [--data FOLDER …]    # under a minute; reads no network

Every leak is planted into a synthetic domain. The audit must be silent on the same data before, and find it after.
With --data it also audits sets that are not in this repository (FOLDER/interactions.csv.gz and items.csv.gz), for false alarms."""
import argparse, sys, time
from pathlib import Path
import numpy as np, pandas as pd
from llmrec.data import make_synthetic_pair
from llmrec.leakage import code_hits, leakage_audit
from llmrec.metrics import ndcg_of_ranks, rank_of_target
from llmrec.preprocess import Split, split_cold_items, split_last, split_time, truncate_source
from common import write

HERE = Path(__file__).resolve().parent
NAMES = dict(user_id='user', item_id='item', timestamp='time', order='time', rating='value', genres='category')
PLANTED = {}            # name: (check that must find it, planter)


def plants(check):
    "Register a planter: of a world, (clean call, leaky call, NDCG with the leak, NDCG without)."
    def keep(f):
        PLANTED[f.__doc__] = check, f
        return f
    return keep

def call(*args, **kw): return args, kw

class World:
    "A synthetic target with a source of the same users, a leave-one-out split, and item-to-item neighbours."
    def __init__(self, seed=3):
        self.pair = make_synthetic_pair(seed=seed, n_rows=(25, 12))
        self.items, self.log = self.pair.target.items.reset_index(drop=True), self.pair.target.log
        self.split = split_last(self.pair.target)
        self.ids, self.g = pd.Index(self.items['item']), np.random.RandomState(seed)
        self.users = pd.Index(self.split.test['user'])
    def matrix(self, log, users=None):
        X, users = np.zeros((len(self.users if users is None else users), len(self.ids))), self.users if users is None else users
        row, col = users.get_indexer(log['user']), self.ids.get_indexer(log['item'])
        np.add.at(X, (row[(row >= 0) & (col >= 0)], col[(row >= 0) & (col >= 0)]), 1)
        return X
    def neighbours(self, log, own=False):
        every = self.matrix(log, pd.Index(pd.unique(log['user'])))
        B = every.T @ every
        if not own: np.fill_diagonal(B, 0)
        return self.matrix(log) @ B
    def target(self, test=None): return self.ids.get_indexer((self.split.test if test is None else test)['item'])
    def ranks(self, scores, test=None, seen=None):
        seen = self.matrix(self.split.train) > 0 if seen is None else seen
        target = self.target(test)
        seen = seen.copy()
        seen[np.arange(len(target)), target] = False
        return rank_of_target(scores.astype(float), target, seen)
    def ndcg(self, scores, test=None, seen=None): return float(ndcg_of_ranks(self.ranks(scores, test, seen), 10).mean())
    @property
    def base(self): return self.neighbours(self.split.train)
    @property
    def none(self): return np.zeros((len(self.users), len(self.ids)), bool)
    def lists(self, scores, k=10):
        scores = np.where(self.matrix(self.split.train) > 0, -np.inf, scores + 1e-6*self.g.rand(*scores.shape))
        top = np.argsort(-scores, 1)[:, :k]
        rows = [(u, self.ids[j], r, scores[i, j]) for i, u in enumerate(self.users) for r, j in enumerate(top[i])]
        return pd.DataFrame(rows, columns=['user', 'item', 'rank', 'score'])
    def audit_lists(self, table, **kw): return call(self.split, self.items, results=table, **kw)
    def file(self):
        "The split as another project would write it: one case a row."
        history = self.split.train.groupby('user')['item'].agg(list)
        return pd.DataFrame(dict(user=self.users, history=history.reindex(self.users).to_numpy(), target=self.split.test['item'].to_numpy()))

def add(split, train=None, valid=None, test=None, **protocol):
    return Split(split.train if train is None else train, split.valid if valid is None else valid,
                 split.test if test is None else test, split.protocol | protocol)

def list_ndcg(table, test, dedupe=True):
    "NDCG@10 of lists as published: the users that have a list, every hit counted."
    t = table[table['rank'] < 10].merge(test[['user', 'item']].drop_duplicates(), on=['user', 'item'])
    if dedupe: t = t.drop_duplicates(['user', 'item'])
    gain = (1/np.log2(t['rank'] + 2)).groupby(t['user']).sum()
    return float(gain.reindex(pd.unique(table['user'])).fillna(0).mean())


@plants('same row in training and test')
def same_rows(w):
    "test rows stand in training"
    s = add(w.split, train=pd.concat([w.split.train, w.split.test]))
    return call(w.split, w.items), call(s, w.items), w.ndcg(w.neighbours(s.train, True)), w.ndcg(w.neighbours(w.split.train, True))

@plants('same row in training and validation')
def same_valid(w):
    "validation rows stand in training"
    s = add(w.split, train=pd.concat([w.split.train, w.split.valid]))
    of = lambda log: w.ndcg(w.neighbours(log, True), w.split.valid.set_index('user').loc[w.users].reset_index())
    return call(w.split, w.items), call(s, w.items), of(s.train), of(w.split.train)

def beside(w, log):
    "Items just before or after the user's latest item in other histories."
    log = log.sort_values(['user', 'time'], kind='stable')
    col = w.ids.get_indexer(log['item'])
    M = np.zeros((len(w.ids),)*2)
    same = log['user'].to_numpy()[1:] == log['user'].to_numpy()[:-1]
    np.add.at(M, (col[:-1][same], col[1:][same]), 1)
    last = pd.Series(col, index=log['user'].to_numpy()).groupby(level=0).last().reindex(w.users)
    return (M + M.T)[last.to_numpy(int)]

@plants('training rows after the test')
def future_rows(w):
    "the user's next row stands in training"
    valid = w.split.valid.set_index('user').loc[w.users].reset_index()
    clean = Split(w.split.train, w.split.valid[:0], valid, w.split.protocol)
    s = add(clean, train=pd.concat([w.split.train, w.split.test]))
    return call(clean, w.items), call(s, w.items), w.ndcg(beside(w, s.train), valid), w.ndcg(beside(w, w.split.train), valid)

@plants('row twice in the test')
def twice(w):
    "hits stand in the test four times"
    gain = ndcg_of_ranks(w.ranks(w.base), 10)
    s = add(w.split, test=pd.concat([w.split.test] + [w.split.test[gain > 0]]*3))
    return call(w.split, w.items), call(s, w.items), float(np.average(gain, weights=1 + 3*(gain > 0))), float(gain.mean())

@plants('cold ids in training')
def cold_ids(w):
    "a cold-item split leaves a row of each item in training"
    c = split_cold_items(w.pair.target, .25)
    first = c.test.drop_duplicates('item')
    test = c.test.drop(first.index)
    clean = Split(c.train, c.valid, test, c.protocol)
    s = add(clean, train=pd.concat([c.train, first]))
    one = test.drop_duplicates('user')
    v = World.__new__(World)
    v.__dict__ |= w.__dict__ | dict(users=pd.Index(one['user']), split=clean)
    warm = np.tile(~w.items['item'].isin(test['item']).to_numpy(), (len(one), 1))
    return call(clean, w.items), call(s, w.items), v.ndcg(v.neighbours(s.train), one, warm), v.ndcg(v.neighbours(c.train), one, warm)

def repeated(w, share, last):
    "A test of which a share is taken from the history, and the score of a rule that repeats."
    log = w.split.train.sort_values(['user', 'time'], kind='stable')
    recent = 1.0*log.groupby('user').cumcount() + 1
    X = np.zeros((len(w.users), len(w.ids)))
    row = w.users.get_indexer(log['user'])
    X[row[row >= 0], w.ids.get_indexer(log['item'])[row >= 0]] = recent[row >= 0]
    col = X.argmax(1) if last else np.array([w.g.choice(np.flatnonzero(x)) for x in X])
    test = w.split.test.copy()
    pick = w.g.rand(len(test)) < share
    test.loc[pick, 'item'] = w.ids[col[pick]].to_numpy()
    return test, X

@plants('target repeated in the history')
def repeats(w):
    "a fifth of the targets is in the history"
    test, X = repeated(w, .2, False)
    return call(w.split, w.items), call(add(w.split, test=test), w.items), w.ndcg(X, test, w.none), w.ndcg(X, None, w.none)

@plants('target is the last item of the history')
def last_item(w):
    "an eighth of the targets is the last item, as in a published test file"
    test, X = repeated(w, .125, True)
    f = w.file()
    return call(f), call(f.assign(target=test['item'].to_numpy())), w.ndcg(X, test, w.none), w.ndcg(X, None, w.none)

@plants('text of the target in the history')
def same_text(w):
    "the target stands in the history under another id"
    double = pd.concat([w.items, w.items.assign(item='copy of ' + w.items['item'])], ignore_index=True)
    early = w.split.test.assign(item='copy of ' + w.split.test['item'], time=w.split.test['time'] - 1)
    s = add(w.split, train=pd.concat([w.split.train, early]))
    title = double.set_index('item')['title']
    def knows(log):
        have = log['item'].map(title).groupby(log['user']).agg(set)
        return np.array([w.items['title'].isin(have.get(u, ())) for u in w.users], float)
    return call(w.split, w.items), call(s, double), w.ndcg(knows(s.train)), w.ndcg(knows(w.split.train))

@plants('order of the item table predicts the test')
def order(w):
    "the item table begins with the items of the test"
    c = split_cold_items(w.pair.target, .25)
    mixed = w.items.sample(frac=1, random_state=0)
    first = mixed.iloc[np.argsort(~mixed['item'].isin(c.test['item']).to_numpy(), kind='stable')]
    one = c.test.drop_duplicates('user')
    def place(table):
        rank = rank_of_target(np.tile(-np.arange(len(table)), (len(one), 1)).astype(float), pd.Index(table['item']).get_indexer(one['item']))
        return float(ndcg_of_ranks(rank, 10).mean())
    return call(c, mixed), call(c, first), place(first), place(mixed)

@plants('neighbours in the item table follow each other')
def adjacent(w):
    "items are numbered as the log first mentions them"
    log = w.log.sort_values(['user', 'time'], kind='stable')
    # a catalogue as long as the log: each mention a new item, as in lists of songs that nobody shares
    log = log.assign(item=[f's{i:05}' for i in range(len(log))])
    s, table = split_last(log), pd.DataFrame(dict(item=log['item'].to_numpy()))
    mixed = table.sample(frac=1, random_state=0)
    past = pd.concat([s.train, s.valid]).drop_duplicates('user', keep='last').set_index('user')['item']
    def follow(t):
        at = pd.Series(np.arange(len(t)), index=t['item'].to_numpy())
        step = s.test['item'].map(at).to_numpy() - s.test['user'].map(past).map(at).to_numpy()
        return float(np.mean(step == 1))      # the next in the table is the only one shown: NDCG is its hit rate
    return call(s, mixed), call(s, table), follow(table), follow(mixed)

@plants('item columns computed from all rows')
def count_column(w):
    "a column counts all rows"
    n = w.items['item'].map(w.log['item'].value_counts()).fillna(0)
    past = w.items['item'].map(w.split.train['item'].value_counts()).fillna(0)
    flat = lambda x: np.tile(x.to_numpy(float), (len(w.users), 1))
    return call(w.split, w.items.assign(popularity=past)), call(w.split, w.items.assign(popularity=n)), w.ndcg(flat(n)), w.ndcg(flat(past))

@plants('item columns computed from all rows')
def time_column(w):
    "a column holds the time of the latest row"
    t, p = [w.items['item'].map(log.groupby('item')['time'].max()).fillna(0) for log in (w.log, pd.concat([w.split.train, w.split.valid]))]
    flat = lambda x: np.tile(x.to_numpy(float), (len(w.users), 1))
    return call(w.split, w.items.assign(latest=p)), call(w.split, w.items.assign(latest=t)), w.ndcg(flat(t)), w.ndcg(flat(p))

def reads(w, profiles): return np.array([[sum(x in profiles.get(u, '').split() for x in t.split()) for t in w.items['title']] for u in w.users], float)

@plants('test titles inside user profiles')
def profile(w):
    "the user's profile names the target"
    title = w.items.set_index('item')['title']
    told = {u: 'likes ' + title[i] for u, i in zip(w.users, w.split.test['item'])}
    past = w.split.train.groupby('user')['item'].agg(lambda x: 'likes ' + ', '.join(title[x])).to_dict()
    return call(w.split, w.items, profiles=past), call(w.split, w.items, profiles=told), w.ndcg(reads(w, told)), w.ndcg(reads(w, past))

@plants('words of the target in user texts')
def profile_words(w):
    "the user's profile uses words of the target"
    title = w.items.set_index('item')['title']
    told = {u: 'somebody with a taste for ' + ' and '.join(sorted(set(title[i].split()))) for u, i in zip(w.users, w.split.test['item'])}
    past = w.split.train.groupby('user')['item'].agg(lambda x: ' '.join(title[x])).to_dict()
    return call(w.split, w.items, profiles=past), call(w.split, w.items, profiles=told), w.ndcg(reads(w, told)), w.ndcg(reads(w, past))

@plants('test reviews inside item texts')
def reviews(w):
    "item texts hold the reviews of the test"
    log = w.split.test.assign(review=[f'{u} bought this in a hurry and would again, order {i}' for i, u in enumerate(w.users)])
    s = add(w.split, test=log)
    of = log.groupby('item')['review'].agg(' '.join)
    told = w.items.assign(text=w.items['item'].map(of).fillna(''))
    finds = np.array([[u in t for t in told['text']] for u in w.users], float)
    return call(s, w.items), call(s, told), w.ndcg(finds), w.ndcg(w.none)

@plants('test users inside item texts')
def buyers(w):
    "item texts name those who bought, the test included"
    def table(log): return w.items.assign(text=w.items['item'].map(log.groupby('item')['user'].agg(' '.join)).fillna(''))
    told, past = table(w.log), table(w.split.train)
    finds = lambda t: np.array([[u in x.split() for x in t['text']] for u in w.users], float)
    return call(w.split, past), call(w.split, told), w.ndcg(finds(told)), w.ndcg(finds(past))

@plants('training knows the future of the item')
def future_of_others(w):
    "a split in time, with later rows of other users in training"
    moment = w.log['time'].quantile(.6)
    new = [f'new {i}' for i in range(5)]                          # released at the moment, and soon liked
    past, later = w.log[w.log['time'] < moment], w.log[w.log['time'] >= moment]
    liked = w.g.rand(len(later)) < .3
    later = later.assign(item=np.where(liked, w.g.choice(new, len(later)), later['item'])).drop_duplicates(['user', 'item'])
    one = later[later['user'].isin(past['user'])].drop_duplicates('user')
    others = later[~later['user'].isin(one['user'])]
    items = pd.concat([w.items, pd.DataFrame(dict(item=new, title=new))], ignore_index=True).sample(frac=1, random_state=0)
    clean = Split(past, past[:0], one, dict(name='time'))
    leaky = Split(pd.concat([past, others]), past[:0], one, clean.protocol)
    v = World.__new__(World)
    v.__dict__ |= w.__dict__ | dict(users=pd.Index(one['user']), split=clean, ids=pd.Index(items['item']))
    latest = lambda log: np.tile(items['item'].map(log.sort_values('time')[-len(others):]['item'].value_counts()).fillna(0), (len(one), 1))
    return call(clean, items), call(leaky, items), v.ndcg(latest(leaky.train), one), v.ndcg(latest(past), one)

@plants('items without training rows are the answers')
def log_catalogue(w):
    "items without a training row are the targets"
    rare = w.split.test['item'].value_counts().index[:8]
    train, valid = [x[~x['item'].isin(rare)] for x in (w.split.train, w.split.valid)]
    s = add(w.split, train=train, valid=valid)
    unseen = np.tile(w.items['item'].map(pd.concat([train, valid])['item'].value_counts()).fillna(0).eq(0).to_numpy(float), (len(w.users), 1))
    more = pd.concat([w.items, w.items.assign(item='new ' + w.items['item'], title='new ' + w.items['title'])], ignore_index=True)
    mixed = more.sample(frac=1, random_state=0)
    wide = np.c_[unseen, np.ones_like(unseen)]
    sound = float(ndcg_of_ranks(rank_of_target(wide, w.target()), 10).mean())
    return call(s, mixed), call(s, w.items), w.ndcg(unseen), sound

@plants('targets missing in the catalogue')
def dropped_targets(w):
    "targets that are hard to find are no candidates and are dropped"
    gain = ndcg_of_ranks(w.ranks(w.base), 10)
    hard = set(w.split.test['item'][gain == 0]) - set(w.split.test['item'][gain > 0])
    kept = ~w.split.test['item'].isin(hard)
    return call(w.split, w.items), call(w.split, w.items[~w.items['item'].isin(hard)]), float(gain[kept].mean()), float(gain.mean())

@plants('training items missing in the catalogue')
def tested_only(w):
    "only items of the test are candidates"
    test = w.split.test[:60]
    s = add(w.split, test=test)
    v = World.__new__(World)
    v.__dict__ |= w.__dict__ | dict(users=pd.Index(test['user']), split=s)
    tested = w.items['item'].isin(test['item']).to_numpy()
    others = np.tile(~tested, (len(test), 1))
    return call(s, w.items), call(s, w.items[tested]), v.ndcg(v.base, test, others | (v.matrix(s.train) > 0)), v.ndcg(v.base, test)

@plants('source rows after the test')
def source_future(w):
    "the source is not cut at the test"
    t = w.split.test.set_index('user')['time']
    rows = pd.DataFrame([(u, f'page {i}', t[u] + 60) for u, i in zip(w.users, w.split.test['item'])], columns=['user', 'item', 'time'])
    log = pd.concat([truncate_source(w.pair.source, w.split).log, rows], ignore_index=True)
    finds = np.array([[f'page {i}' == p for i in w.ids] for p in rows['item']], float)
    return call(w.split, w.items, source=truncate_source(w.pair.source, w.split)), call(w.split, w.items, source=log), w.ndcg(finds), w.ndcg(w.base)

@plants('test rows inside the source')
def source_rows(w):
    "the source holds the test rows"
    clean = truncate_source(w.pair.source, w.split)
    early = w.split.test.assign(time=w.split.test['time'] - 86400)
    both = pd.concat([w.split.train, early])
    return call(w.split, w.items, source=clean), call(w.split, w.items, source=pd.concat([clean.log, early])), w.ndcg(w.neighbours(both, True)), w.ndcg(w.neighbours(w.split.train, True))

@plants('items share a semantic ID')
def shared_codes(w):
    "a fifth of the items shares a code; hits are counted by code"
    return codes(w)

@plants('hits at colliding semantic IDs')
def code_collisions(w):
    "hits are counted at codes that several items share"
    clean, leaky, high, low = codes(w)
    lists = w.lists(w.base)
    return call(*clean[0], results=lists, **clean[1]), call(*leaky[0], results=lists, **leaky[1]), high, low

def codes(w):
    own = {i: (n, n % 7) for n, i in enumerate(w.ids)}
    popular = w.split.train['item'].value_counts().index
    shared = own | {i: own[popular[n//4]] for n, i in enumerate(popular[:len(w.ids)//5])}
    hits = code_hits(w.lists(w.base), w.split.test, shared)
    gain = ndcg_of_ranks(hits['rank'].to_numpy(), 10)
    return call(w.split, w.items, codes=own), call(w.split, w.items, codes=shared), float(gain.mean()), float((gain*hits['share']).mean())

@plants('place of the target among its candidates')
def first_option(w):
    "the target is the first of its candidates"
    f = w.file()
    options = [[t, *w.g.choice(w.ids[w.ids != t], 19, replace=False)] for t in f['target']]
    mixed = [list(w.g.permutation(o)) for o in options]
    place = lambda shown: float(np.mean([1/np.log2(o.index(t) + 2)*(o.index(t) < 10) for o, t in zip(shown, f['target'])]))
    return call(f.assign(candidates=mixed)), call(f.assign(candidates=options)), place(options), place(mixed)

@plants('test titles inside user profiles')
def prompts(w):
    "the prompt of a test file names the target"
    f, title = w.file(), w.items.set_index('item')['title']
    f = f.assign(history_title=[list(title[h]) for h in f['history']], target_title=title[f['target']].to_numpy())
    told = {u: t for u, t in zip(f['user'], f['target_title'])}
    clean = f.assign(prompt=['After ' + ', '.join(h) + ' comes:' for h in f['history_title']])
    return call(clean), call(f.assign(prompt='The next is one of ' + f['target_title'] + ' and others:')), w.ndcg(reads(w, told)), w.ndcg(w.base)

@plants('test cases inside the training file')
def windows(w):
    "training windows reach into the test"
    f = w.file()
    valid = w.split.valid.set_index('user')['item'].reindex(f['user']).to_numpy()
    clean = f.assign(target=valid)
    both = pd.concat([w.split.train, w.split.test])
    return call(f, train=clean), call(f, train=pd.concat([clean, f])), w.ndcg(w.neighbours(both, True)), w.ndcg(w.neighbours(w.split.train, True))

class Memory:
    "A language model that has read the catalogue: by id, or titles only."
    def __init__(self, items, by, knows=True):
        words = [str(t).split() for t in items['title']]
        asked = [f'{i}::' for i in items['item']] if by == 'id' else [' '.join(t[:len(t)//2]) for t in words]
        answers = [' '.join(t) for t in words] if by == 'id' else [' '.join(t[len(t)//2:]) for t in words]
        if not knows: answers = np.random.RandomState(1).permutation(answers)
        self.after = dict(zip(asked, answers))
    def loglik(self, prompt, texts): return np.array([-len(t)/4 + 20*(self.after.get(prompt) == t) for t in texts]), np.ones(len(texts))

def recites(w, by):
    finds = np.zeros((len(w.users), len(w.ids)))
    asked = w.g.rand(len(w.users)) < .5                      # half of the test rows were read, too
    finds[np.flatnonzero(asked), w.target()[asked]] = 1
    return call(w.split, w.items, model=Memory(w.items, by, False)), call(w.split, w.items, model=Memory(w.items, by)), w.ndcg(finds), w.ndcg(w.none)

@plants('ids that the language model recites')
def recites_ids(w):
    "the language model has read the data set, and half of its test rows"
    return recites(w, 'id')

@plants('titles that the language model completes')
def recites_titles(w):
    "the language model completes the titles, and half of the test rows"
    return recites(w, 'start')

@plants('test users without a list')
def no_list(w):
    "users without a hit have no list and are left out"
    lists = w.lists(w.base)
    hit = lists.merge(w.split.test[['user', 'item']])['user']
    some = lists[lists['user'].isin(hit) | (lists['user'].map(w.users.get_loc) % 2 == 0)]
    return w.audit_lists(lists), w.audit_lists(some), list_ndcg(some, w.split.test), list_ndcg(lists, w.split.test)

@plants('item twice in one list')
def doubles(w):
    "each list holds its best items twice, and hits count twice"
    lists = w.lists(w.base)
    double = pd.concat([lists[lists['rank'] < 5].assign(rank=lambda t: 2*t['rank'] + i) for i in (0, 1)])
    return w.audit_lists(lists), w.audit_lists(double.drop(columns='score')), list_ndcg(double, w.split.test, False), list_ndcg(lists, w.split.test)

@plants('scores all tied')
def all_tied(w):
    "all scores are equal, and equals rank at the top"
    lists, flat = w.lists(w.base), w.none.astype(float)
    return w.audit_lists(lists), w.audit_lists(w.lists(flat).assign(score=0.)), 1., w.ndcg(flat)

@plants('target first among its ties')
def optimistic(w):
    "scores are rounded, and the target is the first among its equals"
    rough = np.round(w.base/np.maximum(w.base.max(1, keepdims=True), 1)*4)
    own = np.take_along_axis(rough, w.target()[:, None], 1)
    seen = w.matrix(w.split.train) > 0
    best = ((rough > own) & ~seen).sum(1)
    up = rough.copy()
    up[np.arange(len(up)), w.target()] += .5
    lists = w.lists(up, 30)
    lists['score'] = np.floor(lists['score'] + 1e-3)
    return w.audit_lists(w.lists(w.base, 30)), w.audit_lists(lists), float(ndcg_of_ranks(best, 10).mean()), w.ndcg(rough)

@plants('lists in the order of the item table')
def table_order(w):
    "equals stand as in the item table, which begins with the items of the test"
    first = w.items.iloc[np.argsort(~w.items['item'].isin(w.split.test['item'].value_counts().index[:20]).to_numpy(), kind='stable')]
    flat = w.none.astype(float)
    place = -w.ids.get_indexer(first['item']).argsort()
    lists = w.lists(np.tile(place, (len(w.users), 1)).astype(float)).drop(columns='score')
    return call(w.split, first, results=w.lists(flat).drop(columns='score')), call(w.split, first, results=lists), w.ndcg(np.tile(place, (len(w.users), 1))), w.ndcg(flat)

@plants('target always among few candidates')
def sampled(w):
    "the target is ranked among nineteen others"
    scores = np.full((len(w.users), len(w.ids)), -np.inf)
    seen = w.matrix(w.split.train) > 0
    for i, t in enumerate(w.target()):
        some = w.g.choice(np.flatnonzero(~seen[i] & (np.arange(len(w.ids)) != t)), 19, replace=False)
        scores[i, [t, *some]] = w.base[i, [t, *some]]
    lists = w.lists(scores, 20)
    return w.audit_lists(w.lists(w.base, 20)), w.audit_lists(lists), list_ndcg(lists, w.split.test), w.ndcg(w.base)

@plants('hits that repeat the history')
def repeat_hits(w):
    "targets of the history are recommended again, and count"
    test, X = repeated(w, .2, False)
    s = add(w.split, test=test)
    rows = [(u, w.ids[j], r) for i, u in enumerate(w.users) for r, j in enumerate(np.argsort(-X[i])[:10])]
    again = pd.DataFrame(rows, columns=['user', 'item', 'rank'])
    new = w.lists(w.base)
    return call(s, w.items, results=new), call(s, w.items, results=again), list_ndcg(again, test), list_ndcg(new, test)


def found(asked):
    args, kw = asked
    return leakage_audit(*args, **kw).set_index('check')

def suite(seed=3):
    "One row a planted leak: is the check silent before, and does it speak after? What is the leak worth?"
    rows = []
    for name, (check, planter) in PLANTED.items():
        clean, leaky, high, low = planter(World(seed))
        before, after = found(clean).loc[check], found(leaky).loc[check]
        rows.append(dict(planted=name, check=check, before=before.verdict, after=after.verdict, rows=after.found,
                         ndcg_with=high, ndcg_without=low, inflation=high - low, lesson=after.lesson))
    return pd.DataFrame(rows)

def clean_sets(folders=()):
    "Sets in which nothing is planted."
    from llmrec.readers import load_journey, load_movielens, read_table
    journey = load_journey()
    sets = {'synthetic target': make_synthetic_pair(0).target, 'synthetic source': make_synthetic_pair(1).source,
            'MovieLens': load_movielens(), 'Journey, health food': journey.target, 'Journey, deli': load_journey('PRODUCE', 'DELI').target}
    for folder in folders:
        log, items = [pd.read_csv(Path(folder)/f'{name}.csv.gz', dtype=dict(item_id=str)) for name in ('interactions', 'items')]
        log = log.drop(columns='order' if 'timestamp' in log else []).rename(columns=NAMES)
        items = items.rename(columns=NAMES).drop(columns=['domain', 'source_id'], errors='ignore')
        for part, rows in log.groupby('domain') if 'domain' in log else [('', log)]:
            known = items[items['item'].isin(rows['item'])].drop_duplicates('item')
            sets[f'{Path(folder).name} {part}'.strip()] = read_table(rows[rows['item'].isin(known['item'])].drop(columns='domain', errors='ignore'), known)
    return sets

def alarms(sets):
    "Alarms on sets in which nothing is planted: leave-one-out has one warning that is true of it."
    rows = []
    for name, domain in sets.items():
        for split in (split_last, split_time):
            if split is split_time and 'time' not in domain.log: continue
            s = split(domain)
            a = leakage_audit(s, domain.items)
            bad = a[a.verdict.isin(['warning', 'leak'])]
            rows.append(dict(set=name, split=split.__name__, test=len(s.test), leaks=int((a.verdict == 'leak').sum()),
                             alarms=', '.join(bad.check + ' (' + bad.verdict + ')')))
    return pd.DataFrame(rows)

def main():
    p = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    p.add_argument('--out', default=str(HERE/'leaks.csv'))
    p.add_argument('--data', nargs='*', default=[], help='folders of further clean sets')
    a = p.parse_args()
    t = time.time()
    table = suite()
    write(table.round(4), a.out, '%.10g')
    print(table.drop(columns='lesson').round(3).to_string())
    caught = table.before.isin(['ok', 'note']) & table.after.isin(['warning', 'leak'])
    print(f'{caught.sum()} of {len(table)} planted leaks found, {time.time() - t:.0f} s')
    print(alarms(clean_sets(a.data)).to_string())
    sys.exit(0 if caught.all() else 1)


if __name__ == '__main__': main()
