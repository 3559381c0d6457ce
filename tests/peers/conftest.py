"""Where the scripts under test are, one thread (the machine is shared), and no progress bars in the report."""

import pathlib
import sys

import torch
import transformers

TESTS = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS / "goldens"), str(TESTS / "example"), str(TESTS / "pickle")]

torch.set_num_threads(1)
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
