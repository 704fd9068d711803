"""Siblings of the files in test_reading.py: other encodings, signs, languages, archives and programs. Each has the right value, or an error that says why."""
import gzip, io, json, tarfile, unicodedata, warnings, zipfile
from decimal import Decimal
import numpy as np, pandas as pd, pytest
from llmrec.columns import read_numbers, read_times
from llmrec.core import InputError
from llmrec.data import Domain
from llmrec.language import doubt_encoding, guess_encoding
from llmrec.readers import align_ids, read_table

ITEMS = 'item,title\n1,Red cup\n2,Blue cup\n3,Tea pot\n4,Spoon\n5,Fork\n'
WORDS = 'item,title\nA1,Red cup\nB2,Blue cup\n'
FRAME = pd.DataFrame(dict(item=[1, 2, 3, 4, 5], title=['a', 'b', 'c', 'd', 'e']))

@pytest.fixture
def F(tmp_path):
    def write(name, content, encoding='utf-8'):
        path = tmp_path/name
        path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
        return path
    return write

def read(*args, **kw):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return read_table(*args, **kw)

def pairs(domain): return domain.log[['user', 'item']].values.tolist()
def days(texts): return [str(x)[:19] for x in pd.to_datetime(read_times(pd.Series(texts), 'time').seconds, unit='s')]

def refused(f):
    with pytest.raises((InputError, FileNotFoundError)) as error: f()
    assert len(str(error.value)) <= 600, len(str(error.value))
    return str(error.value)

def log_and(F, log, items=ITEMS, **kw): return read(F('l.csv', log), F('i.csv', items), **kw)


# encodings
@pytest.mark.parametrize('text, encoding', [('赤いカップと皿', 'euc_jp'), ('Café crème', 'mac_roman'), ('Kırmızı fincan', 'cp1254'), ('紅色杯子', 'big5'), ('Żółta łyżka', 'cp1250')])
def test_the_encoding_that_bytes_look_like(text, encoding): assert guess_encoding(''.join(f'{i},{text} {i}\n' for i in range(5)).encode(encoding))[0] == encoding

def test_a_euro_sign_is_read_as_one(): assert 'é' in 'Café 5 €'.encode('iso8859_15').decode(guess_encoding('Café 5 €'.encode('iso8859_15'))[0])

def test_an_encoding_that_others_fit_far_better_is_told(F):
    russian = 'item,title\n1,Красная кружка для чая\n2,Синяя чашка\n'
    assert doubt_encoding('Türgriff, Öse, crème'.encode('cp1252'), 'cp1252') == '' == doubt_encoding(russian.encode('cp1251'), 'cp1251')
    d = read(F('l.csv', 'user,item\n7,1\n8,2\n'), F('i.csv', russian, 'cp1251'), encoding='cp1252')
    assert any('Russian in cp1251' in note for note in d.notes)


# separators, quotes, lines that are no rows
@pytest.mark.parametrize('items, titles', [
    ('item;title\n1;Cup, red, big\n2;Cup, blue, small\n', ['Cup, red, big', 'Cup, blue, small']), ('item, title\n1, "Cup, red"\n2, "Pot, tea"\n', ['Cup, red', 'Pot, tea']),
    ("item,title\n1,'Cup, red'\n2,'Pot, tea'\n", ['Cup, red', 'Pot, tea']), ('item,title\n1,Red cup,\n2,Pot,\n', ['Red cup', 'Pot']),
    ("item,title\n1,Men's 'best' shoes\n2,'Allo 'Allo\n", ["Men's 'best' shoes", "'Allo 'Allo"]), ('item,title\n1,Salt &amp; pepper\n2,<b>Pot</b> &#39;x&#39;\n', ['Salt & pepper', "Pot 'x'"]),
    ('item,title\n1,I <3 you\n2,a<b & c>d\n', ['I <3 you', 'a<b & c>d']), ('item,title\n1,AT&T; phone\n2,R&D\n', ['AT&T; phone', 'R&D']),
    ('item,title\n1,\n1,Green cup\n2,Pot\n', ['Green cup', 'Pot'])])
def test_titles(items, titles, F): assert log_and(F, 'user,item\n7,1\n8,2\n', items).items['title'].tolist() == titles

@pytest.mark.parametrize('log', [
    "user,item\n'7','1'\n'8','2'\n", 'user,item\n="7",1\n="8",2\n', '| user | item |\n|------|------|\n| 7 | 1 |\n| 8 | 2 |\n', 'user,item\n7,1\nuser,item\n8,2\n',
    'user,item,time\nid,id,s\n7,1,1585908000\n8,2,1585908001\n', ' user | item \n------+------\n    7 |    1\n    8 |    2\n(2 rows)\n', 'user,item\n7,1\n\ufeffuser,item\n8,2\n',
    'user,item\n7.0,1\n8,2\n', 'user,item\n 7,1\u00a0\n8,\u200b2\n', 'user,item\n" ",3\n"7","1"\n"8","2"\n', 'user;item\n7;[1]\n8;[2]\n'])
def test_rows(log, F): assert pairs(log_and(F, log)) == [[7, 1], [8, 2]]

def test_a_comma_too_many_is_named_by_its_row(F): assert 'row 1 has 3 fields' in refused(lambda: log_and(F, 'user,item\n7,1\n', 'item,title\n1,Red cup\n2,Cup, blue\n3,Pot\n'))
def test_one_column_asks_for_the_separator(F): assert '--sep' in refused(lambda: log_and(F, 'user^item\n7^1\n8^2\n'))

@pytest.mark.parametrize('content, what', [
    (b'<!DOCTYPE html>\n<html><body>404</body></html>\n', 'HTML'), (b'<?xml version="1.0"?>\n<log/>\n', 'XML'), (b'version https://git-lfs.github.com/spec/v1\noid sha256:4\n', 'LFS'),
    (b'%%MatrixMarket matrix coordinate real general\n3 5 1\n1 1 5\n', 'MatrixMarket'), (b'@relation log\n@data\n7,1\n', 'ARFF'), (b'CREATE TABLE log (user int);\n', 'SQL'),
    (b'ORC' + bytes(40), 'ORC'), (b'\x93NUMPY\x01\x00' + bytes(40), 'NumPy'), (gzip.compress(b'X\n\x00\x00\x00\x03' + bytes(40), mtime=0), "R's save")])
def test_what_is_no_table_is_called_by_its_name(content, what, F): assert what in refused(lambda: read(F('l.csv', content), F('i.csv', ITEMS)))

def test_a_tar_archive_is_named(tmp_path, F):
    with tarfile.open(tmp_path/'l.tar.gz', 'w:gz') as archive:
        info = tarfile.TarInfo('l.csv')
        info.size = 14
        archive.addfile(info, io.BytesIO(b'user,item\n7,1\n'))
    assert 'tar archive' in refused(lambda: read(tmp_path/'l.tar.gz', F('i.csv', ITEMS)))


# numbers and dates
@pytest.mark.parametrize('texts, want', [
    (['1.234,5', '12.345,75', '3,5'], [1234.5, 12345.75, 3.5]), (['1.234', '12.345', '3,5'], [1234, 12345, 3.5]), (['1,234.50', '12,345'], [1234.5, 12345]),
    (['1,23,456.50', '12'], [123456.5, 12]), (['12,-', '3,50'], [12, 3.5]), (['４．５', '٣'], [4.5, 3]), (["'4.5", "'3"], [4.5, 3])])
def test_numbers(texts, want): assert read_numbers(pd.Series(texts)).values.tolist() == want

def test_numbers_that_fit_both_ways_are_told(F):
    d = log_and(F, 'user;item;value\n7;1;1,234\n8;2;2,345\n')
    assert d.log['value'].tolist() == [1234, 2345] and any('1,234' in note and 'thousands' in note for note in d.notes)

@pytest.mark.parametrize('texts, want', [
    (['03/Apr/2020:10:00:00 +0000', '04/Apr/2020:10:00:00 +0200'], ['2020-04-03 10:00:00', '2020-04-04 08:00:00']), (['/Date(1585908000000)/', '/Date(1585908001000)/'], ['2020-04-03 10:00:00', '2020-04-03 10:00:01']),
    (['3. 4. 2020', '25. 4. 2020'], ['2020-04-03 00:00:00', '2020-04-25 00:00:00']), (['3. dubna 2020', '25. prosince 2020'], ['2020-04-03 00:00:00', '2020-12-25 00:00:00']),
    (['3 maj 2020', '25 augusti 2020'], ['2020-05-03 00:00:00', '2020-08-25 00:00:00']), (['2020/4/3 下午 1:05:00', '2020/4/25 上午 1:05:00'], ['2020-04-03 13:05:00', '2020-04-25 01:05:00']),
    (['01.02.2020', '13.02.2020', '2020-02-03'], ['2020-02-01 00:00:00', '2020-02-13 00:00:00', '2020-02-03 00:00:00'])])
def test_dates_of_other_programs_and_languages(texts, want): assert days(texts) == want

@pytest.mark.parametrize('cells', [['43924.5', '43925', '43930'], ['43924,5', '43925,0', '43930,25']])
def test_days_of_a_spreadsheet_are_dates_and_told(cells, F):
    d = log_and(F, 'user;item;time\n' + ''.join(f'{u};{u};{x}\n' for u, x in enumerate(cells, 1)))
    assert str(pd.to_datetime(d.log['time'][0], unit='s')) == '2020-04-03 12:00:00' and any('spreadsheet' in note for note in d.notes)

def test_a_counter_is_no_spreadsheet(F): assert log_and(F, 'user,item,time\n7,1,1\n8,2,40000\n9,3,50000\n').log['time'].tolist() == [1, 40000, 50000]


# names in other languages
@pytest.mark.parametrize('header', ['Kunde;Artikel;Datum;Bewertung', 'client;référence;date;note', 'usuario;artículo;fecha;valoración', 'пользователь;товар;дата;оценка', '用户;商品;时间;评分',
    'ユーザー;商品;日時;評価', 'utente;articolo;data;voto', 'usuário;produto;data;nota', 'gebruiker;artikel;datum;beoordeling', 'użytkownik;produkt;data;ocena', 'kullanıcı;ürün;tarih;puan', '사용자;상품;시간;평점'])
def test_the_line_to_copy_knows_names_of_other_languages(header, F):
    log, items = F('l.csv', header + '\n7;1;2020-04-03;4\n8;2;2020-04-25;5\n'), F('i.csv', ITEMS)
    line = refused(lambda: read(log, items)).split('--columns ')[1].split(' (')[0]
    d = read(log, items, dict(part.split('=') for part in line.split(',')))
    assert pairs(d) == [[7, 1], [8, 2]] and d.log['value'].tolist() == [4, 5] and len(d.log['time']) == 2


# ids
@pytest.mark.parametrize('log, users', [
    ('user,item\nanna ,A1 \nanna, A1\n', ['anna', 'anna']), ('user,item\nanna\u200b,A1\nanna,\ufeffA1\n', ['anna', 'anna']), ('user,item\nanna,a1\nbob,b2\n', ['anna', 'bob']),
    (f"user,item\n{unicodedata.normalize('NFD', 'Zoé')},A1\nZoé,B2\n", ['Zoé', 'Zoé']), ('user,item\n0e12,A1\n1e5,B2\n', ['0e12', '1e5'])])
def test_ids_as_text(log, users, F): assert log_and(F, log, WORDS).log['user'].tolist() == users and len(log_and(F, log, WORDS).log) == 2

def test_ids_that_a_spreadsheet_rounded_are_told(F): assert any('rounded' in note for note in log_and(F, 'user,item\n1.23457E+12,1\n1.23458E+12,2\n').notes)
def test_a_log_of_titles_is_told(F): assert 'has titles' in refused(lambda: log_and(F, 'user,item\n7,Red cup\n8,Blue cup\n'))

BIG = 9007199254740993
def big_frame():
    import pyarrow as pa
    return pa.table(dict(user=pa.array([BIG, None, BIG - 1]), item=[1, 2, 3]))

@pytest.mark.parametrize('kind', ['parquet', 'arrow', 'polars', 'json', 'csv'])
def test_long_ids_beside_gaps_are_not_rounded(kind, F, tmp_path):
    log = big_frame()
    if kind == 'parquet':
        pytest.importorskip('pyarrow.parquet').write_table(log, tmp_path/'l.parquet')
        log = tmp_path/'l.parquet'
    if kind == 'polars': log = pytest.importorskip('polars').from_arrow(log)
    if kind == 'json': log = F('l.json', f'{{"user":{BIG},"item":1}}\n{{"user":null,"item":2}}\n{{"user":{BIG - 1},"item":3}}\n')
    if kind == 'csv': log = F('l.csv', f'user,item\n{BIG},1\n,2\n{BIG - 1},3\n')
    assert read(log, F('i.csv', ITEMS)).log['user'].tolist() == [BIG, BIG - 1]

def test_users_who_would_be_shared_in_another_way_of_writing_are_told():
    def domain(name, users): return Domain(name, pd.DataFrame(dict(user=users, item=[1, 2])), FRAME)
    for source, target, word in ((['007', '008'], ['7', '8'], 'zeros'), (['Anna@x', 'Bob@x'], ['anna@x', 'bob@x'], 'capitals')):
        assert any(word in note for note in align_ids(domain('a', source), domain('b', target))[1].notes)

def test_ids_of_python(F):
    assert pairs(read(pd.DataFrame(dict(item=[1, 2]), index=pd.Index([7, 8], name='user')), FRAME)) == [[7, 1], [8, 2]]
    assert Domain('a', pd.DataFrame(dict(user=[Decimal('7'), Decimal('8')], item=[1, 2])), FRAME).log['user'].tolist() == [7, 8]
    for bad in ([Decimal('1.5'), Decimal('2')], [True, False], [b'a', b'b']): refused(lambda: Domain('a', pd.DataFrame(dict(user=bad, item=[1, 2])), FRAME))
    refused(lambda: Domain('a', pd.DataFrame([[1, 1]], columns=pd.MultiIndex.from_tuples([('user', ''), ('item', '')])), FRAME))
    refused(lambda: Domain('a', pd.DataFrame(dict(user=[1, 2], item=[1, 1], value=[1j, 2j])), FRAME))


# JSON, archives, folders, sessions
@pytest.mark.parametrize('text, columns', [
    ('{"user":7,"item":1}{"user":8,"item":2}', None), (json.dumps(dict(user=7, item=1), indent=1) + '\n' + json.dumps(dict(user=8, item=2), indent=1), None),
    ('{"user":"7","item":1}\n{"user":8,"item":"2"}\n', None), (json.dumps({'7': [1], '8': [2]}), {'user': '0', 'log.item': '1'}), ('{"user":{"id":7},"item":1}\n{"user":{"id":8},"item":2}\n', {'user': 'user.id'})])
def test_json_of_many_kinds(text, columns, F): assert pairs(read(F('l.json', text), F('i.csv', ITEMS), columns)) == [[7, 1], [8, 2]]

def test_json_that_is_none(F):
    for text in ('[{"user":7,"item":1},{"user":8,"it', '['*100_000 + ']'*100_000): assert 'JSON' in refused(lambda: read(F('l.json', text), F('i.csv', ITEMS)))

def test_titles_by_id(F): assert read(F('l.csv', 'user,item\n7,1\n'), F('i.json', json.dumps({'1': 'Red cup', '2': 'Pot', '3': 'Fork'})), {'items.item': '0', 'title': '1'}).items['title'].tolist() == ['Red cup', 'Pot', 'Fork']

def test_columnar_files_and_folders(F, tmp_path):
    pa = pytest.importorskip('pyarrow')
    items, table = F('i.csv', ITEMS), pd.DataFrame(dict(user=[7, 8], item=[1, 2], month=['a', 'b']))
    table.to_parquet(tmp_path/'parts', partition_cols=['month'])
    assert sorted(pairs(read(tmp_path/'parts', items))) == [[7, 1], [8, 2]]
    with pa.OSFile(str(tmp_path/'l.arrows'), 'wb') as f, pa.ipc.new_stream(f, pa.Table.from_pandas(table).schema) as writer: writer.write_table(pa.Table.from_pandas(table))
    assert pairs(read(tmp_path/'l.arrows', items)) == [[7, 1], [8, 2]]
    table.set_index('user').to_parquet(tmp_path/'index.parquet')
    assert pairs(read(tmp_path/'index.parquet', items)) == [[7, 1], [8, 2]]
    pa.parquet.write_table(pa.table(dict(user=[7, 8], product=pa.array([dict(id=1), dict(id=2)]))), tmp_path/'struct.parquet')
    assert pairs(read(tmp_path/'struct.parquet', items, {'log.item': 'product.id'})) == [[7, 1], [8, 2]]

@pytest.mark.parametrize('cells', [('[1, 2, 3]', '[4]'), ('"[\'1\', \'2\', \'3\']"', '"[\'4\']"'), ('1|2|3', '4'), ('1 2 3', '4')])
def test_lists_of_ids(cells, F): assert pairs(log_and(F, f'user;item\n7;{cells[0]}\n8;{cells[1]}\n')) == [[7, 1], [7, 2], [7, 3], [8, 4]]


# what says no
@pytest.mark.parametrize('column, yes, no', [('liked', 'ja', 'nein'), ('liked', 'oui', 'non'), ('rating', '👍', '👎'), ('feedback', 'like', 'dislike'), ('event', 'Kauf', 'Storno'), ('event', 'Kauf', 'Retoure'),
    ('event', 'achat', 'remboursement'), ('event', 'compra', 'anulación'), ('event', 'купить', 'возврат'), ('event', '购买', '退货'), ('event', 'click', 'view_no_click'), ('qty', '3', '(3)'), ('qty', '3', '3-'), ('qty', '3', '−3')])
def test_no_in_other_words(column, yes, no, F): assert pairs(log_and(F, f'user,item,{column}\n7,1,{yes}\n8,2,{no}\n9,3,{yes}\n')) == [[7, 1], [9, 3]]

def test_feedback_that_is_not_read_is_told(F):
    d = log_and(F, 'user,item,purchased\n7,1,x\n8,2,\n9,3,x\n')
    assert len(d.log) == 3 and any("'purchased'" in note and '--columns event=purchased' in note for note in d.notes)
    assert len(log_and(F, 'user,item,event\n7,1,return_visit\n8,2,annual subscription\n9,3,retouch\n').log) == 3

def test_a_comma_in_the_line_above_the_header_is_no_separator(F):
    rows = ''.join(f'CL-{i % 7};P{i % 5};3 janvier 2018;{i},{10 + i}\n' for i in range(30))
    d = read(F('ventes.csv', 'Ventes par client, export du 3 janvier 2018\nClient;Réf;Jour;Prix\n' + rows, 'latin-1'), None, {'user': 'Client', 'item': 'Réf', 'title': 'Réf', 'price': 'Prix', 'time': 'Jour'}, encoding='latin-1')
    assert len(d.log) == 30 and d.items['price'][0] == .1
