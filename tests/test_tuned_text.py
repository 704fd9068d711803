"""Text vectors tuned on behaviour: the loss by hand, items that play new, and what happens where there is little to learn from."""
import numpy as np, pandas as pd, pytest, torch
from llmrec import Recommender
from llmrec.baselines import Content, Popularity
from llmrec.core import InputError
from llmrec.data import Domain
from llmrec.dataset import insert_items, make_dataset
import llmrec.tuned_text as tuned_text
from llmrec.tuned_text import (
    DistilledText, MappedText, TunedNet, TunedText, contrastive_loss, draw_from_group, found_again, item_groups)

def shop(n_users=80, own=True, seed=0, n=40):
    "A source and a target of `n` items each, in eight kinds that the first eight numbers of a vector name quietly."
    rng = np.random.default_rng(seed)
    kind = np.tile(np.arange(8), n//4)
    V = np.concatenate([.3*np.eye(8)[kind], rng.normal(size=(2*n, 8))], 1).astype(np.float32)
    def log(first, users):
        rows = [(u, first + j) for u in users for j in rng.permutation(np.nonzero(kind[:n] == u % 8)[0])[:6]]
        return pd.DataFrame(rows, columns=['user', 'item']).assign(time=lambda t: np.arange(len(t)))
    items = lambda first: pd.DataFrame(dict(item=np.arange(first, first + n), title='x'))
    source = Domain('source', log(1000, range(n_users)), items(1000))
    target = Domain('target', log(0, range(n_users if own else 0)), items(0))
    return target, source, V, kind

def index(**kw):
    target, source, V, kind = shop(**kw)
    return make_dataset(target.log, target.items, source, V), kind

def test_loss_is_the_naive_one():
    rng = np.random.default_rng(0)
    logits, pairs = torch.tensor(rng.normal(size=(4, 8))), torch.tensor([[1, 2], [3, 1], [1, 4], [5, 6]])
    items, values = pairs.T.reshape(-1), []
    for i in range(4):
        open_columns = [j for j in range(8) if j == i or items[j] != pairs[i, 0]]
        values.append(-logits[i, i] + torch.logsumexp(logits[i, open_columns], 0))
    assert float(contrastive_loss(logits, pairs)) == pytest.approx(float(sum(values)/4))

def test_an_item_of_the_same_group_is_another_one_if_there_is_one():
    group = np.array([3, 0, 3, 1, 0, 3])
    drawn = np.array([draw_from_group(np.arange(6), group, np.random.default_rng(s)) for s in range(40)])
    assert (group[drawn] == group).all()
    assert (drawn[:, [0, 1, 2, 4, 5]] != [0, 1, 2, 4, 5]).all() and (drawn[:, 3] == 3).all()
    assert {2, 5} == set(drawn[:, 0])
    assert len(draw_from_group(np.array([], int), group, np.random.default_rng(0))) == 0

def test_groups_are_categories_or_clusters():
    data, _ = index()
    data.table['category'] = ['a|b', 'a', 'c', 'c']*20
    assert item_groups(data, data.vectors)[:4].tolist() == [0, 0, 1, 1]
    del data.table['category']
    assert len(item_groups(data, data.vectors)) == 80

def test_items_that_play_new_teach_nothing():
    data, _ = index()
    expert = TunedText()
    source, target, valid = expert.examples(data, data.vectors)
    new = np.random.default_rng(0).random(80) < .1
    assert not new[source[1][:, 0]].any() and not new[target[1][:, 0]].any() and new[valid[1][:, 0]].all()
    assert (source[1][:, 0] >= 40).all() and (target[1][:, 0] < 40).all()

def test_frozen_map_is_content():
    data, _ = index()
    np.testing.assert_allclose(MappedText(5.).fit_dataset(data).score_histories(data.hist),
                               Content(5.).fit_dataset(data).score_histories(data.hist), atol=1e-5)

def test_the_source_alone_teaches_a_target_without_interactions():
    data, kind = index(own=False, n_users=400, n=160)
    expert = TunedText(bs=64).fit_dataset(data)
    scores, frozen = (x.score_histories(data.hist) for x in (expert, MappedText().fit_dataset(data)))
    own = np.asarray(data.users, int)[:, None] % 8 == kind[None, :160]
    reach = lambda s: np.take_along_axis(own, np.argsort(-s, 1)[:, :10], 1).mean()
    assert expert.found['source'] > expert.found['frozen'] and 'target' not in expert.found
    assert reach(scores) > reach(frozen) + .1

def test_what_does_not_help_is_undone(monkeypatch):
    data, _ = index()
    monkeypatch.setattr(tuned_text, 'found_again', lambda *_: .5)
    expert = TunedText(epochs=1, bs=64).fit_dataset(data)
    np.testing.assert_allclose(expert.M, np.eye(len(expert.M)))

def test_too_few_interactions_leave_the_text_as_it_is():
    data, _ = index(n_users=3)
    expert = TunedText().fit_dataset(data)
    np.testing.assert_allclose(expert.M, np.eye(len(expert.M)))

def test_found_again_counts_ties_against_itself():
    net = TunedNet(np.array([[1, 0], [1, 0], [0, 1]], np.float32))
    found = found_again(net, np.array([[1, 0], [0, 1]], np.float32), np.array([[0, 1], [2, 1]]))
    assert found == pytest.approx(1)
    found = found_again(net, np.array([[1, 0], [1, 0]], np.float32), np.array([[0, 1], [1, 2]]))
    assert found == pytest.approx(1/np.log2(3))

@pytest.mark.parametrize('make', [MappedText, lambda: TunedText(epochs=1, bs=64), lambda: DistilledText(rank=4)])
def test_a_new_item_reads_like_its_twin(make):
    data, _ = index()
    expert = make().fit_dataset(data)
    before = expert.score_histories(data.hist)
    more = insert_items(data, data.table.iloc[:1].assign(item='new'), data.vectors[:1])
    expert.add_items(more, 1)
    after = expert.score_histories(more.hist)
    np.testing.assert_allclose(after[:, :40], before, atol=1e-5)
    np.testing.assert_allclose(after[:, 40], before[:, 0], atol=1e-5)

@pytest.mark.parametrize('expert', [MappedText(), TunedText(), DistilledText()])
def test_without_vectors_the_error_says_what_to_pass(expert):
    target, source, _, _ = shop()
    with pytest.raises(InputError, match=f'{type(expert).__name__} needs vectors: pass vectors='):
        expert.fit_dataset(make_dataset(target.log, target.items, source))

def test_it_enters_the_fusion_by_name_and_comes_back_from_a_file(tmp_path):
    target, source, V, _ = shop()
    make = lambda data, budget, seed: [Popularity(), TunedText(epochs=1, bs=64)]
    rec = Recommender(encoder=None, experts=make, budget='fast').fit(target, source, vectors=dict(text=V))
    assert [x.name for x in rec.experts] == ['Popularity', 'TunedText']
    rec.save(tmp_path/'model')
    back = Recommender.load(tmp_path/'model')
    np.testing.assert_allclose(back.score([0, 1, 2]), rec.score([0, 1, 2]), atol=1e-5)
