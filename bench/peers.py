"""The strongest peers that install from PyPI beside our recommender: same rows, same candidates, same metric code, same tuning budget.

    python bench/peers.py --data DIR --movielens DIR2 --envs ENVS --work WORK            # everything; what is done is not run again
    python bench/peers.py ... --sets scifi-2 ml-100k --systems llmrec 'implicit: ALS'    # a part
    python bench/peers.py ... --systems llmrec --again llmrec                            # our rows anew
    python bench/peers.py --show                                                         # the tables in bench/peers.csv

The data sets and DIR, DIR2 are those of `bench/fusion.py`. ENVS gets one virtual environment a library (made when it is first needed,
with the versions in REQUIRES); WORK keeps what the systems handed over: first hundred items of every test user, and the report.

What a system gets: rows (user, item) in the order of time, of the target and of the source (joined where people are shared), training rows
first; which rows are validation; the item features. It tries its settings in the order of its list, each learned on the training rows and
judged by NDCG@10 on the validation rows, until the list or `--seconds` of processor time are used up (networks are also judged every few
epochs); the best one learns anew on training and validation rows for as many epochs. Where there are no validation rows (k = 0) it takes
its first setting. One thread each. Whether to learn from the source too is a setting like others. People whom a library does not know get
the most popular items; items it does not know stand last. Seconds are of the processor, not of the wall; memory is the peak of the process.
"""
import argparse, contextlib, json, os, subprocess, sys, tempfile, time
from pathlib import Path
import numpy as np

HERE, TOP = Path(__file__).resolve(), 100
REQUIRES = dict(implicit=['implicit==0.7.3', 'numpy<3'], lightfm=['lightfm-next==1.19.0', 'numpy<3'],
                rectools=['rectools[torch]==0.19.0', 'torch==2.13.0', 'implicit==0.7.3'], recbole=['recbole==1.2.1', 'torch==2.13.0', 'numpy<2', 'scipy<1.12', 'pandas<3'],
                cornac=['cornac==3.0.1', 'torch==2.13.0', 'transformers>=4.45'])


# ---- what a system is handed, and what it hands over (this part runs in the peers' environments: NumPy and SciPy only)
class Data:
    "Rows by user in the order of time; items 0 … n - 1 are the target's, those from n on the source's."
    def __init__(self, folder):
        self.folder = Path(folder)
        z = np.load(self.folder/'rows.npz')
        self.user, self.item, self.held, self.test = z['user'], z['item'], z['held'], z['test']
        self.n, self.n_items, self.U = int(z['n']), int(z['N']), int(z['U'])
    def rows(self, held, joint=True, cap=None):
        "Users and items to learn from: for tuning without held-out rows and what came after them."
        keep = np.ones(len(self.user), bool)
        if not held:
            first = np.full(self.U, len(self.user)); i = np.nonzero(self.held)[0]
            np.minimum.at(first, self.user[i], i)
            keep &= np.arange(len(self.user)) < first[self.user]
        if not joint: keep &= self.item < self.n
        return self.user[keep], self.item[keep]
    def features(self, ids=True):
        "Words and attributes of all items as a sparse matrix, beside one column an item."
        import scipy.sparse as sp
        z = np.load(self.folder/'features.npz')
        F = sp.csr_matrix((z['data'], z['indices'], z['indptr']), shape=tuple(z['shape']))
        return sp.hstack([sp.identity(self.n_items, format='csr', dtype=np.float32), F]).tocsr() if ids else F
    def vectors(self): return np.load(self.folder/'vectors.npy')

def matrix(user, item, U, N):
    "Rows as a sparse matrix of ones."
    import scipy.sparse as sp
    X = sp.csr_matrix((np.ones(len(user), np.float32), (user, item)), (U, N))
    X.sum_duplicates(); X.data[:] = 1
    return X

def best(score, users, X, k=TOP):
    "First k target items of each user without those of X; -1 where there are none."
    out, turn = np.full((len(users), k), -1, np.int64), np.random.default_rng(0).permutation(X.shape[1])
    for b in range(0, len(users), 512):
        u = users[b:b+512]
        s = np.array(score(u), np.float32)
        s[X[u].nonzero()] = -np.inf
        i = turn[np.argsort(-s[:, turn], 1, kind='stable')[:, :k]]      # ties by lot: in the order of ids they would know what is popular
        i[np.take_along_axis(s, i, 1) == -np.inf] = -1
        out[b:b+len(u), :i.shape[1]] = i
    return out

def popular(out, users, X, known, n):
    "Fill the lists of users without rows by popularity."
    miss = np.nonzero(~known[users] | (out[:, 0] < 0))[0]
    pop = np.asarray(X.sum(0)).ravel()[:n]
    if len(miss): out[miss] = best(lambda u: np.tile(np.where(pop > 0, pop, -np.inf), (len(u), 1)), users[miss], X[:, :n], out.shape[1])
    return out

def ndcg(top, row, col):
    "Mean NDCG@10 of lists, relevant pairs (row of the list, item)."
    rel = [set() for _ in top]
    for r, c in zip(row, col): rel[r].add(c)
    gain = 1/np.log2(np.arange(10) + 2)
    return float(np.mean([sum(g for g, i in zip(gain, t) if i in r)/gain[:len(r)].sum() for t, r in zip(top[:, :10], rel) if r]))

def learn(make, D, cfg, held, epochs=None):
    "Train; after each round (epochs, function from users to lists)."
    cfg = dict(cfg)
    user, item = D.rows(held, cfg.pop('joint'))
    N = D.n_items if len(item) and item.max() >= D.n else D.n
    X, seen = matrix(user, item, D.U, N), matrix(*D.rows(held, False), D.U, D.n)
    known = np.diff(X.indptr) > 0
    for e, lists, size in make(D, user, item, X, cfg, epochs):
        yield e, lambda us: popular(lists(us, seen), us, X, known, D.n), size

def search(make, grid, D, seconds):
    "The best setting and its number of epochs on the validation rows, and all that was tried."
    i = np.nonzero(D.held & (D.item < D.n))[0]
    pairs = np.unique(np.stack([D.user[i], D.item[i]], 1), axis=0)
    past = matrix(*D.rows(False, False), D.U, D.n)
    if len(pairs): pairs = pairs[np.asarray(past[pairs[:, 0], pairs[:, 1]]).ravel() == 0]
    if len(pairs) < 20: return grid[0], grid[0].get('epochs'), []
    us = np.unique(pairs[:, 0]); us = us[np.random.default_rng(0).permutation(len(us))[:2000]]
    pairs, tried, t0 = pairs[np.isin(pairs[:, 0], us)], [], time.process_time()
    us = np.sort(us); row = np.searchsorted(us, pairs[:, 0])
    for cfg in grid:
        left = seconds - (time.process_time() - t0)
        if tried and left < (time.process_time() - t0)/len(tried)/4: break
        bad, top = 0, (-1., None)
        try:
            for e, lists, _ in learn(make, D, cfg, False):
                v = ndcg(lists(us), row, pairs[:, 1])
                bad = 0 if v > top[0] else bad + 1
                top = max(top, (v, e), key=lambda x: x[0])
                if bad >= 3 or time.process_time() - t0 > seconds: break
        except Exception as err:                              # some settings cannot be learned, such as sequences of one row
            print(f'{cfg} left out: {err}', file=sys.stderr, flush=True)
        if top[0] >= 0: tried.append(dict(ndcg=top[0], epochs=top[1], setting=cfg))
        if time.process_time() - t0 > seconds: break
    if not tried: raise RuntimeError('no setting could be learned; the reasons are above')
    b = max(tried, key=lambda x: x['ndcg'])
    return b['setting'], b['epochs'], tried

def work(system, folder, out, seconds):
    "One system on one set, in a process of its own."
    D, (make, grid) = Data(folder), PEERS[system]
    grid, D.seconds = grid(D), seconds
    t = time.process_time()
    cfg, epochs, tried = search(make, grid, D, seconds)
    tuning, t = time.process_time() - t, time.process_time()
    for e, lists, size in learn(make, D, cfg, True, epochs):
        if epochs is None or e >= epochs: break
    fit, t = time.process_time() - t, time.process_time()
    top = lists(D.test)
    save(out, top, dict(budget=seconds, fit=fit, tuning=tuning, score=time.process_time() - t, parameters=int(size), settings=len(tried), of=len(grid),
                        setting=json.dumps(cfg | ({} if epochs is None else dict(epochs=epochs))), valid=max((x['ndcg'] for x in tried), default=None)),
         [REQUIRES[LIBRARY[system]][0].split('==')[0].split('[')[0], 'numpy', 'torch'])

def peak_mb():
    "Peak memory of this process; the high-water mark of `getrusage` may be that of the process that started it."
    try: return int(next(l for l in open('/proc/self/status') if l.startswith('VmHWM')).split()[1])/2**10
    except (OSError, StopIteration):
        import resource
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/(2**20 if sys.platform == 'darwin' else 2**10)

def save(out, top, facts, libs):
    "Hand over lists and facts."
    from importlib.metadata import version, PackageNotFoundError
    def of(p):
        try: return f'{p} {version(p)}'
        except PackageNotFoundError: return None
    facts['memory'] = peak_mb()
    facts['versions'] = '; '.join(filter(None, [of(p) for p in libs] + ['python ' + '.'.join(map(str, sys.version_info[:3]))]))
    np.savez_compressed(f'{out}.npz', top=top.astype(np.int32))
    Path(f'{out}.json').write_text(json.dumps(facts))


# ---- the peers: each a function that trains and yields (epochs, users -> lists, numbers learned), and a list of settings, defaults first
def joints(D, settings, most=np.inf):
    "Settings with and without the source, first with it where its rows are few against the target's, or the target has next to none."
    own = (D.item < D.n)
    shared = np.intersect1d(D.user[own], D.user[~own])
    if own.all() or (own.any() and not len(shared)): return [dict(s, joint=False) for s in settings]
    few = own.sum() < 3*len(np.unique(D.user[own]))           # rows a person: no sequences to learn from
    if not own.any() or (few or (~own).sum() < 30*own.sum()) and len(D.user) < most: first, second = True, False
    else: first, second = False, True
    if len(D.user) > most and own.any(): return [dict(s, joint=False) for s in settings]
    if not own.any(): return [dict(s, joint=True) for s in settings]
    a, b = ([dict(s, joint=j) for s in settings] for j in (first, second))
    return [x for p in zip(a, b) for x in p]

def by_score(score): return lambda users, seen: best(score, users, seen)

def als(D, user, item, X, cfg, epochs):
    from implicit.als import AlternatingLeastSquares
    m = AlternatingLeastSquares(random_state=0, num_threads=1, use_gpu=False, **cfg)
    m.fit(X, show_progress=False)
    yield None, by_score(lambda u: m.user_factors[u] @ m.item_factors[:D.n].T), m.user_factors.size + m.item_factors.size

def bpr(D, user, item, X, cfg, epochs):
    from implicit.bpr import BayesianPersonalizedRanking
    m = BayesianPersonalizedRanking(random_state=0, num_threads=1, use_gpu=False, **cfg)
    m.fit(X, show_progress=False)
    yield None, by_score(lambda u: m.user_factors[u] @ m.item_factors[:D.n].T), m.user_factors.size + m.item_factors.size

def knn(D, user, item, X, cfg, epochs):
    import implicit.nearest_neighbours as nn
    cfg = dict(cfg)
    m = getattr(nn, cfg.pop('kind') + 'Recommender')(num_threads=1, **cfg)
    m.fit(X, show_progress=False)
    S = m.similarity.tocsc()[:, :D.n]
    yield None, by_score(lambda u: (X[u] @ S).toarray()), m.similarity.nnz

def lightfm(D, user, item, X, cfg, epochs):
    from lightfm import LightFM
    import scipy.sparse as sp
    cfg = dict(cfg); cfg.pop('epochs'); use = cfg.pop('features')
    F = D.features()[:X.shape[1]] if use else sp.identity(X.shape[1], format='csr', dtype=np.float32)
    F = sp.diags(1/np.maximum(np.asarray(F.sum(1)).ravel(), 1e-9)).dot(F).tocsr().astype(np.float32)
    m = LightFM(loss='warp', random_state=0, **cfg)
    for e in range(5, 101, 5):
        m.fit_partial(X.tocoo(), item_features=F, epochs=5, num_threads=1)
        if epochs is not None and e < epochs: continue
        ub, ue = m.get_user_representations(); ib, ie = m.get_item_representations(F)
        yield e, by_score(lambda u: ue[u] @ ie[:D.n].T + ib[:D.n]), m.item_embeddings.size + m.user_embeddings.size + ib.size + ub.size

def rectools_data(user, item):
    import pandas as pd
    from rectools import Columns as C
    from rectools.dataset import Dataset
    when = pd.Timestamp('2020-01-01') + pd.to_timedelta(np.arange(len(user)), unit='s')
    return Dataset.construct(pd.DataFrame({C.User: user, C.Item: item, C.Weight: 1., C.Datetime: when}))

def rectools_lists(m, ds, user, item, D):
    "Lists by the library's own `recommend`."
    known, own = np.unique(user), np.unique(item[item < D.n])
    def lists(users, seen):
        out, ask = np.full((len(users), TOP), -1, np.int64), users[np.isin(users, known)]
        r = m.recommend(users=ask, dataset=ds, k=min(TOP, len(own)), filter_viewed=True, items_to_recommend=own)
        out[np.searchsorted(users, r['user_id']), r['rank'] - 1] = r['item_id']
        return out
    return lists

def rectools_ease(D, user, item, X, cfg, epochs):
    from rectools.models import EASEModel
    u, i = X.nonzero()
    ds, m = rectools_data(u, i), EASEModel(recommend_n_threads=1, recommend_use_gpu_ranking=False, **cfg)
    m.fit(ds)
    yield None, rectools_lists(m, ds, u, i, D), m.weight.size

def rectools_net(kind):
    def make(D, user, item, X, cfg, epochs):
        import torch, logging, warnings
        from rectools.models import SASRecModel, BERT4RecModel
        from pytorch_lightning import Trainer
        logging.getLogger('pytorch_lightning').setLevel(logging.ERROR); warnings.simplefilter('ignore')
        torch.set_num_threads(1); torch.manual_seed(0); np.random.seed(0)
        cfg = dict(cfg); cfg.pop('epochs')
        big = X.shape[1] > 4000
        trainer = lambda: Trainer(max_epochs=1, enable_progress_bar=False, enable_checkpointing=False, logger=False, accelerator='cpu',
                                  enable_model_summary=False)
        m = dict(SASRec=SASRecModel, BERT4Rec=BERT4RecModel)[kind](
            n_factors=64, n_blocks=2, n_heads=2, loss='sampled_softmax' if big else 'softmax', n_negatives=256 if big else 1,
            get_trainer_func=trainer, recommend_torch_device='cpu', **cfg)
        ds, step = rectools_data(user, item), 5
        for e in range(step, 301, step):
            m.fit_partial(ds, min_epochs=step, max_epochs=step)
            if epochs is not None and e < epochs: continue
            yield e, rectools_lists(m, ds, user, item, D), sum(p.numel() for p in m.lightning_model.parameters())
    return make

def recbole_net(kind):
    def make(D, user, item, X, cfg, epochs):
        import logging, torch
        from recbole.config import Config
        from recbole.data import create_dataset, data_preparation
        from recbole.data.interaction import Interaction
        from recbole.utils import get_model, get_trainer, init_seed
        logging.disable(logging.INFO); torch.set_num_threads(1)
        cfg = dict(cfg); cfg.pop('epochs')
        with tempfile.TemporaryDirectory() as d:
            (Path(d)/'x').mkdir()
            u, i = (user, item) if kind == 'SASRec' else X.nonzero()
            rows = '\n'.join(f'{a}\t{b}\t{c}' for c, (a, b) in enumerate(zip(u, i)))
            (Path(d)/'x'/'inter').write_text('user_id:token\titem_id:token\ttimestamp:float\n' + rows + '\n')
            c = Config(model=kind, dataset='x', config_dict=dict(
                data_path=d, checkpoint_dir=d, use_gpu=False, show_progress=False, seed=0, reproducibility=True, worker=0, state='ERROR',
                load_col={'inter': ['user_id', 'item_id', 'timestamp']}, train_batch_size=2048, MAX_ITEM_LIST_LENGTH=50, eval_args=dict(
                    split={'RS': [1., 0., 0.]}, group_by='none', order='TO', mode='full'), train_neg_sample_args=None if kind == 'SASRec' else
                dict(distribution='uniform', sample_num=1, alpha=1., dynamic=False, candidate_num=0)) | cfg)
            init_seed(0, True)
            ds = create_dataset(c)
            train = data_preparation(c, ds)[0]
        m = get_model(kind)(c, train._dataset).to(c['device'])
        t, step = get_trainer(c['MODEL_TYPE'], kind)(c, m), 5 if kind == 'SASRec' else 10
        uid, iid = (np.array([int(x) if x != '[PAD]' else -1 for x in ds.field2id_token[f]]) for f in ('user_id', 'item_id'))
        place = np.full(D.U, 0); place[uid[1:]] = np.arange(1, len(uid))
        own = np.nonzero((iid >= 0) & (iid < D.n))[0]
        back = np.full(X.shape[1], 0); back[iid[1:]] = np.arange(1, len(iid))
        ptr = np.concatenate([[0], np.cumsum(np.bincount(user, minlength=D.U))])
        def score(users):
            out = np.full((len(users), D.n), -np.inf, np.float32)
            q = {'user_id': torch.from_numpy(place[users])}
            if kind == 'SASRec':
                L = np.zeros((len(users), 50), np.int64)
                hs = [back[item[ptr[u]:ptr[u+1]][-50:]] for u in users]
                for r, h in enumerate(hs): L[r, :len(h)] = h
                q |= {'item_id_list': torch.from_numpy(L), 'item_length': torch.tensor([max(len(h), 1) for h in hs])}
            with torch.no_grad(): s = m.full_sort_predict(Interaction(q)).view(len(users), -1).numpy()
            out[:, iid[own]] = s[:, own]
            return out
        for e in range(1, 1001):
            m.train(); t._train_epoch(train, e)
            if e % step or epochs is not None and e < epochs: continue
            m.eval()
            if hasattr(m, 'restore_user_e'): m.restore_user_e = m.restore_item_e = None
            yield e, by_score(score), sum(p.numel() for p in m.parameters())
    return make

def cornac_net(kind):
    def make(D, user, item, X, cfg, epochs):
        from collections import OrderedDict
        import cornac
        from cornac.data import Dataset, ImageModality
        cfg, N = dict(cfg), X.shape[1]
        u, i = X.nonzero()
        ds = Dataset(X.shape[0], N, OrderedDict((x, x) for x in range(X.shape[0])), OrderedDict((x, x) for x in range(N)),
                     (u.astype('int'), i.astype('int'), np.ones(len(u))), seed=0)
        v = D.vectors()[:N]
        ds.add_modalities(item_image=ImageModality(features=v, ids=list(range(N)), normalized=True))
        ds.item_image.build(id_map=ds.iid_map)
        m = cornac.models.VBPR(use_gpu=False, verbose=False, seed=0, **cfg)
        m.fit(ds)
        size = sum(np.size(x) for x in (m.beta_item, m.gamma_user, m.gamma_item, m.theta_user, m.emb_matrix, m.beta_prime))
        yield None, by_score(lambda us: np.stack([m.score(int(x))[:D.n] for x in us])), size
    return make

def cornac_tiger(D, user, item, X, cfg, epochs):
    "TIGER: semantic IDs of the text vectors by residual k-means, a T5 that writes the next one; its constrained beam search."
    from collections import OrderedDict
    import torch
    from cornac.data import FeatureModality
    from cornac.data.dataset import SequentialDataset
    from cornac.models import TIGER
    torch.set_num_threads(1)
    N, numbers = X.shape[1], lambda n: OrderedDict((x, x) for x in range(n))
    ds = SequentialDataset(D.U, D.U, N, numbers(D.U), numbers(D.U), numbers(N), (user.astype('int'), item.astype('int'), np.ones(len(user))),
                           session_indices=user.astype('int'), timestamps=np.arange(len(user)), seed=0)
    ds.item_feature = FeatureModality(features=D.vectors()[:N], ids=list(range(N)))
    ds.item_feature.build(id_map=ds.iid_map)
    m = TIGER(tokenizer='rkmeans', n_beams=TOP, device='cpu', verbose=False, seed=0, **cfg)
    m.fit(ds)
    ptr = np.concatenate([[0], np.cumsum(np.bincount(user, minlength=D.U))])
    score = lambda us: np.stack([m.score(int(u), item[ptr[u]:ptr[u+1]].tolist())[:D.n] for u in us])
    yield None, by_score(score), sum(p.numel() for p in m.model.parameters())

def product(**kw):
    "Settings one at a time around the first values, then pairs."
    import itertools
    keys = list(kw)
    return [dict(zip(keys, x)) for x in sorted(itertools.product(*kw.values()), key=lambda x: sum(v != kw[k][0] for k, v in zip(keys, x)))]

NETS = product(session_max_len=[50], lr=[1e-3, 3e-3], dropout_rate=[.2, .4], batch_size=[64, 16], epochs=[60])
PEERS = {
    'implicit: ALS': (als, lambda D: joints(D, product(factors=[64, 32, 128], alpha=[10., 1., 40.], regularization=[.05, 1.]))),
    'implicit: BPR': (bpr, lambda D: joints(D, product(factors=[64, 128], learning_rate=[.05, .01], regularization=[.01, .1], iterations=[100, 300]))),
    'implicit: ItemKNN': (knn, lambda D: joints(D, product(kind=['Cosine', 'TFIDF', 'BM25'], K=[100, 20, 300]))),
    'RecTools: EASE': (rectools_ease, lambda D: joints(D, product(regularization=[500., 100., 1000., 3000., 30.]), 3e5 if D.n_items < 12000 else 0)),
    'RecTools: SASRec': (rectools_net('SASRec'), lambda D: joints(D, NETS)),
    'RecTools: BERT4Rec': (rectools_net('BERT4Rec'), lambda D: joints(D, NETS)),
    'RecBole: SASRec': (recbole_net('SASRec'), lambda D: joints(D, product(
        learning_rate=[1e-3, 3e-3], hidden_dropout_prob=[.5, .2], attn_dropout_prob=[.5, .2], epochs=[20]), 2e5)),
    'RecBole: LightGCN': (recbole_net('LightGCN'), lambda D: joints(D, product(
        learning_rate=[5e-3, 1e-3], n_layers=[2, 3], reg_weight=[1e-5, 1e-3], epochs=[60]), 2e5)),
    'RecBole: BPR': (recbole_net('BPR'), lambda D: joints(D, product(learning_rate=[5e-3, 1e-3], embedding_size=[64, 128], epochs=[60]), 2e5)),
    'LightFM: ids and features': (lightfm, lambda D: joints(D, product(
        no_components=[64, 32], learning_rate=[.05, .02], item_alpha=[1e-6, 1e-5], features=[True], epochs=[30]), 3e5)),
    'Cornac: VBPR on text': (cornac_net('VBPR'), lambda D: joints(D, product(k=[32], k2=[32], n_epochs=[50, 20, 100], learning_rate=[.005, .02], lambda_w=[.01]), 3e5)),
    'Cornac: TIGER': (cornac_tiger, lambda D: joints(D, product(         # a level's codes, layers and epochs as far as one core goes
        n_epochs=[5], learning_rate=[1e-3], rqvae_codebook_size=[32], d_model=[64], d_ff=[256], num_heads=[4], d_kv=[16],
        num_enc_layers=[2], num_dec_layers=[2], max_len=[8]), 3e5)),
}
LIBRARY = {p: dict(implicit='implicit', RecTools='rectools', RecBole='recbole', LightFM='lightfm', Cornac='cornac')[p.split(':')[0]] for p in PEERS}


# ---- our own systems, through the same door
def cb2cf(**kw):
    "Factors of the items with few rows predicted from their text by ridge (after CB2CF: Barkan et al., 2019)."
    from llmrec.features import item_features
    from llmrec.baselines import ALS
    class CB2CF(ALS):
        def __init__(self, factors=32, reg=50., alpha=10., epochs=15, half_life=5., seed=0, use_gpu=False, ridge=10., least=5):
            super().__init__(factors, reg, alpha, epochs, half_life, seed, use_gpu)
            self.ridge, self.least = ridge, least
        def _fit(self, data):
            super()._fit(data)
            f, V, cold = item_features(data), self.V, data.counts < self.least
            A = np.concatenate([f, np.ones((len(f), 1), np.float32)], 1)
            w = ~cold[:, None]*A
            G = w.T @ w + self.ridge*np.eye(A.shape[1])
            self.V = np.where(cold[:, None], A @ np.linalg.solve(G, w.T @ V), V).astype(np.float32)
    return CB2CF(**kw)

def own_systems(seconds):
    "Name: function of (Dataset, target, source, valid) that gives something with `score`."
    from llmrec.baselines import Content, ItemKNN, Popularity
    from llmrec.closed_form import Blend, EASE, hyperparameter_search
    from llmrec.sequence import SASRec, TextSASRec
    from llmrec.semantic_ids import SemanticID
    from llmrec.recommender import Recommender
    from fusion import text_free
    fit = lambda **kw: lambda d, t, s, v: Recommender(**{'encoder': 'minilm'} | kw).fit(t, s, v)
    exp = lambda make: lambda d, t, s, v: make().fit_dataset(d)
    def tuned(make, space, trials=12):
        def f(d, t, s, v): return hyperparameter_search(make, space, d, trials=trials) if (d.hist.item < d.n_target).any() else make().fit_dataset(d)
        return f
    return {'llmrec': fit(), 'llmrec fast': fit(budget='fast'), 'llmrec fast without text': fit(encoder=None, experts=text_free, budget='fast'),
            'llmrec fast without source': lambda d, t, s, v: Recommender('minilm', strategy='target', budget='fast').fit(t, None, v) if len(t.log) else None,
            'ours: popularity': exp(Popularity), 'ours: content': exp(Content), 'ours: ItemKNN': exp(ItemKNN),
            'ours: EASE': tuned(EASE, dict(lam=(10., 3000., 'log'), half_life=[3., 10., 30., np.inf], use_source_history=[True, False])),
            'ours: EASE + TF-IDF': exp(lambda: Blend(EASE(300.))), 'ours: SASRec': exp(lambda: SASRec(epochs=None)),
            'ours: TextSASRec (as UniSRec)': exp(lambda: TextSASRec(epochs=None)),
            'ours: CB2CF ridge': tuned(cb2cf, dict(ridge=(1., 100., 'log'), alpha=[1., 10., 40.], reg=[.05, 1.]), 8),
            'ours: semantic IDs': exp(SemanticID)}

OWN = ['llmrec', 'llmrec fast', 'llmrec fast without text', 'llmrec fast without source', 'ours: popularity', 'ours: content', 'ours: ItemKNN', 'ours: EASE',
       'ours: EASE + TF-IDF', 'ours: SASRec', 'ours: TextSASRec (as UniSRec)', 'ours: CB2CF ridge', 'ours: semantic IDs']

def load(a, name):
    "Domain, split, source of one set; at most so many test users."
    sys.path.insert(0, str(HERE.parent))
    from fusion import few_users, sets
    dom, split, source = sets(a)[name]()
    return dom, few_users(split, a.users), source

def work_own(a, system, name, out):
    "One of our systems on one set, in a process of its own."
    import pandas as pd, torch, warnings
    from llmrec.dataset import make_dataset
    from llmrec.encode import TextEncoder
    from llmrec.metrics import tie_break_keys, top_lists
    from llmrec.evaluation import count_parameters, make_eval_task
    from llmrec.preprocess import item_text
    warnings.filterwarnings('ignore'); torch.set_num_threads(1)
    dom, split, source = load(a, name)
    target, valid, d = dom.with_log(split.train), split.valid if len(split.valid) else None, None
    texts = [t for s in [dom] + [source]*(source is not None) for t in item_text(s.items)]
    vectors = TextEncoder('minilm').encode(texts)                 # cached: not counted for anyone
    make = own_systems(a.seconds)[system]
    if system.startswith('ours'): d = make_dataset(pd.concat([split.train, split.valid]), dom.items, source, vectors)
    t = time.process_time()
    rec = make(d, target, source, valid)
    if rec is None: return
    fit, t = time.process_time() - t, time.process_time()
    task, users = make_eval_task(split, rec.items), test_users(split)
    place, turn = tie_break_keys(task.items, users)
    top = []
    for b in range(0, len(users), 256):
        s = np.array(rec.score(users[b:b+256]), np.float32)
        i = task.users.get_indexer(users[b:b+256]); ok = i >= 0
        r, c = task.seen[i[ok]].nonzero(); s[np.nonzero(ok)[0][r], c] = -np.inf
        top.append(top_lists(s, TOP, place, turn[b:b+256]))
    tried = getattr(rec, 'tuning', None)
    save(out, np.concatenate(top), dict(fit=fit, tuning=0., score=time.process_time() - t, parameters=count_parameters(rec), of=0, valid=None,
         settings=0 if tried is None else len(tried), setting=getattr(rec, 'tuned', '') or '; '.join(getattr(rec, 'plan', [])[-1:])), ['llmrec', 'numpy', 'torch'])

def test_users(split):
    "Test users in an order of their own."
    import pandas as pd
    us = pd.unique(split.test['user'])
    return us[np.argsort(us.astype(str), kind='stable')]


# ---- the run
def prepare(a, name, folder):
    "Write what the peers are handed; returns (domain, split)."
    import pandas as pd
    from llmrec.dataset import make_dataset
    from llmrec.features import item_features, one_hot, soft_bins
    from llmrec.baselines import ALS, Content, ItemKNN, Popularity
    from llmrec.closed_form import Blend, EASE, hyperparameter_search
    from llmrec.sequence import SASRec, TextSASRec
    from llmrec.encode import TextEncoder
    from llmrec.preprocess import item_text
    dom, split, source = load(a, name)
    if (folder/'rows.npz').exists(): return dom, split
    folder.mkdir(parents=True, exist_ok=True)
    texts = [t for s in [dom] + [source]*(source is not None) for t in item_text(s.items)]
    np.save(folder/'vectors.npy', v := TextEncoder('minilm').encode(texts))
    log = pd.concat([split.train.assign(weight=0.), split.valid.assign(weight=1.)])       # the mark travels as a weight
    d = make_dataset(log, dom.items, None if source is None else source.__class__(source.name, source.log.assign(weight=0.), source.items), v)
    us = test_users(split)
    place = d.users.get_indexer(pd.Index(us, dtype=object))
    U, miss = len(d.users), place < 0
    place[miss] = U + np.arange(miss.sum())                                               # nobody knows them
    o = np.argsort(place, kind='stable')
    np.save(folder/'order.npy', o)
    F = features(d, texts)
    np.savez(folder/'features.npz', data=F.data, indices=F.indices, indptr=F.indptr, shape=F.shape)
    np.savez(folder/'rows.npz', user=d.hist.user, item=d.hist.item, held=d.hist.weight > .5, n=d.n_target, N=d.n_items, U=U + miss.sum(), test=place[o])
    return dom, split

def features(d, texts):
    "Attributes and the 2,000 most frequent words of all items."
    import pandas as pd, scipy.sparse as sp
    from llmrec.dataset import make_dataset
    from llmrec.features import item_features, one_hot, soft_bins
    from llmrec.baselines import ALS, Content, ItemKNN, Popularity
    from llmrec.closed_form import Blend, EASE, hyperparameter_search
    from llmrec.sequence import SASRec, TextSASRec
    from sklearn.feature_extraction.text import CountVectorizer
    t = d.table.drop(columns=['item', 'title', 'text'], errors='ignore')
    parts = [soft_bins(t[c]) if pd.api.types.is_numeric_dtype(t[c]) else one_hot(t[c]) for c in t if t[c].notna().sum() > 1]
    words = CountVectorizer(min_df=2, max_features=2000, binary=True, dtype=np.float32).fit_transform(texts)
    return sp.hstack([sp.csr_matrix(np.maximum(p > .3, 0).astype(np.float32)) for p in parts if p.shape[1] > 1] + [words]).tocsr()

def environment(envs, lib):
    "Python of a library's environment, made if it is not there."
    py = Path(envs).resolve()/lib/'bin'/'python'
    if not py.exists():
        print(f'making the environment of {lib}', flush=True)
        subprocess.run([sys.executable, '-m', 'venv', str(py.parents[1])], check=True)
        subprocess.run([str(py), '-m', 'pip', 'install', '-q', *REQUIRES[lib]], check=True)
    return str(py)

def run(a, name, system, folder):
    "One system on one set in a process of its own, unless WORK has its lists for this budget; None if it failed."
    out = folder/system.replace(': ', '-').replace(' ', '-')
    facts = Path(f'{out}.json')
    if system in PEERS and system not in a.again and Path(f'{out}.npz').exists() and facts.exists():
        if json.loads(facts.read_text()).get('budget') == a.seconds: return out
    py = sys.executable if system in OWN else environment(a.envs, LIBRARY[system])
    cmd = [py, str(HERE), '--worker', system, name, str(folder), str(out), '--seconds', str(a.seconds), '--users', str(a.users)]
    cmd += [x for k in ('data', 'movielens') if getattr(a, k) for x in (f'--{k}', getattr(a, k))]
    one = {k: '1' for k in ('OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'NUMEXPR_NUM_THREADS')}
    r = subprocess.run(cmd, capture_output=True, text=True, env=os.environ | one, cwd=folder)
    (folder/f'{out.name}.log').write_text(r.stdout[-20000:] + r.stderr[-20000:])
    if r.returncode: print(f'{name}, {system}: failed: {r.stderr.strip().splitlines()[-1:]}', flush=True)
    return out if out.with_suffix('.npz').exists() and not r.returncode else None

def judge(out, name, system, dom, split, folder):
    "Evaluate lists by `evaluate`; the row of the table."
    import pandas as pd
    from llmrec.evaluation import evaluate
    top, f = np.load(f'{out}.npz')['top'], json.loads(Path(f'{out}.json').read_text())
    us, ids = test_users(split), dom.items['item'].to_numpy()
    if system in PEERS: us = us[np.load(folder/'order.npy')]
    r, c = np.nonzero(top >= 0)
    lists = pd.DataFrame(dict(user=us[r], item=ids[top[r, c]], rank=c))
    rep = evaluate(lists, split, ks=(10,), items=dom.items, audit=False, beyond=False, evidence='train+valid', name=system)
    rep.to_json(f'{out}.report.json')
    iv, s = rep.intervals, rep.slices[(rep.slices['user'] == 'all')].set_index('item')
    row = dict(set=name, system=system, users=len(rep.per_user), items=len(ids), ndcg=rep['ndcg@10'], ndcg_lo=iv['ndcg@10'][0], ndcg_hi=iv['ndcg@10'][1],
               recall=rep['recall@10'], recall_lo=iv['recall@10'][0], recall_hi=iv['recall@10'][1])
    for c in ('0', '1–4', '5–19', '20+'):
        row |= {f'{k}[{c}]': s[v].get(c) for k, v in dict(rows='rows', ndcg='ndcg@10', lo='lo', hi='hi', recall='recall@10').items()}
    return row | {'fit_s': f['fit'], 'tuning_s': f['tuning'], 'score_s': f['score'], 'memory_mb': f['memory'], 'parameters': f['parameters'],
                  'settings': f['settings'], 'budget_s': None, 'setting': f['setting'], 'versions': f['versions']}

def versus(table, work):
    "llmrec minus each system, paired by user, with Holm's p, from the reports that are there."
    from llmrec.evaluation import Report, compare
    for name in table['set'].unique():
        own = lambda s: work/name/(s.replace(': ', '-').replace(' ', '-') + '.report.json')
        if not own('llmrec').exists(): continue
        reps = {s: Report.from_json(own(s)) for s in table.loc[table['set'] == name, 'system'] if own(s).exists()}
        if len(reps) < 2 or 'llmrec' not in reps: continue
        c = compare({'llmrec': reps.pop('llmrec')} | reps).table.set_index('b')
        for k, v in dict(diff='difference', diff_lo='lo', diff_hi='hi', p='p_holm').items():
            at = (table['set'] == name) & table['system'].isin(c.index)
            table.loc[at, k] = table.loc[at, 'system'].map(c[v])
    return table

def commit():
    "Short name of the commit, for our rows."
    r = subprocess.run(['git', 'rev-parse', '--short', 'HEAD'], cwd=HERE.parent, capture_output=True, text=True)
    return f'; commit {r.stdout.strip()}' if r.returncode == 0 else ''

def read(path):
    "The table so far."
    import pandas as pd
    return pd.read_csv(path) if Path(path).exists() else pd.DataFrame(columns=['set', 'system'])

@contextlib.contextmanager
def locked(path):
    "One process at a time reads and writes the table."
    import fcntl
    with open(f'{path}.lock', 'w') as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        yield

def write(table, path, order):
    "The table, sorted, four digits."
    import pandas as pd
    table = table.sort_values(['set', 'ndcg'], ascending=[True, False], key=lambda s: s.map(order.index) if s.name == 'set' else s, kind='stable')
    tmp = Path(f'{path}.tmp'); table.to_csv(tmp, index=False, float_format='%.5g'); os.replace(tmp, path)

def show(path):
    "Print the tables."
    import pandas as pd
    t = pd.read_csv(path)
    for n, g in t.groupby('set', sort=False):
        print(f"\n== {n}: {g['users'].iloc[0]} users, {g['items'].iloc[0]} items; test rows by item evidence {[int(x) for x in g.filter(like='rows[').iloc[0].fillna(0)]}")
        g = g.set_index('system')[['ndcg', 'ndcg_lo', 'ndcg_hi', 'recall', *g.filter(like='ndcg['), 'diff', 'diff_lo', 'diff_hi', 'p', 'fit_s', 'tuning_s', 'memory_mb']]
        print(g.to_string(float_format=lambda x: f'{x:.3f}' if abs(x) < 2 else f'{x:.0f}'))

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for k in ('data', 'movielens', 'envs', 'work'): p.add_argument(f'--{k}')
    p.add_argument('--out', default=str(HERE.with_suffix('.csv'))); p.add_argument('--sets', nargs='+'); p.add_argument('--systems', nargs='+')
    p.add_argument('--again', nargs='*', default=[], help='systems to run again though they are done')
    p.add_argument('--users', type=int, default=3000); p.add_argument('--seconds', type=float, default=120., help='of the processor, to tune one system on one set')
    p.add_argument('--show', action='store_true'); p.add_argument('--worker', nargs=4, help=argparse.SUPPRESS)
    a = p.parse_args()
    for k in ('data', 'movielens', 'work', 'out'):
        if getattr(a, k): setattr(a, k, str(Path(getattr(a, k)).resolve()))
    if a.worker:
        system, name, folder, out = a.worker
        return work_own(a, system, name, out) if system in OWN else work(system, folder, out, a.seconds)
    if a.show: return show(a.out)
    import pandas as pd
    sys.path.insert(0, str(HERE.parent))
    from fusion import sets
    order, every = list(sets(a)), OWN + list(PEERS)
    for x in (a.systems or []) + a.again:
        if x not in every: p.error(f'no system {x!r}; there are {every}')
    for name in a.sets or order:
        table = read(a.out)
        done = set(table.loc[table['set'] == name, 'system']) - set(a.again)
        todo = [s for s in a.systems or every if s not in done]
        if not todo: continue
        folder = Path(a.work)/name
        dom, split = prepare(a, name, folder)
        for s in todo:
            t = time.perf_counter()
            if not (out := run(a, name, s, folder)): continue
            row = judge(out, name, s, dom, split, folder) | dict(budget_s=a.seconds if s in PEERS else None)
            if s in OWN: row['versions'] += commit()
            with locked(a.out):                     # another run may have added rows meanwhile
                table = read(a.out)
                table = table[~((table['set'] == name) & (table['system'] == s))]
                table = versus(pd.concat([table, pd.DataFrame([row])], ignore_index=True), Path(a.work))
                write(table, a.out, order)
            print(f"{name}, {s}: NDCG@10 {row['ndcg']:.4f} [{row['ndcg_lo']:.4f}, {row['ndcg_hi']:.4f}]; {time.perf_counter() - t:.0f} s", flush=True)
    show(a.out)


if __name__ == '__main__': main()
