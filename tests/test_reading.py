"""Files as practitioners bring them: each fault that was mended, with its siblings, on small inputs of our own."""
import bz2, datetime as dt, decimal, gzip, json, lzma, warnings, zipfile
from pathlib import Path
import numpy as np, pandas as pd, pytest
from llmrec.columns import match_ids, read_numbers, read_texts, read_times
from llmrec.core import InputError
from llmrec.data import Domain
from llmrec.language import guess_encoding, guess_language, unread_language, warn_unread
from llmrec.preprocess import clean, sort_log, split_given, split_last
from llmrec.readers import align_ids, read_recbole, read_table
from llmrec.tables import open_table

ITEMS = 'item,title\n1,Red cup\n2,Blue cup\n3,Tea pot\n4,Spoon\n5,Fork\n'

@pytest.fixture
def F(tmp_path):
    "Writes a file and gives its path."
    def write(name, content, encoding='utf-8'):
        path = tmp_path/name
        path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
        return path
    return write

@pytest.fixture
def items(F): return F('the-items.csv', ITEMS)

def read(*args, **kw):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return read_table(*args, **kw)

def pairs(domain): return domain.log[['user', 'item']].values.tolist()
def days(domain): return [str(x)[:10] for x in pd.to_datetime(domain.log['time'], unit='s')]

def refused(f):
    "The message of an `InputError`, short enough."
    with pytest.raises((InputError, FileNotFoundError)) as error: f()
    assert len(str(error.value)) <= 600, len(str(error.value))
    return str(error.value)


# separators

@pytest.mark.parametrize('text', [
    'user,item,rating\n101,1,5,\n101,2,3,\n103,5,1,\n', 'user;item;rating\n101;1;5;\n101;2;3;\n103;5;1;\n',
    'user\titem\trating\n101\t1\t5\t\n101\t2\t3\t\n103\t5\t1\t\n', 'user|item|rating|\n101|1|5|\n101|2|3|\n103|5|1|\n',
    'user::item::rating\n101::1::5\n101::2::3\n103::5::1\n', 'user item rating\n101 1 5\n101 2 3\n103 5 1\n',
    'sep=;\nuser;item;rating\n101;1;5\n101;2;3\n103;5;1\n', '# made by hand\n\nuser,item,rating\n101,1,5\n101,2,3\n103,5,1\n',
    ',user,item,rating\n0,101,1,5\n1,101,2,3\n2,103,5,1\n', '"user" "item" "rating"\n"1" 101 1 5\n"2" 101 2 3\n"3" 103 5 1\n',
    'user,item,rating\r\n101,1,5\r\n101,2,3\r\n103,5,1\r\n', '"user","item","rating"\n"101","1","5"\n"101","2","3"\n"103","5","1"\n',
    'user\x01item\x01rating\n101\x011\x015\n101\x012\x013\n103\x015\x011\n'], ids=range(13))
def test_separators(text, F, items):
    d = read(F('log.csv', text), items)
    assert pairs(d) == [[101, 1], [101, 2], [103, 5]] and d.log['value'].tolist() == [5, 3, 1]

def test_a_field_too_many_is_an_error(F, items):
    assert 'row 0 has 4 fields' in refused(lambda: read(F('l.csv', 'user,item,rating\n7,1,5,x\n8,2,3,y\n'), items))

def test_tsv_with_commas_in_the_header(F, items):
    assert pairs(read(F('log.tsv', 'user\titem\tnote (a, b, c, d)\n10\t1\tx\n11\t2\ty\n'), items)) == [[10, 1], [11, 2]]

def test_the_separator_can_be_named(F, items):
    assert pairs(read(F('log.txt', 'user~item\n10~1\n11~2\n'), items, sep='~')) == [[10, 1], [11, 2]]


# quotes

@pytest.mark.parametrize('sep', ['\t', ',', ';', '|'])
def test_a_lone_quote_swallows_nothing(sep, F):
    rows = [['item', 'title'], ['1', 'Red cup'], ['2', '"Weird Al Yankovic'], ['3', 'Tea pot'], ['4', '"Heroes'], ['5', 'World" on a Wire'], ['6', '"Fork"']]
    it = F('it.txt', '\n'.join(sep.join(row) for row in rows) + '\n')
    d = read(F('log.csv', 'user,item\n' + ''.join(f'{u},{i}\n' for u in (1, 2) for i in range(1, 7))), it)
    assert len(d.items) == 6 and len(d.log) == 12
    assert d.items['title'].tolist()[1:4] == ['"Weird Al Yankovic', 'Tea pot', '"Heroes'] and d.items['title'][5] == 'Fork'

def test_quotes_that_hold_separators_and_lines(F):
    it = F('it.csv', 'item,title\n1,"Cup, red"\n2,"two\nlines"\n3,"a ""b"""\n')
    assert read(F('l.csv', 'user,item\n1,1\n2,2\n3,3\n'), it).items['title'].tolist() == ['Cup, red', 'two\nlines', 'a "b"']

def test_backslashes_before_quotes(F):
    it = F('it.csv', '"item";"title"\n"1";"A \\"new\\" day"\n"2";"x; y"\n')
    assert read(F('l.csv', 'user,item\n1,1\n2,2\n'), it).items['title'].tolist() == ['A "new" day', 'x; y']

def test_swallowed_lines_are_an_error_where_quotes_are_needed(F):
    it = F('it.csv', 'item,title,brand\n1,"Cup, red",x\n2,"Heroes,y\n3,Pot,z\n4,"Tea, green",w\n5,Fork,v\n')
    assert 'quot' in refused(lambda: read(F('l.csv', 'user,item\n1,1\n'), it))


# headers

TAOBAO = '1,3,2520377,pv,1511544070\n1,2,2520771,pv,1511561733\n2,5,2520771,buy,1511572885\n'

def test_no_header_is_said_and_the_line_can_be_copied(F, items):
    said = refused(lambda: read(F('UserBehavior.csv', TAOBAO), items))
    assert 'has no header' in said and '--no-header' in said and 'user=0' in said and 'item=1' in said

def test_positions_are_names(F, items):
    d = read(F('UserBehavior.csv', TAOBAO), items, {'user': '0', 'log.item': '1', 'event': '3', 'time': '4'})
    assert pairs(d) == [[1, 3], [1, 2], [2, 5]] and d.log['event'].tolist() == ['pv', 'pv', 'buy'] and days(d)[0] == '2017-11-24'
    assert pairs(read(F('r.csv', '2,1,0\n1,2,0\n1,3,0\n'), items, {'user': '0', 'log.item': '1'})) == [[2, 1], [1, 2], [1, 3]]

def test_no_header_in_both_tables(F):
    d = read(F('u.data', '196\t242\t3\t881250949\n186\t302\t3\t891717742\n'), F('i.dat', '242::Kolya\n302::L.A.\n'),
             {'user': '0', 'log.item': '1', 'items.item': '0', 'title': '1'}, no_header=True)
    assert pairs(d) == [[196, 242], [186, 302]] and d.items['title'].tolist() == ['Kolya', 'L.A.']

def test_missing_names_come_all_at_once_and_filled_in(F):
    said = refused(lambda: read(F('r.csv', 'userId,movieId\n1,1\n2,2\n'), F('m.csv', 'movieId,title\n1,a\n2,b\n')))
    assert '--columns user=userId,item=movieId' in said
    said = refused(lambda: read(F('r.csv', 'buyer,sku\n1,1\n2,2\n'), F('m.csv', 'id,name\n1,a\n2,b\n')))
    assert '--columns user=buyer,log.item=sku,items.item=id,title=name' in said

def test_long_lines_make_short_messages(F, items):
    line = '{"session":0,"events":[' + ','.join(f'{{"aid":{k}}}' for k in range(900)) + ']}\n'
    refused(lambda: read(F('t.jsonl', line*2), items, {'user': 'nobody'}))
    refused(lambda: read(F('t.csv', ','.join(f'column {k}' for k in range(900)) + '\n' + ','.join('1'*900) + '\n'), items))


# numbers

def test_decimal_commas(F):
    d = read(F('l.csv', 'user;item;value\n1;1;4,5\n2;2;3,75\n'), F('i.csv', 'item;title;price\n1;a;12,50\n2;b;1.234,50\n3;c;0,99\n'))
    assert d.log['value'].tolist() == [4.5, 3.75] and d.items['price'].tolist() == [12.5, 1234.5, .99]

@pytest.mark.parametrize('text, number', {'.5': .5, '4,5': 4.5, '−1': -1, '1.234,50': 1234.5, '$.50': .5, '1,50 €': 1.5, "1'234.50": 1234.5, '(3.50)': -3.5,
    '1 234,5': 1234.5, '12-': -12, 'USD 3.20': 3.2, '1e3': 1000, '4½': None, '3-5': None, '12:30': None, '3k': None, 'A-12': None, '<5': None, '1.2.3': None}.items())
def test_a_number_is_read_as_it_stands_or_not_at_all(text, number):
    found = read_numbers(pd.Series([text, '1'])).values[0]
    assert np.isnan(found) if number is None else found == number

def test_labels_keep_their_zeros_and_lose_none(F):
    t = read(F('l.csv', 'user,item\na,x\n'), F('i.csv', 'item,title,category\nx,007,010\ny,008,020\n')).items
    assert (t['title'][0], t['category'][0]) == ('007', '010')
    d = Domain('t', pd.DataFrame(dict(user=['a'], item=['x'])), pd.DataFrame(dict(item=['x', 'y'], title=[1984, np.nan], category=[12, np.nan])))
    assert (d.items['title'][0], d.items['category'][0]) == ('1984', '12')

def test_a_title_that_says_nothing_once_is_a_title(F):
    t = read(F('l.csv', 'user,item\n1,1\n'), F('i.csv', 'item,title\n1,None\n2,NA\n3,NA\n4,Cup\n')).items
    assert t['title'].tolist() == ['None', 'untitled', 'untitled', 'Cup']


# times

def times(*texts, order='auto'):
    seconds = read_times(pd.Series(texts), 'time', order).seconds
    return [str(x)[:10] for x in pd.to_datetime(pd.Series(seconds), unit='s')]

@pytest.mark.parametrize('texts, want', [
    (('01.12.2010 08:26', '02.12.2010 08:26', '13.12.2010 08:26'), ('2010-12-01', '2010-12-02', '2010-12-13')),
    (('01/12/2010 08:26', '13/12/2010 08:26', '05/12/2010'), ('2010-12-01', '2010-12-13', '2010-12-05')),
    (('01.12.2010', '02.12.2010', '05.12.2010'), ('2010-12-01', '2010-12-02', '2010-12-05')), (('1.12.10 8:26', '2.12.10 9:00'), ('2010-12-01', '2010-12-02')),
    (('12/1/10 8:26', '12/14/10 8:28', '0'), ('2010-12-01', '2010-12-14', 'NaT')), (('01-12-2010', '13-12-2010'), ('2010-12-01', '2010-12-13')),
    (('2010-13-12', '2010-01-12'), ('2010-12-13', '2010-12-01')), (('2010/12/01', '2010/12/13'), ('2010-12-01', '2010-12-13')),
    (('20101201', '20101213'), ('2010-12-01', '2010-12-13')), (('20101201082600', '20101213082600'), ('2010-12-01', '2010-12-13')),
    (('01-Dec-2010', '13 December 2010'), ('2010-12-01', '2010-12-13')), (('Mon Dec 13 10:00:00 +0000 2010',), ('2010-12-13',)),
    (('2010-12-01T23:30:00-05:00', '2010-12-01T10:00:00Z'), ('2010-12-02', '2010-12-01')), (('0000-00-00', '2010-12-01'), ('NaT', '2010-12-01')),
    (('12/1/2010 11:59 PM', '12/13/2010 12:00 AM'), ('2010-12-01', '2010-12-13'))], ids=range(15))
def test_dates(texts, want): assert times(*texts) == list(want)

def test_dates_that_fit_both_ways_are_told_and_can_be_turned(F, items):
    log = F('l.csv', 'user,item,time\n1,1,03/04/2020\n2,2,05/06/2020\n')
    with pytest.warns(UserWarning, match='fit both ways.*--dates day-first'): assert days(read_table(log, items)) == ['2020-03-04', '2020-05-06']
    assert days(read(log, items, dates='day-first')) == ['2020-04-03', '2020-06-05']

@pytest.mark.parametrize('unit', [10**3, 10**6, 1])
def test_what_is_below_a_second_decides_the_order(unit, F):
    order = [np.random.default_rng(u).permutation(40)[:6] for u in range(20)]
    stamp = lambda k: 1238536800*unit + k if unit > 1 else f'2009-03-31 22:00:00.{k:03}'
    rows = [(u, i, stamp(k)) for u, own in enumerate(order) for k, i in enumerate(own)]
    rows = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]
    d = read(F('l.csv', 'user,item,time\n' + ''.join('%s,%s,%s\n' % r for r in rows)), F('i.csv', 'item,title\n' + ''.join(f'{i},thing {i}\n' for i in range(40))))
    assert d.log['time'].dtype == np.int64 and d.log['time'].nunique() == 1
    last = split_last(d).test.set_index('user')['item']
    assert all(last[u] == own[-1] for u, own in enumerate(order))
    assert [g['item'].tolist() for _, g in sort_log(d.log).groupby('user')] == [own.tolist() for own in order]
    assert len(clean(d)[0].log) == len(rows)

@pytest.mark.parametrize('s', [pd.Series(pd.period_range('2020-01-01', periods=2)), pd.Series([dt.date(2020, 1, 1), dt.date(2020, 1, 2)]),
    pd.Series(pd.to_datetime(['2020-01-01', '2020-01-02'])).astype('category')], ids=['period', 'date', 'category'])
def test_types_of_times(s): assert read_times(s, 'time').seconds.tolist() == [1577836800, 1577923200]

def test_zero_among_times_is_unknown(F, items):
    d = read(F('l.csv', 'user,item,time\n1,1,0\n1,2,1511544070\n2,3,1511544071\n'), items)
    assert len(d.log) == 2 and d.notes


# encodings

@pytest.mark.parametrize('text, encoding, name', [('Café à la crème', 'latin-1', 'cp1252'), ('Чашка для чая и красная', 'cp1251', 'cp1251'),
    ('红色的杯子和手机壳', 'gb18030', 'gb18030'), ('赤いカップとお茶', 'shift_jis', 'shift_jis'), ('빨간 컵과 차', 'euc_kr', 'euc_kr'), ('Żółta łyżka', 'cp1250', 'cp1250')])
def test_an_error_says_what_bytes_look_like_and_that_mends_it(text, encoding, name, F):
    it, log = F('it.csv', f'item,title\n1,{text}\n2,b\n', encoding), F('log.csv', 'user,item\n10,1\n11,2\n')
    said = refused(lambda: read(log, it))
    assert f'--encoding {name}' in said and 'line 2' in said
    assert read(log, it, encoding=name).items['title'][0] == text

def test_one_encoding_serves_a_utf8_file_as_well(F):
    d = read(F('l.csv', 'user,item\nZoë,1\n'), F('i.csv', 'item,title\n1,Café\n', 'cp1252'), encoding='cp1252')
    assert d.log['user'].tolist() == ['Zoë'] and d.items['title'].tolist() == ['Café']

@pytest.mark.parametrize('encoding', ['utf-16', 'utf-8-sig', 'utf-32'])
def test_marks_at_the_beginning(encoding, F, items): assert pairs(read(F('l.csv', 'user,item\n7,1\n8,2\n', encoding), items)) == [[7, 1], [8, 2]]


# JSON, archives, frames, many files

@pytest.mark.parametrize('text', ['{"user":1,"item":1}\n{"user":2,"item":2}\n', '[\n  {\n "user":1,"item":1},\n {"user":2,"item":2}]\n', '[{"user":1,"item":1},{"user":2,"item":2}]',
    '{"data": [{"user":1,"item":1},{"user":2,"item":2}]}', '{"user":[1,2],"item":[1,2]}'], ids=range(5))
def test_json(text, F, items): assert pairs(read(F('l.json', text), items)) == [[1, 1], [2, 2]]

def test_bad_json_names_the_line(F, items): assert 'line 2' in refused(lambda: read(F('l.jsonl', '{"user":1,"item":1}\n{"user":\n{"user":2,"item":2}\n'), items))

@pytest.mark.parametrize('pack', [gzip.compress, bz2.compress, lzma.compress])
def test_packed(pack, F, items): assert pairs(read(F('l.csv.packed', pack(b'user,item\n7,1\n8,2\n')), items)) == [[7, 1], [8, 2]]

def test_zip(F, items, tmp_path):
    with zipfile.ZipFile(tmp_path/'l.zip', 'w') as z:
        z.writestr('a.csv', 'user,item\n7,1\n')
        z.writestr('__MACOSX/._a.csv', 'x')
        z.writestr('b.csv', 'user,item\n8,2\n')
    assert pairs(read(tmp_path/'l.zip', items)) == [[7, 1], [8, 2]]

def test_parquet_log_and_csv_items(tmp_path, items):
    pytest.importorskip('pyarrow')
    pd.DataFrame(dict(user=[10, 11, 12], item=[1, 2, 3])).to_parquet(tmp_path/'l.parquet')
    assert pairs(read(tmp_path/'l.parquet', items)) == [[10, 1], [11, 2], [12, 3]]
    pd.DataFrame(dict(user=[10., np.nan, 12.], item=['1', '2', '3'])).to_parquet(tmp_path/'l')
    assert pairs(read(tmp_path/'l', items)) == [[10, 1], [12, 3]]
    pd.DataFrame(dict(item=['1', '2'], title=['a', 'b'])).to_feather(tmp_path/'i.feather')
    assert pairs(read(tmp_path/'l.parquet', tmp_path/'i.feather')) == [[10, 1], [11, 2]]

def test_arrow_and_polars(items):
    pa = pytest.importorskip('pyarrow')
    assert pairs(read(pa.table(dict(user=[1, 2], item=[1, 2])), items)) == [[1, 1], [2, 2]]
    pl = pytest.importorskip('polars')
    frame = pl.DataFrame(dict(user=['a', 'b'], item=[1, 2], time=[dt.datetime(2020, 1, 1), dt.datetime(2020, 1, 2)]))
    for x in (frame, frame.lazy()):
        d = read(x, items)
        assert pairs(d) == [['a', 1], ['b', 2]] and days(d) == ['2020-01-01', '2020-01-02']

def test_several_files(F, items, tmp_path):
    a, b = F('day-1.csv', 'user,item\n7,1\n'), F('day-2.csv', 'user,item\n8,2\n')
    for x in ([a, b], tmp_path/'day-*.csv', f'{a},{b}'): assert pairs(read(x, items)) == [[7, 1], [8, 2]]
    F('day-3.csv', 'user,sku\n8,2\n')
    assert 'day-3.csv' in refused(lambda: read(tmp_path/'day-*.csv', items))
    assert 'no file is called' in refused(lambda: read(tmp_path/'week-*.csv', items))


# lists in cells

def test_sessions(F, items):
    line = '{"session":7,"events":[{"aid":1,"ts":1659304800025,"type":"clicks"},{"aid":2,"ts":1659304800026,"type":"carts"}]}\n'
    d = read(F('l.jsonl', line + line.replace('7', '8', 1)), items, {'user': 'session', 'log.item': 'aid', 'time': 'ts', 'event': 'type'})
    assert pairs(d) == [[7, 1], [7, 2], [8, 1], [8, 2]] and d.log['event'].tolist() == ['clicks', 'carts']*2

@pytest.mark.parametrize('cell', ['[1, 2, 3]', "['1', '2', '3']", '1 2 3', '1|2|3', '1;2;3'])
def test_lists_as_text(cell, F, items):
    d = read(F('l.tsv', f'user\titem\n7\t{cell}\n8\t4\n'), items)
    assert pairs(d) == [[7, 1], [7, 2], [7, 3], [8, 4]] or cell == '1;2;3' and pairs(d)

def test_the_order_in_a_list_is_kept(F):
    it = F('i.csv', 'item,title\n' + ''.join(f'{i},t\n' for i in range(30)))
    own = [np.random.default_rng(u).permutation(30)[:8].tolist() for u in range(9)]
    d = read(F('l.jsonl', ''.join(json.dumps(dict(user=u, item=x, time='2020-01-01')) + '\n' for u, x in enumerate(own))), it)
    assert [g['item'].tolist() for _, g in sort_log(d.log).groupby('user')] == own

def test_impressions_without_a_click_are_no_positives(F):
    it = F('news.tsv', 'N1\tsports\tA title, with, commas\nN2\tnews\tB\nN3\tnews\tC\n')
    d = read(F('behaviors.tsv', '1\tU1\t11/11/2019 9:05:58 AM\tN3\tN1-1 N2-0\n2\tU2\t11/12/2019 6:11:30 PM\t\tN3-0 N2-1\n'), it,
             {'user': '1', 'time': '2', 'log.item': '4', 'items.item': '0', 'title': '2', 'category': '1'}, no_header=True)
    assert pairs(d) == [['U1', 'N1'], ['U2', 'N2']] and days(d) == ['2019-11-11', '2019-11-12']
    assert any('2 impressions without a click' in note for note in d.notes)


# what is a positive

def log_of(values, column='value'): return f'user,item,{column}\n' + ''.join(f'{k},{1 + k % 5},{v}\n' for k, v in enumerate(values))

@pytest.mark.parametrize('column, values, kept', [('value', [-1, 10, 0, 9, -1], 3), ('click', [1, 0, 0, 1, 1], 3), ('liked', ['True', 'False', 'True'], 2), ('rating', [0, 5, 10], 3),
    ('Quantity', [2, -12, 0, 1], 2), ('value', [1, -1, 1, 0], 2), ('like', ['yes', 'no', 'yes'], 2)])
def test_rows_that_say_no_are_no_positives(column, values, kept, F, items):
    d = read(F('l.csv', log_of(values, column)), items)
    assert len(d.log) == kept and (kept == len(values) or any('dropped' in n and 'min_value' in n for n in d.notes))

def test_unless_asked(F, items):
    log = F('l.csv', log_of([-1, 3, 4, 5]))
    assert len(read(log, items, min_value=-1).log) == 4 and len(read(log, items, min_value=4).log) == 2
    assert 'min_value' in refused(lambda: read(F('m.csv', log_of([-1, -1])), items))
    assert '--columns value=' in refused(lambda: read(F('n.csv', 'user,item\n1,1\n'), items, min_value=4))

def test_events_that_say_no(F, items):
    log = F('l.csv', log_of(['buy', 'dislike', 'view', 'remove_from_cart', 'Cancelled', 'impression', 'skip'], 'event'))
    assert read(log, items).log['event'].tolist() == ['buy', 'view']
    assert read(log, items, events='buy,dislike').log['event'].tolist() == ['buy', 'dislike']
    assert "has no event 'bye'" in refused(lambda: read(log, items, events=['bye']))

def test_a_weight_that_nobody_named_weighs_nothing(F, items):
    d = read(F('l.tsv', 'user\titem\tweight\n2\t1\t13883\n2\t2\t11690\n'), items)
    assert 'weight' not in d.log and any('weight' in note for note in d.notes)
    assert read(F('m.tsv', 'user\titem\tweight\n2\t1\t3\n2\t2\t1\n'), items, {'weight': 'weight'}).log['weight'].tolist() == [3, 1]
    assert "row 1 has" in refused(lambda: Domain('t', pd.DataFrame(dict(user=[1, 1], item=[1, 2], weight=[1., np.nan])), pd.DataFrame(dict(item=[1, 2], title=['a', 'b']))))

def test_rows_without_an_id_are_dropped_and_counted(F, items):
    d = read(F('l.csv', 'user,item,time\n' + ''.join(f'{"" if k == 7 else k % 4},{1 + k % 5},2020-01-{1 + k:02}\n' for k in range(20))), items)
    assert len(d.log) == 19 and d.log['user'].dtype == np.int64 and any("1 rows without an id in 'user'" in n for n in d.notes)
    d = read(F('m.csv', 'user,item\n17850.0,1\n,2\n13047.0,\n13047.0,3\n'), items)
    assert pairs(d) == [[17850, 1], [13047, 3]]
    assert 'no id' in refused(lambda: read(F('n.csv', 'user,item\n,1\n,2\n'), items))


# item tables

def test_a_flat_file_makes_its_item_table(F):
    sales = 'customer,sku,name,date\n' + ''.join(f'{u},{i},thing {i},2020-01-{1 + u:02}\n' for u in range(1, 12) for i in (u % 5, (u + 2) % 5, 4))
    f, names = F('sales.csv', sales), dict(user='customer', item='sku', title='name', time='date')
    for d in (read(f, f, names), read(f, None, names)):
        assert d.items['title'].tolist() == [f'thing {i}' for i in d.items['item']] and len(d.log) == 33
        assert any('made from the log' in note for note in d.notes)

def test_repeated_items_are_counted(F):
    d = read(F('l.csv', 'user,item\n1,1\n2,2\n'), F('i.csv', 'item,title\n1,a\n1,b\n2,c\n'))
    assert d.items['title'].tolist() == ['a', 'c'] and any('1 items have several titles' in n for n in d.notes)

def test_text_columns_and_columns_to_drop(F):
    it = F('i.csv', 'item,title,details,features,isbn\n1,a,soft,red,7\n2,b,,blue,8\n')
    d = read(F('l.csv', 'user,item\n1,1\n2,2\n'), it, text_columns='details,features', drop_columns=['isbn'])
    assert d.items['text'].tolist() == ['soft. red', 'blue'] and list(d.items) == ['item', 'title', 'text']
    assert "has a column 'isbm'" in refused(lambda: read(F('l.csv', 'user,item\n1,1\n'), it, drop_columns='isbm'))

def test_one_column_can_be_two_of_ours(F):
    assert read(F('l.csv', 'user,item\na,x\n'), F('i.csv', 'item\nx\ny\n'), {'items.title': 'item'}).items['title'].tolist() == ['x', 'y']

def test_well_known_names_are_taken_and_told(F, items):
    d = read(F('l.csv', 'user,item,rating,timestamp\n1,1,5,1511544070\n2,2,3,1511544071\n'), items)
    assert {'time', 'value'} <= set(d.log) and any('--drop-columns timestamp' in n for n in d.notes)
    assert 'time' not in read(F('l.csv', 'user,item,timestamp\n1,1,1511544070\n'), items, drop_columns='timestamp').log


# ids, RecBole, languages

def test_ids_of_two_tables():
    assert [s.tolist() for s in match_ids(pd.Series([1, 2]), pd.Series(['1', '02']))] == [['1', '2'], ['1', '02']]
    assert [s.tolist() for s in match_ids(pd.Series([1., 2.]), pd.Series(['1', '2']))] == [[1, 2], [1, 2]]

def test_ids_of_a_pair_are_of_one_kind():
    items = pd.DataFrame(dict(item=[1], title=['a']))
    a, b = align_ids(*[Domain(n, pd.DataFrame(dict(user=u, item=1)), items) for n, u in (('a', ['7', 'guest']), ('b', [7, 8]))])
    assert b.log['user'].tolist() == ['7', '8']

def test_split_files_of_recbole(F, tmp_path):
    head = 'user_id:token\titem_id:token\ttimestamp:float\n'
    for part, row in (('train', 'u\ta\t1e9\n'), ('valid', 'u\tb\t1.1e9\n'), ('test', 'u\tc\t1.2e9\n')): F(f'toy.{part}.inter', head + row)
    F('toy.item', 'item_id:token\ttitle:token_seq\na\tA\nb\tB\nc\tC\n')
    split = split_given(read_recbole(tmp_path, 'toy'))
    assert [log['item'].tolist() for log in (split.train, split.valid, split.test)] == [['a'], ['b'], ['c']]

def test_an_atomic_file_as_any_table(F):
    d = read(F('t.inter', 'user_id:token\titem_id:token\trating:float\nu\ta\t4\n'), F('t.item', 'item_id:token\tname:token_seq\na\tA\n'))
    assert pairs(d) == [['u', 'a']] and d.items['title'].tolist() == ['A']

@pytest.mark.parametrize('texts, language', [(['手机壳', '红色的杯子'], 'Chinese'), (['Чашка', 'Ложка'], 'Russian'), (['Red cup', 'The tea pot'], 'English'), (['Baju anak', 'Sepatu wanita', 'Tas untuk pria'], 'Indonesian'),
    (['La casa de papel', 'El libro con los cuentos', 'Una taza para té'], 'Spanish'), (['빨간 컵'], 'Korean')])
def test_languages(texts, language):
    assert guess_language(texts)[0] == language
    assert bool(unread_language(texts, 'minilm')) == (language != 'English') and not unread_language(texts, 'e5-multilingual')

CUPS = dict(Chinese=['红色的杯子', '蓝色的茶壶', '手机壳', '木勺子'], Russian=['Красная чашка', 'Синий чайник', 'Чехол для телефона', 'Деревянная ложка'],
            German=['Die rote Tasse', 'Eine Kanne für Tee', 'Hülle für das Telefon', 'Der Löffel aus Holz'], English=['The red cup', 'A pot for tea', 'Case for the phone', 'Spoon made of wood'])

def shop(language, name='shop', n=12):
    items = pd.DataFrame(dict(item=np.arange(4), title=CUPS[language]))
    return Domain(name, pd.DataFrame(dict(user=np.repeat(np.arange(n), 3), item=[i % 4 for u in range(n) for i in range(u, u + 3)], time=np.arange(3*n))), items)

@pytest.mark.parametrize('language', CUPS)
def test_fit_warns_of_texts_that_the_encoder_does_not_read(language):
    "The sentence names the domain, the language and the encoder that reads it; English, and an encoder of many languages, bring none."
    from llmrec.baselines import Popularity
    from llmrec.recommender import Recommender
    def said(*domains, encoder='minilm'):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('always')
            Recommender(encoder, experts=lambda *_: [Popularity()]).fit(*domains)
        return [str(w.message) for w in caught if 'the texts look like' in str(w.message)]
    found = said(shop(language))
    if language == 'English':
        assert not found
        [found] = said(shop('English'), shop('Chinese', 'market'))        # a source is read, too
        assert found.startswith('market: ') and 'Chinese' in found
    else: assert len(found) == 1 and found[0].startswith(f'shop: the texts look like {language}') and "encoder='e5-multilingual'" in found[0]
    assert not said(shop(language), encoder=None) and not said(shop(language), encoder='tfidf')

@pytest.mark.parametrize('name, english', [('minilm', True), ('sentence-transformers/all-MiniLM-L6-v2', True), ('BAAI/bge-small-en-v1.5', True), ('/models/my-en-shop/paraphrase-multilingual-MiniLM-L12-v2', False),
    ('intfloat/multilingual-e5-small', False), ('BAAI/bge-m3', False), ('tfidf', False), (None, False)])
def test_encoders_that_read_english_only(name, english):
    class Encoder: pass
    encoder = Encoder()
    if name: encoder.name = name
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        warn_unread([shop('Chinese')], encoder)
    assert bool(caught) == english

def test_readings_say_what_columns_were_taken_for(F, items):
    d = read(F('l.csv', 'customer;item;value;time\n7;1;4,5;01.12.2010\n8;2;3;13.12.2010\n'), items, {'user': 'customer'})
    said = {(r.table, r.column): (r.taken_for, r.how, r.examples) for r in d.readings}
    assert said['log', 'customer'][0] == 'user' and said['log', 'customer'][2] == '0 · 0' and '4,5 → 4.5' in said['log', 'value'][2] and 'comma' in said['log', 'value'][1]
    assert said['log', 'time'][1] == 'dates, day first' and '01.12.2010 → 2010-12-01' in said['log', 'time'][2]


# One reading for all
def test_a_domain_with_another_log_warns_of_rows_it_leaves_out():
    d = Domain('shop', pd.DataFrame(dict(user=['a', 'b'], item=[1, 2])), pd.DataFrame(dict(item=[1, 2], title=['cup', 'pot'])))
    with pytest.warns(UserWarning, match='1 rows whose item is not in the item table'): kept = d.with_log(d.log.assign(item=[1, 3]))
    assert len(kept.log) == 1
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert len(kept.with_log(kept.log).log) == 1

@pytest.mark.parametrize('given, title, text', [
    ('<b>Green</b> tea &amp; <!-- 7 --> cup', 'Green tea & cup', 'Green tea & cup'), ('5 < 6 bags and 7 > 3', '5 < 6 bags and 7 > 3', '5 < 6 bags and 7 > 3'),
    ('Tea<script>var a = 1;</script> pot', 'Tea pot', 'Tea pot'), ('Tea<style>.a{top:1}</style>', 'Tea', 'Tea'), ('I <3 you</p>', 'I <3 you', 'I <3 you'),
    ('var aPageStart = (new Date()).getTime();', '', None), ('.a-box{background:#fff}', '', None), ('function() { return 1 }', '', None),
    ('Functions of one variable', 'Functions of one variable', None), ('Vars: a novel {sic}', 'Vars: a novel {sic}', None)])
def test_products_of_amazon_have_words_for_titles(given, title, text):
    from llmrec.readers import _amazon_item
    row = _amazon_item(dict(asin='A', title=given, description=[given]))
    assert row['title'] == title and text in (None, row['text'])

@pytest.mark.parametrize('bad', [np.inf, -1., None, 'many'])
def test_a_weight_is_a_finite_number_wherever_it_is_read(bad):
    from llmrec.dataset import make_dataset
    items = pd.DataFrame(dict(item=[1, 2], title=['cup', 'pot']))
    log = pd.DataFrame(dict(user=['a', 'b'], item=[1, 2], weight=pd.Series([1., bad], dtype=object)))
    for read_in in (lambda: Domain('shop', log, items), lambda: make_dataset(log, items)):
        with pytest.raises(InputError, match="'weight': row 1"): read_in()

def test_a_run_takes_the_split_that_a_log_comes_with_and_a_dry_run_thins_as_the_run_does(caplog):
    from llmrec.data import DomainPair
    from llmrec.pipeline import Options, prepare_data, show_data
    log = pd.DataFrame([(u, i, 100*u + i) for u in range(9) for i in range(6)], columns=['user', 'item', 'time'])
    items = pd.DataFrame(dict(item=range(6), title=[f'thing {i}' for i in range(6)]))
    other = Domain('other', log.assign(user=log['user'] + 100), items)
    part = np.where(log['item'] == 2, 'test', np.where(log['item'] == 4, 'valid', 'train'))
    pair = DomainPair(other, Domain('shop', log.assign(part=part), items))
    _, split, _ = prepare_data(pair)
    assert split.protocol['name'] == 'given' and set(split.test['item']) == {2} and set(split.valid['item']) == {4}
    assert prepare_data(pair, split='last')[1].protocol['name'] == 'last'
    plain = DomainPair(other, Domain('shop', log, items))
    said = lambda keep: ' '.join(line for _, line in show_data(plain, Options('tfidf', keep=keep), quiet=True).lines)
    assert 'shop: 9 of 54 rows dropped' not in said(0) and 'dropped' in said(2)

def test_a_report_knows_whether_test_users_are_of_the_source():
    from llmrec.baselines import Popularity
    from llmrec.data import make_synthetic_pair
    from llmrec.dataset import make_dataset
    from llmrec.evaluation import evaluate
    from llmrec.preprocess import split_last
    pair = make_synthetic_pair(0, n_users=(40, 40), n_items=(20, 20), n_rows=(5, 5), shared=.5)
    split = split_last(pair.target)
    both = make_dataset(split.train, pair.target.items, pair.source)
    assert set(both.source_users) == set(pair.source.users)
    alone = make_dataset(split.train, pair.target.items)
    assert alone.source_users is None
    share = lambda data: evaluate(Popularity().fit_dataset(data), split, items=pair.target.items).protocol['regime']['shared_users']
    assert share(alone) is None and share(both) == np.isin(split.test['user'].unique(), pair.source.users).mean() > 0


# Siblings of what was reported
@pytest.mark.parametrize('texts, want', [
    (['3. Mai 2020', '25. Dezember 2020'], ['2020-05-03', '2020-12-25']), (['3 avril 2020', '25 décembre 2020'], ['2020-04-03', '2020-12-25']),
    (['3 de abril de 2020', '25 de diciembre de 2020'], ['2020-04-03', '2020-12-25']), (['Mi., 3. März 2021', 'Sa., 25. Dez. 2021'], ['2021-03-03', '2021-12-25']),
    (['3 maggio 2020', '25 agosto 2020'], ['2020-05-03', '2020-08-25']), (['3 мая 2020 г.', '25 декабря 2020 г.'], ['2020-05-03', '2020-12-25']),
    (['3 mei 2020', '25 maart 2020'], ['2020-05-03', '2020-03-25']), (['2020年4月3日', '2020年4月25日'], ['2020-04-03', '2020-04-25']),
    (['2020년 4월 3일', '2020년 4월 25일'], ['2020-04-03', '2020-04-25']), (["'2020-04-03", "'2020-04-25"], ['2020-04-03', '2020-04-25'])])
def test_dates_in_the_words_of_other_languages(texts, want):
    found = read_times(pd.Series(texts), 'time').seconds
    assert [str(x)[:10] for x in pd.to_datetime(found, unit='s')] == want

def test_clocks_in_the_words_of_other_languages():
    found = read_times(pd.Series(['03.04.2020, 10:05 Uhr', '25.04.2020, 11:00 Uhr']), 'time').seconds
    assert pd.to_datetime(found, unit='s').astype(str).tolist() == ['2020-04-03 10:05:00', '2020-04-25 11:00:00']

@pytest.mark.parametrize('unknown', ['9999-12-31', '1970-01-01', '0001-01-01', '1900-01-01', '0000-00-00 00:00:00', '-', '?'])
def test_a_date_that_says_unknown_is_none(unknown, F, items):
    "A last day of 9999 would be everybody's test, a first of 1970 everybody's oldest interaction."
    d = read(F('l.csv', f'user,item,time\n1,1,2020-04-03\n2,2,{unknown}\n3,3,2020-04-25\n'), items)
    assert days(d) == ['2020-04-03', '2020-04-25'] and any('time' in note for note in d.notes)

def test_days_and_times_of_day_in_two_columns(F, items):
    d = read(F('l.csv', 'user,item,date,time\n1,1,03.04.2020,10:00:00\n2,2,25.04.2020,9:30:00\n'), items)
    assert pd.to_datetime(d.log['time'], unit='s').astype(str).tolist() == ['2020-04-03 10:00:00', '2020-04-25 09:30:00']
    assert any("'date'" in note and 'together' in note for note in d.notes)

@pytest.mark.parametrize('nobody', ['', 'NULL', 'nan', '\\N', '-', '--', '?', '(null)', '(not set)'])
@pytest.mark.parametrize('user', ['anna', '101'])
def test_what_stands_for_no_customer(nobody, user, F, items):
    d = read(F('l.csv', f'user,item\n{user},1\n{nobody},3\n{user},2\n'), items)
    assert len(d.log) == 2 and d.log['user'].astype(str).unique().tolist() == [user]

@pytest.mark.parametrize('text', [
    json.dumps(dict(user={'0': 101, '1': 103}, item={'0': 1, '1': 5})), json.dumps({'0': dict(user=101, item=1), '1': dict(user=103, item=5)}),
    json.dumps(dict(columns=['user', 'item'], index=[0, 1], data=[[101, 1], [103, 5]])), json.dumps([['user', 'item'], [101, 1], [103, 5]]),
    pd.DataFrame(dict(user=[101, 103], item=[1, 5])).to_json(orient='table'), '{"user":{"$numberLong":"101"},"item":1}\n{"user":{"$numberLong":"103"},"item":5}\n',
    json.dumps(dict(meta=dict(n=2), data=[dict(user=101, item=1), dict(user=103, item=5)]))])
def test_json_as_other_programs_write_it(text, F, items):
    assert pairs(read(F('l.json', text), items)) == [[101, 1], [103, 5]]

def test_a_column_inside_an_object_can_be_named(F, items):
    d = read(F('l.jsonl', '{"user":{"id":101},"item":1,"time":{"$date":"2020-04-03T10:00:00Z"}}\n{"user":{"id":103},"item":5,"time":{"$date":"2020-04-25T10:00:00Z"}}\n'), items, {'user': 'user.id'})
    assert pairs(d) == [[101, 1], [103, 5]] and days(d) == ['2020-04-03', '2020-04-25']

@pytest.mark.parametrize('encoding, named', [('utf-16', 'utf-8'), ('latin-1', 'latin-1'), ('utf-8-sig', 'utf-8')])
def test_json_in_other_encodings(encoding, named, F, items):
    "The encoding that was asked for is that of JSON, too."
    d = read(F('l.json', '{"user":"zoé","item":1}\n{"user":"jürgen","item":5}\n', encoding), items, encoding=named)
    assert pairs(d) == [['zoé', 1], ['jürgen', 5]]

def test_separators_of_several_characters(F, items):
    assert pairs(read(F('l.csv', 'user~|~item\n101~|~1\n103~|~5\n'), items, sep='~|~')) == [[101, 1], [103, 5]]

@pytest.mark.parametrize('above', ['Report of orders\n', 'Orders, by customer; January\n\n', 'Orders;;\nmade on 3.1.2018;;\n'])
def test_lines_above_the_header(above, F, items):
    assert pairs(read(F('l.csv', above + 'user;item;value;shop\n101;1;4,5;a\n101;2;3,0;a\n103;5;2,5;b\n'), items)) == [[101, 1], [101, 2], [103, 5]]

def test_item_ids_padded_in_one_file(F):
    "They are told, and only taken for the same where nothing matches as it stands."
    d = read(F('l.csv', 'user,item\n7,1\n8,2\n'), F('i.csv', 'item,title\n00001,Red cup\n00002,Tea pot\n'))
    assert pairs(d) == [[7, 1], [8, 2]] and d.items['item'].tolist() == [1, 2] and any('zeros' in note for note in d.notes)
    same = read(F('l.csv', 'user,item\n7,001\n8,002\n'), F('i.csv', 'item,title\n001,Red cup\n002,Tea pot\n1,Blue cup\n'))
    assert same.items['item'].tolist() == ['001', '002', '1']
    refused(lambda: read(F('l.csv', 'user,item\n7,1\n8,2\n'), F('i.csv', 'item,title\n01,Red cup\n001,Tea pot\n')))     # 1 would be both

def test_a_flat_file_takes_a_title_from_the_row_that_has_one(F):
    assert read(F('l.csv', 'user,item,title\n101,1,\n101,2,Blue\n103,1,Red\n')).items['title'].tolist() == ['Red', 'Blue']

@pytest.mark.parametrize('log, table', [('user,item\n', ITEMS), ('user,item\n1,1\n', 'item,title\n')])
def test_a_header_without_rows_is_an_error(log, table, F):
    assert 'no rows, only a header' in refused(lambda: read(F('l.csv', log), F('i.csv', table)))

def test_files_whose_ids_are_of_two_kinds(F, items, tmp_path):
    pd.DataFrame(dict(user=[103], item=[5])).to_parquet(tmp_path/'b.parquet')
    assert pairs(read([F('a.csv', 'user,item\n101,1\n'), tmp_path/'b.parquet'], items)) == [[101, 1], [103, 5]]

def test_parquet_in_a_zip(items, tmp_path):
    pd.DataFrame(dict(user=[101, 103], item=[1, 5])).to_parquet(tmp_path/'l.parquet')
    with zipfile.ZipFile(tmp_path/'l.zip', 'w') as archive: archive.write(tmp_path/'l.parquet', 'l.parquet')
    assert pairs(read(tmp_path/'l.zip', items)) == [[101, 1], [103, 5]]

def test_two_domains_with_names_of_their_own(F):
    "What one company calls Kunde, another calls client; a name without a domain is for both."
    from llmrec.pipeline import read_pair
    source = F('s.csv', 'Client;Article;Nom\nA;x;Bol bleu\nA;y;Tasse\nB;x;Bol bleu\n')
    target = F('t.csv', 'Kunde,Artikel\n7,1\n8,2\n'), F('t-items.csv', 'Artikel,Name\n1,Red cup\n2,Tea pot\n')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        pair = read_pair(source, None, *target, 'source.user=Client,source.title=Nom,source.item=Article,user=Kunde,log.item=Artikel,items.item=Artikel,title=Name')
    assert pair.source.log['user'].tolist() == ['A', 'A', 'B'] and pair.source.items['title'].tolist() == ['Bol bleu', 'Tasse']
    assert pair.target.log['item'].tolist() == [1, 2] and pair.target.items['title'].tolist() == ['Red cup', 'Tea pot']
    assert 'source.user=' in refused(lambda: read_pair(source, None, *target, 'user=Kunde,item=Artikel,title=Name'))

# What is looked at, and how often
def test_examples_are_looked_for_until_there_are_three(monkeypatch):
    from llmrec import columns
    seen = []
    monkeypatch.setattr(columns, 'plain_text', lambda x, plain=columns.plain_text: seen.append(x) or plain(x))
    for values, shown in (([f'v{i}' for i in range(20_000)], 'v0 · v1 · v2'), (['a', 'a', None, 'b ', 'b'], 'a · b'),
                          ([1., 1., np.nan, 2., 3., 4.], '1 · 2 · 3'), ([['x', 'y'], ['x', 'y'], ['z']], 'x|y · z')):
        seen.clear()
        assert columns.show_examples(pd.Series(values)) == shown and len(seen) <= 5
    assert columns.show_examples(pd.Series(['1,5', '1,5', '2'], index=[7, 8, 9]), np.array([1.5, 1.5, 2.])) == '1,5 → 1.5 · 2'

def test_quotes_come_off_where_a_cell_has_them_at_both_ends():
    from llmrec.columns import unquoted
    df = pd.DataFrame(dict(a=['"x"', 'y', '"half', None, '"say ""hi"""', ''], b=['1', '2', '3', '4', '5', '6'])).astype(dict(b='string'))
    assert unquoted(df)['a'].tolist()[:3] == ['x', 'y', '"half'] and unquoted(df)['a'].tolist()[4:] == ['say "hi"', '']
    assert unquoted(df)['b'].tolist() == df['b'].tolist()
