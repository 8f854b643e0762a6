"The cache: every file is decoded once, a cache is complete or absent, and files that cannot be used are named."

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
from sabr.data.table import case_table


def picture(seed, height=40, width=56):
    "A dark ellipse on speckle, and its mask."
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    centre_y, centre_x = rng.uniform(0.4, 0.6) * height, rng.uniform(0.4, 0.6) * width
    inside = ((y - centre_y) / 9) ** 2 + ((x - centre_x) / 14) ** 2 < 1
    speckle = rng.rayleigh(70, (height, width)) * np.where(inside, 0.4, 1)
    return np.uint8(np.clip(speckle, 0, 255)), np.uint8(inside) * 255


def row(folder, name):
    mask = folder / f'{name}_mask.png'
    image = next(file for file in (folder / f'{name}.png', folder / f'{name}.mhd') if file.exists())
    return dict(case=name, patient=name, image=str(image), mask=(str(mask),) if mask.exists() else ())


def table(folder):
    images = [file for file in folder.iterdir() if file.suffix in ('.png', '.mhd') and not file.stem.endswith('_mask')]
    rows = [row(folder, name) for name in sorted(image.stem for image in images)]
    return case_table(rows, 'drawn', ['background', 'lesion'], 'binary', str(folder))


@pytest.fixture
def folder(tmp_path):
    "Five pictures a to e; e has no mask."
    folder = tmp_path / 'set'
    folder.mkdir()
    for i, name in enumerate('abcde'):
        image, mask = picture(i)
        Image.fromarray(image).save(folder / f'{name}.png')
        if name != 'e':
            Image.fromarray(mask).save(folder / f'{name}_mask.png')
    return folder


def build(folder, size=24, on_bad='raise', **options):
    return build_cache(table(folder), size, folder.parent / 'cache', on_bad, progress=False, **options)


def caches(folder):
    "The names of what is in the folder of the caches."
    return sorted(path.name for path in (folder.parent / 'cache').iterdir())


def test_second_call_decodes_nothing(folder, monkeypatch):
    read_case, calls = module.read_case, []

    def counted(row, attrs):
        calls.append(row['case'])
        return read_case(row, attrs)

    monkeypatch.setattr(module, 'read_case', counted)
    cases, cache = build(folder)
    assert len(calls) == 5
    cases_again, cache_again = build(folder)
    assert len(calls) == 5
    pd.testing.assert_frame_equal(cases, cases_again)
    assert cases.attrs == cases_again.attrs
    assert (cache.images == cache_again.images).all()
    assert cache.fingerprint == cache_again.fingerprint
    build(folder, 25)
    assert len(calls) == 10


def test_what_is_in_it(folder):
    cases, cache = build(folder)
    assert sorted(path.name for path in cache.folder.iterdir()) == ['bad.csv', 'images.npy', 'index.csv', 'masks.npy']
    images, masks = (np.load(cache.folder / f) for f in ('images.npy', 'masks.npy'))
    assert images.shape == masks.shape == (5, 24, 24)
    assert images.dtype == masks.dtype == np.uint8
    assert (masks[4] == NO_MASK).all()
    assert set(np.unique(masks[:4])) == {0, 1}
    assert list(cache.index.columns) == ['case', 'hash', 'mask_hash', 'height', 'width']
    assert (cache.index[['height', 'width']].values == (40, 56)).all()
    assert list(cache.index['case']) == list(cases['case'])
    assert abs(images[0].mean() - picture(0)[0].mean()) < 1


def test_same_pixels_same_hash(folder):
    gray = picture(0)[0]
    Image.fromarray(gray).convert('RGB').save(folder / 'f.png')
    sitk.WriteImage(sitk.GetImageFromArray(gray[None]), str(folder / 'g.mhd'))
    other = gray.copy()
    other[3, 3] ^= 1
    Image.fromarray(other).save(folder / 'h.png')
    hashes = build(folder)[0].set_index('case')['hash']
    assert hashes['a'] == hashes['f'] == hashes['g']
    assert hashes.nunique() == 6


def test_names_that_look_like_numbers_or_nothing(folder):
    for old, new in zip('abc', ('007', 'nan', '1e3')):
        (folder / f'{old}.png').rename(folder / f'{new}.png')
        (folder / f'{old}_mask.png').rename(folder / f'{new}_mask.png')
    build(folder)
    cases, cache = build(folder)
    assert set(cases['case']) == {'007', 'nan', '1e3', 'd', 'e'} == set(cache.index['case'])


def test_on_disk_or_in_ram(folder):
    on_disk, in_ram = build(folder, in_ram=False)[1], build(folder, in_ram=True)[1]
    assert isinstance(on_disk.images, np.memmap)
    assert not isinstance(in_ram.images, np.memmap)
    for cache in (on_disk, in_ram):
        images, masks = cache.batch([3, 0, 3])
        assert images.shape == (3, 1, 24, 24)
        assert masks.shape == (3, 24, 24)
        images += 1  # a batch is a copy that the caller may change
        assert (cache.images[3] == np.load(cache.folder / 'images.npy')[3]).all()
        with pytest.raises(ValueError):
            cache.images[0] = 0


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
    read_case = module.read_case

    def stop(row, attrs):
        if row['case'] == 'c':
            raise KeyboardInterrupt
        return read_case(row, attrs)

    with monkeypatch.context() as patch:
        patch.setattr(module, 'read_case', stop)
        with pytest.raises(KeyboardInterrupt):
            build(folder)
    assert caches(folder) == []
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
    assert caches(folder) == sorted([f'.{cache_name(cases, 24)}.0.tmp', cache_name(cases, 24)])


@pytest.mark.parametrize('file', ['images.npy', 'masks.npy', 'index.csv', 'bad.csv'])
def test_damaged_cache_is_built_again(folder, file):
    cases, cache = build(folder)
    path = cache.folder / file
    if file.endswith('npy'):
        path.write_bytes(path.read_bytes()[:200])
    else:
        path.unlink()
    with pytest.raises(DataError, match='not a complete cache'):
        CaseCache(cache.folder)
    cases_again, cache_again = build(folder)
    assert (cache_again.images == cache.images).all()
    assert cases_again['hash'].equals(cases['hash'])


def test_two_builders_at_once(folder, monkeypatch):
    read_case, meet = module.read_case, threading.Barrier(2)

    def together(row, attrs):
        if row['case'] == 'a':
            meet.wait(20)  # both are building by then
        return read_case(row, attrs)

    monkeypatch.setattr(module, 'read_case', together)
    with ThreadPoolExecutor(2) as pool:
        (_, one), (_, two) = pool.map(lambda _: build(folder), range(2))
    assert (one.images == two.images).all()
    assert caches(folder) == [one.folder.name]


class FullDisk(io.FileIO):
    "A file on a disk with room for 1500 bytes."

    def write(self, data):
        if self.tell() + len(data) > 1500:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(data)


@pytest.mark.parametrize('file', ['images.npy', 'masks.npy'])
def test_full_disk(folder, monkeypatch, file):
    def open_on_full_disk(path, mode):
        return FullDisk(path, mode) if path.name == file else open(path, mode)

    with monkeypatch.context() as patch:
        patch.setattr(module, 'open', open_on_full_disk, raising=False)
        with pytest.raises(SabrError, match='No space left on device.*Free some space or choose another cache_dir'):
            build(folder)
    assert caches(folder) == []
    assert len(build(folder)[1]) == 5  # with space again, the same call goes through


def test_folder_that_cannot_be_written(folder, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(errno.EACCES, 'Permission denied')

    monkeypatch.setattr(module.Path, 'mkdir', refuse)
    with pytest.raises(SabrError, match='Permission denied'):
        build(folder)


def truncate(folder):
    file = folder / 'b.png'
    file.write_bytes(file.read_bytes()[:400])
    return file


def replace_by_text(folder):
    file = folder / 'b.png'
    file.write_text('<html>')
    return file


def empty_mask(folder):
    file = folder / 'b_mask.png'
    file.write_bytes(b'')
    return file


def mask_of_other_size(folder):
    file = folder / 'b_mask.png'
    Image.fromarray(picture(1)[1][:30]).save(file)
    return file


def header_without_pixels(folder):
    file = folder / 'b.mhd'
    sitk.WriteImage(sitk.GetImageFromArray(picture(1)[0][None]), str(file))
    (folder / 'b.png').unlink()
    (folder / 'b.raw').unlink()
    return file


DAMAGE = (truncate, replace_by_text, empty_mask, mask_of_other_size, header_without_pixels)


@pytest.mark.parametrize('damage', DAMAGE)
def test_single_bad_file(folder, damage):
    name = damage(folder).name.replace('_mask', '(_mask)?')  # sizes that differ: either file may be named
    with pytest.raises(DataError, match=name) as error:
        build(folder)
    assert "on_bad='warn'" in str(error.value)
    assert caches(folder) == []
    with pytest.warns(UserWarning, match=f'(?s)1 of 5 cases.*{name}') as caught:
        cases, cache = build(folder, on_bad='warn')
    assert sum(warning.category is UserWarning for warning in caught) == 1
    assert list(cases['case']) == list('acde')
    assert len(cache) == 4
    for i, case in enumerate('acde'):
        assert (cache.index['case'][i], cases['hash'][i]) == (case, cache.index['hash'][i])
    with pytest.raises(DataError, match=name):
        build(folder)  # the file is listed in the cache, and still an error with on_bad='raise'


@pytest.mark.parametrize('damage', DAMAGE)
def test_list_of_bad_files(folder, damage):
    name = damage(folder).name.replace('_mask', '(_mask)?')
    with pytest.warns(UserWarning):
        cache = build(folder, on_bad='warn')[1]
    listed = pd.read_csv(cache.folder / 'bad.csv')
    assert listed['case'].tolist() == ['b']
    assert re.search(name, listed['why'][0])
    assert cache.bad.values.tolist() == listed.values.tolist()


def test_mended_file_is_read_again(folder):
    good = (folder / 'b.png').read_bytes()
    truncate(folder)
    with pytest.warns(UserWarning):
        build(folder, on_bad='warn')
    (folder / 'b.png').write_bytes(good)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert len(build(folder, on_bad='warn')[1]) == 5


def test_nothing_can_be_read(folder):
    cases = table(folder)
    for file in folder.iterdir():
        file.write_bytes(b'x')
    with pytest.raises(DataError, match='none of 5 cases could be read'):
        build_cache(cases, 24, folder.parent / 'cache', 'warn', progress=False)
    with pytest.raises(ConfigError, match="Did you mean 'warn'"):
        build(folder, on_bad='wrn')


def test_fingerprint_is_of_the_data(folder):
    fingerprint = build(folder)[1].fingerprint
    other = shutil.copytree(folder, folder.parent / 'other')
    assert fingerprint == build(other, 32)[1].fingerprint
    (other / 'd_mask.png').unlink()
    assert fingerprint != build(other, 32)[1].fingerprint
