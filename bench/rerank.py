"""A causal language model as re-ranker: what it adds to the recommender's list, with intervals, and what a request costs.

    pip install "llmrec[gguf,data,minilm]"
    python bench/rerank.py PATH_TO_MODEL --pool 10 --last 5 --rows 330   # bench/rerank.csv; a directory of transformers, a .gguf file or a hub id
    python bench/rerank.py PATH_TO_MODEL                                 # all users, pool of 20, eight films told: hours on one core

MovieLens latest-small, each user's last film for the test and the one before for the weights (`split_last`). The recommender (default experts,
MiniLM) is fitted on the training rows. The judge re-orders its first `--pool` films. Three orders: the recommender's; the same score with its
temperature fitted on the validation rows; score and language model together. Rows whose film is not in the pool count with NDCG 0 in all three.
Writes bench/rerank.csv, which the chapter reads. Intervals: bootstrap over users, paired.
"""
import argparse, time
from pathlib import Path
import numpy as np, pandas as pd
from common import write


def interval(x, n=2000, seed=0):
    i = np.random.default_rng(seed).integers(len(x), size=(n, len(x)))
    return np.percentile(x[i].mean(1), [2.5, 97.5])


def ece(p, y, bins=8):
    "Expected calibration error of the chances p (m, pool) of the items taken, in bins of equal size."
    q, hit = p.ravel(), (np.arange(p.shape[1]) == y[:, None]).ravel()
    return sum(abs(q[b].mean() - hit[b].mean())*len(b) for b in np.array_split(np.argsort(q), bins))/len(q)


def softmax(x): x = np.exp(x - x.max(1, keepdims=True)); return x/x.sum(1, keepdims=True)


def main():
    p = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    p.add_argument('model'); p.add_argument('--pool', type=int, default=20); p.add_argument('--last', type=int, default=8, help='films of the history that are told'); p.add_argument('--rows', type=int, default=10**6)
    p.add_argument('--dtype', default='float32'); p.add_argument('--device', default='cpu'); p.add_argument('--out', default=str(Path(__file__).parent/'rerank.csv'))
    a = p.parse_args()
    from llmrec.readers import load_movielens
    from llmrec.dataset import histories, select_users
    from llmrec.recommender import Recommender
    from llmrec.preprocess import split_last
    from llmrec.judge import LMScorer, Reranker
    from llmrec.vectors import conditional_logit
    d = load_movielens()
    s = split_last(d)
    rec = Recommender('minilm', 'target', budget='fast').fit(d.with_log(s.train))
    judge = LMScorer.from_pretrained(a.model, a.device, a.dtype, last=a.last, words='Films somebody watched, oldest first: {}. The next film:')
    n_par = sum(x.numel() for x in judge.model.parameters())
    column = lambda log: rec.data.all_items[0].get_indexer(pd.Index(log['item'], dtype=object))
    rr = Reranker(rec.fusion, judge, a.pool)
    print(rec.plan[-1], f'| judge: {n_par/1e6:.0f}M parameters, {a.dtype}', flush=True)
    valid = s.valid.iloc[:a.rows]
    rr.fit(histories(rec.data, valid['user']), column(valid))
    weights = lambda X: conditional_logit(X, rr.chosen, .01)[0]
    plain = weights(rr.lists[..., :1])
    print(f'weights on {len(rr.chosen)} lists: score {rr.beta[0]:.2f}, log-likelihood a token {rr.beta[1]:.2f}, what the history adds {rr.beta[2]:.3f}; score alone {plain[0]:.2f}', flush=True)
    rec.update(s.valid)
    rr.fusion = rec.fusion
    test = s.test.iloc[:a.rows]
    h, y = histories(rec.data, test['user']), column(test)
    c, sc = rr.first(h)
    own, X, wall, cpu = np.nonzero((c == y[:, None]).any(1))[0], [], [], []
    for i in own:
        t, u = time.perf_counter(), time.process_time()
        X.append(rr.features(select_users(h, [i]), c[i], sc[i])); wall.append(time.perf_counter() - t); cpu.append(time.process_time() - u)
    X, at = np.stack(X), (c == y[:, None])[own].argmax(1)
    kinds = {'recommender': softmax(X[..., 0]), 'its score, temperature fitted': softmax(X[..., :1] @ plain), 'language model alone': softmax(X[..., 1:] @ weights(rr.lists[..., 1:])), 'both': softmax(X @ rr.beta)}
    rows, gains = [], {}
    for k, q in kinds.items():
        rank = (q > q[np.arange(len(at)), at][:, None]).sum(1)
        g = np.zeros(len(y)); g[own] = np.where(rank < 10, 1/np.log2(rank + 2), 0); gains[k] = g
        nll = -np.log(q[np.arange(len(at)), at])
        lo, hi = interval(g - gains['recommender']); lo2, hi2 = interval(nll - (base if rows else nll)) if rows else (0, 0)
        if not rows: base = nll
        rows.append(dict(order=k, users=len(y), in_pool=len(at), ndcg10=g.mean(), gain=(g - gains['recommender']).mean(), low=lo, high=hi,
                         nats=nll.mean(), nats_low=lo2, nats_high=hi2, ece=ece(q, at)))
    f = pd.DataFrame(rows)
    f['seconds'] = [0., 0., np.median(cpu), np.median(cpu)]; f['judge'] = f'{Path(a.model).stem}, {n_par/1e6:.0f}M'; f['pool'] = a.pool
    print(f.round(4).to_string(index=False)); print(f'a request: median {np.median(wall):.2f} s wall, {np.median(cpu):.2f} s of one core')
    write(f.round(5), a.out, '%.10g')


if __name__ == '__main__': main()
