"The cache: decoded once, whole or not there, and clear about files that cannot be used."

import errno, io, os, re, shutil, threading, time, warnings
from concurrent.futures import ThreadPoolExecutor
import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from PIL import Image
import sabr.data.cache as module
from sabr.data.cache import NO_MASK, CaseCache, build_cache, cache_name
from sabr.core import ConfigError, DataError, SabrError
from sabr.data.readers import case_table


def picture(seed, h=40, w=56):
    "A dark ellipse on speckle, and its mask."
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:h, :w]
    inside = ((y - rng.uniform(0.4, 0.6) * h) / 9) ** 2 + ((x - rng.uniform(0.4, 0.6) * w) / 14) ** 2 < 1
    return np.uint8(np.clip(rng.rayleigh(70, (h, w)) * np.where(inside, 0.4, 1), 0, 255)), np.uint8(inside) * 255


def row(folder, name):
    mask = folder / f'{name}_mask.png'
    image = next(p for p in (folder / f'{name}.png', folder / f'{name}.mhd') if p.exists())
    return dict(case=name, patient=name, image=str(image), mask=(str(mask),) if mask.exists() else ())


def table(folder):
    names = sorted(p.stem for p in folder.iterdir() if p.suffix in ('.png', '.mhd') and not p.stem.endswith('_mask'))
    return case_table([row(folder, n) for n in names], 'drawn', ['background', 'lesion'], 'binary', str(folder))


@pytest.fixture
def folder(tmp_path):
    "Five pictures a to e; e has no mask."
    d = tmp_path / 'set'
    d.mkdir()
    for i, name in enumerate('abcde'):
        image, mask = picture(i)
        Image.fromarray(image).save(d / f'{name}.png')
        if name != 'e':
            Image.fromarray(mask).save(d / f'{name}_mask.png')
    return d


def build(folder, size=24, on_bad='raise', **kw):
    return build_cache(table(folder), size, folder.parent / 'cache', on_bad, progress=False, **kw)


def left(folder):
    return sorted(p.name for p in (folder.parent / 'cache').iterdir())


def test_second_call_decodes_nothing(folder, monkeypatch):
    read, calls = module.read_case, []
    monkeypatch.setattr(module, 'read_case', lambda *a: calls.append(1) or read(*a))
    cases, cache = build(folder)
    assert len(calls) == 5
    again, cache2 = build(folder)
    assert len(calls) == 5
    pd.testing.assert_frame_equal(cases, again)
    assert (
        (cache.images == cache2.images).all() and cache.fingerprint == cache2.fingerprint and cases.attrs == again.attrs
    )
    build(folder, 25)
    assert len(calls) == 10


def test_what_is_in_it(folder):
    cases, cache = build(folder)
    assert sorted(p.name for p in cache.folder.iterdir()) == ['bad.csv', 'images.npy', 'index.csv', 'masks.npy']
    images, masks = (np.load(cache.folder / f) for f in ('images.npy', 'masks.npy'))
    assert images.shape == masks.shape == (5, 24, 24) and images.dtype == masks.dtype == np.uint8
    assert (masks[4] == NO_MASK).all() and set(np.unique(masks[:4])) == {0, 1}
    assert list(cache.index.columns) == ['case', 'hash', 'mask_hash', 'height', 'width']
    assert (cache.index[['height', 'width']].values == (40, 56)).all() and list(cache.index['case']) == list(
        cases['case']
    )
    assert abs(images[0].mean() - picture(0)[0].mean()) < 1


def test_same_pixels_same_hash(folder):
    gray = picture(0)[0]
    Image.fromarray(gray).convert('RGB').save(folder / 'f.png')
    sitk.WriteImage(sitk.GetImageFromArray(gray[None]), str(folder / 'g.mhd'))
    other = gray.copy()
    other[3, 3] ^= 1
    Image.fromarray(other).save(folder / 'h.png')
    hashes = build(folder)[0].set_index('case')['hash']
    assert hashes['a'] == hashes['f'] == hashes['g'] and hashes.nunique() == 6


def test_names_that_look_like_numbers_or_nothing(folder):
    for old, new in zip('abc', ('007', 'nan', '1e3')):
        (folder / f'{old}.png').rename(folder / f'{new}.png')
        (folder / f'{old}_mask.png').rename(folder / f'{new}_mask.png')
    build(folder)
    cases, cache = build(folder)
    assert set(cases['case']) == {'007', 'nan', '1e3', 'd', 'e'} == set(cache.index['case'])


def test_on_disk_or_in_ram(folder):
    disk, ram = (build(folder, in_ram=r)[1] for r in (False, True))
    assert isinstance(disk.images, np.memmap) and not isinstance(ram.images, np.memmap)
    for cache in (disk, ram):
        x, y = cache.batch([3, 0, 3])
        assert x.shape == (3, 1, 24, 24) and y.shape == (3, 24, 24)
        x += 1  # a batch is the caller's own
        assert (cache.images[3] == np.load(cache.folder / 'images.npy')[3]).all()
        with pytest.raises(ValueError):
            cache.images[0] = 0


def test_batches_are_fast(folder):
    cache = build(folder, 128)[1]
    rng = np.random.default_rng(0)
    start = time.perf_counter()
    for _ in range(100):
        cache.batch(rng.integers(0, 5, 16))
    assert time.perf_counter() - start < 1  # 10 ms a batch is already slow


@pytest.mark.parametrize('change', ['size', 'labels', 'pixels', 'mask', 'raw'])
def test_name_follows_what_matters(folder, change):
    sitk.WriteImage(sitk.GetImageFromArray(picture(0)[0][None]), str(folder / 'g.mhd'))
    cases = table(folder)
    name = cache_name(cases, 24)
    assert name == cache_name(table(folder), 24)
    if change == 'labels':
        cases.attrs['labels'] = {0: 0, 255: 1}
    if change in ('pixels', 'mask', 'raw'):
        os.utime(folder / dict(pixels='b.png', mask='b_mask.png', raw='g.raw')[change], (5, 5))
    assert name != cache_name(cases, 25 if change == 'size' else 24)


def test_interrupted(folder, monkeypatch):
    read = module.read_case

    def stop(row, attrs):
        if row['case'] == 'c':
            raise KeyboardInterrupt
        return read(row, attrs)

    with monkeypatch.context() as m:
        m.setattr(module, 'read_case', stop)
        with pytest.raises(KeyboardInterrupt):
            build(folder)
    assert left(folder) == []
    assert len(build(folder)[1]) == 5


def test_killed_builder_leaves_nothing_usable(folder):
    cases = table(folder)
    top = folder.parent / 'cache'
    for age in (0, 2):  # what a killed builder leaves: one just now, one two days ago
        old = top / f'.{cache_name(cases, 24)}.{age}.tmp'
        old.mkdir(parents=True)
        (old / 'images.npy').write_bytes(b'half')
        os.utime(old / 'images.npy', (time.time() - age * 86400,) * 2)
    assert len(build(folder)[1]) == 5
    assert left(folder) == sorted([f'.{cache_name(cases, 24)}.0.tmp', cache_name(cases, 24)])


@pytest.mark.parametrize('file', ['images.npy', 'masks.npy', 'index.csv', 'bad.csv'])
def test_damaged_cache_is_built_again(folder, file):
    cases, cache = build(folder)
    p = cache.folder / file
    p.write_bytes(p.read_bytes()[:200]) if file.endswith('npy') else p.unlink()
    with pytest.raises(DataError, match='not a whole cache'):
        CaseCache(cache.folder)
    again, cache2 = build(folder)
    assert (cache2.images == cache.images).all() and again['hash'].equals(cases['hash'])


def test_two_builders_at_once(folder, monkeypatch):
    read, meet = module.read_case, threading.Barrier(2)

    def together(row, attrs):
        if row['case'] == 'a':
            meet.wait(20)  # both are building by then
        return read(row, attrs)

    monkeypatch.setattr(module, 'read_case', together)
    with ThreadPoolExecutor(2) as pool:
        one, two = pool.map(lambda _: build(folder), range(2))
    assert (one[1].images == two[1].images).all() and left(folder) == [one[1].folder.name]


class FullDisk(io.FileIO):
    "A file on a disk with room for 1500 bytes."

    def write(self, data):
        if self.tell() + len(data) > 1500:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(data)


@pytest.mark.parametrize('file', ['images.npy', 'masks.npy'])
def test_full_disk(folder, monkeypatch, file):
    with monkeypatch.context() as m:
        m.setattr(module, 'open', lambda p, mode: FullDisk(p, mode) if p.name == file else open(p, mode), raising=False)
        with pytest.raises(SabrError, match='No space left on device.*Free some space or choose another cache_dir'):
            build(folder)
    assert left(folder) == []
    assert len(build(folder)[1]) == 5  # with space again, the same call goes through


def test_folder_that_cannot_be_written(folder, monkeypatch):
    def refuse(*a, **k):
        raise PermissionError(errno.EACCES, 'Permission denied')

    monkeypatch.setattr(module.Path, 'mkdir', refuse)
    with pytest.raises(SabrError, match='Permission denied'):
        build(folder)


def spoil(folder, how):
    "Damage case b; the file that the message must name."
    if how == 'truncated':
        p = folder / 'b.png'
        p.write_bytes(p.read_bytes()[:400])
    if how == 'not an image':
        p = folder / 'b.png'
        p.write_text('<html>')
    if how == 'empty file':
        p = folder / 'b_mask.png'
        p.write_bytes(b'')
    if how == 'other size':
        p = folder / 'b_mask.png'
        Image.fromarray(picture(1)[1][:30]).save(p)
    if how == 'no raw':
        p = folder / 'b.mhd'
        sitk.WriteImage(sitk.GetImageFromArray(picture(1)[0][None]), str(p))
        (folder / 'b.png').unlink()
        (folder / 'b.raw').unlink()
    return p


@pytest.mark.parametrize('how', ['truncated', 'not an image', 'empty file', 'other size', 'no raw'])
def test_single_bad_file(folder, how):
    name = spoil(folder, how).name.replace('_mask', '(_mask)?')  # sizes that differ: either file may be named
    with pytest.raises(DataError, match=name) as error:
        build(folder)
    assert "on_bad='warn'" in str(error.value) and left(folder) == []
    with pytest.warns(UserWarning, match=f'(?s)1 of 5 cases.*{name}') as told:
        cases, cache = build(folder, on_bad='warn')
    assert sum(w.category is UserWarning for w in told) == 1 and list(cases['case']) == list('acde') and len(cache) == 4
    listed = pd.read_csv(cache.folder / 'bad.csv')
    assert (
        listed['case'].tolist() == ['b']
        and re.search(name, listed['why'][0])
        and cache.bad.values.tolist() == listed.values.tolist()
    )
    for i, c in enumerate('acde'):
        assert (cache.index['case'][i], cases['hash'][i]) == (c, cache.index['hash'][i])
    with pytest.raises(DataError, match=name):
        build(folder)  # found in the cache, and still an error for who wants one


def test_mended_file_is_read_again(folder):
    good = (folder / 'b.png').read_bytes()
    spoil(folder, 'truncated')
    with pytest.warns(UserWarning):
        build(folder, on_bad='warn')
    (folder / 'b.png').write_bytes(good)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert len(build(folder, on_bad='warn')[1]) == 5


def test_nothing_can_be_read(folder):
    cases = table(folder)
    for p in folder.iterdir():
        p.write_bytes(b'x')
    with pytest.raises(DataError, match='none of 5 cases could be read'):
        build_cache(cases, 24, folder.parent / 'cache', 'warn', progress=False)
    with pytest.raises(ConfigError, match="Did you mean 'warn'"):
        build(folder, on_bad='wrn')


def test_fingerprint_is_of_the_data(folder):
    a = build(folder)[1].fingerprint
    other = shutil.copytree(folder, folder.parent / 'other')
    assert a == build(other, 32)[1].fingerprint
    (other / 'd_mask.png').unlink()
    assert a != build(other, 32)[1].fingerprint
