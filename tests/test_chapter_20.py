"""Hard cases of chapter 20 (explanations)."""
import re
from types import SimpleNamespace
import numpy as np
import pandas as pd
import pytest
import torch
from fastcore.test import ExceptionExpected, test_close as close, test_eq as equal
from llmrec.baselines import Content, Popularity, UserKNN
from llmrec.closed_form import EASE
from llmrec.core import InputError, l2_normalize
from llmrec.data import Domain, make_synthetic_pair
from llmrec.dataset import histories, histories_from_items, mask_interactions, seen_items, select_users
from llmrec.explain import (
    TokenAttributions, _pieces, content_of, cosine_of_tokens, deletion, encoded_text, explain,
    interaction_scores, token_integrated_gradients)
from llmrec.features import partial_whiten, whitening_map
from llmrec.metrics import rank_of_target
from llmrec.recommender import Recommender


@pytest.fixture(scope='module')
def world():
    "Films that nobody rated, users who only read, and a fitted recommender."
    pair = make_synthetic_pair()
    hidden = pair.target.items.item[:5].tolist()
    readers = pair.shared_users[:5]
    log = pair.target.log[~pair.target.log.item.isin(hidden) & ~pair.target.log.user.isin(readers)]
    rec = Recommender('tfidf', budget='fast').fit(pair.target.with_log(log), pair.source)
    people = [*log.user.unique()[:4], *readers[:2], 'a newcomer']
    return SimpleNamespace(pair=pair, hidden=hidden, readers=readers, log=log, rec=rec, people=people)


def test_content_parts_are_the_literal_formula(world):
    rec, people = world.rec, world.people
    def naive_content(e, h, j):
        v = partial_whiten(e.data.vectors, e.whitening)
        w = [2**(-(len(h.item) - 1 - r)/e.half_life) for r in range(len(h.item))]
        u = sum(x*v[i] for x, i in zip(w, h.item))
        return [x*(v[i] @ v[j])/np.linalg.norm(u) for x, i in zip(w, h.item)]
    h = histories(rec.data, people[:1])
    e = Content(3.).fit_dataset(rec.data)
    D, _ = interaction_scores(e, h)
    for j in range(10): close(D[:, j], naive_content(e, h, j), eps=1e-4)


def test_parts_add_up_by_every_way(world):
    rec, people, hidden = world.rec, world.people, world.hidden
    def check_sums(u, item):
        y = rec.explain(u, item)
        s = rec.score([u])[0, rec.data.all_items[0].get_loc(item)]
        start = y.about['offset']
        close(y.score, s, eps=1e-5)
        close(y.parts['part'].sum(), s, eps=1e-5)
        close(y.rows['part'].sum() + y.experts['rest'].sum() + start, s, eps=1e-5)
        close(y.experts['part'].sum() + start, s, eps=1e-5)

    for u in people:
        for item in [hidden[0], hidden[3], *rec.items[[7, 30, 60, 90]]]: check_sums(u, item)


def test_who_is_unknown_has_no_interactions_and_a_reader_those_of_the_source(world):
    rec, people, hidden, readers = world.rec, world.people, world.hidden, world.readers
    equal(len(rec.explain('a newcomer', hidden[0]).rows), 0)
    equal(set(rec.explain(readers[0], rec.items[30]).rows.domain), {'source'})
    with ExceptionExpected(InputError, 'not in the catalogue'): rec.explain(people[0], 'no such film')


def test_ranks_are_those_of_recommend_and_a_history_answers_like_its_user(world):
    rec, people, fusion = world.rec, world.people, world.rec.fusion
    top, _ = rec.recommend(people, 5)
    for u, items in zip(people, top): equal([rec.explain(u, i).rank for i in items], [1, 2, 3, 4, 5])
    ids = rec.data.table['item'].iloc[histories(rec.data, people[:1]).item].tolist()
    column = rec.data.all_items[0].get_loc(top[0, 0])
    named = explain(fusion, histories_from_items(rec.data, [ids]), column)
    close(rec.explain(item=top[0, 0], history=ids).score, named.score, eps=1e-5)
    close(named.score, rec.explain(people[0], top[0, 0]).score, eps=1e-5)


def test_an_expert_that_is_no_sum_is_whole_or_shared_out(world):
    pair, log, people = world.pair, world.log, world.people
    mixed = Recommender('tfidf', experts=lambda d, b, s: [Popularity(), EASE(50), UserKNN()])
    mixed.fit(pair.target.with_log(log), pair.source)
    a, b = (mixed.explain(people[0], mixed.items[30], samples=k) for k in (0, 32))
    for x in (a, b): close(x.parts['part'].sum(), x.score, eps=1e-5)
    assert a.unexplained != 0 and b.unexplained == 0
    equal(a.experts.additive.tolist(), [True, True, False])


def test_titles_cannot_write_html(world):
    log, people, pair = world.log, world.people, world.pair
    evil = '<script>alert(1)</script> "quoted" \u202egnp.exe'
    bad = pair.target.items.copy()
    bad.loc[:20, 'title'] = evil
    mean = Recommender('tfidf', experts=lambda d, b, s: [Popularity(), EASE(50), Content()])
    mean.fit(Domain('bad', log, bad))
    html = mean.explain(people[0], mean.items[3]).card()
    html += mean.explain('<b>me</b>', mean.items[4]).card()
    assert '<script' not in html and '<b>' not in html and '\u202e' not in html and '&lt;script' in html
    equal(set(re.findall(r'<(\w+)', html)), {'div'})
    equal(len(re.findall('<div', html)), len(re.findall('</div', html)))


def test_words_ask_for_what_they_need(world):
    rec, people, hidden = world.rec, world.people, world.hidden
    mu, A = whitening_map(rec.data.vectors)
    close(l2_normalize((rec.data.vectors - mu) @ A), partial_whiten(rec.data.vectors), eps=1e-4)
    with ExceptionExpected(InputError, "how='delete'"): rec.token_attributions(people[0], hidden[0])
    with ExceptionExpected(InputError, 'no history'):
        rec.token_attributions('a newcomer', hidden[0], how='delete')
    equal(TokenAttributions(['<b>'], np.array([1.]), 1., 0.).card().count('<b>'), 0)


def test_integrated_gradients_are_a_sum_over_a_hundred_points():
    pair = make_synthetic_pair(seed=2, n_users=(30, 40), n_items=(20, 20))
    real = Recommender('minilm', 'target', budget='fast').fit(pair.target)
    fans = real.data.users
    def naive_ig(enc, text, c, steps=100):
        ids, word, name = _pieces(enc, text)
        look, pad = enc.model.get_input_embeddings(), enc.tokenizer.pad_token_id
        none = [i if w is None else pad for i, w in zip(ids, word)]
        t, t0 = (look(torch.tensor([x])).detach() for x in (ids, none))
        total = torch.zeros_like(t)
        for k in range(steps):
            x = (t0 + (k + .5)/steps*(t - t0)).requires_grad_()
            total += torch.autograd.grad(c(x)[0], x)[0]/steps
        return ((t - t0)*total).sum(-1)[0].numpy(), word

    text = encoded_text(real.data, 7)
    u, mu, A, _ = content_of(real.fusion, histories(real.data, fans[:1]))
    c = cosine_of_tokens(real.encoder, u, mu, A, real.data.vectors[7, real.encoder.dim:])
    a, word = naive_ig(real.encoder, text, c)
    ours = token_integrated_gradients(real.encoder, text, c)
    close(pd.Series(a).groupby(pd.Series(word)).sum().to_numpy(), ours[1], eps=2e-3)


def test_deletion_is_scoring_what_is_left(world):
    real = world.rec
    long = int(np.argmax(real.data.hist.lengths >= 20))
    h4, j = select_users(real.data.hist, [long]), 5
    m = len(h4.item)
    r = deletion(real.fusion, h4, j, np.stack([np.arange(m), np.arange(m)[::-1]]), [0, .5, 1])
    equal(r[0, [0, 2]], r[1, [0, 2]])                      # nothing removed, everything removed
    half = real.fusion.score_histories(mask_interactions(h4, np.arange(m) >= round(m/2)))
    naive = [rank_of_target(half, np.array([j]), seen_items(h4, real.data.n_target))[0] + 1]
    equal(r[0, 1], naive[0])
