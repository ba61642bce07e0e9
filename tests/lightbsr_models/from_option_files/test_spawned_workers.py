"""BasicSR's datasets in a worker that is spawned, not forked, as all are with a launcher."""

import pickle
import subprocess
import sys


def test_a_dataset_of_basicsr_reaches_a_fresh_process(short_options, image_folder, tmp_path):
    from basicsr.data import build_dataset

    from lightbsr_models.seeding import SeededDataset

    options = short_options("kdsr_teacher_x4_real_world")["datasets"]["train"]
    (tmp_path / "meta_info.txt").write_text("photo_0.png\n")
    options |= dict(
        dataroot_gt=str(image_folder), io_backend=dict(type="disk"), meta_info=str(tmp_path / "meta_info.txt")
    )
    (tmp_path / "dataset.pickle").write_bytes(pickle.dumps(SeededDataset(build_dataset(options))))
    code = "import pickle; print(pickle.load(open('dataset.pickle', 'rb'))[0, 1]['gt'].shape)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert "torch.Size([3, 400, 400])" in done.stdout, done.stderr
