"""bench/peers.py hands every system the same rows, masks the same items, and judges as `evaluate` does."""
import json, sys
from pathlib import Path
import numpy as np, pandas as pd, pytest
from llmrec.evaluation import evaluate
from llmrec.preprocess import Split

sys.path.insert(0, str(Path(__file__).resolve().parents[1]/'bench'))
import peers


@pytest.fixture
def folder(tmp_path):
    "40 people, 12 target items (0 … 11), 8 of the source; the last target row of each is held out, a source row comes after it."
    g = np.random.default_rng(0)
    user = np.repeat(np.arange(40), 7)
    rows = [np.concatenate([g.permutation(12)[:4], 12 + g.permutation(8)[:2], g.permutation(8)[:1] + 12]) for _ in range(40)]
    item = np.concatenate([np.concatenate([r[:3], r[4:6], r[3:4], r[6:]]) for r in rows])
    held = np.tile([False]*5 + [True, False], 40)
    np.savez(tmp_path/'rows.npz', user=user, item=item, held=held, n=12, N=20, U=41, test=np.arange(41)) # 40 is known to nobody
    return tmp_path

def test_tuning_never_sees_held_out_or_later_rows(folder):
    D = peers.Data(folder)
    u, i = D.rows(False)
    assert len(u) == 40*5 and not set(zip(u, i)) & set(zip(D.user[D.held], D.item[D.held]))
    assert len(D.rows(True)[0]) == 40*7 and (D.rows(True, joint=False)[1] < 12).all()

def test_lists_hold_new_target_items_once(folder):
    D = peers.Data(folder)
    X = peers.matrix(*D.rows(True, False), D.U, D.n)
    top = peers.best(lambda us: np.tile(np.arange(12.), (len(us), 1)), D.test, X, 15)
    for u, t in enumerate(top):
        t = t[t >= 0]
        assert sorted(t, reverse=True) == list(t) and set(t) == set(range(12)) - set(X[u].indices)
    assert (top[40] == [*range(11, -1, -1), -1, -1, -1]).all()

def test_ndcg_is_that_of_evaluate():
    g = np.random.default_rng(1)
    top = np.stack([g.permutation(30)[:10] for _ in range(50)])
    test = pd.DataFrame(dict(user=np.repeat(np.arange(50), 3), item=np.concatenate([g.permutation(30)[:3] for _ in range(50)])))
    split = Split(test[:0], test[:0], test, dict(name='toy'))
    lists = pd.DataFrame(dict(user=np.repeat(np.arange(50), 10), item=top.ravel(), rank=np.tile(np.arange(10), 50)))
    rep = evaluate(lists, split, items=pd.DataFrame(dict(item=np.arange(30), title='x')), audit=False, beyond=False, n_boot=0)
    assert abs(peers.ndcg(top, test.user.to_numpy(), test.item.to_numpy()) - rep['ndcg@10']) < 1e-9

def test_a_peer_from_rows_to_lists(folder):
    pytest.importorskip('implicit')
    peers.work('implicit: ItemKNN', folder, folder/'out', 5.)
    top, facts = np.load(folder/'out.npz')['top'], json.loads((folder/'out.json').read_text())
    assert top.shape == (41, peers.TOP) and facts['settings'] > 1 and facts['memory'] > 1 and 'implicit' in facts['versions']
    seen = peers.matrix(*peers.Data(folder).rows(True, False), 41, 12)
    assert not any(set(t) & set(seen[u].indices) for u, t in enumerate(top))
    assert (top[40][:3] >= 0).all()                                # who is not known gets what is popular

@pytest.mark.parametrize('system', ['irspack: RP3beta', 'irspack: iALS', 'LensKit: ALS', 'RecBole: BPR', 'RecBole: SASRec'])
def test_a_peer_with_packages_of_its_own(folder, system, tmp_path, monkeypatch):
    "Where its library is installed: lists of new items, whatever was tried."
    pytest.importorskip(peers.LIBRARY[system])
    monkeypatch.setattr('sys.argv', ['peers.py'])                  # RecBole reads it
    peers.work(system, folder, tmp_path/'out', 1.)
    top = np.load(tmp_path/'out.npz')['top']
    seen = peers.matrix(*peers.Data(folder).rows(True, False), 41, 12)
    assert not any(set(t[t >= 0]) & set(seen[u].indices) for u, t in enumerate(top)) and (top[:, 0] >= 0).all()

def test_the_file_that_recbole_reads_has_its_name():
    "RecBole looks for `x/x.inter`; a change of names had made it `x/inter`, and all its settings failed."
    assert "(Path(d)/'x'/'x.inter').write_text" in Path(peers.__file__).read_text()

def test_settings_begin_with_the_first_values():
    s = peers.product(a=[1, 2], b=['x', 'y'])
    assert s[0] == dict(a=1, b='x') and len(s) == 4 and s[-1] == dict(a=2, b='y')

def test_tiger_from_rows_to_lists(folder, monkeypatch):
    pytest.importorskip('cornac')
    np.save(folder/'vectors.npy', np.random.default_rng(0).normal(size=(20, 8)).astype(np.float32))
    tiny = dict(n_epochs=1, rqvae_num_levels=2, rqvae_codebook_size=4, d_model=16, d_ff=16, num_heads=2, d_kv=8, num_enc_layers=1,
                num_dec_layers=1, max_len=4, joint=True)
    monkeypatch.setitem(peers.PEERS, 'Cornac: TIGER', (peers.cornac_tiger, lambda D: [tiny]))
    peers.work('Cornac: TIGER', folder, folder/'out', 5.)
    top, facts = np.load(folder/'out.npz')['top'], json.loads((folder/'out.json').read_text())
    assert top.shape == (41, peers.TOP) and 'cornac' in facts['versions'] and facts['parameters'] > 0
    seen = peers.matrix(*peers.Data(folder).rows(True, False), 41, 12)
    assert not any(set(t) & set(seen[u].indices) for u, t in enumerate(top)) and (top[0] >= 0).sum() == 8

@pytest.mark.parametrize('system', peers.PEERS)
def test_each_library_has_twenty_settings_the_defaults_first(system):
    from types import SimpleNamespace
    D = SimpleNamespace(item=np.arange(5), user=np.arange(5), n=5, n_items=5)
    grid = peers.PEERS[system][1](D)
    assert len(grid) >= 20 and len({json.dumps(g) for g in grid}) == len(grid)

def test_our_models_have_twenty_settings_too():
    import inspect
    closures = [(n, inspect.getclosurevars(f).nonlocals) for n, f in peers.own_systems().items() if n.startswith('ours')]
    assert len(closures) == 6 and all(len(c['grid']) >= 20 for _, c in closures)

def test_one_rule_for_all():
    "In the table: the same budget on a set, twenty settings or the seconds spent; no average over sets, and each set has six models of libraries or more."
    path = Path(peers.__file__).with_suffix('.csv')
    table = pd.read_csv(path)
    assert not table.duplicated(['set', 'system']).any() and (table.groupby('set').budget_s.nunique() == 1).all()
    assert (table.groupby('set')[['users', 'items']].nunique() == 1).all().all()
    searched = table[table.system.isin(peers.PEERS) | table.system.str.startswith('ours')]
    enough = (searched.settings >= 20) | (searched.tuning_s >= .75*searched.budget_s)
    assert enough.all(), searched[~enough][['set', 'system', 'settings', 'tuning_s', 'budget_s']]
    assert table[table.system.isin(peers.PEERS)].groupby('set').size().min() >= 6

def test_what_the_split_took_away_is_no_candidate(folder):
    "Lists of a library leave it out, in tuning and at the end."
    z = dict(np.load(folder/'rows.npz'))
    np.savez(folder/'rows.npz', **z, gone_user=np.array([0, 0, 3]), gone_item=np.array([7, 8, 2]))
    D = peers.Data(folder)
    for held in (False, True):
        no = D.no_candidates(held)
        assert no[0, 7] and no[0, 8] and no[3, 2] and no.shape == (41, 12)
        assert set(zip(*D.rows(held, False))) <= set(zip(*no.nonzero()))
