"""Fast ways give what the plain ones give."""
import numpy as np, pandas as pd, pytest
from llmrec.core import hash_ids, id_kind, package_versions
from llmrec.metrics import bootstrap_means


@pytest.mark.parametrize('ids', [np.arange(9), np.array([-5, 3, 3, -2**63, 2**63 - 1]), np.array([200, 3], np.uint8), np.array([2**64 - 1, 5], np.uint64),
                                 np.array([], np.int64), pd.Series([3, 4, 4]), pd.Index([7]), pd.Series([1, None, 3], dtype='Int64')], ids=str)
def test_whole_numbers_are_hashed_as_objects_are(ids):
    objects = np.asarray(ids, dtype=object)
    for seed in (0, 3): np.testing.assert_array_equal(hash_ids(ids, seed), hash_ids(list(objects), seed))
    assert id_kind(ids) == id_kind(objects) == ('numbers' if len(ids) and not pd.isna(objects).any() else id_kind(objects))

def test_versions_are_a_table_of_its_own_each_time():
    package_versions()['numpy'] = 'changed'
    assert package_versions()['numpy'] == np.__version__

@pytest.mark.parametrize('n', [60, 1001])
def test_resamples_in_blocks_are_those_drawn_one_by_one(n):
    "Users are drawn one resample after the other, from one stream."
    values = np.random.default_rng(1).normal(size=(n, 2))
    rng, plain = np.random.default_rng(5), []
    for _ in range(300): plain.append(values[rng.integers(n, size=n)].mean(0))
    np.testing.assert_allclose(bootstrap_means(values, 300, 5), plain, atol=1e-6)

def one_by_one(column): return column.isna().to_numpy(bool) | np.array([isinstance(x, str) and not x.strip() for x in column], bool)

@pytest.mark.parametrize('cells', [['a', ' ', None, 'a', '', '\u3000', '\x1c', 'b '], ['x'], [], [None, None], ['', 'a', '']])
@pytest.mark.parametrize('kind', ['str', object, 'category', 'string'])
def test_blank_ids_are_found_in_distinct_texts(cells, kind):
    from llmrec.columns import missing_ids
    column = pd.Series(cells, dtype=object).astype(kind)
    np.testing.assert_array_equal(missing_ids(column), one_by_one(column))

def test_ids_that_are_lists_or_bytes_are_not_missing():
    from llmrec.columns import missing_ids
    assert missing_ids(pd.Series([[1], b' ', ' ', None], dtype=object)).tolist() == [False, False, True, True]

def test_numbers_of_19_digits_are_text_beside_text():
    from llmrec.columns import match_ids
    for ours, theirs, kind in (([1, 2], [2, 3], 'i'), ([10**18, 2], [2, 3], 'O'), ([-10**18, 2], ['2', '3'], 'O'), ([1, 2], ['2', '3'], 'i')):
        a, b = match_ids(pd.Series(ours), pd.Series(theirs, dtype=None if theirs[0] == 2 and isinstance(theirs[0], int) else object))
        assert a.dtype.kind == b.dtype.kind == kind and a.iloc[1] == b.iloc[0]

@pytest.mark.parametrize('block', [b'a,b\n1,2\n\n3,4,5', b'x\n', b'x', b',,\n,\n', b'a,b\r\n\r\nc,d\r\n'])
def test_fields_of_lines_are_counted(block):
    from llmrec.tables import _widths
    wanted = {line.count(b',') for line in block.split(b'\n') if len(line) > 1}
    assert _widths(block, ord(',')) == wanted

@pytest.mark.parametrize('text, fields', [('user,item,title\nu,i,5" disk\nv,j,"6"\n', 0), ('user,item,title\nu,i,"a, b"\n', 0), ('"user","item","title"\nu,i,t\n', 0),
                                          ('user,item,title\nu,i,t\nv,j,"open\nw,k,t\n', 3), ('user,item,title\nu,i,t\nv,j,"no end', 2)])
def test_a_lone_quotation_mark_is_looked_for_where_marks_are(text, fields):
    import csv, io
    from llmrec.tables import Dialect, _with_quotes
    dialect = Dialect(',', ['user', 'item', 'title'], 3, 0, 'utf-8')
    found = _with_quotes(lambda: io.BytesIO(text.encode()), dialect)
    assert (found.quoting == csv.QUOTE_NONE) == bool(fields)

def vectors_of(kind, n, d, rng):
    V = rng.normal(size=(n, d)).astype(np.float32)
    if kind == 'clouds': V = V[rng.integers(min(20, n), size=n)] + .01*V
    if kind == 'lengths': V *= np.exp(3*rng.normal(size=(n, 1))).astype(np.float32)
    if kind == 'gaps': V[rng.random(n) < .3] = 0
    return V

@pytest.mark.parametrize('kind', ['plain', 'clouds', 'lengths', 'gaps'])
@pytest.mark.parametrize('n', [3, 700, 5011])
def test_a_query_alone_finds_in_8_bits_what_all_find_in_float32(kind, n, monkeypatch):
    import torch
    from llmrec import search
    if not hasattr(torch.ops.aten, '_weight_int8pack_mm'): pytest.skip('PyTorch has no product with 8-bit vectors')
    monkeypatch.setattr(search, '_bytes_pay', lambda d: True)
    rng = np.random.default_rng(3)
    V, Q = vectors_of(kind, n, 48, rng), rng.normal(size=(6, 48)).astype(np.float32)
    first, plain = search.ExactIndex(V, half=True, memory=1), search.ExactIndex(V, half=False, memory=1)
    keep = rng.random(n) < .5
    for more in ({}, dict(keep=keep)):
        for query in Q:
            ids, scores = first.search(query, 5, **more)
            wanted = plain.search(query, 5, **more)[1]
            np.testing.assert_allclose(scores, wanted, rtol=1e-5, atol=1e-5)
            found = ids[0][scores[0] > -np.inf].astype(int)
            np.testing.assert_allclose(V[found] @ query, scores[0][:len(found)], rtol=1e-4, atol=1e-4)
            assert len(set(found)) == len(found)

def test_a_bar_is_reached_by_k_scores():
    import torch
    from llmrec.search import _reached
    scores = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 700)).astype(np.float32))
    for k in (1, 10, 11, 800): assert ((scores >= _reached(scores, k)[:, None]).sum(1) >= min(k, 700)).all()

def test_the_largest_entries_of_rows_with_ties():
    from scipy import sparse
    from llmrec.baselines import topk_sparse
    S = np.random.default_rng(0).integers(0, 4, size=(40, 30)).astype(np.float32)
    for k in (1, 3, 9, 40):
        found = topk_sparse(sparse.csr_matrix(S), k).toarray()
        for row, kept in zip(S, found):
            best = [j for j in np.lexsort((np.arange(30), -row))[:k] if row[j] > 0]
            assert np.nonzero(kept)[0].tolist() == sorted(best) and (kept[best] == row[best]).all()
