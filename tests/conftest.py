"Real data where present, and small files in exactly the layouts of the public data sets."

import gzip, struct
from pathlib import Path
import numpy as np
import pytest
from PIL import Image
from sabr.core import find_data


def pytest_addoption(parser):
    parser.addoption('--slow', action='store_true', help='also the tests of many minutes')


def pytest_collection_modifyitems(config, items):
    items.sort(
        key=lambda i: i.path.name != 'test_sweep.py'
    )  # first, as it takes longest: files go to workers whole (with --no-loadscope-reorder in this order)
    if not config.getoption('--slow'):
        for i in items:
            if 'slow' in i.keywords:
                i.add_marker(pytest.mark.skip(reason='takes many minutes; pytest --slow runs it'))


def pytest_configure(config):
    config.addinivalue_line('markers', 'slow: takes many minutes')


@pytest.fixture
def real():
    "`real('busi')` is the folder of that data set; the test is skipped where it is absent."

    def get(name):
        folder = find_data(name, Path(__file__).parent.parent)
        if not folder:
            pytest.skip(f'data/{name} is not here (see data/README.md)')
        return folder

    return get


class Maker:
    "Writes small drawn images, masks and headers; the pixels are those of an ellipse on a ramp."

    def picture(self, h=40, w=56, seed=0):
        rng = np.random.default_rng(seed)
        y, x = np.mgrid[:h, :w]
        cy, cx = rng.uniform(0.4, 0.6, 2) * (h, w)
        mask = ((y - cy) / (0.3 * h)) ** 2 + ((x - cx) / (0.25 * w)) ** 2 < 1
        return np.uint8(255 * np.clip(0.1 + 0.5 * y / h + 0.3 * mask, 0, 1)), np.uint8(mask)

    def png(self, path, pixels, mode=None, **kw):
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        im = Image.fromarray(pixels)
        (im.convert(mode) if mode else im).save(path, **kw)
        return path

    def palette(self, path, indices, colors):
        im = Image.fromarray(indices).convert('P')
        im.putpalette([c for color in colors for c in color])
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        im.save(path)
        return path

    def mhd(self, path, pixels, spacing='0.308 0.154 1.54', raw=True):
        "A MetaImage header as CAMUS writes it (1 frame, anisotropic), with its .raw"
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        h, w = pixels.shape[-2:]
        n = pixels.shape[0] if pixels.ndim == 3 else 1
        path.write_text(
            f'ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\nCompressedData = False\n'
            f'TransformMatrix = 1  0  0  0  1  0  0  0  1\nCenterOfRotation = 0  0  0\nAnatomicalOrientation = RAI\nOffset = 0  0  0\n'
            f'ElementSpacing = {spacing}\nDimSize = {w}  {h}    {n}\nElementNumberOfChannels = 1\nElementType = MET_UCHAR\n'
            f'ElementDataFile = {path.stem}.raw\n'
        )
        if raw:
            path.with_suffix('.raw').write_bytes(pixels.tobytes())
        return path

    def nifti(self, path, pixels, spacing=(0.308, 0.154)):
        "A NIfTI-1 file written byte by byte: x runs fastest, so that nibabel would give (W,H); spacing is (x,y)"
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
        path.write_bytes(
            (gzip.compress if path.suffix == '.gz' else bytes)(bytes(head) + pixels.astype(np.uint8).tobytes())
        )
        return path

    def heart(self, h=60, w=40, seed=0):
        image, lv = self.picture(h, w, seed)
        y = np.arange(h)[:, None]
        return image, np.where(lv > 0, np.where(y < 0.3 * h, 2, np.where(y > 0.6 * h, 3, 1)), 0).astype(np.uint8)

    def camus(self, root, n=3):
        "The original distribution: sequences whose .raw is missing stand there, too"
        for p in range(1, n + 1):
            d = Path(root) / f'patient{p:04}'
            for view in ('2CH', '4CH'):
                for phase in ('ED', 'ES'):
                    image, mask = self.heart(60 + 5 * p, 40, p)
                    self.mhd(d / f'{d.name}_{view}_{phase}.mhd', image)
                    self.mhd(d / f'{d.name}_{view}_{phase}_gt.mhd', mask)
                self.mhd(d / f'{d.name}_{view}_sequence.mhd', np.zeros((18, 65, 40), np.uint8), raw=False)
                (d / f'Info_{view}.cfg').write_text('ED: 1\nES: 18\nNbFrame: 18\nSex: F\nAge: 56\nImageQuality: Good\n')
        return Path(root)

    def camus_nifti(self, root, n=3):
        "The distribution of 2023, with its lists of patients"
        root = Path(root)
        for p in range(1, n + 1):
            d = root / 'database_nifti' / f'patient{p:04}'
            for view in ('2CH', '4CH'):
                for phase in ('ED', 'ES'):
                    image, mask = self.heart(60 + 5 * p, 40, p)
                    stem = f'{d.name}_{view}_{phase}'
                    self.nifti(d / f'{stem}.nii.gz', image)
                    self.nifti(d / f'{stem}_gt.nii.gz', mask)
                for part in ('half_sequence', 'half_sequence_gt'):
                    self.nifti(d / f'{d.name}_{view}_{part}.nii.gz', image)
                (d / f'Info_{view}.cfg').write_text('ED: 1\nES: 18\nImageQuality: Good\n')
        (root / 'database_split').mkdir()
        for i, name in enumerate(('training', 'validation', 'testing')):
            (root / 'database_split' / f'subgroup_{name}.txt').write_text(
                ''.join(f'patient{p:04}\n' for p in range(1, n + 1) if p % 3 == (i + 1) % 3)
            )
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
