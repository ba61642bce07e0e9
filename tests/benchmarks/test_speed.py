"""The benchmark's table, at tiny sizes."""

import speed
import torch


def test_table(capsys):
    rows = [
        row for row in speed.ROWS if not row.startswith(("onnx", "openvino", "compile"))
    ]  # which take long to start
    speed.main(["--quick", "--rows", *rows, "--threads", str(torch.get_num_threads())])
    printed = capsys.readouterr().out
    assert "not measured" not in printed and f"{torch.get_num_threads()} threads" in printed
    lines = [line.split("|")[1:-1] for line in printed.splitlines() if line.startswith("|")]
    titles = [speed.ROWS[row][0] for row in rows]
    assert [line[0].strip() for line in lines[2:-1]] == titles and "whole training" in lines[-1][0]
    assert all(len(line) == 4 and float(line[3].split()[0]) > 0 for line in lines[2:])
