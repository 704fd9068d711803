"""Lists, judge, search and serving in numbers: empty places, categories by one rule, ids that do not race, scorers that can be copied."""
import copy
import pickle
import types
import warnings
from concurrent.futures import ThreadPoolExecutor
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from llmrec.lists import (
    TextIndex, calibrate, category_distribution, item_mask, kl_divergence, mmr, name_rows, rerank_calibrated,
    rerank_diverse, similar_items, top_columns, top_k)


def units(rng, *shape):
    x = rng.normal(size=shape)
    return x/np.linalg.norm(x, axis=-1, keepdims=True)


# lists

@pytest.mark.parametrize('n', [0, 1, 3, 8])
def test_a_list_has_always_k_places(n):
    "E19: recommend(k > n) gave (m, n)."
    rng = np.random.default_rng(n)
    scores = np.round(rng.normal(size=(4, n)), 1)
    scores[rng.random((4, n)) < .3] = -np.inf
    columns, found = top_columns(scores, 6)
    ids, same = top_k(scores, [f'i{j}' for j in range(n)], 6)
    assert columns.shape == found.shape == ids.shape == (4, 6)
    np.testing.assert_array_equal(found, same)
    for a in range(4):
        want = sorted(np.nonzero(np.isfinite(scores[a]))[0], key=lambda j: (-scores[a, j], j))[:6]
        assert columns[a].tolist() == want + [-1]*(6 - len(want))
        assert ids[a].tolist() == [f'i{j}' for j in want] + [None]*(6 - len(want))
        assert np.isneginf(found[a, len(want):]).all()


def test_ids_come_back_as_they_are():
    assert name_rows(np.array([1, 0]), np.array([7, 8])).tolist() == [8, 7]
    assert name_rows(np.array([1, -1]), ['a', 'b']).tolist() == ['b', None]
    assert name_rows(np.array([-1]), []).tolist() == [None]


def test_reranked_lists_do_not_repeat_items():
    "E7: three candidates, five places."
    rng = np.random.default_rng(0)
    scores = np.full((2, 9), -np.inf)
    scores[0, [1, 4, 7]] = 3, 2, 1
    columns, s = top_columns(scores, 6)
    member, mix = sp.csr_matrix(np.eye(3)[np.arange(9) % 3]), np.full((2, 3), 1/3)
    for again, t in (rerank_diverse(columns, s, units(rng, 9, 4), 5, .5),
                     rerank_calibrated(columns, s, member, mix, 5, .5)):
        assert again.shape == t.shape == (2, 5)
        assert sorted(again[0, :3]) == [1, 4, 7] and (again[0, 3:] == -1).all() and (again[1] == -1).all()
        assert np.isneginf(t[again < 0]).all()
        assert (t[0, :3] == scores[0, again[0, :3]]).all()


@pytest.mark.parametrize('lam', [0, .3, 1])
def test_mmr_is_its_formula(lam):
    rng = np.random.default_rng(1)
    scores, vectors = rng.normal(size=(5, 12)), units(rng, 5, 12, 4)
    scores[rng.random(scores.shape) < .3] = -np.inf
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        got = mmr(scores, vectors, 14, lam)
    assert got.shape == (5, 14)
    for s, V, places in zip(scores, vectors, got):
        left, S = [j for j in range(12) if np.isfinite(s[j])], []
        low, high = min(s[left]), max(s[left])
        while left:
            gain = {j: (1 - lam)*(s[j] - low)/(high - low) - lam*max((V[i] @ V[j] for i in S), default=0) for j in left}
            if not S: gain = {j: s[j] for j in left}
            S.append(max(left, key=gain.get)); left.remove(S[-1])
        assert places.tolist() == S + [-1]*(14 - len(S))


CATEGORIES = ['Action|Comedy', 'Comedy', ['War', 'Action'], None, 'War;Drama', 'Drama']


def world(categories=CATEGORIES, seed=0):
    "A small index with categories of every form."
    from llmrec.dataset import make_dataset
    rng = np.random.default_rng(seed)
    items = pd.DataFrame(dict(item=[f'i{j}' for j in range(len(categories))],
                              title=[f'thing {j % 3} of {j % 2}' for j in range(len(categories))], category=categories))
    log = pd.DataFrame(dict(user=rng.integers(12, size=60), item=items['item'].to_numpy()[rng.integers(len(items), size=60)]))
    return make_dataset(log.drop_duplicates(), items)


def test_calibration_optimises_what_miscalibration_measures():
    "E15: three readings of 'Action|Comedy' were one too many."
    from llmrec.metrics import miscalibration
    data = world()
    hist = types.SimpleNamespace(item=data.hist.item, user=data.hist.user, __len__=None)
    mix, member = category_distribution(data, data.hist)
    assert member.shape == (6, 4) and member.toarray()[0].tolist() == [.5, .5, 0, 0] and member.toarray()[3].sum() == 0
    past = sp.csr_matrix((np.ones(len(hist.item)), (hist.user, hist.item)), (len(data.hist), 6))
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(len(data.hist), 6))
    columns, s = top_columns(scores, 6)
    plain = columns[:, :3]
    best, _ = rerank_calibrated(columns, s, member, mix, 3, .99)
    total = np.stack([member[row].toarray().sum(0) for row in best])
    measured = miscalibration(best, past, member)
    np.testing.assert_allclose(kl_divergence(mix, total/total.sum(1, keepdims=True)), measured, atol=1e-5)
    assert measured.mean() < .6*np.nanmean(miscalibration(plain, past, member))


def test_categories_of_a_cold_start_user_are_those_of_all():
    from llmrec.dataset import select_users
    data = world()
    mix, member = category_distribution(data, select_users(data.hist, [-1, 0]))
    want = data.counts @ member.toarray()
    np.testing.assert_allclose(mix[0], want/want.sum(), atol=1e-5)
    with pytest.raises(ValueError, match="'colour' is not in the item table"): category_distribution(data, data.hist, 'colour')


def test_rules_read_categories_as_all_else_does():
    items = world().table
    assert item_mask(items, category='Action').tolist() == [True, False, True, False, False, False]
    assert item_mask(items, category='Drama').tolist() == [False, False, False, False, True, True]
    assert item_mask(items, category='Action|Comedy').tolist() == [True] + [False]*5
    with pytest.raises(ValueError, match="'Western' is not in"): item_mask(items, category='Western')


@pytest.mark.parametrize('lam', [-.1, 1.5])
def test_lam_is_a_share(lam):
    with pytest.raises(ValueError, match='lam is'): mmr(np.zeros((1, 2)), np.zeros((1, 2, 3)), 1, lam)
    with pytest.raises(ValueError, match='lam is'): calibrate(np.zeros((1, 2)), np.zeros((1, 2, 3)), np.ones((1, 3)), 1, lam)


def test_a_text_query_does_not_normalise_the_catalogue(monkeypatch):
    import llmrec.lists as lists
    rng = np.random.default_rng(0)
    vectors, q = rng.normal(size=(500, 16)) + 1, rng.normal(size=16)
    index, rows = TextIndex(vectors), []
    normal = lists.l2_normalize
    def spy(x, *args):
        rows.append(len(x))
        return normal(x, *args)
    monkeypatch.setattr(lists, 'l2_normalize', spy)
    a, b = q - vectors.mean(0), vectors - vectors.mean(0)
    np.testing.assert_allclose(index.query(q)[0], b @ a/np.linalg.norm(a)/np.linalg.norm(b, axis=1), atol=1e-6)
    assert rows == [1]


def test_similar_items_are_others():
    v = units(np.random.default_rng(0), 4, 3)
    rows, s = similar_items(v, np.array([2]), 5, np.arange(4) != 0)
    assert sorted(rows[0, :2]) == [1, 3] and (rows[0, 2:] == -1).all() and np.isneginf(s[0, 2:]).all()


# serving

class EvenGate:
    "A gate with a weight for every expert that depends on evidence."
    def __init__(self, n): self.n = n
    def weights(self, g_item, g_user):
        g = g_item + 0*g_user
        return torch.stack([.2 + .1*e + .05*g for e in range(self.n)], -1)
    def offset(self, g_item, g_user): return .3*g_item + 0*g_user


class TinyFusion:
    "What serving needs of a fusion, with scores by the formula."
    def __init__(self, data, experts): self.data, self.experts, self.gate = data, experts, EvenGate(len(experts))
    def score_histories(self, hist):
        from llmrec.dataset import seen_items
        from llmrec.fusion import item_log_counts, standardize_scores, user_log_counts
        n = self.data.n_target
        g = torch.from_numpy(item_log_counts(self.data.counts[:n]))[None]
        m = torch.from_numpy(user_log_counts(hist.lengths))[:, None]
        keep = ~seen_items(hist, n)
        z = np.stack([standardize_scores(e.score_histories(hist), keep) for e in self.experts], -1)
        return ((self.gate.weights(g, m).numpy()*z).sum(-1) + self.gate.offset(g, m).numpy()).astype(np.float32)


@pytest.fixture(scope='module')
def fusion():
    from llmrec.data import make_synthetic_pair
    from llmrec.dataset import make_dataset
    from llmrec.baselines import ItemKNN, Popularity, RepeatConsumption
    from llmrec.closed_form import BilinearContent, EASE, KernelTransfer, Markov, NextItemRidge
    pair = make_synthetic_pair(3, n_users=(50, 60), n_items=(200, 40), n_rows=(20, 8), shared=.4)
    n = len(pair.target.items) + len(pair.source.items)
    data = make_dataset(pair.target.log, pair.target.items, [pair.source],
                        np.random.default_rng(0).normal(size=(n, 12)).astype('f4'))
    kernel = KernelTransfer(rank=8)
    experts = [kernel, NextItemRidge(kernel), BilinearContent(dim=12), Popularity(), EASE(50., 5.), ItemKNN(10), Markov(),
               RepeatConsumption()]
    for e in experts: e.fit_dataset(data)
    return TinyFusion(data, experts)


def everyone(fusion):
    from llmrec.dataset import select_users
    return select_users(fusion.data.hist, np.r_[-1, 0:40])


def test_served_scores_are_exact_and_lists_complete(fusion):
    from llmrec.dataset import seen_items
    from llmrec.search import recall
    from llmrec.serve import RequestScorer
    hist, n = everyone(fusion), fusion.data.n_target
    s = fusion.score_histories(hist)
    allowed = np.arange(n) % 3 > 0
    for exclude_seen in (False, True):
        for ok in (None, allowed):
            shown = np.where(seen_items(hist, n) & exclude_seen, -np.inf, s)
            if ok is not None: shown[:, ~ok] = -np.inf
            columns, scores = RequestScorer(fusion, rank=6, pool=60).best(hist, 5, exclude_seen, ok)
            np.testing.assert_allclose(scores, np.take_along_axis(s, columns, 1), atol=1e-4)
            assert recall(columns, top_columns(shown, 5)[0]) > .95
            whole = RequestScorer(fusion, pool=n).best(hist, 5, exclude_seen, ok)
            np.testing.assert_allclose(whole[1], top_columns(shown, 5)[1], atol=1e-4)


def test_a_served_list_ends_where_items_do(fusion):
    from llmrec.serve import RequestScorer
    columns, scores = RequestScorer(fusion, pool=40).best(everyone(fusion), 4, False, np.arange(fusion.data.n_target) == 3)
    assert (columns == [[3, -1, -1, -1]]).all() and np.isneginf(scores[:, 1:]).all()


def test_a_scorer_is_copied_and_pickled(fusion):
    "E19: cannot pickle '_thread.lock'."
    from llmrec.serve import RequestScorer
    hist, server = everyone(fusion), RequestScorer(fusion, rank=6, pool=50)
    want = server.best(hist, 5)
    for other in (copy.deepcopy(server), copy.copy(server), pickle.loads(pickle.dumps(server))):
        got = other.best(hist, 5)
        assert other.lock is not server.lock and other.space is not server.space
        np.testing.assert_array_equal(got[0], want[0])
        np.testing.assert_allclose(got[1], want[1], atol=1e-5)


def test_threads_share_a_scorer(fusion):
    from llmrec.dataset import select_users
    from llmrec.serve import RequestScorer
    hist, server = everyone(fusion), RequestScorer(fusion, rank=6, pool=50)
    want = server.best(hist, 5)[0]
    ask = lambda u: server.best(select_users(hist, [u]), 5)[0][0]
    with ThreadPoolExecutor(8) as pool: got = list(pool.map(ask, [*range(len(hist))]*5))
    np.testing.assert_array_equal(np.stack(got), np.tile(want, (5, 1)))


def test_renew_shares_what_is_the_same(fusion):
    from llmrec.serve import RequestScorer
    hist, server = everyone(fusion), RequestScorer(fusion, rank=6, pool=50)
    before = server.best(hist, 5)
    experts = [copy.copy(e) for e in fusion.experts]
    experts[2].phi = 2*experts[2].phi                            # rebound, as the protocol asks
    later = server.renew(TinyFusion(fusion.data, experts))
    assert [a.sketch is b.sketch for a, b in zip(server.parts[:3], later.parts)] == [True, True, False]
    assert later.parts[1].cross is server.parts[1].cross and later.parts[0].sketch is later.parts[1].sketch
    s = later.fusion.score_histories(hist)
    columns, scores = later.best(hist, 5, False)
    np.testing.assert_allclose(scores, np.take_along_axis(s, columns, 1), atol=1e-4)
    np.testing.assert_array_equal(server.best(hist, 5)[0], before[0])


# search

def test_qdrant_ids_neither_race_nor_overwrite():
    pytest.importorskip('qdrant_client')
    from llmrec.search import QdrantIndex, point_id
    eye = np.eye(6, dtype='f4')
    index = QdrantIndex(eye[:3], ['a', 'b', 'c']).delete(['a']).add(eye[3:4], ['d'])
    assert sorted(index.search(np.ones((1, 6)), 3)[0][0]) == ['b', 'c', 'd']     # 'd' used to take the place of 'c'
    other = QdrantIndex.__new__(QdrantIndex)                                     # a second process, which counted before
    vars(other).update(vars(index))
    index.add(eye[4:5], ['e'])
    other.add(eye[5:], ['f'])
    assert len(index) == 5
    assert index.add(2*eye[1:2], ['b']).search(eye[1:2], 1)[1][0, 0] == 2 and len(index) == 5
    assert point_id(7) != point_id('7')
    with pytest.raises(ValueError, match='stands twice'): index.add(eye[:2], ['x', 'x'])


def test_qdrant_is_asked_in_batches_for_ids_alone(monkeypatch):
    pytest.importorskip('qdrant_client')
    from llmrec.search import ExactIndex, QdrantIndex
    rng = np.random.default_rng(0)
    V, ids = units(rng, 80, 8).astype('f4'), np.arange(80)*3
    index = QdrantIndex(V, ids, payload=pd.DataFrame(dict(text=['long']*80, half=np.arange(80) % 2)))
    asked, ask = [], index.client.query_batch_points
    def spy(name, requests):
        asked.append(len(requests))
        assert all(r.with_payload == ['_id'] for r in requests)
        return ask(name, requests)
    monkeypatch.setattr(index.client, 'query_batch_points', spy)
    found, s = index.search(V[:50], 4, exclude=ids[:50, None], batch=20, half=1)
    assert asked == [20, 20, 10]
    want, t = ExactIndex(V, ids).search(V[:50], 4, np.arange(80) % 2 == 1, np.arange(50)[:, None])
    assert (found == want).all()
    np.testing.assert_allclose(s, t, atol=1e-5)


# judge

@pytest.fixture(scope='module')
def tiny_lm(tmp_path_factory):
    from transformers import AutoModelForCausalLM, GPT2Config
    from llmrec.encode import train_tokenizer
    words = [f'thing {j % 3} of {j % 2}' for j in range(20)]
    tokenizer = train_tokenizer(words, 300, True, 64)
    torch.manual_seed(0)
    config = GPT2Config(n_embd=16, n_layer=1, n_head=2, n_positions=512, vocab_size=len(tokenizer), bos_token_id=0,
                        eos_token_id=0, initializer_range=.3)
    folder = tmp_path_factory.mktemp('lm')
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize('kind', ['LMScorer', 'LMWriter'])
def test_scorer_and_writer_go_to_a_device_in_a_dtype(tiny_lm, kind, monkeypatch):
    import llmrec.judge as judge
    load = getattr(judge, kind).from_pretrained
    assert load(tiny_lm, device='cpu', dtype='bfloat16').model.dtype == torch.bfloat16
    assert load(tiny_lm, device='meta').model.device.type == 'meta'
    monkeypatch.setenv('LLMREC_DEVICE', 'meta')
    there = load(tiny_lm)
    assert there.model.device.type == 'meta' and there.model.dtype == torch.float32 and not there.model.training


def test_reranker_weighs_in_columns(tiny_lm, fusion):
    from llmrec.dataset import select_users
    from llmrec.judge import LMScorer, Reranker
    hist = select_users(fusion.data.hist, np.arange(40))
    before = fusion.data.hist.item.copy()
    judge = LMScorer.from_pretrained(tiny_lm, device='cpu', last=2)
    reranker = Reranker(fusion, judge, pool=6)
    first, scores = reranker.first(hist)
    columns, chances = reranker.fit(hist, first[:, 1]).recommend(hist, 4)
    assert columns.shape == chances.shape == (40, 4) and (np.diff(chances, axis=1) <= 0).all()
    assert all(set(a) <= set(b) for a, b in zip(columns, first))
    np.testing.assert_array_equal(fusion.data.hist.item, before)
    with pytest.raises(ValueError, match='at least 20'): Reranker(fusion, judge, 6).fit(hist, np.full(40, -1))
    with pytest.raises(ValueError, match='smaller pool'): reranker.first(hist, np.arange(fusion.data.n_target) < 3)
