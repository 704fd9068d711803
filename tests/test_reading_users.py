"Who is the same user, and which rows say no: users written in two ways, clicks that never came, invoices that were cancelled."
import warnings
import numpy as np, pandas as pd, pytest
from llmrec.columns import near_ids, twin_ids
from llmrec.core import InputError
from llmrec.data import Domain
from llmrec.readers import align_ids, read_table
from test_reading_siblings import ITEMS, WORDS, F, log_and, pairs, read, refused

def domain(name, users):
    log = pd.DataFrame(dict(user=users, item=np.arange(len(users)) % 3))
    return Domain(name, log, pd.DataFrame(dict(item=[0, 1, 2], title=['Red cup', 'Pot', 'Fork'])))

WAYS = [(['007', '012', '3'], ['7', '12', '9'], 2, 'zeros in front'), ([' u1', 'u2', 'u3'], ['u1', 'u2 ', 'x'], 2, 'blanks around'), (['U1', 'U2', 'U3'], ['u1', 'u2', 'u3'], 3, 'capitals'),
        (['ab-12', 'ab-13'], ['ab12', 'ab13'], 2, 'hyphens or braces'), (['{5F-1}', '{5F-2}'], ['5f-1', '5f-2'], 2, 'zeros, capitals, blanks or signs'), (['7.0', '8.0', 'x'], ['7', '8', 'y'], 2, 'a decimal point'),
        (['u001', 'u002'], ['u1', 'u2'], 2, 'zeros in front'), ([7, 8, 9], ['user_7', 'user_8', 'user_10'], 2, 'the word in front'), (['７', '８'], ['7', '8'], 2, ''), ([7, 8], ['007', '008'], 2, 'zeros in front')]

@pytest.mark.parametrize('target, source, n, how', WAYS)
def test_users_written_in_two_ways_are_told_and_joined_where_asked(target, source, n, how):
    b, a = domain('films', target), domain('books', source)
    exact = align_ids(a, b)
    note = next(x for x in exact[1].notes if 'would be but for' in x)
    assert f'{n} more would' in note and how in note and '--match-users loose' in note
    joined = align_ids(domain('books', source), domain('films', target), 'loose')
    shared = set(joined[0].users) & set(joined[1].users)
    assert len(shared) == n and {str(x) for x in shared} <= {str(x) for x in target} and 'joined, as asked' in joined[1].notes[-1]

def test_some_shared_do_not_hide_those_who_are_written_differently():
    b = domain('films', ['u1', 'U2', 'U3', 'U4'])
    align_ids(domain('books', ['u1', 'u2', 'u3', 'x']), b)
    assert any('1 users are in both books and films; 2 more' in x for x in b.notes)

@pytest.mark.parametrize('own, other', [(['007', '07'], ['7']), (['U1', 'u1'], ['u1']), (['u1'], ['U1', 'U-1']), ([7, 8], [7, 8]), (['anna'], ['bob']), (['user_1', 'item_2'], ['1', '2'])])
def test_ids_that_collide_or_differ_are_not_joined(own, other): assert near_ids(np.array(own, object), np.array(other, object)).to == {}

def test_a_pair_without_differences_is_not_told():
    b = domain('films', ['u1', 'u2'])
    align_ids(domain('books', ['u1', 'v7']), b)
    assert b.notes == []

def test_one_user_in_two_ways_in_one_log(F):
    log = 'user,item\nAnna@x.org,A1\nanna@x.org,B2\nbob@x.org,A1\nAnna@x.org,B2\n'
    d = log_and(F, log, WORDS)
    assert d.n_users == 3 and any('1 users differ from others only in capitals' in x and '--match-users' in x for x in d.notes)
    assert sorted(set(log_and(F, log, WORDS, match_users='loose').log['user'])) == ['Anna@x.org', 'bob@x.org']

def test_a_way_to_match_that_is_none(F): assert '--match-users' in refused(lambda: log_and(F, 'user,item\n7,1\n', match_users='fuzzy'))

def test_the_option_reaches_a_pair(F):
    from llmrec.pipeline import read_pair
    items = F('i.csv', WORDS)
    files = F('s.csv', 'user,item\n007,A1\n008,B2\nx,A1\n'), items, F('t.csv', 'user,item\n7,A1\n8,B2\ny,A1\n'), items
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        assert read_pair(*files).shared_users.tolist() == [] and read_pair(*files, match_users='loose').shared_users.tolist() == ['7', '8']


# impressions without a click
EMPTY = [('click_time', '', '2020-04-03 10:00:09'), ('clicked_at', '0', '1585908009'), ('click_timestamp', '-1', '1585908009000'), ('ClickTime', 'NULL', '03/04/2020 10:00'), ('time_of_click', '\\N', '2020-04-03T10:00:09Z'),
         ('opened_at', '0000-00-00 00:00:00', '2020-04-03 10:00:09'), ('first_click_at', 'NaT', '2020-04-03'), ('click_ts', 'None', '1585908009.5'), ('Klickzeitpunkt', '-', '03.04.2020 10:00')]

@pytest.mark.parametrize('name, never, time', EMPTY)
@pytest.mark.parametrize('beside', [True, False])
def test_an_empty_click_time_is_an_impression(name, never, time, beside, F):
    log = f'user,item,{"shown_at,"*beside}{name}\n' + ''.join(f'{u},{i},{"2020-04-03 09:00:00,"*beside}{t}\n' for u, i, t in [(7, 1, never), (7, 2, time), (8, 3, never), (8, 4, never), (8, 5, time)])
    d = log_and(F, log)
    assert pairs(d) == [[7, 2], [8, 5]] and len(d.log['time']) == 2 and any('3 rows without a time' in x and '--drop-columns' in x for x in d.notes)
    assert len(log_and(F, log, drop_columns=name).log) == 5

def test_an_empty_click_time_that_was_named_as_the_time(F):
    log = 'user,item,click_time\n7,1,\n7,2,2020-04-03 10:00:09\n8,3,\n'
    assert pairs(log_and(F, log, columns=dict(time='click_time'))) == [[7, 2]]

def test_an_empty_click_time_of_a_frame():
    log = pd.DataFrame(dict(user=[7, 8], item=[1, 2], click_time=pd.to_datetime([None, '2020-04-03'])))
    assert pairs(read(log, pd.DataFrame(dict(item=[1, 2], title=['a', 'b'])))) == [[8, 2]]

def test_a_number_of_clicks_is_no_time_of_one(F): assert len(log_and(F, 'user,item,click_time\n7,1,3\n8,2,0\n').log) == 2
def test_what_was_shown_stays_in_the_catalogue_of_a_flat_file(F):
    d = read(F('l.csv', 'user,item,title,click_time\n7,1,Red cup,\n7,2,Pot,2020-04-03\n8,3,Fork,\n'))
    assert pairs(d) == [[7, 2]] and d.n_items == 3


# orders that were undone
UNDONE = [('Invoice', ['536365', 'C536379', '536381']), ('InvoiceNo', ['INV-1', 'CN-2', 'INV-3']), ('Order ID', ['1001', 'c1002', '1003']), ('Rechnungsnummer', ['RE-1001', 'GS-1002', 'RE-1003']), ('order_number', ['#1001', 'RMA-1002', '#1003']),
          ('Financial Status', ['paid', 'refunded', 'partially_refunded']), ('Order Status', ['wc-completed', 'wc-cancelled', 'wc-processing']), ('status', ['Completed', 'Failed', 'Completed']), ('Bestellstatus', ['bezahlt', 'storniert', 'bezahlt']),
          ('Cancelled at', ['', '2020-04-03 10:00:00 +0200', '']), ('is_returned', ['False', 'True', 'False']), ('refunded', ['0', '1', '0']), ('Transaction Type', ['Sale', 'Return', 'Sale'])]

@pytest.mark.parametrize('name, cells', UNDONE)
def test_a_cancelled_order_is_no_positive(name, cells, F):
    log = f'user,item,qty,{name}\n' + ''.join(f'{u},{u},2,{x}\n' for u, x in enumerate(cells, 1))
    d = log_and(F, log)
    assert pairs(d) == [[1, 1], [3, 3]] and any('1 rows' in x and name in x and '--drop-columns' in x for x in d.notes)
    assert len(log_and(F, log, drop_columns=[name]).log) == 3

@pytest.mark.parametrize('name, cells', [('Invoice', ['C1', 'C2', 'C3']), ('invoice', ['A1', 'B2', 'C3']), ('status', ['new', 'used', 'new']), ('return_date', ['2020-04-03', '2020-04-04', '']), ('returned', ['2', '3', '4']), ('order_id', ['7a', 'c0ffee', 'b9'])])
def test_what_says_nothing_is_kept(name, cells, F):
    due = ',due_date' if name == 'return_date' else ''
    log = f'user,item,{name}{due}\n' + ''.join(f'{u},{u},{x}{",2020-05-01" if due else ""}\n' for u, x in enumerate(cells, 1))
    assert len(log_and(F, log).log) == 3


# names of the first edition
def test_methods_of_the_first_edition_answer():
    from llmrec.baselines import Popularity
    from llmrec.dataset import make_dataset
    from llmrec.expert import Expert
    d = domain('films', ['a', 'b', 'c'])
    data = make_dataset(d.log, d.items)
    with pytest.warns(DeprecationWarning, match='Expert.fit_data is now Expert.fit_dataset'): old = Popularity().fit_data(data)
    assert np.array_equal(old.score(['a']), Popularity().fit_dataset(data).score(['a']))
    with pytest.warns(DeprecationWarning, match='Dataset.n is now'): assert (data.n, data.N) == (3, 3)
    with pytest.warns(DeprecationWarning, match='learn: this method is now _fit'):
        class Old(Expert):
            def learn(self, d): self.pop = d.counts[:d.n_target]
            def score_histories(self, h): return np.tile(self.pop, (len(h), 1))
    assert Old().fit_dataset(data).score(['a']).tolist() == [[1, 1, 1]]

def test_an_index_of_the_first_edition_is_that_of_a_fit():
    from llmrec import Recommender
    rec = Recommender(None, budget='fast')
    with pytest.warns(DeprecationWarning, match='goes with the next version'), warnings.catch_warnings():
        warnings.simplefilter('default')
        data = rec._index(domain('films', list('abcdefgh')*3), [domain('books', list('abcdwxyz')*3)], None)
    assert data is rec.data and any('both domains' in line for line in rec.plan)

def test_an_epsilon_that_no_noise_reaches_is_refused_before_opacus_is_asked(monkeypatch):
    from llmrec import privacy
    monkeypatch.setattr(privacy, 'import_optional', lambda *a: pytest.fail('opacus was asked'))
    with pytest.raises(InputError, match='states no less than 0.1'): privacy.noise_multiplier(1e-4, 1e-5, .2, 1000)

def test_a_class_may_have_other_things_under_an_old_name():
    "A setting, a property or a partial function called `learn` is no method of the first edition."
    import functools
    from llmrec.expert import Expert
    class Own(Expert):
        learn = .01
        grow = property(lambda self: 3)
        contributions = functools.partial(max, 1)
    assert Own().learn == .01 and Own().grow == 3 and '_fit' not in vars(Own)
