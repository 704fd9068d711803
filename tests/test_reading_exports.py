"Files as shops, players, analytics and old archives export them: each is read right, or refused for the reason that is the real one."
import bz2, gzip, io, json, uuid, zipfile
from datetime import datetime, timezone
import numpy as np, pandas as pd, pytest
from llmrec.columns import read_times
from llmrec.mapping import star_ratings
from test_reading_siblings import FRAME, ITEMS, F, days, log_and, pairs, read, refused

TWO = [[7, 1], [8, 2]]
PLAIN = 'user,item\n7,1\n8,2\n'
def told(domain, *words): return all(any(word in note for note in domain.notes) for word in words)
def zipped(**files):
    data = io.BytesIO()
    with zipfile.ZipFile(data, 'w') as archive:
        for name, content in files.items(): archive.writestr(name.replace('__', '.'), content)
    return data.getvalue()


# shops
def test_shopify_says_once_an_order_what_became_of_it(F):
    log = ('Name,Email,Financial Status,Created at,Lineitem quantity,Lineitem name,Lineitem price,Lineitem sku\n#1001,a@x.org,paid,2020-04-03 09:59:00 +0200,1,Red cup,12.50,S1\n#1001,a@x.org,,2020-04-03 09:59:00 +0200,2,Pot,3.00,S2\n'
           '#1002,b@x.org,refunded,2020-04-04 10:00:00 +0200,1,Fork,2.00,S3\n#1002,b@x.org,,2020-04-04 10:00:00 +0200,1,Red cup,12.50,S1\n#1003,b@x.org,paid,2020-04-05 10:00:00 +0200,1,Pot,3.00,S2\n')
    d = read(F('l.csv', log), None, dict(user='Email', item='Lineitem sku', title='Lineitem name', price='Lineitem price', time='Created at'))
    assert pairs(d) == [['a@x.org', 'S1'], ['a@x.org', 'S2'], ['b@x.org', 'S2']] and d.log['value'].tolist() == [1, 2, 1] and d.n_items == 3 and told(d, '2 rows have a status')
    assert str(pd.to_datetime(d.log['time'][0], unit='s')) == '2020-04-03 07:59:00'

def test_a_line_of_an_order_that_came_back_alone(F):
    d = log_and(F, 'user,item,order_id,status\n7,1,1,shipped\n7,2,1,returned\n8,2,2,shipped\n8,3,2,shipped\n')
    assert pairs(d) == [[7, 1], [8, 2], [8, 3]]

def test_orders_and_their_lines_are_joined(F):
    lines, orders, customers = F('lines.csv', 'order_id,product_id\n1,1\n1,2\n2,1\n'), F('orders.csv', 'order_id,customer_id\n1,70\n2,80\n3,90\n'), F('customers.csv', 'customer_id,person\n70,7\n80,8\n')
    d = read([lines, orders, customers], F('i.csv', ITEMS), {'user': 'person', 'log.item': 'product_id'})
    assert pairs(d) == [[7, 1], [7, 2], [8, 1]] and told(d, "joined by 'order_id': 3 of 3", "joined by 'customer_id'")
def test_what_has_users_and_items_is_not_joined(F): assert 'not the same columns' in refused(lambda: read([F('a.csv', PLAIN), F('b.csv', 'user,sku\n7,1\n')], F('i.csv', ITEMS)))

@pytest.mark.parametrize('last', ['Total,,12', 'Total:,2,12', 'Gesamt,2,12', 'Grand total,2,12', ',,12', '合計,2,12'])
def test_a_row_of_totals_is_none(last, F): assert pairs(log_and(F, f'user,item,quantity\n7,1,5\n8,2,7\n{last}\n')) == TWO
def test_a_user_called_total_is_one(F): assert log_and(F, 'user,item\nTotal,1\nTotal,2\nanna,2\n').n_users == 2

@pytest.mark.parametrize('nobody', ['-1', 'guest', 'Anonymous', 'unknown'])
def test_a_user_who_may_be_nobody_is_told(nobody, F):
    d = log_and(F, f'user,item\n{nobody},1\n{nobody},2\n7,1\n8,2\n')
    assert len(d.log) == 4 and told(d, 'may be nobody')


# players, analytics
@pytest.mark.parametrize('path, cell', [('movie.ids.trakt', dict(movie=dict(ids=dict(trakt=1), title='Dune'))), ('properties.product.id', dict(properties=dict(product=dict(id=1))))])
def test_columns_two_objects_deep(path, cell, F):
    rows = '\n'.join(json.dumps(dict(user=u, **cell)) for u in (7, 8))
    assert pairs(read(F('l.json', rows), F('i.csv', ITEMS), {'log.item': path})) == [[7, 1], [8, 1]]

def test_a_song_that_was_skipped(F): assert pairs(log_and(F, 'user,item,ts,skipped\n7,1,2020-04-03T10:00:00Z,false\n7,2,2020-04-03T10:05:00Z,true\n8,2,2020-04-03T10:06:00Z,\n')) == TWO
def test_yes_and_no_beside_gaps_are_no_texts(F): assert pairs(log_and(F, 'user,item,liked,gift\n7,1,true,\n8,2,true,false\n9,3,false,true\n')) == TWO
def test_start_time_is_a_time(F): assert len(log_and(F, 'user,item,Start Time\n7,1,2020-04-03 10:00:00\n8,2,2020-04-04 10:00:00\n').log['time']) == 2

@pytest.mark.parametrize('cells, want', [(['4/5', '2/5'], [4, 2]), (['★★★★☆', '★★'], [4, 2]), (['★★★½', '★'], [3.5, 1]), (['4.5 out of 5', '2 out of 5'], [4.5, 2]), (['4,5 von 5 Sternen', '2,0 von 5 Sternen'], [4.5, 2]),
                                         (['⭐⭐⭐', '⭐'], [3, 1]), (['9/10', '4/5'], [.9, .8]), (['*****', '**'], [5, 2]), (['80%', '35 %'], [80, 35])])
@pytest.mark.parametrize('named', [True, False])
def test_ratings_in_stars_and_shares(cells, want, named, F):
    d = log_and(F, f'user,item,rating\n7,1,"{cells[0]}"\n8,2,"{cells[1]}"\n', columns=dict(value='rating') if named else None)
    assert np.allclose(d.log['value'], want)
def test_what_is_no_share_is_no_rating(): assert star_ratings(pd.Series(['4/5', 'good'])) is None and star_ratings(pd.Series(['3', '4'])) is None

@pytest.mark.parametrize('texts, want', [
    (['2020-04-03 10:00:00 Europe/Berlin'], '2020-04-03 08:00:00'), (['2020-01-03 10:00:00 America/New_York'], '2020-01-03 15:00:00'), (['2020-04-03T10:00:00+02:00[Europe/Berlin]'], '2020-04-03 08:00:00'),
    (['Fri Apr 03 10:00:00 CEST 2020'], '2020-04-03 08:00:00'), (['Fri Apr 03 2020 10:00:00 GMT+0200 (Central European Summer Time)'], '2020-04-03 08:00:00'), (['Fri, 03 Apr 2020 10:00:00 PDT'], '2020-04-03 17:00:00'),
    (['2020-W14-5'], '2020-04-03 00:00:00'), (['2020W14'], '2020-03-30 00:00:00'), (['2020Q2'], '2020-04-01 00:00:00'), (['Q2 2020'], '2020-04-01 00:00:00'), (['1,585,908,000'], '2020-04-03 10:00:00'), (['1.585.908.000.000'], '2020-04-03 10:00:00')])
def test_times_with_zones_by_name_weeks_quarters_and_groups(texts, want): assert days(texts) == [want]
def test_a_zone_that_is_none_is_no_time(): assert np.isnan(read_times(pd.Series(['2020-04-03 10:00 Middle/Earth']), 'time').seconds).all()


# lists and letters
@pytest.mark.parametrize('cell, want', [("[{'id': 16, 'name': 'Animation'}, {'id': 35, 'name': 'Comedy'}]", 'Animation|Comedy'), ("['Drama', 'Sci-Fi, Horror']", 'Drama|Sci-Fi, Horror'), ('["Drama", "Crime"]', 'Drama|Crime'), ('{Drama,Crime}', 'Drama|Crime'), ('[Drama, Crime]', 'Drama|Crime')])
def test_labels_in_lists(cell, want, F):
    items = pd.DataFrame(dict(item=[1, 2], title=['a', 'b'], category=[cell, cell])).to_csv(index=False)
    d = log_and(F, PLAIN, items)
    assert d.items['category'].tolist() == [want]*2 and told(d, 'read as labels')
def test_labels_in_objects(F): assert read(F('l.csv', PLAIN), F('i.json', json.dumps([dict(item=i, title='a', category=[dict(id=1, name='Drama'), dict(id=2, name='Crime')]) for i in (1, 2)]))).items['category'].tolist() == ['Drama|Crime']*2
def test_a_title_in_brackets_is_none(F): assert log_and(F, PLAIN, 'item,title\n1,[REC]\n2,[Untitled]\n').items['title'].tolist() == ['[REC]', '[Untitled]']

def test_letters_that_were_encoded_twice(F):
    d = log_and(F, PLAIN, 'item,title\n1,' + 'Café crème'.encode().decode('cp1252') + '\n2,ÂNGELO É\n')
    assert d.items['title'].tolist() == ['Café crème', 'ÂNGELO É'] and told(d, 'encoded twice')
def test_letters_that_were_lost_are_told(F): assert told(log_and(F, PLAIN, 'item,title\n1,Caf\ufffd\n2,Pot\n'), 'letters were lost')

@pytest.mark.parametrize('log', [b'user,item\n7,1\x00\n8,2\n', b'user,item\n7,1\n8,2\n' + bytes(300)])
def test_nul_bytes_are_left_out(log, F):
    d = read(F('l.csv', log), F('i.csv', ITEMS))
    assert pairs(d) == TWO and told(d, 'NUL')
def test_a_separator_behind_a_backslash(F): assert log_and(F, PLAIN, 'item,title\n1,Cup\\, red\n2,Pot\\, tea\n').items['title'].tolist() == ['Cup, red', 'Pot, tea']
def test_a_header_among_the_rows_leaves_numbers_numbers(F): assert log_and(F, 'user,item,rating\n7,1,5\nuser,item,rating\n8,2,4\n').log['value'].tolist() == [5, 4]


# ids of items
@pytest.mark.parametrize('log, items', [(['012', '345'], ['12', '345']), (["'0012", "'0345"], ['0012', '0345']), (['978-3-16-148410-0', '978-0-441-17271-9'], ['9783161484100', '9780441172719']), (['"1,234"', '"2,345"'], ['1234', '2345']), (['AB-1', 'AB-2'], ['ab1', 'ab2'])])
def test_items_that_are_written_in_two_ways(log, items, F):
    d = read(F('l.csv', f'user,item\n7,{log[0]}\n8,{log[1]}\n'), F('i.csv', f'item,title\n{items[0]},Cup\n{items[1]},Pot\n'))
    assert len(d.log) == 2 and set(d.log['item']) <= set(d.items['item']) and told(d, 'taken for the same')
def test_items_that_collide_are_not_joined(F): assert len(log_and(F, 'user,item\n7,1\n8,A2\n', 'item,title\n1,Cup\na2,Pot\nA-2,Fork\n').log) == 1


# packed, and what is no table
def test_zstd(F):
    arrow = pytest.importorskip('pyarrow')
    assert pairs(read(F('l.csv.zst', arrow.compress(PLAIN.encode(), 'zstd', asbytes=True)), F('i.csv', ITEMS))) == TWO
@pytest.mark.parametrize('files', [dict(log__csv=PLAIN, README__txt='hello'), dict(log__csv__gz=gzip.compress(PLAIN.encode())), dict(a__csv='user,item\n7,1\n', b__csv='user,item\n8,2\n'), dict(log__csv__bz2=bz2.compress(PLAIN.encode()))])
def test_archives(files, F): assert pairs(read(F('l.zip', zipped(**files)), F('i.csv', ITEMS))) == TWO

def locked():
    data = bytearray(zipped(a__csv=PLAIN))
    for place in (6, data.index(b'PK\x01\x02') + 8): data[place] |= 1
    return bytes(data)

@pytest.mark.parametrize('content, what', [
    (zipped(inner__zip=zipped(a__csv=PLAIN)), 'inside a ZIP'), (locked(), 'password'), (zipped(mimetype='x', content__xml='<x/>'), 'LibreOffice'), (zipped(a__csv=PLAIN, b__csv='item,title\n1,A\n'), 'b.csv'),
    (b'$FL2@(#) SPSS DATA FILE' + bytes(99), 'SPSS'), (b'<stata_dta><header>' + bytes(99), 'Stata'), (b'Rar!\x1a\x07' + bytes(99), 'RAR'), (b'\x89PNG\r\n\x1a\n' + bytes(99), 'picture'), (b'\x00\x01\x00\x00Standard Jet DB' + bytes(99), 'Access'),
    (b'1:\n1488844,3,2005-09-06\n2:\n885013,4,2005-10-19\n', 'Netflix'), (b'user,1,2,3,4\n7,4.5,99,1,99\n8,99,3,99,1\n', 'matrix'), (b';Red cup;Blue cup;Pot\nanna;5;;3\nbob;;4;\n', 'matrix')], ids=lambda x: x if isinstance(x, str) else '')
def test_what_cannot_be_read_is_called_by_its_name(content, what, F): assert what in refused(lambda: read(F('l.csv', content), F('i.csv', ITEMS)))

def test_python_objects_a_line(F):
    d = read(F('l.csv', 'user,item\n7,B1\n8,B2\n'), F('m.json', "{'item': 'B1', 'title': \"Men's cup\", 'price': 3.5, 'rank': None}\n{'item': 'B2', 'title': 'Fork'}\n"))
    assert d.items['title'].tolist() == ["Men's cup", 'Fork']


# frames
@pytest.mark.parametrize('log, columns', [([dict(user=7, item=1), dict(user=8, item=2)], None), (dict(user=[7, 8], item=[1, 2]), None), (np.array([(7, 1), (8, 2)], dtype=[('user', int), ('item', int)]), None),
    (pd.DataFrame(dict(user=[7, 8], item=[1, 2])).groupby(['user', 'item']).size(), None), (pd.DataFrame([[7, 1], [8, 2]]), {'user': '0', 'log.item': '1'}), (pd.DataFrame([[7, 1], [8, 2]]), {'user': 0, 'log.item': 1}),
    (pd.DataFrame(dict(user=[dict(id=7), dict(id=8)], item=[1, 2])), {'user': 'user.id'})], ids=range(7))
def test_tables_in_memory(log, columns): assert pairs(read(log, FRAME, columns)) == TWO

def test_bytes_and_uuids_are_text():
    d = read(pd.DataFrame(dict(user=[b'anna', b'bob'], item=[b'1', b'2'])), pd.DataFrame(dict(item=[b'1', b'2'], title=[b'Toy Story', 'Amélie'.encode()])))
    assert d.items['title'].tolist() == ['Toy Story', 'Amélie'] and d.log['user'].tolist() == ['anna', 'bob']
    assert read(pd.DataFrame(dict(user=[uuid.UUID(int=7), uuid.UUID(int=8)], item=[1, 2])), FRAME).log['user'][0] == str(uuid.UUID(int=7))

def test_structs_and_lists_of_parquet(tmp_path):
    arrow, parquet = pytest.importorskip('pyarrow'), pytest.importorskip('pyarrow.parquet')
    table = arrow.table(dict(customer=[dict(id=7), dict(id=8)], basket=[[dict(sku=1, qty=1), dict(sku=2, qty=3)], [dict(sku=2, qty=1)]]))
    parquet.write_table(table, tmp_path/'s.parquet')
    d = read(tmp_path/'s.parquet', FRAME, {'user': 'customer.id', 'log.item': 'sku', 'value': 'qty'})
    assert pairs(d) == [[7, 1], [7, 2], [8, 2]] and d.log['value'].tolist() == [1, 3, 1]


# headers, cells, folders, clocks
def test_a_line_break_in_a_name(F): assert pairs(log_and(F, '"Customer\nID",item\n7,1\n8,2\n', columns={'user': 'Customer ID', 'log.item': 'item'})) == TWO
@pytest.mark.parametrize('cell, name', [('{""item"": %d}', 'props.item'), ('{""p"": {""item"": %d}}', 'props.p.item')])
def test_objects_of_json_in_a_cell(cell, name, F):
    log = 'user,props\n' + ''.join(f'{u},"{cell % i}"\n' for u, i in TWO)
    assert pairs(log_and(F, log, columns={'log.item': name})) == TWO
@pytest.mark.parametrize('name', ['https://example.org/log.csv', 's3://bucket/log.parquet'])
def test_an_address_is_no_file(name, F): assert 'is an address' in refused(lambda: read(name, F('i.csv', ITEMS)))
def test_parts_without_an_ending(tmp_path):
    for i, row in enumerate(['7,1\n', '8,2\n']): (tmp_path/f'part-0000{i}').write_text(row)
    (tmp_path/'_SUCCESS').write_text('')
    assert pairs(read(tmp_path, FRAME, {'user': '0', 'log.item': '1'}, no_header=True)) == TWO
def test_a_clock_that_is_ahead_is_told(F): assert told(log_and(F, 'user,item,time\n7,1,2020-04-03\n8,2,2099-01-01\n9,3,2020-04-05\n'), '1 rows are later than today, up to 2099-01-01')
def test_borders_of_a_terminal(F): assert pairs(log_and(F, '+------+------+\n| user | item |\n+------+------+\n|    7 |    1 |\n|    8 |    2 |\n+------+------+\n2 rows in set\n')) == TWO
def test_an_answer_of_elasticsearch(F):
    hits = [dict(_id=str(u), _source=dict(user=u, item=i)) for u, i in TWO]
    answer = dict(took=3, timed_out=False, _shards={}, hits=dict(total=2, hits=hits))
    assert pairs(read(F('e.json', json.dumps(answer)), F('i.csv', ITEMS), {'user': '_source.user', 'log.item': '_source.item'})) == TWO
def test_dates_and_stamps_of_two_programs(): assert days(['2020-04-03T10:00:00Z', '1585908000000']) == ['2020-04-03 10:00:00']*2
