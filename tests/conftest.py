"Real data where they are present, and small files in the exact layouts of the public data sets."

import gzip, struct
from pathlib import Path
import numpy as np
import pytest
from PIL import Image
from sabr.core import find_data

# These files take longest. They start first, so that all workers end at about the same time.
LONGEST = ['test_sweep', 'test_experiments', 'test_compare', 'test_run', 'test_parallel', 'test_kit', 'test_widgets']


def pytest_addoption(parser):
    parser.addoption('--slow', action='store_true', help='run the tests that take many minutes, too')


def pytest_collection_modifyitems(config, items):
    # Workers get whole files, in this order if pytest is called with --no-loadscope-reorder.
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))
    if not config.getoption('--slow'):
        for item in items:
            if 'slow' in item.keywords:
                item.add_marker(pytest.mark.skip(reason='takes many minutes; pytest --slow runs it'))


def pytest_configure(config):
    config.addinivalue_line('markers', 'slow: takes many minutes')


@pytest.fixture
def real():
    "`real('busi')` returns the folder of that data set and skips the test if there is none."

    def get(name):
        folder = find_data(name, Path(__file__).parent.parent)
        if not folder:
            pytest.skip(f'data/{name} is not here (see data/README.md)')
        return folder

    return get


class Maker:
    "Writes small images, masks and headers with a drawn picture: an ellipse on a ramp."

    def picture(self, h=40, w=56, seed=0):
        rng = np.random.default_rng(seed)
        y, x = np.mgrid[:h, :w]
        cy, cx = rng.uniform(0.4, 0.6, 2) * (h, w)
        mask = ((y - cy) / (0.3 * h)) ** 2 + ((x - cx) / (0.25 * w)) ** 2 < 1
        return np.uint8(255 * np.clip(0.1 + 0.5 * y / h + 0.3 * mask, 0, 1)), np.uint8(mask)

    def png(self, path, pixels, mode=None, **options):
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(pixels)
        if mode:
            picture = picture.convert(mode)
        picture.save(path, **options)
        return path

    def palette(self, path, indices, colours):
        picture = Image.fromarray(indices).convert('P')
        picture.putpalette([channel for colour in colours for channel in colour])
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
        return path

    def mhd(self, path, pixels, spacing='0.308 0.154 1.54', raw=True):
        "Write a MetaImage file as CAMUS does (one frame, anisotropic); `raw=False` leaves the pixels out."
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        h, w = pixels.shape[-2:]
        n = pixels.shape[0] if pixels.ndim == 3 else 1
        path.write_text(
            'ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\n'
            'CompressedData = False\nTransformMatrix = 1  0  0  0  1  0  0  0  1\nCenterOfRotation = 0  0  0\n'
            f'AnatomicalOrientation = RAI\nOffset = 0  0  0\nElementSpacing = {spacing}\nDimSize = {w}  {h}    {n}\n'
            f'ElementNumberOfChannels = 1\nElementType = MET_UCHAR\nElementDataFile = {path.stem}.raw\n'
        )
        if raw:
            path.with_suffix('.raw').write_bytes(pixels.tobytes())
        return path

    def nifti(self, path, pixels, spacing=(0.308, 0.154)):
        "Write a NIfTI-1 file byte by byte; x runs fastest, so nibabel would return (W,H); `spacing` is (x,y)."
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        h, w = pixels.shape
        head = bytearray(352)
        struct.pack_into('<i', head, 0, 348)
        struct.pack_into('<8h', head, 40, 2, w, h, 1, 1, 1, 1, 1)
        struct.pack_into('<2h', head, 70, 2, 8)
        struct.pack_into('<8f', head, 76, 1, *spacing, 1, 1, 1, 1, 1)
        struct.pack_into('<3f', head, 108, 352, 1, 0)
        head[123] = 2
        head[344:348] = b'n+1\0'
        content = bytes(head) + pixels.astype(np.uint8).tobytes()
        path.write_bytes(gzip.compress(content) if path.suffix == '.gz' else content)
        return path

    def heart(self, h=60, w=40, seed=0):
        image, lv = self.picture(h, w, seed)
        y = np.arange(h)[:, None]
        return image, np.where(lv > 0, np.where(y < 0.3 * h, 2, np.where(y > 0.6 * h, 3, 1)), 0).astype(np.uint8)

    def camus(self, root, n=3):
        "Imitate the original distribution of CAMUS, with sequences whose .raw is missing."
        for number in range(1, n + 1):
            folder = Path(root) / f'patient{number:04}'
            for view in ('2CH', '4CH'):
                for phase in ('ED', 'ES'):
                    image, mask = self.heart(60 + 5 * number, 40, number)
                    self.mhd(folder / f'{folder.name}_{view}_{phase}.mhd', image)
                    self.mhd(folder / f'{folder.name}_{view}_{phase}_gt.mhd', mask)
                self.mhd(folder / f'{folder.name}_{view}_sequence.mhd', np.zeros((18, 65, 40), np.uint8), raw=False)
                (folder / f'Info_{view}.cfg').write_text(
                    'ED: 1\nES: 18\nNbFrame: 18\nSex: F\nAge: 56\nImageQuality: Good\n'
                )
        return Path(root)

    def camus_nifti(self, root, n=3):
        "Imitate the distribution of 2023, with its lists of patients."
        root = Path(root)
        for number in range(1, n + 1):
            folder = root / 'database_nifti' / f'patient{number:04}'
            for view in ('2CH', '4CH'):
                for phase in ('ED', 'ES'):
                    image, mask = self.heart(60 + 5 * number, 40, number)
                    stem = f'{folder.name}_{view}_{phase}'
                    self.nifti(folder / f'{stem}.nii.gz', image)
                    self.nifti(folder / f'{stem}_gt.nii.gz', mask)
                for part in ('half_sequence', 'half_sequence_gt'):
                    self.nifti(folder / f'{folder.name}_{view}_{part}.nii.gz', image)
                (folder / f'Info_{view}.cfg').write_text('ED: 1\nES: 18\nImageQuality: Good\n')
        (root / 'database_split').mkdir()
        for i, name in enumerate(('training', 'validation', 'testing')):
            patients = [f'patient{number:04}\n' for number in range(1, n + 1) if number % 3 == (i + 1) % 3]
            (root / 'database_split' / f'subgroup_{name}.txt').write_text(''.join(patients))
        return root

    def tnscui(self, root, n=4):
        root = Path(root)
        for i in range(1, n + 1):
            image, mask = self.picture(30 + i, 50 + i, i)
            self.png(root / f'image/{i}.PNG', image)
            self.png(root / f'mask/{i}.PNG', mask * 255)
        (root / 'train.csv').write_text('ID,CATE\n' + ''.join(f'{i}.PNG,{i % 2}\n' for i in range(1, n + 1)))
        return root

    def folder(self, root, n=4, masked=None):
        root = Path(root)
        for i in range(n):
            image, mask = self.picture(seed=i)
            self.png(root / f'images/{i}.png', image)
            if i < (n if masked is None else masked):
                self.png(root / f'masks/{i}.png', mask * 255)
        return root


@pytest.fixture
def make():
    return Maker()
