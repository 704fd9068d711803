"""Everything is where it should be: a whole `Recommender` on a second device that needs no card, and on a GPU where there is one."""
import json, os, subprocess, sys
from pathlib import Path
import numpy as np, pytest, torch
from llmrec import algebra
from llmrec.core import InputError, default_device

ROOT = Path(__file__).parents[1]
pytest.importorskip('torch.utils.backend_registration')
if not hasattr(torch.utils.backend_registration, '_setup_privateuseone_for_python_backend'): pytest.skip('PyTorch is too old', allow_module_level=True)

@pytest.fixture(scope='module')
def far():
    "What each task of `second_device.py` found, by name; one process of its own runs them all."
    env = os.environ | dict(PYTHONPATH=str(ROOT), LLMREC_CACHE=str(Path(os.environ.get('TMPDIR', '/tmp'))/'llmrec-far'))
    done = subprocess.run([sys.executable, str(ROOT/'tests'/'second_device.py')], env=env, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])

def test_the_encoder_runs_on_a_second_device(far):
    found = far['encoder']
    assert min(found['cosines']) > .9999 and found['places'] == ['far:0', 'cpu']

def test_a_whole_recommender_runs_on_a_second_device(far):
    found = far['whole']
    assert found['operations'] > 5_000
    assert {'TwoTower', 'SASRec', 'SmoothedSASRec', 'TextSASRec', 'EASE', 'SLIM', 'KernelTransfer'} <= set(found['experts'])
    for moment in ('fit', 'load', 'to', 'changed'): assert found['places'][moment] in (['far'], ['far:0'], ['far', 'far:0']), moment
    assert found['places']['back'] == ['cpu']
    for moment in ('loaded', 'on_cpu', 'moved', 'back'): assert found[moment] < 1e-4, (moment, found[moment])
    assert found['operations_of_cpu'] == 0               # loaded for the CPU, nothing is asked of the other device

def test_the_default_tries_its_network_on_a_second_device(far):
    found = far['trial']
    plan = '\n'.join(found['plan'])
    assert 'network can join: SASRec' in plan and 'source: helps' in plan and 'items without interactions' in plan
    assert 'SASRec' in found['experts'] and found['places'] in (['far'], ['far:0'], ['far', 'far:0']) and found['apart'] < 1e-3

def test_the_writer_of_item_ids_trains_on_a_second_device_and_writes_on_the_cpu(far):
    found = far['writer']
    assert found['places'] == ['far:0'] and found['operations'] > 500 and found['shape'][0] == 2

def test_closed_forms_of_a_second_device_are_those_of_the_cpu(far): assert max(far['closed'].values()) < 1e-5, far['closed']

def test_what_is_trained_on_a_second_device_is_what_is_trained_on_the_cpu(far):
    "Networks that are trained twice, an encoder's own layers, fine-tuning by every strategy and with every distance, a language model as judge."
    assert len(far['learners']) == 10
    for name, (apart, operations) in far['learners'].items(): assert apart < 1e-4 and operations > 100, (name, apart, operations)

def test_a_tensor_that_is_left_on_the_cpu_is_an_error(far):
    found = far['faults']
    assert len(found) == 5 and all('same device' in error for error in found.values()), found

# Dense algebra, on the CPU
def test_a_card_that_is_too_small_is_left_alone(monkeypatch, caplog):
    monkeypatch.setattr(algebra, 'free_memory', lambda device: 2**20)
    assert algebra.dense_device(2**21, 'EASE', 'cuda') is None and 'EASE takes' in caplog.text and 'computed on the CPU' in caplog.text
    assert algebra.dense_device(2**19, 'EASE', 'cuda') == torch.device('cuda')
    with default_device('cuda:1'): assert algebra.dense_device(8) == torch.device('cuda:1')
    assert algebra.dense_device(8, device='mps') is None                  # it has no float64

def test_the_environment_names_the_device(monkeypatch):
    monkeypatch.setenv('LLMREC_DEVICE', 'cpu')
    assert algebra.dense_device(8) is None
    monkeypatch.setenv('LLMREC_DEVICE', 'cuda:1')
    assert algebra.dense_device(8, device='cpu') is None
    monkeypatch.setattr(algebra, 'free_memory', lambda device: np.inf)
    assert algebra.dense_device(8) == torch.device('cuda:1')

def test_what_is_kept_is_let_go_with_its_array_and_computed_anew_for_another():
    x = np.ones((3, 2), np.float32)
    made = []
    def make():
        made.append(0)
        return len(made)
    assert algebra.kept(x, algebra.checksum(x), make) == algebra.kept(x, algebra.checksum(x), make) == 1
    x[0, 0] = 5
    assert algebra.kept(x, algebra.checksum(x), make) == 2
    key = id(x)
    del x
    assert not [k for k in algebra._KEPT if k[0] == key]

def test_whitening_follows_an_array_that_was_written_into():
    from llmrec.features import pca_features, partial_whiten
    x = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    for call in (partial_whiten, lambda x: np.abs(pca_features(x, 2))):
        call(x)
        x[:, 0] *= 9
        np.testing.assert_allclose(call(x), call(x.copy()), atol=1e-6)

@pytest.mark.parametrize('kind', ['f4', 'f8'])
def test_solves_and_inverses(kind):
    x = np.random.default_rng(0).normal(size=(20, 600)).astype(kind)      # more than one block of the mirrored half
    A = x.T @ x + np.eye(600, dtype=kind)
    right = np.linalg.inv(A.astype('f8'))
    for one in (A, torch.from_numpy(A)):
        np.testing.assert_allclose(algebra.fetch(algebra.inverse_spd(one + 0)), right, atol=1e-4)
        np.testing.assert_allclose(algebra.fetch(algebra.solve_spd(one + 0, one[:, :3] + 0)), np.eye(600)[:, :3], atol=1e-3)
    for bad in (-A, torch.from_numpy(-A)):
        for call in (algebra.inverse_spd, lambda A: algebra.solve_spd(A, A)):
            with pytest.raises(InputError, match='raise lam'): call(bad + 0)

def test_a_fit_leaves_the_device_of_accelerate_alone():
    "A learner on a second device keeps its batches there, whatever Accelerate is asked meanwhile; afterwards its device is as before."
    from accelerate import PartialState
    from llmrec.learner import Callback, DataLoaders, Learner, TensorLoader
    seen = []
    class Look(Callback):
        def before_batch(self, learn): seen.append((learn.acc.device.type, PartialState().device.type))
    before = PartialState(cpu=True).device
    loader = TensorLoader(np.zeros((4, 2), np.float32), np.zeros(4, np.int64), bs=2)
    with pytest.raises(Exception): Learner(torch.nn.Linear(2, 2), DataLoaders(loader), device='meta', cbs=[Look()]).fit(1)
    assert PartialState().device == before and all(x == ('meta', 'meta') for x in seen)

# On a card, where there is one
cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device')

@cuda
def test_a_recommender_on_a_card_scores_like_one_on_the_cpu():
    from llmrec import Recommender, make_synthetic_pair
    pair = make_synthetic_pair(0, n_users=(200, 100), n_items=(120, 60), n_rows=(12, 8), shared=.5)
    users = list(pair.target.log['user'].unique())
    card, cpu = (Recommender('minilm', budget='fast', device=device).fit(pair.target, pair.source) for device in ('cuda', 'cpu'))
    for a, b in zip(card.experts, cpu.experts):
        x, y = a.score(users), b.score(users)
        assert a.name == b.name and np.abs(x - y).max() <= 1e-3*np.abs(y).max(), a.name
    card.to('cpu')
    np.testing.assert_allclose(card.score(users), cpu.score(users), atol=.05)

@cuda
@pytest.mark.parametrize('n', [50, 2000])
def test_algebra_of_a_card(n):
    import scipy.sparse as sp
    X = sp.random(3*n, n, 20/n, 'csr', np.float32, random_state=0)
    X.data[:] = 1
    there = torch.device('cuda')
    np.testing.assert_allclose(algebra.fetch(algebra.gram(X, there)), algebra.gram(X), atol=1e-4)
    from llmrec.closed_form import ease
    with default_device('cuda'): a = ease(X, 10.)
    with default_device('cpu'): b = ease(X, 10.)
    np.testing.assert_allclose(a, b, atol=1e-5)
