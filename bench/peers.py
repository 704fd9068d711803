"""Libraries that install from PyPI beside our recommender: the same interactions, candidates, masks, validation, metric code and seconds.

    python bench/peers.py DIR --envs ENVS --work WORK --sets ml-100k beauty --seconds 30      # what is done is not run again
    python bench/peers.py ... --systems 'llmrec fast' 'implicit: ALS'                         # a part
    python bench/peers.py ... --again 'llmrec fast'                                           # anew
    python bench/peers.py --show                                                              # the tables in bench/peers.csv

Sets, splits, masks and ties are those of bench/common.py. ENVS gets one virtual environment a library, made when it is first needed with the
versions in REQUIRES, beside the packages of this one (torch is not installed twice). WORK keeps what the systems handed over: the first
hundred items of every test user, and the report. What cannot be installed stands in ABSENT, with the reason.

**One rule for all.** A system gets the interactions in the order of time and which of them are validation. It tries its settings in the order of
its list (at least twenty, the library's defaults first), each learned on training and judged by NDCG@10 on validation interactions, until the
list ends or `--seconds` of processor time are used up (a setting that runs is stopped; networks are also judged every few epochs); the best one
learns anew on both, for as many epochs. Our single models go through the same loop. `llmrec fast` has no settings to try: its search is part of
its fit, whose seconds stand in the table and are to be read beside the others' tuning and fit together. One thread each, seconds are of the
processor, memory is the peak of the process. Whether to learn from the source is a setting like others. Users whom a library does not know get
the most popular items; items it does not know stand last.
"""
import argparse, contextlib, json, os, subprocess, sys, tempfile, time
from pathlib import Path
import numpy as np

HERE, TOP = Path(__file__).resolve(), 100
REQUIRES = dict(implicit=['implicit==0.7.3'], lightfm=['lightfm-next==1.19.0'],
                rectools=['rectools[torch]==0.19.0', 'implicit==0.7.3'], recbole=['recbole==1.2.1', 'numpy<2', 'scipy<1.12', 'pandas<3'],
                cornac=['cornac==3.0.1', 'transformers>=4.45'], irspack=['irspack==0.5.2'], lenskit=['lenskit==2025.8.1'])
ABSENT = {'UniSRec': 'no package on PyPI; our TextSASRec is of its kind and counted as published',
          'warm-transfer': 'scores for items without interactions only: another question than this table asks',
          'elliot': 'no distribution on PyPI for this Python',
          'Surprise': 'predicts ratings; lists from interactions without ratings are not its task'}


# ---- what a system is handed, and what it hands over (this part runs in the peers' environments: NumPy and SciPy only)
class Data:
    "Rows by user in the order of time; items 0 … n - 1 are the target's, those from n on the source's."
    def __init__(self, folder):
        self.folder = Path(folder)
        z = np.load(self.folder/'rows.npz')
        self.user, self.item, self.held, self.test = z['user'], z['item'], z['held'], z['test']
        self.n, self.n_items, self.U = int(z['n']), int(z['N']), int(z['U'])
        self.gone = (z['gone_user'], z['gone_item']) if 'gone_user' in z else (np.zeros(0, int), np.zeros(0, int))
    def no_candidates(self, held):
        "What nobody may be shown: what the user had, and what the split took away."
        rows = zip(self.rows(held, False), self.gone)
        return matrix(*(np.concatenate(x) for x in rows), self.U, self.n)
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
    X, seen = matrix(user, item, D.U, N), D.no_candidates(held)
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

def irspack_model(kind):
    def make(D, user, item, X, cfg, epochs):
        import irspack
        cfg = dict(n_threads=1, **cfg)
        m = getattr(irspack, kind + 'Recommender')(X, **cfg).learn()
        yield None, by_score(lambda u: np.asarray(m.get_score(u))[:, :D.n]), irspack_size(m)
    return make

def irspack_size(m):
    "Numbers that a model of irspack has learned."
    if not hasattr(m, '_W'): return m.get_user_embedding().size + m.get_item_embedding().size
    return getattr(m.W, 'nnz', m.W.size)

def lenskit_als(D, user, item, X, cfg, epochs):
    import pandas as pd
    from lenskit.als import ImplicitMFScorer
    from lenskit.data import from_interactions_df
    from lenskit.training import TrainingOptions
    u, i = X.nonzero()
    ds = from_interactions_df(pd.DataFrame(dict(user_id=u, item_id=i)))
    m = ImplicitMFScorer(**cfg)
    m.train(ds, TrainingOptions(rng=0, device='cpu'))
    users, items = (np.zeros((n, m.item_embeddings.shape[1]), np.float32) for n in X.shape)
    users[m.users.ids()], items[m.items.ids()] = m.user_embeddings, m.item_embeddings
    known = np.where(np.isin(np.arange(D.n), m.items.ids()), 0, -np.inf)
    yield None, by_score(lambda u: users[u] @ items[:D.n].T + known), np.size(m.user_embeddings) + np.size(m.item_embeddings)

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
        from rectools.models import BERT4RecModel, HSTUModel, SASRecModel
        from rectools.models.nn.transformers.ligr import LiGRLayers
        from pytorch_lightning import Trainer
        logging.getLogger('pytorch_lightning').setLevel(logging.ERROR); warnings.simplefilter('ignore')
        torch.set_num_threads(1); torch.manual_seed(0); np.random.seed(0)
        cfg = dict(cfg); cfg.pop('epochs')
        big = X.shape[1] > 4000
        trainer = lambda: Trainer(max_epochs=1, enable_progress_bar=False, enable_checkpointing=False, logger=False, accelerator='cpu',
                                  enable_model_summary=False)
        if kind == 'eSASRec': cfg |= dict(transformer_layers_type=LiGRLayers, transformer_layers_kwargs=dict(ff_factors_multiplier=4, ff_activation='swiglu'))
        if kind == 'HSTU': cfg |= dict(relative_time_attention=False)
        m = dict(SASRec=SASRecModel, eSASRec=SASRecModel, HSTU=HSTUModel, BERT4Rec=BERT4RecModel)[kind](
            n_blocks=2, n_heads=2, loss='sampled_softmax' if big else 'softmax', n_negatives=256 if big else 1,
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
            (Path(d)/'x'/'x.inter').write_text('user_id:token\titem_id:token\ttimestamp:float\n' + rows + '\n')
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
    """TIGER: semantic IDs of the text vectors by residual k-means, a T5 that writes the next one; its constrained beam search.

    Training stops when the seconds for tuning are used up; the best setting learns anew on as many batches (`epochs`)."""
    from collections import OrderedDict
    from unittest import mock
    import torch
    from cornac.data import FeatureModality
    from cornac.data.dataset import SequentialDataset
    from cornac.models import TIGER
    from cornac.models.tiger import recom_tiger
    torch.set_num_threads(1)
    N, numbers = X.shape[1], lambda n: OrderedDict((x, x) for x in range(n))
    ds = SequentialDataset(D.U, D.U, N, numbers(D.U), numbers(D.U), numbers(N), (user.astype('int'), item.astype('int'), np.ones(len(user))),
                           session_indices=user.astype('int'), timestamps=np.arange(len(user)), seed=0)
    ds.item_feature = FeatureModality(features=D.vectors()[:N], ids=list(range(N)))
    ds.item_feature.build(id_map=ds.iid_map)
    m, done, until, every = TIGER(tokenizer='rkmeans', n_beams=TOP, device='cpu', verbose=False, seed=0, **cfg), [], None, recom_tiger.session_seq_iter
    def batches(*a, **kw):
        nonlocal until
        until = until or time.process_time() + D.seconds
        for batch in every(*a, **kw):
            if len(done) == epochs or epochs is None and time.process_time() > until: return
            done.append(len(batch[0]))
            yield batch
    with mock.patch.object(recom_tiger, 'session_seq_iter', batches): m.fit(ds)
    ptr = np.concatenate([[0], np.cumsum(np.bincount(user, minlength=D.U))])
    score = lambda us: np.stack([m.score(int(u), item[ptr[u]:ptr[u+1]].tolist())[:D.n] for u in us])
    yield len(done), by_score(score), sum(p.numel() for p in m.model.parameters())

def product(**kw):
    "Settings one at a time around the first values, then pairs."
    import itertools
    keys = list(kw)
    return [dict(zip(keys, x)) for x in sorted(itertools.product(*kw.values()), key=lambda x: sum(v != kw[k][0] for k, v in zip(keys, x)))]

NETS = product(session_max_len=[50], lr=[1e-3, 3e-3, 3e-4], dropout_rate=[.2, .4], batch_size=[64, 16, 256], n_factors=[64, 128], epochs=[60])
PEERS = {
    'implicit: ALS': (als, lambda D: joints(D, product(factors=[64, 32, 128], alpha=[10., 1., 40.], regularization=[.05, 1., 10.]))),
    'implicit: BPR': (bpr, lambda D: joints(D, product(factors=[64, 128, 32], learning_rate=[.05, .01], regularization=[.01, .1], iterations=[100, 300]))),
    'implicit: ItemKNN': (knn, lambda D: joints(D, product(kind=['Cosine', 'TFIDF', 'BM25'], K=[20, 5, 10, 50, 100, 200, 500]))),
    'irspack: RP3beta': (irspack_model('RP3beta'), lambda D: joints(D, product(beta=[.6, .3, 0., .9], alpha=[1., .5, 1.5], top_k=[None, 100, 500]))),
    'irspack: iALS': (irspack_model('IALS'), lambda D: joints(D, product(n_components=[20, 64, 128], alpha0=[0., .1, .01, 1.], reg=[1e-3, 1e-2], train_epochs=[16, 8]))),
    'LensKit: ALS': (lenskit_als, lambda D: joints(D, product(embedding_size=[50, 25, 100], weight=[40., 10., 2.], regularization=[.1, 1., 10.]))),
    'RecTools: EASE': (rectools_ease, lambda D: joints(D, product(regularization=[500., *np.geomspace(10, 10000, 19).round(1).tolist()]), 3e5 if D.n_items < 12000 else 0)),
    'RecTools: SASRec': (rectools_net('SASRec'), lambda D: joints(D, NETS)),
    'RecTools: eSASRec': (rectools_net('eSASRec'), lambda D: joints(D, NETS)),
    'RecTools: HSTU': (rectools_net('HSTU'), lambda D: joints(D, NETS)),
    'RecTools: BERT4Rec': (rectools_net('BERT4Rec'), lambda D: joints(D, NETS)),
    'RecBole: SASRec': (recbole_net('SASRec'), lambda D: joints(D, product(
        learning_rate=[1e-3, 3e-3], hidden_dropout_prob=[.5, .2], attn_dropout_prob=[.5, .2], hidden_size=[64, 128], n_layers=[2, 1], epochs=[20]), 2e5)),
    'RecBole: LightGCN': (recbole_net('LightGCN'), lambda D: joints(D, product(
        learning_rate=[5e-3, 1e-3], n_layers=[2, 3, 1], reg_weight=[1e-5, 1e-3], embedding_size=[64, 128], epochs=[60]), 2e5)),
    'RecBole: BPR': (recbole_net('BPR'), lambda D: joints(D, product(learning_rate=[5e-3, 1e-3, 2e-2, 2e-3, 5e-4], embedding_size=[64, 128, 32, 256], epochs=[60]), 2e5)),
    'LightFM: ids and features': (lightfm, lambda D: joints(D, product(
        no_components=[64, 32, 128], learning_rate=[.05, .02], item_alpha=[1e-6, 1e-5], features=[True, False], epochs=[30]), 3e5)),
    'Cornac: VBPR on text': (cornac_net('VBPR'), lambda D: joints(D, product(k=[32, 64], k2=[32, 64], n_epochs=[50, 20, 100], learning_rate=[.005, .02], lambda_w=[.01]), 3e5)),
    'Cornac: TIGER': (cornac_tiger, lambda D: joints(D, product(         # a level's codes, layers and epochs as far as one core goes
        n_epochs=[5, 10, 2], learning_rate=[1e-3, 3e-3], rqvae_codebook_size=[32, 64], d_model=[64], d_ff=[256], num_heads=[4], d_kv=[16],
        num_enc_layers=[2, 1], num_dec_layers=[2], max_len=[8]), 3e5)),
}
LIBRARY = {p: dict(implicit='implicit', RecTools='rectools', RecBole='recbole', LightFM='lightfm', Cornac='cornac', irspack='irspack',
                   LensKit='lenskit')[p.split(':')[0]] for p in PEERS}


# ---- our own systems, through the same door
def searched(make, grid, D, seconds):
    "One of our models: the best of its settings within the seconds, learned anew on training and validation; and how many were tried."
    from llmrec.dataset import make_dataset
    tried, began = [], time.process_time()
    rest = make_dataset(D.split.train, D.target.items, D.source, D.vectors)
    for setting in grid:
        left = seconds - (time.process_time() - began)
        if tried and left < (time.process_time() - began)/len(tried)/4: break
        tried.append((valid_ndcg(make(**setting).fit_dataset(rest), D), setting))
    best = max(tried, key=lambda x: x[0])[1]
    tuning, began = time.process_time() - began, time.process_time()
    model = make(**best).fit_dataset(D.data)
    return model, dict(tuning=tuning, fit=time.process_time() - began, settings=len(tried), setting=json.dumps(best, default=str))

def stopped(make, seconds, **setting):
    "A generator of ours whose training stops when the seconds for tuning are used up, as a library's does."
    from llmrec.learner import Callback, CancelFit
    class Deadline(Callback):
        def __init__(self): self.until = time.process_time() + seconds
        def after_batch(self, learn):
            if time.process_time() > self.until: raise CancelFit
    class Stopped(make):
        def train_phase(self, data, own, phase, cbs=()): return super().train_phase(data, own, phase, [*cbs, Deadline()])
    return Stopped(**setting)

def valid_ndcg(model, D):
    "NDCG@10 on validation interactions of at most 2,000 users."
    from llmrec.preprocess import Split
    users = np.random.default_rng(0).permutation(np.sort(D.split.valid['user'].unique()))[:2000]
    valid = D.split.valid[D.split.valid['user'].isin(users)]
    return D.judge(model, split=Split(D.split.train, valid[:0], valid, D.split.protocol))['ndcg@10']

def own_systems():
    "Name to a function of what is handed over and the seconds, which gives a model and facts."
    from functools import partial
    from llmrec.baselines import ItemKNN, LastItems
    from llmrec.closed_form import EASE
    from llmrec.recommender import Recommender
    from llmrec.semantic_ids import SemanticID
    from llmrec.sequence import SASRec, TextSASRec
    from llmrec.shortcuts import shortcut_experts
    from common import bare, timed
    def whole(D, seconds, text=True, source=True):
        target = D.target.with_log(D.split.train)
        other = D.source if source else None
        if not text: target, other = bare(target), other and bare(other)
        rec, spent = timed(lambda: Recommender('minilm' if text else None, budget='fast').fit(target, other, D.split.valid))
        return rec, dict(tuning=0., fit=spent, settings=1, setting='; '.join(rec.plan[-1:]))
    def shortcut(name):
        def run(D, seconds):
            model, spent = timed(lambda: shortcut_experts()[name](D.data))
            return model, dict(tuning=0., fit=spent, settings=1, setting=repr(model))
        return run
    def tuned(make, grid, stop=False): return lambda D, seconds: searched(partial(stopped, make, seconds) if stop else make, grid, D, seconds)
    nets = product(lr=[4e-3, 1e-3, 1e-2], drop=[.3, .5, .1], epochs=[10, 25, 50], dim=[64, 128])
    return {'llmrec fast': whole, 'llmrec fast without text': lambda D, seconds: whole(D, seconds, text=False),
            **{f'shortcut: {n}': shortcut(n) for n in ('popularity', 'last two items + TF-IDF', 'EASE + TF-IDF')},
            'ours: ItemKNN': tuned(ItemKNN, product(k=[100, 20, 300], shrink=[30., 3., 100.], half_life=[5., np.inf, 1.])),
            'ours: EASE': tuned(EASE, product(lam=[500., *np.geomspace(10, 10000, 10).round(1).tolist()], half_life=[np.inf, 10., 3.])),
            'ours: last items': tuned(LastItems, product(n_last=[2, 1, 5, 10], half_life=[1., .5, 3., 10., np.inf])),
            'ours: SASRec': tuned(SASRec, nets), 'ours: TextSASRec (as UniSRec)': tuned(TextSASRec, nets),
            'ours: semantic IDs': tuned(SemanticID, product(lr=[3e-3, 1e-3], epochs=[2, 5, 12], size=[None, 32, 64], levels=[3, 2]), True)}

OWN = ['llmrec fast', 'llmrec fast without text', 'shortcut: popularity', 'shortcut: last two items + TF-IDF', 'shortcut: EASE + TF-IDF',
       'ours: ItemKNN', 'ours: EASE', 'ours: last items', 'ours: SASRec', 'ours: TextSASRec (as UniSRec)', 'ours: semantic IDs']

def load(a, name):
    "Target, split, source, what is no candidate."
    sys.path.insert(0, str(HERE.parent))
    from common import load as shared
    return shared(a.data, name, a.users)

def work_own(a, system, name, out):
    "One of our systems on one set, in a process of its own."
    import torch, warnings
    from types import SimpleNamespace
    from llmrec.dataset import make_dataset
    from llmrec.encode import TextEncoder
    from llmrec.evaluation import count_parameters, make_eval_task
    from llmrec.metrics import tie_break_keys, top_lists
    from llmrec.preprocess import item_text
    import pandas as pd
    warnings.filterwarnings('ignore')
    torch.set_num_threads(1)
    target, split, source, gone = load(a, name)
    from common import judge_by
    texts = [t for s in [target] + [source]*(source is not None) for t in item_text(s.items)]
    vectors = TextEncoder('minilm').encode(texts)                 # cached: not counted for anyone
    data = make_dataset(pd.concat([split.train, split.valid]), target.items, source, vectors)
    D = SimpleNamespace(target=target, split=split, source=source, vectors=vectors, data=data, judge=judge_on(judge_by, target, gone))
    model, facts = own_systems()[system](D, a.seconds)
    task, users = make_eval_task(split, model.items, mask=gone), test_users(split)
    place, turn = tie_break_keys(task.items, users)
    began, top = time.process_time(), []
    for b in range(0, len(users), 256):
        s = np.array(model.score(users[b:b+256]), np.float32)
        i = task.users.get_indexer(users[b:b+256])
        ok = i >= 0
        r, c = task.seen[i[ok]].nonzero()
        s[np.nonzero(ok)[0][r], c] = -np.inf
        top.append(top_lists(s, TOP, place, turn[b:b+256]))
    facts |= dict(score=time.process_time() - began, parameters=count_parameters(model), of=0, valid=None, budget=a.seconds)
    save(out, np.concatenate(top), facts, ['llmrec', 'numpy', 'torch'])

def judge_on(judge_by, target, gone):
    "The protocol on any split of a target."
    return lambda model, split: judge_by(target, split, gone)(model)

def test_users(split):
    "Test users in an order of their own."
    import pandas as pd
    us = pd.unique(split.test['user'])
    return us[np.argsort(us.astype(str), kind='stable')]


# ---- the run
def prepare(a, name, folder):
    "Write what the peers are handed; returns target, split, what is no candidate."
    import pandas as pd
    from llmrec.dataset import make_dataset
    from llmrec.encode import TextEncoder
    from llmrec.preprocess import item_text
    dom, split, source, gone = load(a, name)
    if (folder/'rows.npz').exists(): return dom, split, gone
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
    taken = {} if gone is None else taken_away(d, gone)
    F = features(d, texts)
    np.savez(folder/'features.npz', data=F.data, indices=F.indices, indptr=F.indptr, shape=F.shape)
    np.savez(folder/'rows.npz', user=d.hist.user, item=d.hist.item, held=d.hist.weight > .5, n=d.n_target, N=d.n_items, U=U + miss.sum(), test=place[o], **taken)
    return dom, split, gone

def taken_away(d, gone):
    "Users and items of the interactions that a split took away, as numbers."
    import pandas as pd
    user, item = d.users.get_indexer(pd.Index(gone['user'], dtype=object)), d.all_items[0].get_indexer(pd.Index(gone['item'], dtype=object))
    known = (user >= 0) & (item >= 0)
    return dict(gone_user=user[known], gone_item=item[known])

def features(d, texts):
    "Attributes and the 2,000 most frequent words of all items."
    import pandas as pd, scipy.sparse as sp
    from llmrec.features import one_hot, soft_bins
    from sklearn.feature_extraction.text import CountVectorizer
    t = d.table.drop(columns=['item', 'title', 'text'], errors='ignore')
    parts = [soft_bins(t[c]) if pd.api.types.is_numeric_dtype(t[c]) else one_hot(t[c]) for c in t if t[c].notna().sum() > 1]
    words = CountVectorizer(min_df=2, max_features=2000, binary=True, dtype=np.float32).fit_transform(texts)
    return sp.hstack([present(p) for p in parts if p.shape[1] > 1] + [words]).tocsr()

def present(part):
    "Attributes as 0 and 1."
    import scipy.sparse as sp
    part = sp.csr_matrix(part, dtype=np.float32)
    part.data = (part.data > .3).astype(np.float32)
    part.eliminate_zeros()
    return part

def environment(envs, lib):
    "Python of a library's environment, made if it is not there."
    py = Path(envs).resolve()/lib/'bin'/'python'
    if not py.exists():
        print(f'making the environment of {lib}', flush=True)
        subprocess.run([sys.executable, '-m', 'venv', str(py.parents[1])], check=True)
        import sysconfig
        own = next((py.parents[1]/'lib').glob('python*'))/'site-packages'
        (own/'zz_shared.pth').write_text(sysconfig.get_path('purelib') + '\n')             # after its own: torch is not installed twice
        subprocess.run([str(py), '-m', 'pip', 'install', '-q', *REQUIRES[lib]], check=True)
    return str(py)

def run(a, name, system, folder):
    "One system on one set in a process of its own, unless WORK has its lists for this budget; None if it failed."
    out = folder/file_of(system)
    facts = Path(f'{out}.json')
    if system not in a.again and Path(f'{out}.npz').exists() and facts.exists():
        if json.loads(facts.read_text()).get('budget') == a.seconds: return out
    py = sys.executable if system in OWN else environment(a.envs, LIBRARY[system])
    cmd = [py, str(HERE), '--worker', system, name, str(folder), str(out), '--seconds', str(a.seconds), '--users', str(a.users)]
    cmd.insert(2, a.data)
    one = {k: '1' for k in ('OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'NUMEXPR_NUM_THREADS')}
    r = subprocess.run(cmd, capture_output=True, text=True, env=os.environ | one, cwd=folder)
    (folder/f'{out.name}.log').write_text(r.stdout[-20000:] + r.stderr[-20000:])
    if r.returncode: print(f'{name}, {system}: failed: {r.stderr.strip().splitlines()[-1:]}', flush=True)
    return out if out.with_suffix('.npz').exists() and not r.returncode else None

def judge(out, name, system, dom, split, gone, folder):
    "Evaluate lists by the one protocol; the row of the table."
    import pandas as pd
    from common import BUCKETS, judge_by
    top, f = np.load(f'{out}.npz')['top'], json.loads(Path(f'{out}.json').read_text())
    us, ids = test_users(split), dom.items['item'].to_numpy()
    if system in PEERS: us = us[np.load(folder/'order.npy')]
    r, c = np.nonzero(top >= 0)
    lists = pd.DataFrame(dict(user=us[r], item=ids[top[r, c]], rank=c))
    rep = judge_by(dom, split, gone)(lists, n_boot=1000, name=system)
    rep.to_json(f'{out}.report.json')
    iv, s = rep.intervals, rep.slices[(rep.slices['user'] == 'all')].set_index('item')
    row = dict(set=name, system=system, users=len(rep.per_user), items=len(ids), ndcg=rep['ndcg@10'], ndcg_lo=iv['ndcg@10'][0], ndcg_hi=iv['ndcg@10'][1],
               recall=rep['recall@10'], recall_lo=iv['recall@10'][0], recall_hi=iv['recall@10'][1])
    for c in BUCKETS:
        row |= {f'{k}[{c}]': s[v].get(c) for k, v in dict(rows='rows', ndcg='ndcg@10', lo='lo', hi='hi', recall='recall@10').items()}
    return row | {'fit_s': f['fit'], 'tuning_s': f['tuning'], 'score_s': f['score'], 'memory_mb': f['memory'], 'parameters': f['parameters'],
                  'settings': f['settings'], 'budget_s': f['budget'], 'setting': f['setting'], 'versions': f['versions']}

def versus(table, work):
    "llmrec minus each system, paired by user, with Holm's p, from the reports that are there."
    from llmrec.evaluation import Report, compare
    for name in table['set'].unique():
        own = lambda s: work/name/(file_of(s) + '.report.json')
        if not own(LEAD).exists(): continue
        reps = {s: Report.from_json(own(s)) for s in table.loc[table['set'] == name, 'system'] if own(s).exists()}
        if len(reps) < 2 or LEAD not in reps: continue
        c = compare({LEAD: reps.pop(LEAD)} | reps).table.set_index('b')
        for k, v in dict(diff='difference', diff_lo='lo', diff_hi='hi', p='p_holm').items():
            at = (table['set'] == name) & table['system'].isin(c.index)
            table.loc[at, k] = table.loc[at, 'system'].map(c[v])
    return table

LEAD = 'llmrec fast'

def file_of(system): return system.replace(': ', '-').replace(' ', '-')

@contextlib.contextmanager
def locked(path):
    "One process at a time reads and writes the table."
    import fcntl
    with open(f'{path}.lock', 'w') as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        yield

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
    p.add_argument('data', nargs='?')
    for k in ('envs', 'work'): p.add_argument(f'--{k}')
    p.add_argument('--out', default=str(HERE.with_suffix('.csv'))); p.add_argument('--sets', nargs='+', default=['ml-100k', 'beauty'])
    p.add_argument('--systems', nargs='+'); p.add_argument('--again', nargs='*', default=[], help='systems to run again though they are done')
    p.add_argument('--users', type=int, default=1500); p.add_argument('--seconds', type=float, default=60., help='of the processor, to tune one system on one set')
    p.add_argument('--show', action='store_true'); p.add_argument('--worker', nargs=4, help=argparse.SUPPRESS)
    a = p.parse_args()
    for k in ('data', 'work', 'out'):
        if getattr(a, k): setattr(a, k, str(Path(getattr(a, k)).resolve()))
    if a.worker:
        system, name, folder, out = a.worker
        return work_own(a, system, name, out) if system in OWN else work(system, folder, out, a.seconds)
    if a.show: return show(a.out)
    every = OWN + list(PEERS)
    for x in (a.systems or []) + a.again:
        if x not in every: p.error(f'no system {x!r}; there are {every}')
    for name in a.sets: run_set(a, name, a.systems or every)
    show(a.out)

def run_set(a, name, systems):
    "All systems of one set that are not done."
    from common import Table, write
    folder = Path(a.work)/name
    dom, split, gone = prepare(a, name, folder)
    for s in systems:
        if Table(a.out, ('set', 'system')).has(set=name, system=s) and s not in a.again: continue
        t = time.perf_counter()
        if not (out := run(a, name, s, folder)): continue
        row = judge(out, name, s, dom, split, gone, folder)
        with locked(a.out):                     # another run may have added rows meanwhile
            table = Table(a.out, ('set', 'system'))
            table.add([row])
            table.rows = versus(table.rows, Path(a.work)).sort_values(['set', 'ndcg'], ascending=[True, False], kind='stable')
            write(table.rows, a.out)
        print(f"{name}, {s}: NDCG@10 {row['ndcg']:.4f} [{row['ndcg_lo']:.4f}, {row['ndcg_hi']:.4f}]; {time.perf_counter() - t:.0f} s", flush=True)


if __name__ == '__main__': main()
