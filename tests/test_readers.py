"Every reader with its exact layout, every special case of the formats, and a clear error for each kind of bad input."

from pathlib import Path
import numpy as np
import pytest
from PIL import Image
from sabr.core import ConfigError, DataError
from sabr.data.decode import check_cases, image_size, read_case, read_image, read_mask
from sabr.data.readers import READERS, read_busi, read_camus, read_cases, read_ddti, read_folder, read_tnscui
from sabr.data.table import COLUMNS, case_table

HEART = {i: i for i in range(4)}


def decoded(cases):
    return [read_case(row, cases.attrs) for _, row in cases.iterrows()]


def by_case(cases):
    return cases.set_index('case')


def refuses(call, *words, error=DataError):
    "Check that `call` raises `error` with a message of one line that contains all `words`."
    with pytest.raises(error) as e:
        call()
    text = str(e.value)
    assert type(e.value) is error and '\n' not in text, text
    for word in words:
        assert str(word) in text, text
    return text


# --- the table


def test_table_has_the_columns_in_order(make, tmp_path):
    cases = read_folder(make.folder(tmp_path, 3, 2))
    columns = 'case patient view phase category image mask spacing shadow split labelled'
    assert list(cases.columns) == columns.split()
    assert list(cases.index) == [0, 1, 2]
    assert cases.labelled.dtype == bool
    assert list(cases.labelled) == [True, True, False]
    assert cases.spacing.isna().all()
    assert cases['mask'][2] == ()
    assert isinstance(cases['mask'][0], tuple)
    assert isinstance(cases.image[0], str)
    assert cases.attrs == dict(dataset='folder', classes=['background', 'object'], labels='binary', path=str(tmp_path))


def test_one_row_with_one_mask_keeps_its_tuples():
    cases = case_table([dict(case='a', image='a', mask=('m',), spacing=(0.1, 0.2))], 'x', ['background', 'y'])
    assert cases['mask'][0] == ('m',)
    assert cases.spacing[0] == (0.1, 0.2)
    assert list(cases.columns)[:-1] == list(COLUMNS)


def test_two_images_for_one_case(make, tmp_path):
    make.folder(tmp_path, 2)
    make.png(tmp_path / 'images/1.jpg', make.picture()[0])
    refuses(lambda: read_folder(tmp_path), "both called '1'", '1.jpg', '1.png')


# --- images


@pytest.mark.parametrize(
    'name, mode',
    [
        ('a.png', 'L'),
        ('a.PNG', 'RGB'),
        ('a.png', 'RGBA'),
        ('a.png', 'LA'),
        ('a.png', 'P'),
        ('a.gif', None),
        ('a.bmp', None),
        ('a.tif', None),
        ('a.tiff', 'RGB'),
        ('a.jpg', None),
        ('a.jpeg', 'RGB'),
    ],
)
def test_image_formats(make, tmp_path, name, mode):
    image, _ = make.picture()
    got = read_image(make.png(tmp_path / name, image, mode))
    assert got.dtype == np.float32
    assert got.shape == image.shape == image_size(tmp_path / name)
    difference = abs(got - image / 255)
    assert difference.mean() < 0.01 if 'jp' in name else difference.max() < 0.005


@pytest.mark.parametrize('top', [4095, 65535])
@pytest.mark.parametrize('name', ['a.png', 'a.tif'])
def test_sixteen_bits(make, tmp_path, top, name):
    ramp = np.linspace(0, top, 56, dtype=np.uint16)[None].repeat(9, 0)
    assert abs(read_image(make.png(tmp_path / name, ramp)) - ramp / top).max() < 1e-4


def test_one_bit_image_and_gray_from_colour(make, tmp_path):
    Image.fromarray(make.picture()[1] > 0).save(tmp_path / 'bit.png')
    assert set(np.unique(read_image(tmp_path / 'bit.png'))) == {0, 1}
    make.png(tmp_path / 'green.png', np.uint8([[[0, 255, 0]]]))
    assert abs(read_image(tmp_path / 'green.png') - 0.587).max() < 0.003


def test_medical_images_agree_with_each_other(make, tmp_path):
    image, _ = make.picture(40, 56)
    for name, write in (('a.mhd', make.mhd), ('b.nii', make.nifti), ('c.nii.gz', make.nifti)):
        assert (read_image(write(tmp_path / name, image)) == np.float32(image) / np.float32(255)).all()
        assert image_size(tmp_path / name) == (40, 56)


# --- bad images


@pytest.mark.parametrize('name', ['a.png', 'a.jpg', 'a.gif', 'a.bmp', 'a.tif'])
@pytest.mark.parametrize('share', [0, 0.1, 0.6])
def test_truncated_image(make, tmp_path, name, share):
    image = np.random.default_rng(0).integers(0, 255, (90, 90), np.uint8)
    file = make.png(tmp_path / name, image)
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    refuses(lambda: read_image(file), file, 'cannot be read', 'copy or download it again')


@pytest.mark.parametrize('name', ['a.nii', 'a.nii.gz', 'a.mhd', 'a.mha'])
@pytest.mark.parametrize('share', [0, 0.5, 0.99])
def test_truncated_medical_image(make, tmp_path, name, share):
    import SimpleITK as sitk

    image = np.random.default_rng(0).integers(0, 255, (90, 90), np.uint8)
    file = tmp_path / name
    if name == 'a.mha':
        sitk.WriteImage(sitk.GetImageFromArray(image), str(file))
    else:
        (make.mhd if name == 'a.mhd' else make.nifti)(file, image)
    cut = file.with_suffix('.raw') if name == 'a.mhd' else file
    whole = cut.read_bytes()
    cut.write_bytes(whole[: int(share * len(whole))])
    refuses(lambda: read_image(file), file, 'truncated', 'Copy or download it again')


def test_mhd_without_raw(make, tmp_path):
    file = make.mhd(tmp_path / 'a.mhd', make.picture()[0], raw=False)
    refuses(lambda: read_image(file), file, 'a.raw, are missing', 'Copy that file')


def test_sequence_is_not_an_image(make, tmp_path):
    file = make.mhd(tmp_path / 's.mhd', np.zeros((18, 30, 20), np.uint8))
    refuses(lambda: read_image(file), file, '(18, 30, 20)', 'single files')


def test_missing_and_garbage_files(tmp_path):
    refuses(lambda: read_image(tmp_path / 'no.png'), 'no.png: no such file')
    refuses(lambda: read_image(tmp_path / 'no.mhd'), 'no.mhd: no such file')
    for name in ('t.png', 't.nii.gz', 't.mhd'):
        (tmp_path / name).write_text('not an image at all')
        refuses(lambda: read_image(tmp_path / name), name, 'cannot be read')
        refuses(lambda: image_size(tmp_path / name), name, 'cannot be read')


# --- masks


@pytest.mark.parametrize(
    'name, factor, mode',
    [
        ('m.png', 1, None),
        ('m.png', 255, None),
        ('m.png', 255, '1'),
        ('m.png', 255, 'RGB'),
        ('m.png', 255, 'RGBA'),
        ('m.png', 128, 'LA'),
        ('m.gif', 255, None),
        ('m.gif', 1, None),
        ('m.bmp', 255, None),
        ('m.tif', 255, 'RGB'),
        ('m.PNG', 255, None),
    ],
)
def test_binary_masks(make, tmp_path, name, factor, mode):
    _, mask = make.picture()
    got = read_mask(make.png(tmp_path / name, mask * np.uint8(factor), mode))
    assert got.dtype == np.uint8
    assert (got == mask).all()


@pytest.mark.parametrize('mode', [None, 'RGB'])
def test_jpeg_masks_are_thresholded(make, tmp_path, mode):
    _, mask = make.picture(90, 120)
    file = make.png(tmp_path / 'm.jpg', mask * 255, mode, quality=75)
    assert len(np.unique(Image.open(file))) > 10
    assert (read_mask(file) != mask).mean() < 0.001


def test_resized_mask_is_thresholded(make, tmp_path):
    _, mask = make.picture(90, 120)
    Image.fromarray(mask * 255).resize((60, 45), Image.BILINEAR).save(tmp_path / 'm.png')
    want = np.array(Image.fromarray(mask * 255).resize((60, 45), Image.BILINEAR)) > 127.5
    assert (read_mask(tmp_path / 'm.png') == want).all()


def test_palette_mask_means_its_indices(make, tmp_path):
    classes = np.uint8([[0, 1, 2], [2, 1, 0]])
    file = make.palette(tmp_path / 'm.png', classes, [(0, 0, 0), (250, 10, 10), (3, 3, 3)])
    assert (read_mask(file, {0: 0, 1: 1, 2: 2}, 3) == classes).all()
    file = make.palette(tmp_path / 'b.png', np.uint8(classes > 0), [(0, 0, 0), (128, 0, 0)])
    assert (read_mask(file) == (classes > 0)).all()


def test_black_and_white_palette_in_reverse(make, tmp_path):
    _, mask = make.picture()
    assert (read_mask(make.palette(tmp_path / 'm.gif', 1 - mask, [(255, 255, 255), (0, 0, 0)])) == mask).all()
    black = make.palette(tmp_path / 'n.png', mask, [(0, 0, 0)] * 2)  # a palette that distinguishes nothing
    assert (read_mask(black) == mask).all()


def test_colour_coded_mask(make, tmp_path):
    classes = np.uint8([[0, 1, 2], [2, 1, 0]])
    colours = np.uint8([(0, 0, 0), (255, 0, 0), (255, 255, 255)])
    for mode in ('RGB', 'RGBA', 'P'):
        make.png(tmp_path / f'images/{mode}.png', np.zeros((2, 3), np.uint8))
        make.png(tmp_path / f'masks/{mode}.png', colours[classes], mode)
    make.png(tmp_path / 'images/white.png', np.zeros((2, 3), np.uint8))
    make.png(tmp_path / 'masks/white.png', np.uint8(classes == 2) * 255)  # gray file, same code
    cases = read_folder(tmp_path, classes=('lv', 'la'), labels={'red': 'lv', '#ffffff': 'la'})
    got = [m for _, m in decoded(cases)]
    assert all((m == classes).all() for m in got[:3])
    assert (got[3] == 2 * (classes == 2)).all()


def test_undeclared_labels_are_named(make, tmp_path):
    file = make.png(tmp_path / 'm.png', np.uint8([[0, 1, 7, 9]]))
    refuses(
        lambda: read_mask(file, HEART, 4),
        file,
        'undeclared label(s) 7, 9',
        'declared: 0, 1, 2, 3',
        'labels={value: class}',
    )
    refuses(lambda: read_mask(file), file, '0, 1, 7, 9')
    refuses(
        lambda: read_mask(make.png(tmp_path / 'rg.png', np.uint8([[[0, 0, 0], [255, 0, 0], [0, 255, 0]]]))),
        '(#00ff00)',
        '(#ff0000)',
    )
    refuses(lambda: read_mask(make.png(tmp_path / 'i.png', make.picture()[0])), 'i.png', 'undeclared')
    refuses(
        lambda: read_mask(make.png(tmp_path / 'two.png', np.uint8([[0, 1]])), {0: 0, 1: 2}, 2),
        'two.png',
        'class 2 of 2',
    )


def test_masks_of_a_case_are_combined_and_must_agree_in_size(make, tmp_path):
    a, b = np.zeros((2, 8, 8), np.uint8)
    a[:4], b[2:6] = 1, 1
    file_a, file_b = make.png(tmp_path / 'a.png', a * 255), make.png(tmp_path / 'b.png', b * 255)
    assert (read_mask((str(file_a), str(file_b))) == (a | b)).all()
    assert (read_mask(str(file_a)) == a).all()
    make.png(file_b, b[:, 1:] * 255)
    refuses(lambda: read_mask((file_a, file_b)), file_b, '(8, 7)', '(8, 8)')


@pytest.mark.parametrize('gap', [0, 3, 12])
def test_outlines_are_filled(make, tmp_path, gap):
    from scipy import ndimage as ndi

    _, solid = make.picture(120, 160)
    ring = solid - ndi.binary_erosion(solid, iterations=2)
    ring[:60, 80 : 80 + gap] = 0
    got = read_mask(make.png(tmp_path / 'h.png', ring * 255), 'outline')
    assert 2 * (got & solid).sum() / (got.sum() + solid.sum()) > 0.985
    assert (read_mask(make.png(tmp_path / 's.png', solid * 255), 'outline') == solid).all()
    assert not read_mask(make.png(tmp_path / 'e.png', solid * 0), 'outline').any()


# --- CAMUS


def check_camus(cases, n):
    assert len(cases) == 4 * n
    assert cases.patient.nunique() == n
    assert set(cases.view) == {'2CH', '4CH'}
    assert set(cases.phase) == {'ED', 'ES'}
    assert cases.labelled.all()
    assert set(cases.spacing) == {(0.154, 0.308)}
    assert cases.attrs['classes'] == ['background', 'lv', 'myo', 'la']
    for image, mask in decoded(cases):
        assert image.ndim == 2
        assert set(np.unique(mask)) <= {0, 1, 2, 3}
        assert len(np.unique(mask)) == 4


def test_camus_original(make, tmp_path):
    cases = read_camus(make.camus(tmp_path))
    check_camus(cases, 3)
    assert set(cases.split) == {''}
    assert cases.case[0] == 'patient0001_2CH_ED'
    assert (decoded(cases)[0][1] == make.heart(65, 40, 1)[1]).all()


@pytest.mark.parametrize('where', ['.', 'database_nifti'])
def test_camus_2023(make, tmp_path, where):
    cases = read_camus(make.camus_nifti(tmp_path) / where)
    check_camus(cases, 3)
    assert set(zip(cases.patient, cases.split)) == {
        ('patient0001', 'train'),
        ('patient0002', 'valid'),
        ('patient0003', 'test'),
    }
    image, mask = decoded(cases)[0]
    assert image.shape == (65, 40)
    assert (mask == make.heart(65, 40, 1)[1]).all()  # not transposed
    assert (np.round(image * 255) == make.heart(65, 40, 1)[0]).all()


def test_camus_original_with_its_test_patients(make, tmp_path):
    make.camus(tmp_path / 'training', 2)
    make.camus(tmp_path / 'testing', 1)
    for file in (tmp_path / 'testing').rglob('*_gt.*'):
        file.unlink()
    cases = read_camus(tmp_path)
    assert cases.patient.nunique() == 3
    assert list(cases.labelled) == ['testing' not in c for c in cases.case]


def test_damaged_header_in_camus_is_reported_when_decoded(make, tmp_path):
    folder = make.camus_nifti(tmp_path)
    file = next(folder.rglob('*4CH_ES.nii.gz'))
    file.write_bytes(b'broken')
    refuses(lambda: check_cases(read_camus(folder)), file, '1 of 12 cases')


def test_real_camus(real):
    cases = read_camus(real('camus'))
    n = cases.patient.nunique()
    assert len(cases) == 4 * n
    assert cases.labelled.all()
    assert len({image_size(file) for file in cases.image}) > 1
    for (image, mask), file in zip(decoded(cases), cases.image):
        assert image.shape == mask.shape == image_size(file)
        assert len(np.unique(mask)) == 4
    assert all(row != col for row, col in cases.spacing)


# --- BUSI


def make_busi(make, root):
    "Write BUSI with the image modes of the original: masks of 1 bit, RGBA and gray, and RGB for normal cases."
    image, mask = make.picture()
    for kind, i, masks in (('benign', 1, 1), ('benign', 10, 3), ('malignant', 1, 2), ('normal', 1, 1)):
        make.png(root / kind / f'{kind} ({i}).png', np.repeat(image[..., None], 3, 2))
        for number, mode in enumerate(('1', 'RGBA', None)[:masks]):
            ending = f'_mask_{number}' if number else '_mask'
            pixels = np.roll(mask, 4 * number, 1) * 255 * (kind != 'normal')
            make.png(root / kind / f'{kind} ({i}){ending}.png', pixels, 'RGB' if kind == 'normal' else mode)
    return root


@pytest.mark.parametrize('inner', ['', 'Dataset_BUSI_with_GT'])
def test_busi(make, tmp_path, inner):
    make_busi(make, tmp_path / inner)
    cases = by_case(read_busi(tmp_path))
    _, mask = make.picture()
    assert {c: len(m) for c, m in cases['mask'].items()} == {
        'benign (1)': 1,
        'benign (10)': 3,
        'malignant (1)': 2,
        'normal (1)': 1,
    }
    full = read_case(cases.loc['benign (10)'], read_busi(tmp_path).attrs)[1]
    assert (full == (mask | np.roll(mask, 4, 1) | np.roll(mask, 8, 1))).all()
    assert set(cases.category) == {'benign', 'malignant', 'normal'}
    assert check_cases(read_busi(tmp_path))[0].attrs['empty'] == ['normal (1)']


def test_real_busi(real):
    folder = real('busi')
    cases = read_busi(folder)
    assert cases.equals(read_busi(folder / 'Dataset_BUSI_with_GT'))
    assert len(cases) == 780
    assert cases['mask'].map(len).sum() == 798
    assert dict(cases.category.value_counts()) == dict(benign=437, malignant=210, normal=133)
    few = by_case(cases).loc[['benign (195)', 'malignant (53)', 'normal (1)', 'benign (433)', 'malignant (145)']]
    got = {c: read_case(r, cases.attrs) for c, r in few.iterrows()}
    assert len(few['mask'].iloc[0]) == 3
    assert got['normal (1)'][1].sum() == 0
    assert (got['benign (433)'][0] == got['malignant (145)'][0]).all()


def test_real_busi_as_distributed(real):
    cases = read_busi(real('busi_original'))
    usable, bad = check_cases(cases)
    assert len(usable) == 13
    assert not len(bad)
    assert usable.attrs['empty'] == ['normal (1)', 'normal (2)']
    assert dict(zip(cases.case, cases['mask'].map(len)))['benign (195)'] == 3
    assert {Image.open(m).mode for ms in cases['mask'] for m in ms} == {'1', 'RGBA', 'RGB'}
    for row, (image, mask) in zip(cases.itertuples(), decoded(cases)):
        assert 0 < mask.mean() < 0.6 or row.category == 'normal'


# --- DDTI and TN-SCUI


def test_ddti(make, tmp_path):
    image, mask = make.picture()
    for n, c in (('1_1', 1), ('12_1(1)', 1), ('12_1(2)', 0)):
        make.png(tmp_path / f'cropped/{n}.png', image)
        make.png(tmp_path / f'mask/{n}.gif', mask * 255 * c)
    (tmp_path / 'diagnosis.csv').write_text('1_1,\n12_1(1),4a\n12_1(2),4a\n')
    cases = by_case(read_ddti(tmp_path))
    assert dict(cases.patient) == {'1_1': '1', '12_1(1)': '12', '12_1(2)': '12'}
    assert dict(cases.category)['12_1(1)'] == 'TI-RADS 4a'
    assert cases.category['1_1'] == ''
    assert check_cases(read_ddti(tmp_path))[0].attrs['empty'] == ['12_1(2)']
    assert cases.labelled.all()
    (tmp_path / 'diagnosis.csv').unlink()
    assert set(read_ddti(tmp_path).category) == {''}


def test_real_ddti(real):
    cases = read_ddti(real('ddti'))
    assert len(cases) == 655
    assert cases.patient.nunique() == 380
    assert cases.labelled.all()
    assert (cases.category == '').sum() == 198
    odd = ['337_3(1)', '337_3(2)', '337_3(3)', '358_1(2)', '378_1(2)', '384_1(2)', '399_1(2)', '1_1', '100_1(1)']
    few = cases[cases.case.isin(odd)].reset_index(drop=True)
    few.attrs = cases.attrs
    assert sorted(check_cases(few)[0].attrs['empty']) == sorted(odd[:7])


@pytest.mark.parametrize('ids', ['{}.PNG', '{}'])
def test_tnscui(make, tmp_path, ids):
    make.tnscui(tmp_path)
    (tmp_path / 'train.csv').write_text('ID,CATE\n' + ''.join(f'{ids.format(i)},{i % 2}\n' for i in range(1, 5)))
    cases = read_tnscui(tmp_path)
    assert list(cases.category) == ['malignant', 'benign'] * 2
    assert cases.labelled.all()
    assert len({i.shape for i, _ in decoded(cases)}) == 4
    assert cases.attrs['classes'] == ['background', 'nodule']


# --- own folders


def test_hc18(make, tmp_path):
    "Outlines beside their images, the pixel size in a CSV with its own header, a second CSV for the test images."
    from scipy import ndimage as ndi

    image, solid = make.picture(120, 160)
    ring = solid - ndi.binary_erosion(solid, iterations=2)
    for n in ('000_HC', '010_2HC'):
        make.png(tmp_path / f'training_set/{n}.png', image)
        make.png(tmp_path / f'training_set/{n}_Annotation.png', ring * 255)
    (tmp_path / 'training_set_pixel_size_and_HC.csv').write_text(
        'filename,pixel size(mm),head circumference (mm)\n000_HC.png,0.0691358041432,44.3\n010_2HC.png,0.08,56.8\n'
    )
    (tmp_path / 'test_set_pixel_size.csv').write_text('filename,pixel size(mm)\n900_HC.png,0.2\n')
    cases = read_folder(tmp_path, classes=('head',))
    assert list(cases.case) == ['000_HC', '010_2HC']
    assert cases.attrs['labels'] == 'outline'
    assert cases.spacing[0] == (0.0691358041432,) * 2
    assert (decoded(cases)[0][1] == solid).mean() > 0.995


def test_bus_bra(make, tmp_path):
    "Names with another prefix, folders in capitals, and the patient in the column Case."
    image, mask = make.picture()
    for n in ('0001-l', '0001-r', '0002-l'):
        make.png(tmp_path / f'Images/bus_{n}.png', image)
        make.png(tmp_path / f'Masks/mask_{n}.png', mask * 255)
    (tmp_path / 'bus_data.csv').write_text(
        'ID,Case,Histology,Pathology,BIRADS\nbus_0001-l,1,Fibro,benign,2\nbus_0001-r,1,Fibro,benign,2\n'
        'bus_0002-l,2,IDC,malignant,5\n'
    )
    (tmp_path / '5-fold-cv.csv').write_text('ID,kFold\nbus_0001-l,1\nbus_0001-r,1\nbus_0002-l,2\n')
    cases = read_folder(tmp_path, classes='lesion')
    assert list(cases.patient) == ['1', '1', '2']
    assert list(cases.category) == ['benign', 'benign', 'malignant']
    assert cases.labelled.all()
    assert [Path(m[0]).name for m in cases['mask']] == ['mask_0001-l.png', 'mask_0001-r.png', 'mask_0002-l.png']


@pytest.mark.parametrize(
    'image, mask',
    [
        ('a', 'a'),
        ('a', 'a_mask'),
        ('a', 'a_gt'),
        ('a', 'a_seg'),
        ('a', 'a_Annotation'),
        ('a', 'a-mask'),
        ('image_7', 'mask_7'),
        ('bus_7', 'mask_7'),
        ('a_0000', 'a'),
        ('b (1)', 'b (1)_mask_1'),
    ],
)
@pytest.mark.parametrize('folders', [('images', 'masks'), ('Images', 'LABELS')])
def test_names_that_belong_together(make, tmp_path, image, mask, folders):
    pixels, truth = make.picture()
    make.png(tmp_path / folders[0] / f'{image}.jpg', pixels)
    make.png(tmp_path / folders[0] / 'other.jpg', pixels)
    make.png(tmp_path / folders[1] / f'{mask}.png', truth * 255)
    cases = by_case(read_folder(tmp_path, labels='binary'))
    assert cases.labelled[image]
    assert not cases.labelled['other']
    assert cases['mask'][image][0].endswith(f'{mask}.png')


def test_a_mask_is_not_given_to_the_wrong_image(make, tmp_path):
    image, mask = make.picture()
    for n in ('image_7', 'bus_7', 'a_1', 'a_10'):
        make.png(tmp_path / f'images/{n}.png', image)
    for n in ('mask_7', 'a_10_mask', 'a_1_mask'):
        make.png(tmp_path / f'masks/{n}.png', mask * 255)
    with pytest.warns(UserWarning, match='1 masks fit no image.*mask_7'):
        cases = by_case(read_folder(tmp_path))
    assert not cases.labelled[['image_7', 'bus_7']].any()
    assert cases['mask']['a_1'][0].endswith('a_1_mask.png')
    assert cases['mask']['a_10'][0].endswith('a_10_mask.png')


def test_images_without_masks_are_unlabelled(make, tmp_path):
    make.folder(tmp_path, 3, 0)
    cases = read_folder(tmp_path)
    assert not cases.labelled.any()
    assert all(mask is None for _, mask in decoded(cases))
    make.png(tmp_path / 'truth/0.png', make.picture()[1])
    with pytest.warns(UserWarning, match="masks='truth'"):
        read_folder(tmp_path)
    assert read_folder(tmp_path, masks='truth').labelled.sum() == 1


def test_two_folders_by_name(make, tmp_path, monkeypatch):
    make.folder(tmp_path / 'x', 3)
    monkeypatch.chdir(tmp_path / 'x')
    for kw in (
        dict(images='images', masks='masks'),
        dict(images=tmp_path / 'x/images', masks=tmp_path / 'x/masks'),
        dict(path='.'),
        dict(path=str(tmp_path / 'x'), images='images'),
    ):
        assert read_folder(**kw).labelled.all()


def test_medical_files_in_own_folder(make, tmp_path):
    image, mask = make.heart()
    make.nifti(tmp_path / 'imagesTr/p1_0000.nii.gz', image)
    make.nifti(tmp_path / 'labelsTr/p1.nii.gz', mask)
    cases = read_folder(tmp_path, classes=('lv', 'myo', 'la'))
    assert cases.spacing[0] == (0.154, 0.308)
    assert (decoded(cases)[0][1] == mask).all()
    assert cases.attrs['labels'] == HEART


def test_hidden_and_other_files_are_skipped(make, tmp_path):
    make.folder(tmp_path, 2)
    (tmp_path / 'images/._0.png').write_bytes(b'x')
    (tmp_path / 'images/Thumbs.db').write_bytes(b'x')
    assert len(read_folder(tmp_path)) == 2


CSV = {
    'case,patient\n0,x\n1,x\n2,y\n': ('x', 'x', 'y'),
    'Patient;Case\nx;0.png\nx;1.png\ny;2.png\n': ('x', 'x', 'y'),
    '\ufeffCASE,PATIENT_ID,split\n0,x,Train\n1,x,train\n2,y,val\n': ('x', 'x', 'y'),
    'image,spacing\n0,0.1\n1,"0.1, 0.2"\n2,\n': ('0', '1', '2'),
}


@pytest.mark.parametrize('text', CSV)
def test_csv(make, tmp_path, text):
    make.folder(tmp_path, 3)
    (tmp_path / 'list.csv').write_text(text, encoding='utf-8')
    cases = read_folder(tmp_path)
    assert tuple(cases.patient) == CSV[text]
    assert cases.equals(read_folder(tmp_path, csv='list.csv'))
    assert cases.equals(read_folder(tmp_path, csv=str(tmp_path / 'list.csv')))
    if 'split' in text:
        assert list(cases.split) == ['train', 'train', 'valid']
    if 'spacing' in text:
        assert list(cases.spacing) == [(0.1, 0.1), (0.1, 0.2), None]


@pytest.mark.parametrize(
    'text, words',
    [
        ('case,patient\n0,x\n1,x\n', ('no line for 1 of 3', "'2'")),
        ('case,patient\n0,x\n0,y\n1,x\n2,y\n', ("lists '0' twice",)),
        ('case,split\n0,train\n1,tset\n2,test\n', ("split 'tset' of '1'", 'train, valid, test')),
        ('case,spacing\n0,fine\n1,1\n2,1\n', ("spacing 'fine'",)),
    ],
)
def test_csv_that_does_not_fit(make, tmp_path, text, words):
    make.folder(tmp_path, 3)
    (tmp_path / 'c.csv').write_text(text)
    refuses(lambda: read_folder(tmp_path), 'c.csv', *words)


def test_csv_that_was_named_must_be_one(make, tmp_path):
    make.folder(tmp_path, 2)
    refuses(lambda: read_folder(tmp_path, csv='gone.csv'), 'gone.csv', 'no such file')
    (tmp_path / 'other.csv').write_text('a,b\n1,2\n')
    assert len(read_folder(tmp_path)) == 2
    refuses(lambda: read_folder(tmp_path, csv='other.csv'), 'other.csv', 'column case')
    (tmp_path / 'latin.csv').write_bytes('case,patient\n0,M\xfcller\n1,x\n'.encode('latin-1'))
    refuses(lambda: read_folder(tmp_path, csv='latin.csv'), 'latin.csv', 'UTF-8')


def test_labels_that_do_not_fit():
    for kw, words in (
        (dict(classes=('a', 'b'), labels='binary'), ('2 class',)),
        (dict(labels='binry'), ("labels='binry'",)),
        (dict(labels={255: 'lession'}), ("'lession'",)),
        (dict(labels={1: 4}), ("'4'",)),
        (dict(labels={'reddish': 1}), ('reddish', 'colour')),
    ):
        refuses(lambda: read_folder('.', **kw), *words, error=ConfigError)


# --- missing data and bad files


@pytest.mark.parametrize(
    'name, layout',
    [
        ('camus', 'patient0001_2CH_ED.mhd'),
        ('busi', 'benign (1)_mask.png'),
        ('ddti', 'diagnosis.csv'),
        ('tnscui', 'train.csv'),
        ('folder', 'masks/1.png'),
    ],
)
def test_empty_or_wrong_or_missing_folder(tmp_path, name, layout):
    refuses(lambda: read_cases(name, tmp_path), tmp_path, layout, 'Found: nothing')
    (tmp_path / 'readme.txt').write_text('x')
    (tmp_path / 'stuff').mkdir()
    refuses(lambda: read_cases(name, tmp_path), layout, 'readme.txt, stuff')
    refuses(lambda: read_cases(name, tmp_path / 'gone'), tmp_path / 'gone', 'no such folder', f'data/{name}/README.md')
    refuses(lambda: read_cases(name, tmp_path / 'readme.txt'), 'is a file', 'unpack')


def test_dataset_that_is_not_installed(monkeypatch, tmp_path):
    monkeypatch.setenv('SABR_DATA', str(tmp_path))
    for name in ('camus', 'busi', 'ddti', 'tnscui'):
        refuses(lambda: read_cases(name), f'data/{name}', 'README.md', 'data_path')
    refuses(lambda: read_cases('folder'), 'data_path', error=ConfigError)


def test_unknown_names_are_suggested(tmp_path):
    refuses(lambda: read_cases('busy'), "Did you mean 'busi'?", error=ConfigError)
    refuses(lambda: read_cases('folder', tmp_path, clases='x'), "Did you mean 'classes'?", error=ConfigError)


def test_readers_of_the_registry_have_a_readme():
    for name, (where, _) in READERS.items():
        folder = 'phantom' if 'phantom' in name else name
        assert (Path(__file__).parent.parent / 'data' / folder / 'README.md').is_file()
        assert ':' in where


def test_image_and_mask_of_different_size(make, tmp_path):
    make.folder(tmp_path)
    make.png(tmp_path / 'masks/2.png', np.zeros((10, 12), np.uint8))
    cases = read_folder(tmp_path)
    refuses(
        lambda: decoded(cases), tmp_path / 'masks/2.png', '(10, 12)', tmp_path / 'images/2.png', '(40, 56)', 'one size'
    )


def test_labelled_case_without_a_mask(make, tmp_path):
    cases = read_folder(make.folder(tmp_path, 3, 2))
    cases['labelled'] = True
    refuses(lambda: check_cases(cases), tmp_path / 'images/2.png', 'labelled role', 'labelled=False')


def test_one_mask_fits_nothing(make, tmp_path):
    image, mask = make.picture()
    make.png(tmp_path / 'images/a.png', image)
    make.png(tmp_path / 'masks/b.png', mask)
    refuses(lambda: read_folder(tmp_path), 'no mask fits', 'a.png', 'b.png')


def test_bad_rows_stop_or_are_left_out_with_one_warning(make, tmp_path):
    cases = read_folder(make.folder(tmp_path, 5))
    (tmp_path / 'images/1.png').write_bytes((tmp_path / 'images/1.png').read_bytes()[:99])
    make.png(tmp_path / 'masks/3.png', np.uint8([[0, 1, 2]]))
    refuses(lambda: check_cases(cases), '2 of 5 cases', 'images/1.png', 'masks/3.png')
    with pytest.warns(UserWarning, match='2 of 5 cases') as warned:
        usable, bad = check_cases(cases, 'warn')
    assert len(warned) == 1
    assert 'images/1.png' in str(warned[0].message)
    assert 'masks/3.png' in str(warned[0].message)
    assert list(usable.case) == ['0', '2', '4']
    assert list(usable.index) == [0, 1, 2]
    assert usable.attrs['classes'] == cases.attrs['classes']
    assert list(bad.columns) == ['case', 'file', 'why']
    assert list(bad.file) == [str(tmp_path / 'images/1.png'), str(tmp_path / 'masks/3.png')]
    assert list(check_cases(usable)[1].case) == []
    refuses(lambda: check_cases(cases, 'wran'), "'warn'", error=ConfigError)


def test_nothing_but_bad_files_is_an_error(make, tmp_path):
    cases = read_folder(make.folder(tmp_path, 2))
    for file in (tmp_path / 'images').iterdir():
        file.write_bytes(b'')
    refuses(lambda: check_cases(cases, 'warn'), '2 of 2 cases')
